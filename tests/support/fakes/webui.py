"""Small WebUIs of the A1111 family around `TinySd`: A1111 1.10, Forge f2.0.1, reForge, as far as DFOSD uses them.

Each part names the file it mirrors. test_webui_contract.py holds it against real ones.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from dfosd_core.networks.sd_configs import SD_SCALING_FACTOR

from .comfyui import EPS, SD15, V_PREDICTION
from .networks import TinySd, Weights
from .patching import ModelPatcher, free_memory, load_models_gpu, soft_empty_cache

CPU = torch.device("cpu")


class Posterior:
    """`DiagonalGaussianDistribution` (ldm/modules/distributions/distributions.py)."""

    def __init__(self, mean: Tensor, log_variance: Tensor) -> None:
        self._mean, self._log_variance = mean, log_variance

    def mode(self) -> Tensor:
        return self._mean

    def sample(self) -> Tensor:
        return self._mean + torch.exp(0.5 * self._log_variance) * torch.randn_like(self._mean)


class Autoencoder(nn.Module):
    """The checkpoint's autoencoder as a module of the program's own; it shares the layers."""

    def __init__(self, sd: TinySd) -> None:
        super().__init__()
        for name, part in sd.vae.named_children():
            self.add_module(name, part)
        self.decode = sd.vae.decode
        self._moments = sd.vae.moments


class FirstStage(Autoencoder):
    """A1111's: `encode` gives a distribution (ldm/models/autoencoder.py, `AutoencoderKL`)."""

    def encode(self, x: Tensor) -> Posterior:
        return Posterior(*self._moments(x))


class LatentDiffusion:
    """ldm/models/diffusion/ddpm.py with A1111's hijacks (modules/sd_hijack_unet.py, modules/sd_models.py)."""

    def __init__(self, sd: TinySd, encoder: nn.Module) -> None:
        self.model = SimpleNamespace(diffusion_model=sd.unet)
        self.cond_stage_model = encoder
        self.first_stage_model = FirstStage(sd)
        self.parameterization = "v" if sd.layout.prediction_type == "v_prediction" else "eps"
        self.scale_factor = SD_SCALING_FACTOR
        self.applied_token_merged_ratio = 0.0
        self.lowvram = False
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra="tiny")

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: dict[str, list[Tensor]]) -> Tensor:
        assert t.dtype == torch.int64
        return self.model.diffusion_model(x_noisy, t, context=torch.cat(cond["c_crossattn"], 1))

    def decode_first_stage(self, z: Tensor) -> Tensor:
        return self.first_stage_model.decode(z / self.scale_factor)


class ForgeVae:
    """`VAE` of backend/patcher/vae.py and of ldm_patched/modules/sd.py."""

    latent_channels, downscale_ratio = 4, 8

    def __init__(self, network: nn.Module) -> None:
        self.first_stage_model = network
        self.patcher = ModelPatcher(network, CPU, CPU)
        self.device, self.vae_dtype = CPU, torch.float32

    def clone(self) -> ForgeVae:
        other = copy.copy(self)
        other.patcher = self.patcher.clone()
        return other

    def memory_used_encode(self, shape: Any, dtype: torch.dtype) -> float:
        return 1767.0 * shape[2] * shape[3] * dtype.itemsize

    def memory_used_decode(self, shape: Any, dtype: torch.dtype) -> float:
        return 2178.0 * shape[2] * shape[3] * 64 * dtype.itemsize


class ForgeAutoencoder(Autoencoder):
    """`IntegratedAutoencoderKL` (backend/nn/vae.py): scales, and samples unless told otherwise, as reForge's does."""

    def encode(self, x: Tensor, regulation: Any = None) -> Tensor:
        posterior = Posterior(*self._moments(x))
        return posterior.sample() if regulation is None else regulation(posterior)

    def process_in(self, latent: Tensor) -> Tensor:
        return latent * SD_SCALING_FACTOR

    def process_out(self, latent: Tensor) -> Tensor:
        return latent / SD_SCALING_FACTOR


