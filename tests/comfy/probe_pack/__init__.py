"""Nodes for the tests, loaded by ComfyUI: float images in and out, fingerprints of a base, too little memory."""

from __future__ import annotations

import ast
import copy
import ctypes
import gc
import hashlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import torch
from safetensors.torch import load_file, save_file

import nodes  # the host's

HOSTS_NODES: Any = nodes
"""pyright takes it for our own package of this name."""


class Probe:
    """Runs each time and is an output node."""

    CATEGORY = "tests"
    FUNCTION = "run"
    OUTPUT_NODE = True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float | str:  # noqa: N802
        return float("nan")


class LoadTensor(Probe):
    """A float IMAGE from a safetensors file, bit for bit."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"path": ("STRING", {})}}

    def run(self, path: str) -> tuple[torch.Tensor]:
        return (load_file(path)["image"],)


class SaveTensor(Probe):
    """A float IMAGE into a safetensors file, bit for bit."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",), "path": ("STRING", {})}}

    def run(self, image: torch.Tensor, path: str) -> tuple[()]:
        save_file({"image": image.contiguous()}, path)
        return ()


class SaveConditioning(Probe):
    """The embedding of a CONDITIONING into a safetensors file."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"conditioning": ("CONDITIONING",), "path": ("STRING", {})}}

    def run(self, conditioning: Any, path: str) -> tuple[()]:
        save_file({"embedding": conditioning[0][0].contiguous()}, path)
        return ()


class Fingerprint(Probe):
    """What the host's own sampling, encoding and decoding give with this MODEL and VAE, and the weights' bits."""

    RETURN_TYPES = ("MODEL", "VAE")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",), "vae": ("VAE",)}, "optional": {"after": ("IMAGE",)}}

    def run(self, model: Any, vae: Any, after: Any = None) -> dict[str, Any]:
        digest = hashlib.sha256()
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        text = [[torch.ones(1, 77, 1024), {}]]
        sampled = HOSTS_NODES.common_ksampler(model, 1, 1, 1.0, "euler", "normal", text, text, {"samples": noise})
        pixels = vae.decode(sampled[0]["samples"])
        values = [sampled[0]["samples"], pixels, vae.encode(pixels)]
        comfy.model_management.load_models_gpu([model, vae.patcher])
        values += [*model.model.state_dict().values(), *vae.first_stage_model.state_dict().values()]
        for value in values:
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return {"ui": {"sha256": [digest.hexdigest()]}, "result": (model, vae)}


class Eps(Probe):
    """The noise that the MODEL, with what is on it, predicts for `z` and `context` of one file; into another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        texts = {"inputs": ("STRING", {}), "path": ("STRING", {})}
        return {"required": {"model": ("MODEL",), "timestep": ("INT", {"max": 999}), **texts}}

    def run(self, model: Any, timestep: int, inputs: str, path: str) -> tuple[()]:
        comfy.model_management.load_models_gpu([model])
        given = load_file(inputs)
        sigma = model.get_model_object("model_sampling").sigma(torch.tensor([float(timestep)]))
        x = given["z"] * (sigma**2 + 1) ** 0.5  # which the host divides out again
        with torch.no_grad():
            x0 = model.model.apply_model(x, sigma, c_crossattn=given["context"])
        save_file({"eps": ((x - x0) / sigma).contiguous()}, path)
        return ()


