"""A headless Chromium driven over its DevTools pipe: no driver program, no socket, nothing to install but Chromium."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
_ANSWER_SECONDS = 300
"""A page on a busy machine may compute for minutes before it answers; one that has ended is noticed at once."""


class Browser:
    """One page. `with Browser(program) as page:` ends the program and removes its profile."""

    def __init__(self, program: str, width: int = 1400, height: int = 950) -> None:
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self.downloads = Path(self._profile) / "downloads"
        self.requests: list[str] = []
        """Addresses the page has asked for."""
        self.awaited: dict[str, str] = {}
        """The same for those whose answers have not come whole, by the browser's own numbers."""
        self.console: list[str] = []
        """Errors and warnings on the page's console, each with the addresses of the scripts that it came through."""
        self._count = 0
        self._buffer = b""
        self._session: str | None = None
        out_read, self._write = os.pipe()
        self._read, in_write = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={self._profile}", f"--window-size={width},{height}", "about:blank"]

        def into_3_and_4() -> None:  # where Chromium looks for its pipe
            os.dup2(os.dup(out_read), 3)
            os.dup2(os.dup(in_write), 4)

        self._process = subprocess.Popen(
            [program, *flags],
            preexec_fn=into_3_and_4,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(out_read)
        os.close(in_write)

    def __enter__(self) -> Browser:
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Runtime.setAsyncCallStackDepth", maxDepth=16)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command's result."""
        mine = self._send(method, **params)
        while True:
            answer = self._receive(_ANSWER_SECONDS)
            if answer.get("id") == mine:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _send(self, method: str, **params: Any) -> int:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:  # a pipe takes what there is room for
            data = data[os.write(self._write, data) :]
        return self._count

    def js(self, expression: str) -> Any:
        """The value of an expression on the page, awaited."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"])[:800])
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = _ANSWER_SECONDS) -> Any:
        """Until the expression is true; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                value = self.js(expression)
            except RuntimeError as error:
                if "navigated" not in str(error):  # a page may load itself anew
                    raise
                value = None
            if value:
                return value
            time.sleep(0.1)
        raise TimeoutError(f"not within {seconds} s: {expression}\n{self.js('document.body.innerText')[-1500:]}")

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)

    def upload(self, selector: str, *files: Path) -> None:
        """Put files into a file input."""
        root = self.call("DOM.getDocument", depth=1)["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, selector
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def click(self, selector: str) -> None:
        """With the mouse, in the element's middle."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def middle(self, selector: str) -> tuple[float, float]:
        box = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        return box[0] + box[2] / 2, box[1] + box[3] / 2

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, buttons=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the left button held, in a few steps."""
        self.mouse("mousePressed", *start)
        for point in between(start, end):
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *end)

    def swipe(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With one finger, in a few steps."""
        self._touch("touchStart", start)
        for point in between(start, end):
            self._touch("touchMove", point)
        self._touch("touchEnd")

    def _touch(self, kind: str, *points: tuple[float, float]) -> None:
        self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y} for x, y in points])

    def key(self, key: str, *, code: int = 0, is_shifted: bool = False) -> None:
        """Press and let go. `code`: Windows' number of it, which some pages go by."""
        for kind in ("keyDown", "keyUp"):
            more = {"windowsVirtualKeyCode": code, "modifiers": 8 if is_shifted else 0}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def download(self, seconds: float = 30) -> Path:
        """The newest file that has come whole."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.js("0")
            files = list(self.downloads.glob("*")) if self.downloads.exists() else []
            if files and not any(file.suffix == ".crdownload" for file in files):
                return max(files, key=lambda file: file.stat().st_mtime_ns)
            time.sleep(0.1)
        raise TimeoutError("no file came")

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pixels(self, x: float, y: float, width: float, height: float) -> bytes:
        """A part of the window as a PNG file."""
        clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", clip=clip)["data"])

    def reload(self) -> None:
        """Load the page anew; returns when the old one is gone."""
        self.js("window.isOld = true")
        self.awaited.clear()
        self.call("Page.reload")
        end = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < end:
            try:
                if not self.js("Boolean(window.isOld)"):
                    return
            except RuntimeError:
                continue  # asked while neither page was there
            time.sleep(0.1)
        raise TimeoutError("the page does not load anew")

    def _receive(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], seconds)[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
            self.awaited[params["requestId"]] = params["request"]["url"]
        elif method in ("Network.loadingFinished", "Network.loadingFailed"):
            self.awaited.pop(params["requestId"], None)
        elif method == "Page.javascriptDialogOpening":  # "Leave page?"
            self._send("Page.handleJavaScriptDialog", accept=True)
        elif method == "Runtime.exceptionThrown":
            self.console.append("exception: " + str(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            text = " ".join(str(a.get("value", a.get("description"))) for a in params["args"])[:500]
            self.console.append(f"{params['type']}: {text} [{', '.join(scripts_of(params.get('stackTrace')))}]")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.console.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")


def scripts_of(stack: dict[str, Any] | None) -> list[str]:
    """Addresses of the scripts in a stack, those first that ran last, with what had started a promise or a timer."""
    addresses: dict[str, None] = {}
    while stack:
        addresses |= dict.fromkeys(frame["url"] for frame in stack["callFrames"] if frame["url"])
        stack = stack.get("parent")
    return list(addresses)


def between(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    """Five points on the way, the last of them `end`."""
    (a, b), (c, d) = start, end
    return [(a + (c - a) * step / 5, b + (d - b) * step / 5) for step in range(1, 6)]
