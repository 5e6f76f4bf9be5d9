"""Time and memory of the embedded default (or any base and LoRA): seconds warm, and the process's peak.

    python -m benchmarks.speed --size 128            # 128x128 -> 512x512
    python -m benchmarks.speed --size 512 --runs 1   # 512x512 -> 2048x2048
    python -m benchmarks.speed --folder 40           # 40 images of 128x128 in one process and in two, of one thread

Run one size per process: the peak is the process's own, imports included. The estimate beside it is what
`dfosd upscale --dry-run` states. Seconds a megapixel are of the output: compare them at 256 and 1024.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dfosd_core.allocator import keep_freed_memory
from dfosd_core.attach import attached
from dfosd_core.freed_memory import give_back_freed_memory
from dfosd_core.hosts.own import fast_dtype, load_base, load_default
from dfosd_core.lora.file import load_lora
from dfosd_core.memory import held_memory, need_of
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
    parser.add_argument("--folder", type=int, metavar="N", help="a folder of N images by the command, for one and two")
    args = parser.parse_args()
    if args.folder:
        measure_folder(args.folder, args.size, max(args.runs, 1))
        return
    dtype = getattr(torch, args.dtype) if args.dtype else fast_dtype(args.device)
    if args.base is None:
        host, lora = load_default(dtype, args.device, reusable=False)
    else:
        host, lora = load_base(args.base, dtype, args.device, reusable=False), load_lora(args.lora)
    image = torch.rand(1, args.size, args.size, 3, generator=torch.Generator().manual_seed(0)).to(args.device)
    settings = UpscaleSettings()
    times: list[float] = []
    need = need_of((4 * args.size, 4 * args.size), host, settings).bytes
    keep_freed_memory()  # this and what follows as the command does
    with attached(host, lora, settings) as host:
        give_back_freed_memory()
        estimate = held_memory(image.device) + need
        for _ in range(args.runs + 1):
            began = time.perf_counter()
            upscale_attached(image, host, lora, settings).cpu()
            times.append(time.perf_counter() - began)
    warm = times[1:] or times
    megapixels = (4 * args.size) ** 2 / 1e6
    print(
        f"{args.size}x{args.size} -> {args.size * 4}x{args.size * 4}, {str(dtype)[6:]}, "
        f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"torch {torch.__version__}: warm median "
        f"{statistics.median(warm):.2f} s (min {min(warm):.2f}, max {max(warm):.2f}), first {times[0]:.2f} s, "
        f"{statistics.median(warm) / megapixels:.3f} s a megapixel, "
        f"peak {peak_mib():.0f} MiB (estimate {estimate / 2**20:.0f})"
    )


def measure_folder(images: int, size: int, runs: int) -> None:
    """Print the time of a folder by one process of one thread and by two, in turn, and whether the files are equal."""
    seconds: dict[str, list[float]] = {"--device cpu": [], "--devices cpu,cpu": []}
    with tempfile.TemporaryDirectory(prefix="dfosd-") as work:
        folder, rng = Path(work, "in"), np.random.default_rng(0)
        folder.mkdir()
        for index in range(images):
            Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{index:03}.png")
        results: list[dict[str, bytes]] = []
        for run in range(runs):
            for way, spent in seconds.items():
                out = Path(work, f"{run}{way.replace(' ', '')}")
                spent.append(_run_command([str(folder), "-o", str(out), "--quiet", *way.split()]))
                results.append({path.name: path.read_bytes() for path in out.iterdir()})
    one, two = (statistics.median(spent) for spent in seconds.values())
    same = all(len(each) == images and each == results[0] for each in results)
    print(
        f"{images} images of {size}x{size}, one-thread processes, medians of {runs}: one {one:.1f} s, two {two:.1f} s"
        f" ({two / one:.2f}), {'the same files' if same else 'DIFFERENT FILES'}"
    )


def _run_command(arguments: list[str]) -> float:
    """Seconds of `dfosd upscale`, from its start to its end."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "dfosd_core.cli", "upscale", *arguments]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