class KModel(nn.Module):
    """backend/modules/k_model.py."""

    def __init__(self, sd: TinySd) -> None:
        super().__init__()
        self.diffusion_model = sd.unet
        self.predictor = SimpleNamespace(prediction_type=sd.layout.prediction_type)
        self.computation_dtype = torch.float32


class ReforgeModel(nn.Module):
    """`BaseModel` of ldm_patched/modules/model_base.py."""

    manual_cast_dtype: torch.dtype | None = None

    def __init__(self, sd: TinySd) -> None:
        super().__init__()
        self.diffusion_model = sd.unet
        self.model_sampling = V_PREDICTION() if sd.layout.prediction_type == "v_prediction" else EPS()
        self._format = SD15()

    def get_dtype(self) -> torch.dtype:
        return next(self.diffusion_model.parameters()).dtype

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return self._format.process_in(latent)

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return self._format.process_out(latent)


def text_encoder(kind: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """`tensors`: of OpenCLIP for A1111 (modules/sd_hijack_open_clip.py), of transformers for the others.

    All put a module of their own around the token embedding.
    """
    start = "wrapped.model." if kind == "a1111" else "clip_h.transformer."
    embedding = "token_embedding.weight"
    return Weights(
        {
            start
            + (key.replace(embedding, "token_embedding.wrapped.weight") if key.endswith(embedding) else key): value
            for key, value in tensors.items()
        }
    )


class Clip:
    """`CLIP` of backend/patcher/clip.py and of ldm_patched/modules/sd.py."""

    def __init__(self, encoder: nn.Module) -> None:
        self.cond_stage_model = encoder
        self.patcher = ModelPatcher(encoder, CPU, CPU)

    def clone(self) -> Clip:
        other = copy.copy(self)
        other.patcher = self.patcher.clone()
        return other


class Engine:
    """`ForgeDiffusionEngine` (backend/diffusion_engine/base.py); reForge's `FakeInitialModel`-less twin alike.

    `forge_objects` has the LoRA of the user's last prompt on it, and that is what lies on the weights.
    """

    is_sd1, is_sd2 = False, True
    first_stage_model: Any = None

    def __init__(self, model: nn.Module, vae: ForgeVae, clip: Clip) -> None:
        unet = ModelPatcher(model, CPU, CPU)
        self.forge_objects_original = SimpleNamespace(unet=unet, vae=vae, clip=clip)
        users = SimpleNamespace(unet=unet.clone(), vae=vae.clone(), clip=clip.clone())
        in_text = next((key for key in clip.cond_stage_model.state_dict() if key.endswith("fc1.weight")), "")
        for patcher, key in (
            (users.unet, "diffusion_model.middle_block.0.in_layers.2.weight"),
            (users.vae.patcher, "decoder.mid.attn_1.q.weight"),
            *([(users.clip.patcher, in_text)] if in_text else []),
        ):
            weight = patcher.model.get_parameter(key)
            assert patcher.add_patches({key: ("diff", (torch.ones_like(weight),))}) == [key]
        self.forge_objects = users
        self.sd_checkpoint_info = SimpleNamespace(name_for_extra="tiny")

    def use(self) -> None:
        """As a generation of the user's does: their LoRA is on the weights afterwards."""
        users = self.forge_objects
        load_models_gpu([users.unet, users.vae.patcher, users.clip.patcher])


def module_of(name: str, **content: Any) -> Any:
    """A module whose attributes a program changes while it runs."""
    module = ModuleType(name)
    vars(module).update(content)
    return module


class WebUI:
    """A program, `a1111`, `forge` or `reforge`: its modules, and what they remember."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.state = SimpleNamespace(
            job="",
            job_timestamp="",
            job_no=0,
            sampling_step=0,
            sampling_steps=0,
            textinfo=None,
            **dict.fromkeys(("interrupted", "skipped", "stopping_generation"), False),
            assign_current_image=lambda image: None,
        )
        """modules/shared_state.py, `State`."""
        self.shared = module_of(
            "modules.shared",
            state=self.state,
            opts=SimpleNamespace(live_previews_enable=False),
            sd_model=None,
            loaded_hypernetworks=[],
            sd_upscalers=[],
            OptionInfo=None,
        )
        self.model_data = SimpleNamespace(sd_model=None, lock=threading.Lock(), forge_loading_parameters={})
        """modules/sd_models.py, `SdModelData`."""
        self.sd_unet = module_of("modules.sd_unet", current_unet=None)
        self.networks: list[Any] = []
        """`loaded_networks` of extensions-builtin/Lora/networks.py."""

    def load(self, sd: TinySd, encoder: nn.Module | None = None) -> Any:
        """Make `sd` the loaded checkpoint; `encoder`, of `text_encoder`, where its texts matter."""
        encoder = encoder or nn.Module()
        if self.kind == "a1111":
            model: Any = LatentDiffusion(sd, encoder)
        else:
            network = KModel(sd) if self.kind == "forge" else ReforgeModel(sd)
            model = Engine(network, ForgeVae(ForgeAutoencoder(sd)), Clip(encoder))
            model.use()
            if self.kind == "reforge":  # it has A1111's places, too
                model.first_stage_model = model.forge_objects.vae.first_stage_model
        self.model_data.sd_model = model
        self.model_data.forge_loading_parameters = {
            "checkpoint_info": SimpleNamespace(name="tiny.ckpt", filename="tiny.ckpt")
        }
        if self.kind != "forge":  # that has a placeholder there until a generation
            self.shared.sd_model = model
        return model

    def modules(self) -> dict[str, dict[str, Any] | ModuleType]:
        """For `installed`."""
        sd_models: dict[str, Any] = {
            "model_data": self.model_data,
            "checkpoints_list": {},
            "apply_token_merging": self._merge_tokens,
        }
        memory = {
            "load_models_gpu": load_models_gpu,
            "soft_empty_cache": soft_empty_cache,
            "free_memory": free_memory,
        }
        own: dict[str, dict[str, Any]] = {
            "networks": {"loaded_networks": self.networks, "network_apply_weights": self.apply_networks}
        }
        if self.kind == "forge":
            sd_models["forge_model_reload"] = self._reload
            own |= {"backend": {}, "backend.memory_management": memory}
        elif self.kind == "reforge":
            own |= {
                "ldm_patched": {},
                "ldm_patched.modules": {},
                "ldm_patched.modules.model_management": memory,
                "ldm_patched.modules.model_sampling": {"V_PREDICTION": V_PREDICTION},
            }
        return {
            "modules": {},
            "modules.devices": {
                "device": CPU,
                "dtype_unet": torch.float32,
                "autocast": lambda disable=False: nullcontext(),
                "without_autocast": lambda disable=False: nullcontext(),
                "torch_gc": lambda: None,
            },
            "modules.paths": {"models_path": str(self.folder / "models")},
            "modules.sd_models": sd_models,
            "modules.sd_unet": self.sd_unet,
            "modules.shared": self.shared,
            "modules.scripts": {"scripts_postproc": SimpleNamespace(scripts=[])},
            "modules.scripts_postprocessing": {"ScriptPostprocessing": type("ScriptPostprocessing", (), {})},
            "modules.ui_components": {"InputAccordion": None},
            "modules.upscaler": {"Upscaler": type("Upscaler", (), {}), "UpscalerData": SimpleNamespace},
            **own,
        }

    @torch.no_grad()
    def apply_networks(self, layer: nn.Module) -> None:
        """`network_apply_weights` of extensions-builtin/Lora/networks.py: it keeps a layer's own weight aside."""
        if not isinstance(getattr(layer, "weight", None), nn.Parameter):
            return
        weight = layer.get_parameter("weight")
        kept: dict[str, Tensor] = vars(layer).setdefault("network_weights_backup", {})
        weight.copy_(kept.setdefault("weight", weight.clone()))
        for _ in self.networks:
            weight.add_(1.0)

    def _reload(self) -> tuple[Any, bool]:
        if self.model_data.sd_model is None:
            raise ValueError("You do not have any model!")
        return self.model_data.sd_model, False

    def _merge_tokens(self, sd_model: Any, token_merging_ratio: float) -> None:
        sd_model.applied_token_merged_ratio = token_merging_ratio
