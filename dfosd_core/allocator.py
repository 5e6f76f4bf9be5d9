"""glibc's memory: what a layer frees is kept for the next one, instead of going to the kernel and coming back.

By default, glibc maps each block of 32 MB or more afresh and unmaps it when it is freed, so the kernel clears the
pages of every large map again. Of 512x512 -> 2048x2048 on a CPU that was a sixth of the processor's time. Only our own
programs call this: inside a host, the process is the host's.
"""

from __future__ import annotations

import os

from . import freed_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""mallopt's numbers for them, from glibc's malloc.h."""
_KEPT = 2**31 - 1
"""Bytes that may stay free at the heap's end: the largest number that mallopt takes."""
_MAPPED = 2**30
"""Blocks from here on still go back to the kernel."""
_SET_BY_USER = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """From now on, freed memory stays with the process. True where the C library was told so.

    Not where there is no glibc (Windows, macOS, musl), and not where the user has set glibc's own variables.
    """
    mallopt = freed_memory.glibc("mallopt")
    if mallopt is None or any(name in os.environ for name in _SET_BY_USER):
        return False
    freed_memory.is_kept = bool(mallopt(_MMAP_THRESHOLD, _MAPPED)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
    return freed_memory.is_kept
