"""What torch keeps of compiled operations, bounded: our own programs only, a host decides that for itself."""

from __future__ import annotations

import os

MOST = "128"
"""Compiled operations; about as many as images of one size need. torch and oneDNN themselves keep 1024 each."""


def bound_caches() -> None:
    """To be called before torch is imported. What the user has set stays.

    On a CPU, each size of image has its own; over a folder of many sizes they would fill some hundred megabytes.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, MOST)
