"""Time of the full decoder beside the light ones, in turn on the same latent; random weights, no files.

python -m benchmarks.decoders --size 512 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dfosd_core.hosts.own import fast_dtype
from dfosd_core.networks.complexity import macs, sd21_models

from .contenders import narrow_decoder, tiny_decoder
from .random_base import fill_randomly

Decode = Callable[[Tensor], Tensor]


def decoders(dtype: torch.dtype, device: str) -> dict[str, tuple[Decode, int]]:
    """By name: the decoder with random weights, and its MACs for a latent of 64x64."""
    z = torch.empty(1, 4, 64, 64, device="meta")
    vae = sd21_models()[1]
    narrow, tiny = narrow_decoder(), tiny_decoder()
    work = macs(vae, lambda: vae.decode(z)), macs(narrow, lambda: narrow(z)), macs(tiny, lambda: tiny(z))
    for network in (vae, narrow, tiny):
        fill_randomly(network, dtype, device)
    calls: tuple[Decode, ...] = (lambda z: vae.decode(z.to(device, dtype)), narrow, tiny)
    return dict(zip(("full", "VOSR's", "TAESD's"), zip(calls, work, strict=True), strict=True))


def main() -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="edge of the square output in pixels, a multiple of 8")
    parser.add_argument("--runs", type=int, default=5, help="rounds after a first one that is not counted")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="default: the fast one")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype) if args.dtype else fast_dtype(args.device)
    z = torch.randn(1, 4, args.size // 8, args.size // 8, generator=torch.Generator().manual_seed(0)).to(args.device)
    found = decoders(dtype, args.device)
    times: dict[str, list[float]] = {name: [] for name in found}
    with torch.inference_mode():
        for _ in range(args.runs + 1):
            for name, (decode, _) in found.items():
                began = time.perf_counter()
                decode(z).float().cpu()
                times[name].append(time.perf_counter() - began)
    print(
        f"{args.size}x{args.size}, {str(dtype)[6:]}, {args.device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}; seconds, median (least to most) of {args.runs}"
    )
    full = statistics.median(times["full"][1:])
    for name, (_, work) in found.items():
        warm = times[name][1:]
        middle = statistics.median(warm)
        share = f"{full / middle:.1f} times as fast as full"
        print(f"{name:<8} {work / 1e9:6.0f} G MACs at 512  {middle:.3f} ({min(warm):.3f} to {max(warm):.3f})  {share}")


if __name__ == "__main__":
    main()
