"""A headless Chromium driven over its DevTools socket: what the tests of the page need of it, no more.

Runs on the host's Python (aiohttp is the host's). CHROMIUM names the program.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


class Page:
    """One tab. `console`: errors and warnings so far; `requests`: the addresses asked for so far."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.sent = 0
        self.answers: dict[int, dict[str, Any]] = {}
        self.console: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": params})
        while self.sent not in self.answers:
            message = json.loads((await self.socket.receive(timeout=120)).data)
            self._take(message)
            if message.get("method") == "Page.javascriptDialogOpening":  # "Leave page?"; its answer is id 0
                await self.socket.send_json(
                    {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                )
        answer = self.answers.pop(self.sent)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _take(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if "id" in message:
            self.answers[message["id"]] = message
        elif message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.console.append(f"exception: {params['exceptionDetails']}")
        elif message.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            words = [str(arg.get("value", arg.get("description", ""))) for arg in params["args"]]
            self.console.append(f"{params['type']}: {' '.join(words)}")
        elif message.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.console.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")

    async def js(self, expression: str) -> Any:
        """The value of an expression or promise. Raises RuntimeError with what the page threw."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", answer)))
        return answer["result"].get("value")

    async def reload(self) -> None:
        """Load the page anew; returns when the old one is gone."""
        await self.js("window.isOld = true")
        await self.call("Page.reload")
        for _ in range(100):
            await asyncio.sleep(0.2)
            try:
                if not await self.js("Boolean(window.isOld)"):
                    return
            except RuntimeError:
                continue  # asked while neither page was there
        raise TimeoutError("the page does not load anew")

    async def until(self, condition: str, seconds: float = 60) -> None:
        """Wait until the expression is true. Raises TimeoutError."""
        for _ in range(round(seconds * 5)):
            if await self.js(f"Boolean({condition})"):
                return
            await asyncio.sleep(0.2)
        raise TimeoutError(f"{condition} is not true after {seconds} s; console: {self.console}")

    async def mouse(self, kind: str, x: float, y: float, **params: Any) -> None:
        pressed = kind != "mouseReleased" and params.pop("pressed", True)
        button = {"button": "left", "buttons": 1, "clickCount": 1} if pressed else {"button": "left", "buttons": 0}
        if kind == "mouseReleased":
            button["clickCount"] = 1
        await self.call("Input.dispatchMouseEvent", **{"type": kind, "x": x, "y": y, **button, **params})

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the left button held, in a few steps."""
        await self.mouse("mouseMoved", *start, pressed=False)
        await self.mouse("mousePressed", *start)
        for step in range(1, 6):
            x, y = (a + (b - a) * step / 5 for a, b in zip(start, end, strict=True))
            await self.mouse("mouseMoved", x, y)
        await self.mouse("mouseReleased", *end)

    async def swipe(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With one finger, in a few steps."""
        await self._touch("touchStart", [start])
        for step in range(1, 6):
            await self._touch("touchMove", [tuple(a + (b - a) * step / 5 for a, b in zip(start, end, strict=True))])
        await self._touch("touchEnd", [])

    async def _touch(self, kind: str, points: list[tuple[float, ...]]) -> None:
        touches = [{"x": x, "y": y} for x, y in points]
        await self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touches)

    async def key(self, key: str, shift: bool = False) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=8 if shift else 0)

    async def picture(self, clip: dict[str, float] | None = None) -> bytes:
        """PNG of the window, or of a part of it: {x, y, width, height}."""
        area = {"clip": {"scale": 1, **clip}} if clip else {}
        answer = await self.call("Page.captureScreenshot", format="png", **area)
        return base64.b64decode(answer["data"])


@asynccontextmanager
async def open_page(url: str, size: tuple[int, int] = (1600, 1000), zoom: float = 1) -> AsyncIterator[Page]:
    """A fresh browser with `url` open; ended afterwards, its profile removed."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        flags.append(f"--force-device-scale-factor={zoom}")
        program = os.environ.get("CHROMIUM", "chromium")
        process = subprocess.Popen(
            [program, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = await _wait(lambda: (Path(profile) / "DevToolsActivePort").read_text("utf-8").split()[0])
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    targets = await answer.json()
                address = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    page = Page(socket)
                    for domain in ("Runtime", "Log", "Page", "Network"):
                        await page.call(f"{domain}.enable")
                    await page.call("Page.navigate", url=url)
                    yield page
        finally:
            process.terminate()
            process.wait(15)


async def _wait(read: Callable[[], str]) -> str:
    for _ in range(300):
        try:
            return read()
        except (OSError, IndexError):
            await asyncio.sleep(0.1)
    raise TimeoutError("Chromium did not start")
