"""Fake programs in `sys.modules`, and the adapters and nodes that import them, for the length of a test module.

Adapters are imported as `dfosd_core.hosts...`, nodes, which reach `dfosd_core` relatively, as
`dfosd_in_a_fake.nodes...`. Both are forgotten afterwards, so that the next fake gets its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]
PACK = "dfosd_in_a_fake"
"""The checkout as a package, as every program has it."""
PACKAGES = {PACK, "comfy", "folder_paths", "modules", "backend", "ldm_patched", "networks"}
"""Packages of every program: what an outer fake has of them is hidden meanwhile."""
ADAPTERS = ("dfosd_core.hosts.comfy", "dfosd_core.hosts.webui")


@contextmanager
def installed(program: Mapping[str, Mapping[str, Any] | ModuleType]) -> Iterator[str]:
    """Import as inside `program`: module name -> what it offers. Gives the name of the package with DFOSD in it."""
    package = ModuleType(PACK)
    package.__path__ = [str(ROOT)]
    modules = {PACK: package, **{name: _module(name, content) for name, content in program.items()}}
    for name, module in modules.items():
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if _goes(name)}
    sys.modules.update(modules)
    try:
        yield PACK
    finally:
        for name in [name for name in sys.modules if _goes(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _goes(name: str) -> bool:
    return name.startswith(ADAPTERS) or name.partition(".")[0] in PACKAGES


def _module(name: str, content: Mapping[str, Any] | ModuleType) -> ModuleType:
    module = content if isinstance(content, ModuleType) else ModuleType(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    if not isinstance(content, ModuleType):
        vars(module).update(content)
    return module
