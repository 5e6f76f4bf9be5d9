"""A real WebUI in a process of its own, with this checkout and the probe in its extensions/ folder."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROBE = Path(__file__).parent / "probe"
CLIENT = Path(__file__).parent / "client.py"
LOGIN = "somebody", "secret"
_CHECKS = [
    *("--skip-torch-cuda-test", "--skip-prepare-environment", "--skip-python-version-check"),
    *("--skip-version-check", "--no-hashing"),
]
_API = ["--api", "--api-auth", ":".join(LOGIN), "--server-name", "127.0.0.1"]
_COMMON = [*_CHECKS, *_API, "--no-download-sd-model", "--do-not-download-clip"]
FLAGS = {
    "FORGE_PATH": [*_COMMON, "--always-cpu", "--disable-gpu-warning"],
    "REFORGE_PATH": [*_COMMON, "--always-cpu"],
    "A1111_PATH": [*_COMMON, "--use-cpu", "all", "--no-half", "--precision", "full"],
}
FORKS = {
    "NEO_PATH": [*_CHECKS, *_API, "--cpu"],
    "SDNEXT_PATH": ["--skip-all", "--use-cpu", "all", "--server-name", "127.0.0.1"],
}
"""Those whose checkpoint DFOSD does not share. SD.Next has one password for all, page included: it gets none here."""
PATIENCE_S = 600.0


def installed_at(variable: str) -> Path:
    """The folder of the WebUI that the variable names, or a skip."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} does not name an installed WebUI.")
    return Path(path)


class WebUI:
    """Started by `with`. `variable` names the host, `root` is its folder with `venv/` in it."""

    _running = False
    """One at a time: each takes up to 9 GB of memory."""

    def __init__(self, variable: str, root: Path, log: Path, flags: Sequence[str] = ()) -> None:
        self.name = variable.removesuffix("_PATH").lower()
        self.root = root
        self.log = log
        self.said_at_start = ""
        """The log up to when it had started: what tests provoke comes later."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        python = root / "venv" / "bin" / "python"
        self._command = [str(python), "launch.py", *(FLAGS | FORKS)[variable], "--port", str(self.port)]
        # Not the host's own file: what a test sets there would be the next one's.
        settings = "--config" if variable == "SDNEXT_PATH" else "--ui-settings-file"
        self._command += [settings, str(log.with_suffix(".json")), *flags]
        self._links = [root / "extensions" / name for name in ("dfosd-under-test", "dfosd-probe")]

    def __enter__(self) -> WebUI:
        assert not WebUI._running, "another host of these tests is still running"
        for link, target in zip(self._links, (ROOT, PROBE), strict=True):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
        env = dict(os.environ, HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")
        with self.log.open("wb") as file:
            self._process = subprocess.Popen(
                self._command, cwd=self.root, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        WebUI._running = True
        self.started = time.time()
        try:
            self.wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        self.said_at_start = self.text()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        WebUI._running = False
        for link in self._links:
            link.unlink(missing_ok=True)

    def wait_until_up(self, starts: int = 1) -> None:
        """Until the host says for the `starts`-th time that it has started, and answers."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self._process.poll() is None, self.text()[-3000:]
            if self.text().count("Startup time") >= starts and self.post("/dfosd-probe/state", {})[0] == 200:
                return
            time.sleep(1)
        raise AssertionError(f"The host did not start in {PATIENCE_S:g} s: {self.text()[-3000:]}")

    def text(self) -> str:
        """The host's log."""
        return self.log.read_text(errors="replace")

    def post(self, path: str, body: dict[str, Any], login: tuple[str, str] | None = LOGIN) -> tuple[int, Any]:
        """(status, answer); status 0 when nobody listens. The tests' own process may not use the network."""
        return self._ask(path, body, login)

    def get(self, path: str, login: tuple[str, str] | None = LOGIN) -> tuple[int, Any]:
        """As `post`, without a body."""
        return self._ask(path, None, login)

    def _ask(self, path: str, body: dict[str, Any] | None, login: tuple[str, str] | None) -> tuple[int, Any]:
        answer = subprocess.run(
            [sys.executable, str(CLIENT), f"http://127.0.0.1:{self.port}{path}", str(PATIENCE_S)],
            input=json.dumps({"body": body, "login": login}),
            capture_output=True,
            text=True,
            check=True,
        )
        status, content = json.loads(answer.stdout)
        return status, content
