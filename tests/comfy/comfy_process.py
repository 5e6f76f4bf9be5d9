"""A real ComfyUI with this checkout as a node pack, for tests and benchmarks: COMFYUI_PATH says where it is.

COMFYUI_PATH holds `ComfyUI` (its source tree) and `venv` (its environment). The tests' own process may not use the
network, so `driver.py` talks to the server.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATH = os.environ.get("COMFYUI_PATH", "")
NOT_SET = "COMFYUI_PATH is not set: it names a folder with `ComfyUI` and its environment `venv`"

Workflow = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a workflow ended."""

    status: str
    """success, error, interrupted or refused."""
    error: str
    progress: list[tuple[int, int]]
    """(value, max) of each message."""
    previews: int
    seconds: float
    outputs: dict[str, Any]
    """Node id -> its ui output."""
    executed: list[str]
    """Ids of the nodes that ran; the others came from the host's cache."""
    memory_kib: dict[str, int]
    """The server's VmRSS and RssAnon afterwards, and VmHWM, the largest VmRSS of this run."""


class ComfyProcess:
    """A running ComfyUI; `base` becomes its base directory, with models/, input/, output/, temp/."""

    def __init__(self, base: Path, packs: Mapping[str, Path], arguments: tuple[str, ...] = ()) -> None:
        for folder in ("custom_nodes", "models", "input", "output", "temp"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for name, path in packs.items():
            (base / "custom_nodes" / name).symlink_to(path)
        self.base = base
        host = Path(PATH).absolute()
        self._driver = subprocess.Popen(
            [str(host / "venv" / "bin" / "python"), str(HERE / "driver.py"), str(host), str(base), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        hello = self._read()
        self.nodes: dict[str, Any] = hello["nodes"]
        """/object_info of the packs' nodes."""
        self.url: str = hello["url"]

    def run(self, workflow: Workflow, interrupt_at: int | None = None) -> Result:
        """Run a workflow in API format to its end."""
        answer = self._ask({"workflow": workflow, "interrupt_at": interrupt_at})
        error = answer.get("error", "")
        return Result(
            status=answer["status"],
            error=error if isinstance(error, str) else json.dumps(error),
            progress=[tuple(pair) for pair in answer["progress"]],
            previews=answer["previews"],
            seconds=answer.get("seconds", 0.0),
            outputs=answer.get("outputs", {}),
            executed=answer.get("executed", []),
            memory_kib=answer["memory"],
        )

    def refresh(self) -> None:
        """Ask for the nodes' inputs again, as a press of R on the page does; the host looks for files then."""
        self.nodes = self._ask({})["nodes"]

    @property
    def log(self) -> str:
        """What the host has printed so far."""
        return (self.base / "host.log").read_text(errors="replace")

    def close(self) -> None:
        """Stop the server."""
        self._driver.communicate(timeout=60)

    def _ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps(job) + "\n")
        self._driver.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._driver.stdout is not None
        line = self._driver.stdout.readline()
        if not line:
            raise RuntimeError(f"ComfyUI has ended:\n{self.log[-3000:]}")
        return json.loads(line)
