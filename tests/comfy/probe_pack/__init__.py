"""Nodes for the tests, loaded by ComfyUI: float images in and out, fingerprints of a base, too little memory."""

from __future__ import annotations

import copy
import hashlib
import time
from typing import Any, ClassVar

import comfy.model_management
import comfy.model_patcher
import torch
from safetensors.torch import load_file, save_file

import nodes  # the host's


class Probe:
    """Runs each time and is an output node."""

    CATEGORY = "tests"
    FUNCTION = "run"
    OUTPUT_NODE = True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802
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
        sampled = nodes.common_ksampler(model, 1, 1, 1.0, "euler", "normal", text, text, {"samples": noise})
        pixels = vae.decode(sampled[0]["samples"])
        values = [sampled[0]["samples"], pixels, vae.encode(pixels)]
        comfy.model_management.load_models_gpu([model, vae.patcher])
        values += [*model.model.state_dict().values(), *vae.first_stage_model.state_dict().values()]
        for value in values:
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return {"ui": {"sha256": [digest.hexdigest()]}, "result": (model, vae)}


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


class PatchTime(Probe):
    """Seconds that the host has spent on patching and restoring weights since it was last asked."""

    spent = 0.0

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {}, "optional": {"after": ("IMAGE",)}}

    def run(self, after: Any = None) -> dict[str, Any]:
        seconds, PatchTime.spent = PatchTime.spent, 0.0
        return {"ui": {"seconds": [seconds]}}


def timed(name: str) -> None:
    original = getattr(comfy.model_patcher.ModelPatcher, name)

    def measured(self: Any, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(self, *arguments, **options)
        finally:
            PatchTime.spent += time.perf_counter() - began

    setattr(comfy.model_patcher.ModelPatcher, name, measured)


for method in ("add_patches", "partially_load"):
    timed(method)

NODE_CLASS_MAPPINGS = {
    f"Probe{kind.__name__}": kind for kind in (LoadTensor, SaveTensor, Fingerprint, Limit, PatchTime)
}
