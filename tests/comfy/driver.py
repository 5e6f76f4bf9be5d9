"""Runs in ComfyUI's own environment: starts the server, then answers jobs, one JSON line each, until its input ends.

    HOST/venv/bin/python driver.py HOST BASE_DIRECTORY [ComfyUI's arguments]

HOST holds ComfyUI/ and venv/, and may hold a boot.py that starts ComfyUI/main.py where that needs help. A job:
{"workflow": API format, "interrupt_at": number of the progress message to press stop at, or null}, or {} for the nodes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

READY = "To see the GUI go to"


class Server:
    """The ComfyUI process."""

    def __init__(self, host: Path, base: Path, arguments: list[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = base / "host.log"
        boot, folder = host / "boot.py", host / "ComfyUI"
        start = [str(boot), str(folder)] if boot.exists() else [str(folder / "main.py")]
        database = f"sqlite:///{base / 'user' / 'comfyui.db'}"
        (base / "user").mkdir(exist_ok=True)
        options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
        options += ["--database-url", database, "--disable-auto-launch", *arguments]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *start, *options],
                stdout=log,
                stderr=log,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while READY not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"ComfyUI did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.2)

    def memory_kib(self) -> dict[str, int]:
        """Resident, anonymous and, since the last `forget_peak`, peak size of the process."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return {name: int(re.findall(rf"{name}:\s+(\d+)", text)[0]) for name in ("VmRSS", "RssAnon", "VmHWM")}

    def forget_peak(self) -> None:
        """Let the peak begin at the present size (Linux)."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


async def run(session: aiohttp.ClientSession, url: str, job: dict[str, Any]) -> dict[str, Any]:
    """Post a workflow and follow it to its end."""
    result: dict[str, Any] = {"status": None, "progress": [], "previews": 0}
    async with session.ws_connect(f"{url}/ws?clientId=driver", max_msg_size=0) as socket_:
        async with session.post(f"{url}/prompt", json={"prompt": job["workflow"], "client_id": "driver"}) as answer:
            posted = await answer.json()
        if answer.status != 200 or posted.get("node_errors"):
            # ComfyUI runs the valid part of a workflow and says 200.
            return {**result, "status": "refused", "error": posted}
        began = time.monotonic()
        while result["status"] is None:
            message = await socket_.receive(timeout=550)
            if message.type is aiohttp.WSMsgType.BINARY:
                result["previews"] += 1
            elif message.type is not aiohttp.WSMsgType.TEXT:
                return {**result, "status": "connection lost"}
            else:
                event = json.loads(message.data)
                kind, data = event["type"], event.get("data", {})
                if data.get("prompt_id") == posted["prompt_id"]:
                    follow(kind, data, result)
                    if kind == "progress" and len(result["progress"]) == job["interrupt_at"]:
                        await session.post(f"{url}/interrupt", json={})
            result["seconds"] = time.monotonic() - began
    history: dict[str, Any] = {}
    while not history:  # the last message is sent before the history is written
        await asyncio.sleep(0.05)
        async with session.get(f"{url}/history/{posted['prompt_id']}") as answer:
            history = (await answer.json()).get(posted["prompt_id"], {})
    result["outputs"] = history.get("outputs", {})
    return result


def follow(kind: str, data: dict[str, Any], result: dict[str, Any]) -> None:
    """Take one message into the result."""
    if kind == "progress":
        result["progress"].append([data["value"], data["max"]])
    elif kind == "executing" and data.get("node"):
        result.setdefault("executed", []).append(data["node"])
    elif kind == "execution_success":
        result["status"] = "success"
    elif kind == "execution_error":
        result["status"] = "error"
        result["error"] = f"{data['exception_type']}: {data['exception_message']}".strip()
    elif kind == "execution_interrupted":
        result["status"] = "interrupted"


def say(answer: dict[str, Any]) -> None:
    """One line to whoever started us."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def pack_nodes(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """/object_info of the nodes that are not the host's own."""
    async with session.get(f"{url}/object_info") as answer:
        nodes = await answer.json()
    return {name: facts for name, facts in nodes.items() if facts["python_module"].startswith("custom_nodes.")}


async def serve(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        say({"nodes": await pack_nodes(session, server.url), "url": server.url})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            job = json.loads(line)
            if job:
                server.forget_peak()
                say({**await run(session, server.url, job), "memory": server.memory_kib()})
            else:
                say({"nodes": await pack_nodes(session, server.url)})


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is stopped on the way out
    server = Server(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), sys.argv[3:])
    try:
        server.wait(240)
        asyncio.run(serve(server))
    finally:
        server.stop()


if __name__ == "__main__":
    main()
