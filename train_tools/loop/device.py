"""On which device a run computes, checked before anything is loaded, and said in one line."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from dfosd_core.errors import ConfigError

from ..settings.config import RunConfig

NVIDIA = Path("/dev/nvidia0")
"""There where Linux has a driver for a card of NVIDIA's."""
GIB = 2**30


def choose_device(run: RunConfig) -> str:
    """`cuda`, `mps` or `cpu`. Raises ConfigError, one line, rather than fall back to the CPU beside a card.

    Also raises it for bfloat16 on a device that does not compute it.
    """
    kind = run.device if run.device != "auto" else _automatic()
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"run.device: cuda, but {_why_no_cuda()}. Set run.device=cpu to train on the CPU.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("run.device: mps, but torch finds no GPU of Apple's. Set run.device=cpu, or auto.")
    if run.precision == "bf16" and not _computes_bf16(kind):
        raise ConfigError(
            f"run.precision: bf16, which {_name(kind)} does not compute. "
            + ("Set run.precision=fp16." if kind == "cuda" else "Set run.precision=no.")
        )
    return kind


def describe_device(device: torch.device, run: RunConfig, base_dtype: torch.dtype) -> str:
    """The line at a run's start: device, number formats, memory."""
    held = str(base_dtype).removeprefix("torch.")
    precision = {"no": "float32", "bf16": "bfloat16 (autocast)", "fp16": "float16 (autocast)"}[run.precision]
    return f"Device: {_name(device.type)}; {_memory(device)}; computes in {precision}, the base held in {held}."


def _automatic() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    if torch.version.cuda or torch.version.hip or NVIDIA.exists():
        raise ConfigError(
            f"{_why_no_cuda()}. Training on the CPU would take hundreds of times as long: set run.device=cpu if you "
            "want that."
        )
    return "cpu"


def _why_no_cuda() -> str:
    if torch.version.cuda or torch.version.hip:
        kind = "CUDA" if torch.version.cuda else "ROCm"
        return (
            f"torch {torch.__version__} is a {kind} build and finds no GPU (driver missing or too old, or "
            "CUDA_VISIBLE_DEVICES hides it)"
        )
    if NVIDIA.exists():
        return (
            f"there is an NVIDIA card, but torch {torch.__version__} is a build without CUDA (install one with it: "
            "pytorch.org, Get Started)"
        )
    return f"torch {torch.__version__} is a build for CPUs"


def _computes_bf16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        return True  # where it is emulated it is slow, and right
    try:
        return bool((torch.ones(1, dtype=torch.bfloat16, device=kind) + 1).item() == 2)
    except (RuntimeError, TypeError):
        return False


def _name(kind: str) -> str:
    if kind == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)" if kind == "cpu" else kind


def _memory(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if device.type == "mps":
        return f"{torch.mps.recommended_max_memory() / GIB:.1f} GiB of memory for the GPU"
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.1f} GiB of memory"
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return "memory unknown"
