"""Time and memory of the embedded default (or any base and LoRA): seconds warm, and the process's peak.

    python -m benchmarks.speed --size 128            # 128x128 -> 512x512
    python -m benchmarks.speed --size 512 --runs 1   # 512x512 -> 2048x2048

Run one size per process: the peak is the process's own, imports included.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from pathlib import Path

import torch

from dfosd_core.attach import attached
from dfosd_core.hosts.own import fast_dtype, load_base, load_default
from dfosd_core.lora.file import load_lora
from dfosd_core.pipeline import UpscaleSettings, upscale_attached


def peak_mib() -> float:
    """The process's largest resident size so far, in MiB.

    Linux: from /proc, since getrusage also counts the parent that forked us. Elsewhere macOS's bytes.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Parse the command line, measure, print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="edge of the square input in pixels")
    parser.add_argument("--runs", type=int, default=5, help="after a first one that is not counted; 0: only that one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fast one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--lora", type=Path)
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype) if args.dtype else fast_dtype(args.device)
    if args.base is None:
        host, lora = load_default(dtype, args.device)
    else:
        host, lora = load_base(args.base, dtype, args.device), load_lora(args.lora)
    image = torch.rand(1, args.size, args.size, 3, generator=torch.Generator().manual_seed(0)).to(args.device)
    settings = UpscaleSettings()
    times: list[float] = []
    with attached(host, lora, settings) as host:
        for _ in range(args.runs + 1):
            began = time.perf_counter()
            upscale_attached(image, host, lora, settings).cpu()
            times.append(time.perf_counter() - began)
    warm = times[1:] or times
    print(
        f"{args.size}x{args.size} -> {args.size * 4}x{args.size * 4}, {str(dtype)[6:]}, "
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}: warm median "
        f"{statistics.median(warm):.2f} s (min {min(warm):.2f}, max {max(warm):.2f}), first {times[0]:.2f} s, "
        f"peak {peak_mib():.0f} MiB"
    )


if __name__ == "__main__":
    main()