class Trim(Probe):
    """Gives freed memory back to the system, so that the process's size is what is held; counts the bases held."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}, "optional": {"model": ("MODEL",), "image": ("IMAGE",)}}

    def run(self, model: Any = None, image: Any = None) -> dict[str, Any]:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        bases = [thing for thing in gc.get_objects() if issubclass(type(thing), comfy.model_base.BaseModel)]
        return {"ui": {"bases": [len(bases)]}}


class SecondCopy(Probe):
    """What DFOSD must not do: networks of its own."""

    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",), "vae": ("VAE",)}}

    def run(self, model: Any, vae: Any) -> tuple[Any]:
        networks = (model.model.diffusion_model, vae.first_stage_model)
        self.copies = [value.clone() for network in networks for value in network.state_dict().values()]
        return (model,)


class LikeOnACard(Probe):
    """A MODEL that rests elsewhere than where it computes, as on a graphics card: "cpu:0" is not "cpu" by name."""

    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",)}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> str:  # noqa: N802
        return ""

    def run(self, model: Any) -> tuple[Any]:
        model = model.clone()
        model.offload_device = torch.device("cpu", 0)
        return (model,)


class Limit(Probe):
    """MODEL and VAE that are out of memory for maps of more latents than a limit."""

    RETURN_TYPES = ("MODEL", "VAE")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"model": ("MODEL",), "vae": ("VAE",), "latents": ("INT", {"max": 2**31})}}

    def run(self, model: Any, vae: Any, latents: int) -> tuple[Any, Any]:
        def limited(apply: Any, arguments: dict[str, Any]) -> torch.Tensor:
            x = arguments["input"]
            check(x.shape[-1] * x.shape[-2])
            return apply(x, arguments["timestep"], **arguments["c"])

        def check(area: int) -> None:
            if area > latents:
                raise torch.cuda.OutOfMemoryError(f"{area} latents are too many")

        class FirstStage:
            def encode(self, x: torch.Tensor) -> torch.Tensor:
                check(x.shape[-1] * x.shape[-2] // 64)
                return vae.first_stage_model.encode(x)

            def decode(self, z: torch.Tensor) -> torch.Tensor:
                check(z.shape[-1] * z.shape[-2])
                return vae.first_stage_model.decode(z)

        model, limited_vae = model.clone(), copy.copy(vae)
        model.set_model_unet_function_wrapper(limited)
        limited_vae.first_stage_model = FirstStage()
        return model, limited_vae


class Patching(Probe):
    """Seconds that the host has spent on patching and restoring weights since it was last asked, and how many weights
    were given patches or patched.
    """

    spent = 0.0
    weights = 0

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}, "optional": {"after": ("IMAGE",)}}

    def run(self, after: Any = None) -> dict[str, Any]:
        facts = {"seconds": [Patching.spent], "weights": [Patching.weights]}
        Patching.spent, Patching.weights = 0.0, 0
        return {"ui": facts}


class Frames(Probe):
    """A film: every second frame is the same, the others differ."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"frames": ("INT", {"max": 1000}), "edge": ("INT", {"max": 1000})}}

    def run(self, frames: int, edge: int) -> tuple[torch.Tensor]:
        film = torch.rand(frames, edge, edge, 3, generator=torch.Generator().manual_seed(frames))
        film[::2] = torch.rand(edge, edge, 3, generator=torch.Generator().manual_seed(0))
        return (film,)


class Hashes(Probe):
    """Of each image's bytes."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image: torch.Tensor) -> dict[str, Any]:
        return {"ui": {"sha256": [hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in image]}}


class Import(Probe):
    """What importing a pack costs this host in seconds of computing, and the packages that its files name."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"path": ("STRING", {})}}

    def run(self, path: str) -> dict[str, Any]:
        folder = Path(path)
        spec = importlib.util.spec_from_file_location(
            "imported_again", folder / "__init__.py", submodule_search_locations=[path]
        )
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules["imported_again"] = module
        began = time.process_time()
        spec.loader.exec_module(module)
        seconds = time.process_time() - began
        ours = [name for name in sys.modules if name.partition(".")[0] == "imported_again"]
        packages = {package for name in ours for package in packages_of(Path(sys.modules.pop(name).__file__ or ""))}
        return {"ui": {"seconds": [seconds], "packages": sorted(packages), "nodes": list(module.NODE_CLASS_MAPPINGS)}}


def packages_of(path: Path) -> set[str]:
    """The packages outside its own that a file imports anywhere."""
    tree = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    relative = {node.module for node in tree if isinstance(node, ast.ImportFrom) and node.level == 0}
    return {name.partition(".")[0] for name in plain | relative} - sys.stdlib_module_names


def timed(name: str) -> None:
    original = getattr(comfy.model_patcher.ModelPatcher, name)

    def measured(self: Any, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(self, *arguments, **options)
        finally:
            Patching.spent += time.perf_counter() - began

    setattr(comfy.model_patcher.ModelPatcher, name, measured)


def counted(name: str, weights: Callable[..., int]) -> None:
    original = getattr(comfy.model_patcher.ModelPatcher, name)

    def measured(self: Any, *arguments: Any, **options: Any) -> Any:
        Patching.weights += weights(*arguments)
        return original(self, *arguments, **options)

    setattr(comfy.model_patcher.ModelPatcher, name, measured)


for method in ("add_patches", "partially_load"):
    timed(method)
counted("add_patches", lambda patches, *_: len(patches))
counted("patch_weight_to_device", lambda *_: 1)

KINDS = (
    LoadTensor,
    SaveTensor,
    SaveConditioning,
    Fingerprint,
    Eps,
    Trim,
    SecondCopy,
    LikeOnACard,
    Limit,
    Import,
    Patching,
    Frames,
    Hashes,
)
NODE_CLASS_MAPPINGS = {f"Probe{kind.__name__}": kind for kind in KINDS}
