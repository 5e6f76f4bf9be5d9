"""The tests' own small ComfyUI against the real one: names, arguments and attributes, read from its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_process import PATH
from support.fakes import comfyui as fake
from support.fakes import patching
from support.fakes.contract import Contract, differences


def contract(modules: dict[str, Any]) -> Contract:
    management, utils, folders = (modules[n] for n in ("comfy.model_management", "comfy.utils", "folder_paths"))
    return {
        ("comfy/lora.py", "load_lora"): fake.load_lora,
        ("comfy/utils.py", "unet_to_diffusers"): fake.unet_to_diffusers,
        ("comfy/utils.py", "ProgressBar.__init__"): utils["ProgressBar"].__init__,
        ("comfy/utils.py", "ProgressBar.update_absolute"): utils["ProgressBar"].update_absolute,
        ("comfy/samplers.py", "KSAMPLER.sample"): fake.Sampler.sample,
        ("comfy/samplers.py", ""): ("Sampler",),
        **{("comfy/samplers.py", f"CFGGuider.{n}"): getattr(fake.CFGGuider, n) for n in ("__init__", "set_conds")},
        **{("comfy/samplers.py", f"CFGGuider.{n}"): getattr(fake.CFGGuider, n) for n in ("set_cfg", "sample")},
        ("comfy/model_sampling.py", "EPS.calculate_input"): fake.EPS.calculate_input,
        ("comfy/model_sampling.py", "EPS.calculate_denoised"): fake.EPS.calculate_denoised,
        ("comfy/model_sampling.py", "V_PREDICTION.calculate_denoised"): fake.V_PREDICTION.calculate_denoised,
        ("comfy/model_sampling.py", "ModelSamplingDiscrete.sigma"): fake.ModelSamplingDiscrete.sigma,
        ("comfy/model_sampling.py", "ModelSamplingDiscrete.timestep"): fake.ModelSamplingDiscrete.timestep,
        ("comfy/latent_formats.py", "LatentFormat.process_in"): fake.SD15.process_in,
        ("comfy/latent_formats.py", "LatentFormat.process_out"): fake.SD15.process_out,
        ("comfy/supported_models_base.py", "BASE"): ("unet_config",),
        ("comfy/model_base.py", "BaseModel"): ("diffusion_model", "model_config", "latent_format", "model_sampling"),
        ("comfy/model_patcher.py", "ModelPatcher.__init__"): patching.ModelPatcher.__init__,
        **{
            ("comfy/model_patcher.py", f"ModelPatcher.{n}"): getattr(patching.ModelPatcher, n)
            for n in ("clone", "model_state_dict", "add_patches", "get_model_object", "memory_required")
        },
        ("comfy/model_patcher.py", "ModelPatcher"): (
            *("model", "load_device", "offload_device", "patches", "patches_uuid", "model_options"),
        ),
        **{
            ("comfy/sd.py", f"VAE.{n}"): getattr(fake.VAE, n)
            for n in ("encode", "decode", "encode_tiled_", "decode_tiled_", "spacial_compression_encode")
        },
        ("comfy/sd.py", "VAE"): (
            *("first_stage_model", "patcher", "process_input", "process_output"),
            *("latent_dim", "latent_channels", "output_channels", "vae_dtype"),
        ),
        ("comfy/model_management.py", "load_models_gpu"): patching.load_models_gpu,
        **{("comfy/model_management.py", n): function for n, function in management.items()},
        **{("folder_paths.py", n): function for n, function in folders.items() if callable(function)},
        ("folder_paths.py", ""): ("models_dir",),
    }


def test_fake_offers_what_comfyui_does(comfyui: None, tmp_path: Path) -> None:
    modules = fake.ComfyUI(tmp_path).modules()
    assert differences(Path(PATH) / "ComfyUI", contract(modules)) == []


def test_contract_tells_what_differs(tmp_path: Path) -> None:
    """Not skipped without a ComfyUI: an argument of another name, one more that is needed, one that is gone."""
    source = """
class Base:
    def add_patches(self, patches, strength, needed): self.patches = 1
class ModelPatcher(Base):
    def clone(self, deep): pass
    def memory_required(self, input_shape, more=None): pass
"""
    (tmp_path / "host.py").write_text(source)
    names = ("add_patches", "clone", "memory_required", "get_model_object")
    parts = {("host.py", f"ModelPatcher.{name}"): getattr(patching.ModelPatcher, name) for name in names}
    assert differences(tmp_path, {**parts, ("host.py", "ModelPatcher"): ("patches", "model")}) == [
        "host.py ModelPatcher.add_patches: takes ['patches', 'strength', 'needed'], the fake "
        "['patches', 'strength_patch', 'strength_model']",
        "host.py ModelPatcher.add_patches: needs ['strength', 'needed']",
        "host.py ModelPatcher.clone: needs ['deep']",
        "host.py ModelPatcher.get_model_object: is not there",
        "host.py ModelPatcher: no model",
    ]
