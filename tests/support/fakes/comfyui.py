"""A small ComfyUI around `TinySd`: its MODEL, VAE and modules, as far as DFOSD uses them.

Written from what ComfyUI 0.3.64 does; each part names the file it mirrors. test_comfy_contract.py holds it against a
real one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from dfosd_core.lora.names import UNET_PREFIX, kohya_table, ldm_unet_key
from dfosd_core.networks.sd_configs import SD_SCALING_FACTOR
from dfosd_core.networks.unet import build_unet
from dfosd_core.schedule import alpha_bar_table

from .networks import UNET, TinySd
from .patching import LoRAAdapter, ModelPatcher, free_memory, load_models_gpu, soft_empty_cache

SUPPORTED_PT_EXTENSIONS = {".ckpt", ".pt", ".pt2", ".bin", ".pth", ".safetensors", ".pkl", ".sft"}
"""folder_paths.py."""


class EPS:
    """comfy/model_sampling.py."""

    def calculate_input(self, sigma: Tensor, noise: Tensor) -> Tensor:
        return noise / (_like(sigma, noise) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        return model_input - model_output * _like(sigma, model_output)


class V_PREDICTION(EPS):  # noqa: N801
    """comfy/model_sampling.py."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        variance = _like(sigma, model_output) ** 2 + 1
        return model_input / variance - model_output * _like(sigma, model_output) / variance**0.5


class ModelSamplingDiscrete:
    """comfy/model_sampling.py: sigma = sqrt((1 - alpha_bar) / alpha_bar)."""

    def __init__(self) -> None:
        alpha_bar = alpha_bar_table()
        self.log_sigmas = (((1 - alpha_bar) / alpha_bar) ** 0.5).log().float()

    def sigma(self, timestep: Tensor) -> Tensor:
        return self.log_sigmas[timestep.long()].exp()

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log()[:, None] - self.log_sigmas).abs().argmin(dim=1)


class EpsSampling(ModelSamplingDiscrete, EPS):
    """comfy/model_base.py, `model_sampling` for an epsilon model."""


class VSampling(ModelSamplingDiscrete, V_PREDICTION):
    """comfy/model_base.py, `model_sampling` for a v model."""


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    return sigma.view(sigma.shape[:1] + (1,) * (x.ndim - 1))


class SD15:
    """comfy/latent_formats.py; SD 2.x shares it."""

    def process_in(self, latent: Tensor) -> Tensor:
        return latent * SD_SCALING_FACTOR

    def process_out(self, latent: Tensor) -> Tensor:
        return latent / SD_SCALING_FACTOR


class SD20:
    """comfy/supported_models.py: what `model_detection` found in the file's shapes."""

    def __init__(self, sd: TinySd) -> None:
        unet = sd.unet
        self.unet_config = {
            "context_dim": sd.layout.context_dim,
            "in_channels": unet.in_channels,
            "out_channels": unet.out_channels,
            "model_channels": unet.model_channels,
            "channel_mult": unet.channel_mult,
            "adm_in_channels": None,
        }


class BaseModel(nn.Module):
    """comfy/model_base.py."""

    def __init__(self, sd: TinySd) -> None:
        super().__init__()
        self.diffusion_model = sd.unet
        self.model_config = SD20(sd)
        self.latent_format = SD15()
        self.model_sampling = VSampling() if sd.layout.prediction_type == "v_prediction" else EpsSampling()

    def apply_model(self, x: Tensor, t: Tensor, c_crossattn: Tensor) -> Tensor:
        """x0 for a latent with noise of sigma `t`."""
        step = self.model_sampling.timestep(t)
        output = self.diffusion_model(self.model_sampling.calculate_input(t, x), step, context=c_crossattn)
        return self.model_sampling.calculate_denoised(t, output.float(), x)


class VAE:
    """comfy/sd.py."""

    latent_dim, latent_channels, output_channels = 2, 4, 3
    vae_dtype = torch.float32

    def __init__(self, sd: TinySd, patcher: ModelPatcher) -> None:
        self.first_stage_model: Any = sd.vae
        self.patcher = patcher
        self.process_input: Callable[[Tensor], Tensor] = lambda image: image * 2.0 - 1.0
        self.process_output: Callable[[Tensor], Tensor] = lambda image: torch.clamp((image + 1.0) / 2.0, 0.0, 1.0)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """(B, H, W, 3) -> the posterior's mean, not scaled."""
        load_models_gpu([self.patcher])
        return self.first_stage_model.moments(self.process_input(pixel_samples.movedim(-1, 1)))[0]

    def decode(self, samples_in: Tensor) -> Tensor:
        """A latent, not scaled -> (B, H, W, 3)."""
        load_models_gpu([self.patcher])
        return self.process_output(self.first_stage_model.decode(samples_in)).movedim(1, -1)

    def encode_tiled_(self, pixel_samples: Tensor) -> NoReturn:
        raise AssertionError("the host's own tiles are not asked for")

    def decode_tiled_(self, samples: Tensor) -> NoReturn:
        raise AssertionError("the host's own tiles are not asked for")

    def spacial_compression_encode(self) -> int:
        return 8


class Sampler:
    """comfy/samplers.py."""

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        raise NotImplementedError


