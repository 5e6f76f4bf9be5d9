"""The modules of a WebUI that our faces import, as good as empty: for what happens before and after the networks."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PACK = "dfosd_webui_for_tests"
"""The name of the package that our folder is imported as, as a host would."""


class State(SimpleNamespace):
    """`shared.state`."""

    def begin(self, job: str) -> None:
        self.job = job

    def end(self) -> None:
        self.job = ""


def host_modules() -> dict[str, ModuleType]:
    """The modules that the faces import, as good as empty."""
    added: dict[str, Any] = {}
    shared = SimpleNamespace(
        OptionInfo=lambda default, label, component, arguments, **_: (default, label, arguments),
        opts=SimpleNamespace(add_option=added.__setitem__, added=added),
        state=State(job_timestamp=""),
    )
    contents: dict[str, dict[str, Any]] = {
        "modules": {
            "__path__": [],
            "shared": shared,
            "paths": None,
            "sd_models": None,
            "devices": None,
            "scripts": None,
        },
        "modules.call_queue": {"queue_lock": threading.Lock()},
        "modules.upscaler": {
            "Upscaler": type("Upscaler", (), {"__init__": lambda *_: None}),
            "UpscalerData": lambda *facts: facts,
        },
    }
    made = {name: ModuleType(name) for name in contents}
    for name, content in contents.items():
        vars(made[name]).update(content)
    return made


@contextmanager
def faces() -> Iterator[Callable[[str], Any]]:
    """Gives what imports a module of nodes/webui as the host does, below another package's name."""
    package = ModuleType(PACK)
    package.__path__ = [str(Path(__file__).parents[3])]
    modules = {**host_modules(), PACK: package}
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield lambda name: importlib.import_module(f"{PACK}.nodes.webui.{name}")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PACK]:
            del sys.modules[name]
        for name, module in before.items():
            if module is not None:
                sys.modules[name] = module
            else:
                sys.modules.pop(name, None)
