"""Which base a MODEL and a VAE of ComfyUI's are: the `BaseLayout` that a LoRA's is compared with."""

from __future__ import annotations

from typing import Any, Literal

import comfy.model_sampling as model_sampling  # pyright: ignore[reportMissingImports]

from ...errors import BaseModelMismatchError
from ...lora.metadata import BaseLayout, describe_layout

SD_NAMES = "Stable Diffusion 2.1-base, or the base named in the LoRA"


def read_layout(model: Any, vae: Any) -> BaseLayout:
    """Read both. Raises BaseModelMismatchError for anything but a UNet of SD 1.x's or 2.x's kind with a plain VAE."""
    return BaseLayout(
        **read_unet(model), latent_channels=_latent_channels(vae), latent_factor=int(vae.spacial_compression_encode())
    )


def read_unet(model: Any) -> dict[str, Any]:
    """`BaseLayout`'s fields that the MODEL alone tells (`supported_models`, `model_detection` of the host)."""
    config = model.model.model_config
    name, facts = type(config).__name__, config.unet_config
    if not {"context_dim", "model_channels", "channel_mult"} <= facts.keys():
        raise BaseModelMismatchError(f"MODEL is {name}, no Stable Diffusion with a UNet. Load {SD_NAMES}.")
    if facts.get("adm_in_channels") is not None:
        raise BaseModelMismatchError(
            f"MODEL is {name}, which wants more than a text embedding (SDXL, unCLIP). Load {SD_NAMES}."
        )
    return {
        "context_dim": facts["context_dim"],
        "in_channels": facts["in_channels"],
        "out_channels": facts.get("out_channels", 4),
        "block_out_channels": tuple(facts["model_channels"] * mult for mult in facts["channel_mult"]),
        "prediction_type": _prediction_type(model),
    }


def unet_layout(model: Any, latent: BaseLayout) -> BaseLayout:
    """The MODEL's layout where there is no VAE to look at: its latents are taken to be those of `latent`."""
    return BaseLayout(**read_unet(model), latent_channels=latent.latent_channels, latent_factor=latent.latent_factor)


def check_vae(lora: BaseLayout, host: BaseLayout) -> None:
    """Name the VAE when it is the VAE that does not fit: raises BaseModelMismatchError."""
    wanted, found = (lora.latent_channels, lora.latent_factor), (host.latent_channels, host.latent_factor)
    if wanted != found:
        raise BaseModelMismatchError(
            f"The LoRA was trained for {describe_layout(lora)}, whose VAE has {wanted[0]} latent channels at 1/"
            f"{wanted[1]} size, but the connected VAE has {found[0]} at 1/{found[1]}. Connect the base's own VAE."
        )


def _latent_channels(vae: Any) -> int:
    if getattr(vae, "first_stage_model", None) is None:
        raise BaseModelMismatchError(
            "VAE is empty: the checkpoint it comes from holds none. Connect the base's VAE from Load VAE."
        )
    if vae.latent_dim != 2 or vae.output_channels != 3:
        raise BaseModelMismatchError("VAE is one for video or sound. Connect the VAE of the base from Load VAE.")
    return int(vae.latent_channels)


def _prediction_type(model: Any) -> Literal["epsilon", "v_prediction"]:
    """From the sampling that is in force, which a ModelSamplingDiscrete node may have replaced."""
    rule = type(model.get_model_object("model_sampling")).calculate_denoised
    if rule is model_sampling.EPS.calculate_denoised:
        return "epsilon"
    if rule is model_sampling.V_PREDICTION.calculate_denoised:
        return "v_prediction"
    raise BaseModelMismatchError(
        f"MODEL samples by {rule.__qualname__.split('.')[0]}, expected EPS or V_PREDICTION. Load {SD_NAMES}, without "
        "a ModelSampling node behind it."
    )
