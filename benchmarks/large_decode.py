"""Stable Diffusion's decoder on large images: the memory of a process, and how far strips and tiles are from the whole.

    python -m benchmarks.large_decode --size 2048             # in strips: CPU time, peak of the process, disk
    python -m benchmarks.large_decode --size 1024 --compare   # in strips and in tiles, both against the whole, float32

The decoder has SD 2.1's layout, random weights and no UNet beside it, whose weights take 1.7 GB in bfloat16.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dfosd_core.hosts.own import fast_dtype
from dfosd_core.networks import streamed_vae
from dfosd_core.networks.complexity import sd21_models
from dfosd_core.networks.folding import fold_upsampling
from dfosd_core.networks.map_sizes import map_sizes, work_of
from dfosd_core.networks.vae import MapAttention, Vae
from dfosd_core.tiles.grid import TileGrid, tiled_apply
from dfosd_core.tiles.size import TileSize

from .random_base import random_half
from .speed import peak_mib

F = 8


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048, help="edge of the square output in pixels")
    parser.add_argument("--compare", action="store_true", help="with the whole at once, in float32")
    parser.add_argument("--tile", type=int, default=768, help="of the comparison; 768: what hosts take")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the fast one")
    args = parser.parse_args()
    dtype = torch.float32 if args.compare else getattr(torch, args.dtype) if args.dtype else fast_dtype("cpu")
    vae, z = random_vae(dtype), latent(args.size // F)
    print(f"{args.size}x{args.size}, {str(dtype)[6:]}, {torch.get_num_threads()} threads: {work(vae, args.size // F)}")
    print(f"before: peak {peak_mib():.0f} MiB", flush=True)
    with torch.inference_mode():
        strips = timed("strips", lambda: streamed_vae.decode(vae, z))
        if args.compare:
            compare(vae, z, strips, TileSize(args.tile, args.tile // 6))


def compare(vae: Vae, z: Tensor, strips: Tensor, tile: TileSize) -> None:
    """Print the distance of strips and of tiles from the whole."""
    whole = timed("whole", lambda: at_once(vae, z))
    grid = TileGrid(z.shape[2], z.shape[3], tile.in_latents(F).aligned(1))
    tiles = timed(f"{len(grid)} tiles", lambda: tiled_apply(lambda part: at_once(vae, part), z, grid, out_factor=F))
    for name, found in (("strips", strips), ("tiles", tiles)):
        off = found - whole
        shift = torch.nn.functional.avg_pool2d(off, 64).abs().max().item()
        print(
            f"{name} against the whole: largest {off.abs().max().item():.2e}, mean {off.abs().mean().item():.2e}, "
            f"colour of 64x64 pixels {shift:.2e} (the whole has a deviation of {whole.std().item():.2f})"
        )


def timed(name: str, run: Callable[[], Tensor]) -> Tensor:
    """What `run` gives. Prints what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {cpu:.1f} s CPU, {wall:.1f} s, peak of the process so far {peak_mib():.0f} MiB", flush=True)
    return result


def at_once(vae: Vae, z: Tensor) -> Tensor:
    """The decoder as it is run up to `AT_ONCE_PX`."""
    return vae.decode(z.to(vae.quant_conv.weight.dtype, memory_format=torch.channels_last)).float()


def random_vae(dtype: torch.dtype) -> Vae:
    """SD 2.1's, with its upsampling folded."""
    vae = sd21_models()[1]
    weights = random_half(vae, 0)
    for key, value in weights.items():
        memory_format = torch.channels_last if value.ndim == 4 else torch.contiguous_format
        weights[key] = value.to(dtype, memory_format=memory_format)
    vae.load_state_dict(weights, assign=True)
    fold_upsampling(vae.eval().requires_grad_(False))
    return vae


def latent(edge: int) -> Tensor:
    """Noise on a slope, so that tiles differ from each other as those of a picture do."""
    noise = torch.randn(1, 4, edge, edge, generator=torch.Generator().manual_seed(0))
    return noise + torch.linspace(-2, 2, edge)[:, None]


def work(vae: Vae, edge: int) -> str:
    """Multiplications and the two largest maps."""
    decoder, sizes = vae.decoder, list(map_sizes(vae.decoder, edge, edge))
    layers = [decoder.conv_in, *decoder.layers(), decoder.conv_out]
    each = [(layer, work_of(layer, size)) for layer, size in zip(layers, [*sizes, sizes[-1]], strict=True)]
    attention = sum(macs for layer, macs in each if isinstance(layer, MapAttention))
    maps = max(a.values + b.values for a, b in itertools.pairwise(sizes)) * decoder.conv_in.weight.itemsize
    return (
        f"{sum(macs for _, macs in each) / 1e9:.0f} GMACs before folding, {attention / 1e9:.0f} of them attention; "
        f"two maps of {maps / 1e9:.1f} GB"
    )


if __name__ == "__main__":
    main()
