"""Giving freed memory back to the kernel, in processes that keep it (`allocator.py`). Nothing happens in any other."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

is_kept = False
"""Whether this process keeps what it frees."""


def give_back_freed_memory() -> None:
    """Hand what is free to the kernel now: for other programs, or for what needs other and larger blocks."""
    trim = glibc("malloc_trim") if is_kept else None
    if trim is not None:
        trim(0)


def glibc(name: str) -> Callable[..., int] | None:
    """A function of the C library, if that is glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - an AttributeError says that it is another library
        return getattr(library, name)
    except (AttributeError, OSError, TypeError):  # TypeError: Windows
        return None
