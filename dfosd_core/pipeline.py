"""DFOSD on one screen: an image, a host that owns the weights, a LoRA, and the way from one to the other.

arXiv 2410.04224, section 3.1, with a the schedule's alpha_bar at T_L:
z_L = E(x_L);  eps = eps_theta(z_L, T_L);  z_H = (z_L - sqrt(1 - a) eps) / sqrt(a);  x_H = D(z_H).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .attach import attached
from .color_fix import fix_color
from .errors import BaseModelMismatchError, ImageFileError
from .host import Host
from .images import (
    between_bars,
    crop,
    enlarge_part,
    fill_hidden,
    keep_grey,
    pad_to_multiple,
    part_of,
    put_clamped,
    resize,
    split_alpha,
    to_bchw,
    to_signed,
    to_unit,
)
from .one_step import predict_z_sr
from .settings import UpscaleSettings
from .sizes import Placement
from .tiles.run import MIN_TILE_PX, Progress, ProgressCallback, Stage, TiledRun

if TYPE_CHECKING:
    from .lora.file import DfosdLora

__all__ = ["Progress", "UpscaleSettings", "upscale", "upscale_attached"]


def upscale(
    image: Tensor,
    host: Host,
    lora: DfosdLora,
    settings: UpscaleSettings | None = None,
    progress: ProgressCallback | None = None,
) -> Tensor:
    """Upscale a batch of equally large images, with the LoRA attached for the time of the call.

    `image`: (B, H, W, 3 or 4) of any float type in [0, 1], RGB or RGBA, from 1x1 up, on the host's device.
    Returns (B, h, w, 3 or 4) float32 in [0, 1] on the same device; (h, w) is `settings.output_size(H, W)`.
    Deterministic, and an image comes out the same whatever else is in its batch.
    `progress` is called after every tile, and by some hosts inside it. To interrupt, raise from it: nothing is left
    behind.
    Raises ImageFileError for another shape or type, ConfigError for a size out of reach, what `attached`
    raises for a LoRA that does not fit, and the out-of-memory error when even small tiles do not help.
    """
    settings = settings or UpscaleSettings()
    with attached(host, lora, settings) as host:
        return upscale_attached(image, host, lora, settings, progress)


@torch.no_grad()
def upscale_attached(
    image: Tensor, host: Host, lora: DfosdLora, settings: UpscaleSettings, progress: ProgressCallback | None = None
) -> Tensor:
    """As `upscale`, for a host that has the LoRA on already: many files under one `with attached(...)`."""
    _check(image, host, lora)
    batch, height, width, channels = image.shape
    placement = settings.placement(height, width)
    run = _plan(host, settings, placement.computed, batch, progress)
    output = image.new_zeros((batch, *placement.output, channels), dtype=torch.float32)
    inner = between_bars(output, placement)
    for i in range(batch):
        rgb, alpha = split_alpha(to_bchw(image[i : i + 1].float()))
        rgb = rgb if alpha is None else fill_hidden(rgb, alpha)
        x_sr = _upscale_one(rgb, host, lora, settings, placement, run)
        put_clamped(inner[i : i + 1, ..., :3], x_sr)
        if alpha is not None:
            put_clamped(inner[i : i + 1, ..., 3:], part_of(resize(alpha, placement.scaled), placement))
    return output


def _upscale_one(
    rgb: Tensor, host: Host, lora: DfosdLora, settings: UpscaleSettings, placement: Placement, run: TiledRun
) -> Tensor:
    """The method. (1, 3, H, W) in [0, 1] -> (1, 3, *placement.computed), not clamped.

    A `run` is a pass over the whole image.
    """
    t, rule, prompt_embeds = lora.metadata.timestep, lora.metadata.rule, lora.prompt_embeds
    # x_lr is made twice: at 8192x8192 it would hold 800 MB all the while.
    z_lr = run(
        "encode",
        lambda x: host.encode(to_signed(x)),
        pad_to_multiple(enlarge_part(rgb, placement), host.size_multiple_px),
    )
    eps = run("unet", lambda z: host.predict_eps(z, t, prompt_embeds), z_lr)
    z_sr = predict_z_sr(z_lr, eps, t, rule)  # affine in eps: blending tiles of eps is blending those of z_sr
    del z_lr, eps  # at 8192x8192, half a gigabyte that decoding can do without
    x_sr = run("decode", host.decode, z_sr, then=to_unit)
    x_lr = enlarge_part(rgb, placement)
    return keep_grey(fix_color(settings.color_fix, crop(x_sr, placement.computed), x_lr), rgb)


def _plan(
    host: Host, settings: UpscaleSettings, size: tuple[int, int], images: int, progress: ProgressCallback | None
) -> TiledRun:
    """The three stages, their tiles turned from pixels of the output into latents."""
    f, multiple = host.layout.latent_factor, host.size_multiple_px
    assert multiple % f == 0
    tiles = settings.tiles(host.auto_tiles(*size))
    stages = [
        Stage(name="encode", size=tiles.encode.in_latents(f), in_factor=f),
        Stage(name="unet", size=tiles.unet.in_latents(f)),
        Stage(name="decode", size=tiles.decode.in_latents(f), out_factor=f),
    ]
    height, width = (-(-edge // multiple) * multiple // f for edge in size)
    return TiledRun(
        stages, (height, width), align=multiple // f, minimum=MIN_TILE_PX // f, images=images, progress=progress
    )


def _check(image: Tensor, host: Host, lora: DfosdLora) -> None:
    if image.ndim != 4 or image.shape[-1] not in (3, 4) or 0 in image.shape or not image.is_floating_point():
        raise ImageFileError(
            "Expected float images of shape (B, H, W, 3 or 4) in [0, 1], "
            f"found {image.dtype} {tuple(image.shape)}. Convert to RGB or RGBA first."
        )
    if lora.prompt_embeds.shape[-1] != host.layout.context_dim:
        raise BaseModelMismatchError(
            f"The LoRA was trained for a base with context {lora.prompt_embeds.shape[-1]}, but the loaded "
            f"base has context {host.layout.context_dim}. Load the base named in the LoRA: "
            f"{lora.metadata.base_model or 'none is named'}."
        )
