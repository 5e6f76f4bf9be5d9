"""For all tests: the same random numbers each time, no network, and Ctrl-C as in a terminal."""

from __future__ import annotations

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import settings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
LOOPBACK = ("127.0.0.1", "::1")
settings.register_profile("dfosd", deadline=None, derandomize=True, database=None)
settings.load_profile("dfosd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test first: begun last, such a file would be all that is left to do, on one core."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """Whoever is started in the background of a script is to ignore it, and hands that on to what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("a test reached for the network")

    def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
        # Between processes of this machine torch's data workers hand over tensors through local sockets, and a test
        # may ask a server that it has started.
        return lambda own, to: connect(own, to) if own.family == socket.AF_UNIX or to[0] in LOOPBACK else refuse()

    found = socket.getaddrinfo

    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    patch.setattr(
        socket, "getaddrinfo", lambda name, *more, **n: (found if name in LOOPBACK else refuse)(name, *more, **n)
    )
    yield
    patch.undo()
