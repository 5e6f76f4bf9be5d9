"""Our own programs keep freed memory; the kernel's page faults say whether they do."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dfosd_core import allocator, freed_memory

ROOT = Path(__file__).resolve().parent.parent
FAULTS = """
import resource, torch
from dfosd_core.allocator import keep_freed_memory
from dfosd_core.freed_memory import give_back_freed_memory
from dfosd_core.memory import held_memory

{before}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(12):  # at first, glibc sometimes cannot join what lies between two small blocks
    torch.empty(64 << 18).fill_(1)
began = faults()
for _ in range(5):
    torch.empty(64 << 18).fill_(1)
held = held_memory(torch.device("cpu"))
give_back_freed_memory()
print(faults() - began, held - held_memory(torch.device("cpu")))
"""
PAGES = 64 * 2**20 // 4096


def faults_of(before: str, **environment: str) -> tuple[int, int]:
    """Page faults of five maps of 64 MiB, one after the other, and bytes that were given back in the end."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the C library is not glibc")
    run = [sys.executable, "-c", FAULTS.format(before=before)]
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"} | environment
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    faults, given_back = map(int, done.stdout.split())
    return faults, given_back


def test_freed_memory_is_used_again() -> None:
    assert faults_of("")[0] > 4 * PAGES
    assert faults_of("assert keep_freed_memory()")[0] < PAGES // 4


def test_freed_memory_can_be_given_back() -> None:
    assert faults_of("assert keep_freed_memory()")[1] > 60 * 2**20


def test_what_the_user_has_set_stays() -> None:
    before = "assert not keep_freed_memory()"
    assert faults_of(before, MALLOC_MMAP_THRESHOLD_="1000000")[0] > 4 * PAGES


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freed_memory.ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
    monkeypatch.setattr(freed_memory, "is_kept", True)
    freed_memory.give_back_freed_memory()
