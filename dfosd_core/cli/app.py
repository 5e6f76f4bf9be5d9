"""`dfosd app`: the panel in the browser, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType

from ..errors import ConfigError
from . import OK


def run_app(given: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises ConfigError before anything is served."""
    given_base, given_lora, folder, decoder = (_existing(given, name) for name in ("base", "lora", "models", "decoder"))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    try:
        from ..app.server import App
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ConfigError("dfosd app needs Gradio. Install it: pip install 'dfosd[app]'.") from error
    from ..app.engine import LocalEngine
    from ..app.limits import Limits
    from ..app.model_files import ModelFiles
    from ..models import pick_device

    models = ModelFiles(folder=folder, given_base=given_base, given_lora=given_lora)
    limits = {name: value for name in ("file_mb", "megapixels") if (value := getattr(given, name)) is not None}
    app = App(
        engine=LocalEngine(models, pick_device(given.device), given.dtype, decoder),
        models=models,
        limits=Limits(**limits),
        out=Path(given.out) if given.out else None,
    )
    try:
        address = app.start(given.host, given.port)
        print(f"DFOSD is at {address}  (Ctrl-C ends it)", flush=True)
        if given.host not in ("127.0.0.1", "localhost", "::1"):
            print("dfosd: there is no password; everybody who reaches this address can use it.", file=sys.stderr)
        if given.open:
            webbrowser.open(address)
        _wait()
    finally:
        app.close()
    return OK


def _existing(given: argparse.Namespace, name: str) -> Path | None:
    path = Path(getattr(given, name)) if getattr(given, name) else None
    if path and not path.exists():
        raise ConfigError(f"--{name} {path}: there is no such file or folder.")
    return path


def _wait() -> None:
    """Until Ctrl-C or SIGTERM."""
    end = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        end.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not end.wait(0.5):  # on Windows a wait without end hears no Ctrl-C
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