class CFGGuider:
    """comfy/samplers.py."""

    def __init__(self, model_patcher: ModelPatcher) -> None:
        self.model_patcher = model_patcher
        self.cfg = 1.0

    def set_conds(self, positive: Any, negative: Any) -> None:
        (self._context, _), *_ = positive

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Latents go in and out in the VAE's scale; one of zeros only is not scaled."""
        load_models_gpu([self.model_patcher])
        model: Any = self.model_patcher.model
        if torch.count_nonzero(latent_image) > 0:
            latent_image = model.latent_format.process_in(latent_image)
        samples = sampler.sample(self, sigmas, {}, callback, noise, latent_image, denoise_mask, disable_pbar)
        return model.latent_format.process_out(samples.to(torch.float32))

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x0. With cfg 1 the negative condition is not computed."""
        assert self.cfg == 1.0
        model: Any = self.model_patcher.model
        return model.apply_model(x, sigma, c_crossattn=self._context.expand(len(x), -1, -1))


class InterruptProcessingException(Exception):  # noqa: N818
    """comfy/model_management.py."""


def load_lora(lora: dict[str, Tensor], to_load: Mapping[str, str], log_missing: bool = True) -> dict[str, Any]:
    """comfy/lora.py: kohya's tensors of the layers in `to_load`; others are logged and passed over."""
    found: dict[str, Any] = {}
    for layer, key in to_load.items():
        if f"{layer}.lora_up.weight" in lora:
            alpha = lora.get(f"{layer}.alpha")
            up, down = lora[f"{layer}.lora_up.weight"], lora[f"{layer}.lora_down.weight"]
            found[key] = LoRAAdapter(up, down, None if alpha is None else alpha.item())
    return found


def unet_to_diffusers(unet_config: dict[str, Any]) -> dict[str, str]:
    """comfy/utils.py: diffusers' names -> LDM's, weights and biases."""
    assert unet_config["model_channels"] == UNET["block_out_channels"][0]
    layers = kohya_table(build_unet(UNET, "tiny"), UNET_PREFIX).values()
    up_has_attention = [kind.startswith("CrossAttn") for kind in UNET["up_block_types"]]
    names = [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]
    return {name: ldm_unet_key(name, UNET["layers_per_block"], up_has_attention) for name in names}


@dataclasses.dataclass
class ComfyUI:
    """The program: its modules, and what it remembers."""

    folder: Path
    """Its base directory."""
    interrupted: bool = False
    bars: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    """(value, total) of each update of a node's bar."""

    def modules(self) -> dict[str, dict[str, Any]]:
        """For `installed`."""
        program = self

        class ProgressBar:
            """comfy/utils.py."""

            def __init__(self, total: int, node_id: Any = None) -> None:
                self.total = total

            def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
                program.stop_if_interrupted()
                program.bars.append((value, total or self.total))

        return {
            "comfy": {},
            "comfy.lora": {"load_lora": load_lora},
            "comfy.utils": {"unet_to_diffusers": unet_to_diffusers, "ProgressBar": ProgressBar},
            "comfy.samplers": {"Sampler": Sampler, "CFGGuider": CFGGuider},
            "comfy.model_sampling": {"EPS": EPS, "V_PREDICTION": V_PREDICTION},
            "comfy.model_management": {
                "throw_exception_if_processing_interrupted": self.stop_if_interrupted,
                "soft_empty_cache": soft_empty_cache,
                "free_memory": free_memory,
                "get_torch_device": lambda: torch.device("cpu"),
                "is_device_cpu": lambda device: torch.device(device).type == "cpu",
            },
            "folder_paths": {
                "models_dir": str(self.folder / "models"),
                "add_model_folder_path": lambda folder_name, full_folder_path, is_default=False: None,
                "get_filename_list": self._filenames,
                "get_full_path": self._full_path,
                "get_temp_directory": lambda: str(self.folder / "temp"),
            },
        }

    def stop_if_interrupted(self) -> None:
        """comfy/model_management.py, `throw_exception_if_processing_interrupted`: once for each press."""
        if self.interrupted:
            self.interrupted = False
            raise InterruptProcessingException

    def _filenames(self, folder_name: str) -> list[str]:
        """Files only, those in folders below too; in a folder of the host's own only what ends as models do."""
        folder = self.folder / "models" / folder_name
        files = [Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names]
        kinds = SUPPORTED_PT_EXTENSIONS if folder_name == "loras" else {path.suffix for path in files}
        return sorted(str(path.relative_to(folder)) for path in files if path.suffix in kinds)

    def _full_path(self, folder_name: str, filename: str) -> str | None:
        path = self.folder / "models" / folder_name / filename
        return os.fspath(path) if path.is_file() else None


def load_checkpoint(sd: TinySd, *, on_a_card: bool) -> tuple[ModelPatcher, VAE]:
    """MODEL and VAE (comfy/sd.py). On a card the weights rest elsewhere than where they compute."""
    here = torch.device("cpu")
    model = ModelPatcher(BaseModel(sd), here, torch.device("cpu", 0) if on_a_card else here)
    return model, VAE(sd, ModelPatcher(sd.vae, here, here))
