"""`dfosd app` as a Gradio page of its own: bound, limited, offline."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ..errors import ConfigError, DfosdError
from ..files import make_folder
from .guard import Guard
from .limits import Limits
from .model_files import ModelFiles
from .panel import ModelLists, Panel, build_panel
from .runner import Engine
from .scratch import KEEP_S, Scratch

TITLE = "DFOSD"
_AT_ONCE = 32
"""Requests Gradio answers side by side. Runs still take turns: the panel's own queue is one."""
_TIDY_S = 300.0
_CSS = """
.gradio-container { max-width: 1600px !important; margin: 0 auto !important; }
.gradio-container main, .gradio-container .contain { width: 100% !important; }
footer { display: none !important; }
#dfosd_title { padding: 8px 0 2px; }
#dfosd_title p { font-size: 20px; }
"""


@dataclass(kw_only=True)
class App:
    """A page that can be started and closed. Everything but `--out`'s results is in one temporary folder."""

    engine: Engine
    models: ModelFiles
    limits: Limits
    out: Path | None = None
    _folder: Path = field(init=False, default_factory=lambda: Path(tempfile.mkdtemp(prefix="dfosd-")))
    _page: Any = field(init=False, default=None)
    _panel: Panel | None = field(init=False, default=None)
    _end: threading.Event = field(init=False, default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._scratch = Scratch(folder=self._folder)

    def start(self, host: str, port: int | None) -> str:
        """Serve, and return the address. `port`: None takes a free one from 7860 on. Raises ConfigError."""
        # Uploads as well: nobody's pictures stay behind in the system's temporary folder. Results in Gradio's own
        # folder are served without a copy, and no other folder has to be opened to the page.
        os.environ["GRADIO_TEMP_DIR"] = str(self._folder / "gradio")
        results, previews = self._folder / "gradio" / "results", self._folder / "previews"
        for folder in (results, previews, *filter(None, [self.out])):
            make_folder(folder, ConfigError)
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, KEEP_S)) as page:
            gr.Markdown("**DFOSD**  larger and sharper pictures in one step", elem_id="dfosd_title")
            offered = self.models
            lists = ModelLists(
                bases=offered.bases, loras=offered.loras, decoders=offered.decoders, about_lora=offered.about_lora
            )
            self._panel = build_panel(
                self.engine,
                lists,
                results=results,
                previews=previews,
                keep=self.out,
                limits=self.limits,
                make_room=self._scratch.make_room,
            )
        self._scratch.in_use = self._panel.in_use
        page.queue(default_concurrency_limit=_AT_ONCE, api_open=False)
        self._page = page
        # It asks the hub about its own address at every start; and tells of each request on INFO.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        try:
            address = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=True,
                ssr_mode=False,
                footer_links=[],
                max_file_size=self.limits.file_mb * 1_000_000,
                app_kwargs={"middleware": [Middleware(Guard, host=host, make_room=self._scratch.make_room)]},
                # No font from elsewhere.
                theme=gr.themes.Default(
                    primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
                css=_CSS,
            )[1]
        except OSError as error:
            raise ConfigError(
                f"The app cannot listen on {host}:{port or 7860}: {error} Give another --port."
            ) from error
        threading.Thread(target=self._tidy, name="dfosd-tidy", daemon=True).start()
        return str(address)

    def _tidy(self) -> None:
        """Remove what is old, also when nobody comes any more."""
        while not self._end.wait(_TIDY_S):
            with suppress(DfosdError, OSError):
                self._scratch.make_room()

    def close(self) -> None:
        """Stop the run within a tile, close the port, remove the temporary folder."""
        self._end.set()
        if self._panel:
            self._panel.close()
        if self._page:
            self._page.close(verbose=False)
        shutil.rmtree(self._folder, ignore_errors=True)
