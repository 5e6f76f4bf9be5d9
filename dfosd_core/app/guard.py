"""Who may talk to `dfosd app`: its own page. Other sites in the same browser may not, by whatever name they come."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from ..errors import DfosdError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_CHANGES_NOTHING = ("GET", "HEAD", "OPTIONS")


class Guard:
    """ASGI middleware. `host`: what the app listens on. `make_room`: raises DfosdError for an upload of so many bytes.

    Answers 403 to a request by a name that may be another site's (DNS rebinding) and to one that another site's page
    has sent, 507 to an upload for which there is no room.
    """

    def __init__(self, app: App, *, host: str, make_room: Callable[[int], None]) -> None:
        own = socket.gethostname().lower()
        self._app, self._make_room = app, make_room
        self._names = {"localhost", host.lower(), own, f"{own}.local"}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
            method = scope.get("method", "POST")
            reason = self.refusal(method, headers)
            if reason:
                await _answer(send, 403, reason, scope["type"])
                return
            length = headers.get("content-length", "")
            if method == "POST" and length.isascii() and length.isdigit():
                try:
                    await asyncio.to_thread(self._make_room, int(length[:18]))
                except DfosdError as error:
                    await _answer(send, 507, str(error), scope["type"])
                    return
        await self._app(scope, receive, send)

    def refusal(self, method: str, headers: Mapping[str, str]) -> str:
        """Why a request with these headers (names in lower case) is not answered; "" for one that is."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"This app does not know itself as '{host[:100]}'. Use its address, or start it with that as --host."
        origin = headers.get("origin")
        if origin is None or method in _CHANGES_NOTHING:
            return ""
        own = {host.lower(), headers.get("x-forwarded-host", host).lower()}
        return "" if urlsplit(origin).netloc.lower() in own else "Requests of other sites' pages are not answered."

    def _is_ours(self, host: str) -> bool:
        """An address cannot be made to point elsewhere; a name can, unless it is this machine's."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            ipaddress.ip_address(name)
        except ValueError:
            name = host.partition(":")[0].lower().rstrip(".")
            return name in self._names or name.endswith(".localhost")
        return True


async def _answer(send: Send, status: int, text: str, kind: str) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
