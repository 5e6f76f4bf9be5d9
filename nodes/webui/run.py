"""One run inside a WebUI: an image in, a larger one out, with the WebUI's progress, preview and interruption."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from modules import shared  # pyright: ignore[reportMissingImports]
from PIL import Image

from ...dfosd_core.attach import attached
from ...dfosd_core.image_files.picture import Picture
from ...dfosd_core.image_files.pil import from_pil, to_pil
from ...dfosd_core.image_files.tensors import to_tensor
from ...dfosd_core.lora.metadata import describe_origin
from ...dfosd_core.mosaic import Mosaic
from ...dfosd_core.settings import FULL_DECODER, UpscaleSettings
from ...dfosd_core.tiles.run import Progress, ProgressCallback
from ...dfosd_core.upscale_file import PHASES, upscale_picture
from .models import Choice, Model, chosen_model

_extras_job = ""
"""The stamp of the last job that `note_extras_job` has seen."""


class RunInterruptedError(Exception):
    """The user has pressed Interrupt or Skip."""


def upscale_image(image: Image.Image, settings: UpscaleSettings, choice: Choice) -> tuple[Image.Image, dict[str, Any]]:
    """The larger image and what to write beside it, for places where the host hands over images and not files.

    16-bit grey and the colour profile are kept as far as Pillow can; the host decides what it saves of them. Forge and
    reForge turn all images of Extras into 8-bit RGB before any script, and write PNG files without a profile.
    Raises as `upscale_chosen`.
    """
    picture = from_pil(image)
    larger, info = upscale_chosen(picture, settings, choice)
    lost = picture.metadata.lost
    return to_pil(larger), info | ({"DFOSD left out": ", ".join(lost)} if lost else {})


def upscale_chosen(picture: Picture, settings: UpscaleSettings, choice: Choice) -> tuple[Picture, dict[str, Any]]:
    """The larger picture and what to write beside it. Raises DfosdError, `RunInterruptedError`, or out of memory."""
    with chosen_model(choice) as model, attached_model(model, settings) as model:
        return upscale_with(model, picture, settings), infotext(model, settings)


@contextmanager
def attached_model(model: Model, settings: UpscaleSettings) -> Iterator[Model]:
    """The model to use inside the block: its LoRA is on, as `settings` want it."""
    with attached(model.host, model.lora, settings) as host:
        yield replace(model, host=host)


def upscale_with(model: Model, picture: Picture, settings: UpscaleSettings) -> Picture:
    """As `upscale_chosen`, for a model that has its LoRA on."""
    with shown_progress(picture, settings) as progress:
        return upscale_picture(
            picture, progress, host=model.host, lora=model.lora, settings=settings, device=model.device
        )


def infotext(model: Model, settings: UpscaleSettings) -> dict[str, Any]:
    """What becomes of it in the file's text."""
    tiles = {"UNet": settings.unet_tile, "VAE": settings.vae_tile}
    given = ", ".join(f"{name} {tile}" for name, tile in tiles.items() if tile is not None)
    origin, pixel = describe_origin(model.lora.metadata), settings.pixel_strength
    return {
        "DFOSD scale": f"{settings.scale:g}",
        "DFOSD model": model.lora_name,
        **({"DFOSD LoRA source": origin} if origin else {}),
        "DFOSD base": model.base_name,
        **({} if model.decoder_name == FULL_DECODER else {"DFOSD decoder": model.decoder_name}),
        "DFOSD color fix": settings.color_fix,
        "DFOSD strength": f"{settings.strength:g}",
        **({} if pixel is None else {"DFOSD pixel strength": f"{pixel:g}"}),
        "DFOSD tiles": given or "automatic",
    }


def note_extras_job() -> None:
    """To be called in Extras' first pass. Its images count from 1, others from 0, and nothing else tells them apart."""
    global _extras_job
    if shared.state.job == "extras":  # of the first image; a script's name stands there for the others
        _extras_job = shared.state.job_timestamp


@contextmanager
def shown_progress(picture: Picture, settings: UpscaleSettings) -> Iterator[ProgressCallback]:
    """The WebUI's bar, text and preview. What the job around us has set of it is put back afterwards."""
    state = shared.state
    before = {name: getattr(state, name, None) for name in ("sampling_step", "sampling_steps", "textinfo", "job_no")}
    mosaic: Mosaic | None = None

    def show(progress: Progress) -> None:
        nonlocal mosaic
        if is_interrupted():
            raise RunInterruptedError
        state.sampling_steps, state.sampling_step = progress.total, progress.done
        state.textinfo = f"DFOSD: {PHASES[progress.phase]}, tile {progress.done} of {progress.total}"
        tile = progress.tile
        if tile is None or progress.phase != "decode" or not getattr(shared.opts, "live_previews_enable", False):
            return
        if mosaic is None:
            mosaic = Mosaic(to_tensor(picture), settings.placement(*picture.size))
        state.assign_current_image(mosaic.paste(tile))

    if is_interrupted():
        raise RunInterruptedError
    try:
        if _extras_job and state.job_timestamp == _extras_job:
            state.job_no -= 1  # else the bar of a single image says 100 % from the start
        yield show
    finally:
        for name, value in before.items():
            setattr(state, name, value)


def is_interrupted() -> bool:
    """Interrupt, Skip, or "finish this image and stop" of newer WebUIs."""
    names = ("interrupted", "skipped", "stopping_generation")
    return any(getattr(shared.state, name, False) for name in names)
