"""DFOSD in the Extras tab, with all settings: order 1100, behind Upscale and before the face restorers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from modules import scripts_postprocessing  # pyright: ignore[reportMissingImports]
from modules.ui_components import InputAccordion  # pyright: ignore[reportMissingImports]

from ...dfosd_core.app import controls
from ...dfosd_core.errors import DfosdError
from ...dfosd_core.hosts.webui import sdnext
from ...dfosd_core.settings import FULL_DECODER
from .files import AUTOMATIC, base_names, decoder_names, lora_names
from .models import Choice
from .run import RunInterruptedError, note_extras_job, upscale_image
from .upscaler import forget_outdated

PREFIX = "extras_dfosd"


class DfosdExtras(scripts_postprocessing.ScriptPostprocessing):  # pyright: ignore[reportUntypedBaseClass]
    """The host makes one for each of its three places, and calls `ui` again for its API."""

    name = "DFOSD"
    order = 1100
    _drawn = 0

    def ui(self) -> dict[str, Any]:
        """Draw, and say which control is which argument of `process`."""
        # The page may hold us three times (Extras, txt2img, img2img); the accordion finds itself by its id.
        number, DfosdExtras._drawn = DfosdExtras._drawn, DfosdExtras._drawn + 1
        prefix = f"{PREFIX}{number or ''}"
        with switch(prefix) as enable:
            with gr.Row():
                lora = gr.Dropdown(lora_names(), value=AUTOMATIC, label="Model", elem_id=f"{prefix}_lora")
                base = gr.Dropdown(base_names(), value=AUTOMATIC, label="Base", elem_id=f"{prefix}_base")
                decoder = gr.Dropdown(decoder_names(), value=FULL_DECODER, label="Decoder", elem_id=f"{prefix}_decoder")
            drawn = controls.draw_first(prefix) | controls.draw_others(prefix)
        return {"enable": enable, "lora": lora, "base": base, "decoder": decoder, **drawn}

    def process_firstpass(self, pp: Any, **values: Any) -> None:
        """Called before any script works on an image of Extras, whether DFOSD is on or not."""
        note_extras_job()
        forget_outdated()  # the WebUI's own Upscale may have our last results

    def process(
        self,
        pp: Any,
        enable: bool | None = None,
        lora: str | None = None,
        base: str | None = None,
        decoder: str | None = None,
        **values: Any,
    ) -> None:
        """Upscale in place. The host's API passes None for everything: off."""
        if not enable or pp.image is None:  # SD.Next brings videos, too
            return
        try:
            # A control that the API left out is None, and so at its default.
            settings = controls.settings_of([values.get(name) for name in controls.ORDER])
            choice = Choice(lora=lora or AUTOMATIC, base=base or AUTOMATIC, decoder=decoder or FULL_DECODER)
            image, info = upscale_image(pp.image, settings, choice)
        except RunInterruptedError:
            return
        except DfosdError as error:
            raise RuntimeError(f"DFOSD: {error}") from error
        pp.image = image
        pp.info.update(info)
        if hasattr(pp, "nametags"):
            pp.nametags.append("dfosd")


@contextmanager
def switch(elem_id: str) -> Iterator[Any]:
    """What turns DFOSD on, around its settings."""
    # Its `InputAccordion` lacks the script that lets a user tick it, and it has drawn an accordion around us.
    if sdnext.detect():
        yield gr.Checkbox(False, label="Upscale with DFOSD", elem_id=f"{elem_id}-visible-checkbox")
    else:
        with InputAccordion(False, label="DFOSD", elem_id=elem_id) as enable:
            yield enable
