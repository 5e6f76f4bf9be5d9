"""One run inside a WebUI: a PIL image in, a larger one out, with the WebUI's progress, preview and interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from modules import shared  # pyright: ignore[reportMissingImports]
from PIL import Image
from torch import Tensor

from ...dfosd_core.mosaic import Mosaic, to_pil
from ...dfosd_core.pipeline import Progress, UpscaleSettings, upscale_attached
from ...dfosd_core.tiles.run import ProgressCallback
from .models import Choice, Model, chosen_model

PHASES = {"encode": "reading the image", "unet": "restoring", "decode": "writing the image"}


_extras_job = ""
"""The stamp of the last job that `note_extras_job` has seen."""


class RunInterruptedError(Exception):
    """The user has pressed Interrupt or Skip."""


def upscale_image(image: Image.Image, settings: UpscaleSettings, choice: Choice) -> tuple[Image.Image, dict[str, Any]]:
    """The larger image and what to write beside it. Raises DfosdError, `RunInterruptedError`, or out of memory."""
    with chosen_model(choice) as model, model.host.lora(model.lora, settings.strength):
        return upscale_with(model, image, settings), infotext(model, settings)


def upscale_with(model: Model, image: Image.Image, settings: UpscaleSettings) -> Image.Image:
    """As `upscale_image`, for a model that has its LoRA on."""
    x = to_tensor(image)
    with wheels(x, settings) as progress:
        output = upscale_attached(x.to(model.device), model.host, model.lora, settings, progress)
    refuse_nan(output)
    return to_image(output)


def infotext(model: Model, settings: UpscaleSettings) -> dict[str, Any]:
    """What becomes of it in the file's text."""
    tiles = {"UNet": settings.unet_tile, "VAE": settings.vae_tile}
    given = ", ".join(f"{name} {tile}" for name, tile in tiles.items() if tile is not None)
    return {
        "DFOSD scale": f"{settings.scale:g}",
        "DFOSD model": model.lora_name,
        "DFOSD base": model.base_name,
        "DFOSD color fix": settings.color_fix,
        "DFOSD strength": f"{settings.strength:g}",
        "DFOSD tiles": given or "automatic",
    }


def note_extras_job() -> None:
    """To be called in Extras' first pass. Its images count from 1, others from 0, and nothing else tells them apart."""
    global _extras_job
    if shared.state.job == "extras":  # of the first image; a script's name stands there for the others
        _extras_job = shared.state.job_timestamp


@contextmanager
def wheels(x: Tensor, settings: UpscaleSettings) -> Iterator[ProgressCallback]:
    """The WebUI's bar, text and preview. What the job around us has set of it is put back afterwards."""
    state = shared.state
    before = {name: getattr(state, name, None) for name in ("sampling_step", "sampling_steps", "textinfo", "job_no")}
    mosaic: Mosaic | None = None

    def turn(progress: Progress) -> None:
        nonlocal mosaic
        if is_interrupted():
            raise RunInterruptedError
        state.sampling_steps, state.sampling_step = progress.total, progress.done
        state.textinfo = f"DFOSD: {PHASES[progress.phase]}, tile {progress.done} of {progress.total}"
        tile = progress.tile
        if tile is None or progress.phase != "decode" or not getattr(shared.opts, "live_previews_enable", False):
            return
        if mosaic is None:
            mosaic = Mosaic(x, settings.output_size(x.shape[1], x.shape[2]))
        state.assign_current_image(mosaic.paste(tile))

    if is_interrupted():
        raise RunInterruptedError
    try:
        if _extras_job and state.job_timestamp == _extras_job:
            state.job_no -= 1  # else the bar of a single image says 100 % from the start
        yield turn
    finally:
        for name, value in before.items():
            setattr(state, name, value)


def is_interrupted() -> bool:
    """Interrupt, Skip, or "finish this image and stop" of newer WebUIs."""
    names = ("interrupted", "skipped", "stopping_generation")
    return any(getattr(shared.state, name, False) for name in names)


def to_tensor(image: Image.Image) -> Tensor:
    """(1, H, W, 3 or 4) in [0, 1]."""
    if image.mode not in ("RGB", "RGBA"):
        has_alpha = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
        image = image.convert("RGBA" if has_alpha else "RGB")
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255.0)[None]


def to_image(output: Tensor) -> Image.Image:
    """The pipeline's (1, h, w, 3 or 4) as a picture of 8 bits."""
    return to_pil(output.movedim(-1, 1))


def refuse_nan(output: Tensor) -> None:
    """Raises RuntimeError: a black picture would hide what went wrong."""
    if not bool(torch.isfinite(output).all()):
        raise RuntimeError(
            "DFOSD: the networks gave numbers that are none (NaN): half precision overflows here. "
            "Start the WebUI with --no-half-vae, or with --no-half."
        )
