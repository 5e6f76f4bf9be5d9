"""DFOSD's own tab: the panel of `dfosd app`, with the WebUI's models, queue and progress."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from modules import shared  # pyright: ignore[reportMissingImports]
from modules.call_queue import queue_lock  # pyright: ignore[reportMissingImports]

from ...dfosd_core.tiles.run import Progress, ProgressCallback
from ...dfosd_core.upscale_file import upscale_file
from .files import AUTOMATIC, base_names, decoder_names, lora_names
from .models import Choice, about_lora, chosen_model
from .options import option
from .run import attached_model

if TYPE_CHECKING:
    from ...dfosd_core.app.panel import Panel
    from ...dfosd_core.app.runner import Request, UpscaleFile

_panels: list[tuple[Panel, tempfile.TemporaryDirectory[str]]] = []


def draw_tab() -> list[tuple[Any, str, str]]:
    """What `on_ui_tabs` wants: the page, its title, its id."""
    from ...dfosd_core.app.limits import Limits
    from ...dfosd_core.app.panel import ModelLists, build_panel
    from ...dfosd_core.app.scratch import Scratch

    scratch = tempfile.TemporaryDirectory(prefix="dfosd-", ignore_cleanup_errors=True)
    room = Scratch(folder=Path(scratch.name))
    folders = {name: room.folder / name for name in ("results", "previews")}
    for folder in folders.values():
        folder.mkdir()
    with gr.Blocks(analytics_enabled=False) as page:
        panel = build_panel(
            engine,
            ModelLists(bases=base_names, loras=lora_names, decoders=decoder_names, about_lora=about_lora),
            **folders,
            keep=_keep_folder(),
            limits=Limits(megapixels=int(option("megapixels"))),
            make_room=room.make_room,
            prefix="dfosd_tab",
        )
    room.in_use = panel.in_use
    _panels.append((panel, scratch))
    return [(page, "DFOSD", "dfosd_tab")]


def close_panels() -> None:
    """Before "Reload UI" draws new ones."""
    while _panels:
        panel, scratch = _panels.pop()
        panel.close()
        scratch.cleanup()


@contextmanager
def engine(request: Request) -> Iterator[UpscaleFile]:
    """The panel's `Engine`: waits for the WebUI's queue, and is one of its jobs."""
    settings = request.settings
    choice = Choice(lora=request.lora or AUTOMATIC, base=request.base or AUTOMATIC, decoder=request.decoder)

    with queue_lock:
        shared.state.begin("dfosd")
        shared.state.job_count = 1  # else whoever asks the API for progress is told 0
        try:
            with chosen_model(choice) as model, attached_model(model, settings) as model:
                upscale = partial(
                    upscale_file, host=model.host, lora=model.lora, settings=settings, device=model.device
                )
                yield lambda source, target, progress: upscale(source, target, _also_in_the_host(progress, source.name))
        finally:
            shared.state.end()


def _also_in_the_host(progress: ProgressCallback, name: str) -> ProgressCallback:
    """The panel's progress, and the WebUI's for whoever looks from another tab or over the API."""

    def show(now: Progress) -> None:
        state = shared.state
        state.sampling_steps, state.sampling_step = now.total, now.done
        state.textinfo = f"DFOSD: {name}"
        progress(now)

    return show


def _keep_folder() -> Path | None:
    """Where the Extras tab puts its results, if that can be made."""
    names = ("outdir_samples", "outdir_extras_samples")
    folder = next((Path(found) for name in names if (found := getattr(shared.opts, name, ""))), None)
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder
