"""How much memory an image will take, how much there is, and the tiles that fit: before anything is computed.

The sizes of images are exact, those inside the networks are measured ones for their kinds of layers, rounded up.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .errors import ImageFileError
from .host import Host
from .hosts.own import OwnHost
from .settings import UpscaleSettings
from .tiles.grid import TileGrid
from .tiles.run import MEMORY_ADVICE

logger = logging.getLogger("dfosd")

STAGES = ("encode", "unet", "decode")
_HELD = {"encode": 7, "unet": 26, "decode": 6}
"""Maps of a stage's widest layer at its largest size that are held at once, by measurement."""
_STREAMED = 2_500_000_000
"""What an autoencoder holds that goes through a large image layer by layer, beside the image."""
_BETWEEN = 600_000_000
"""What glibc keeps between blocks at most, where it keeps freed memory (`allocator.py`), by measurement.

Three quarters of what is held, if that is less: it varies from run to run, for one image from a fifth to three fifths.
"""
_ONCE = 40_000_000
"""What the first image leaves with the process: the layers' prepared kernels, the threads' own heaps."""
_EDGES = (1024, 768, 512, 384, 256, 128)
"""Tiles that are tried, in pixels, where the automatic ones need too much."""
_FILE_BYTES = 10
"""A pixel of a result that is being written: its samples, Pillow's copy of them and Pillow's image."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one image will take."""

    grids: dict[str, TileGrid]
    """The stages' tiles, in latents."""
    factor: int
    """Pixels a latent."""
    bytes: int
    """At the highest moment, beside what the process holds with its networks loaded."""


def need_of(
    size: tuple[int, int], host: Host, settings: UpscaleSettings, *, channels: int = 3, writing: bool = False
) -> Need:
    """Of a result of (height, width) `size`. `writing`: another one as large is being written meanwhile.

    `host` has our own networks, or a light decoder on them. `channels`: 4 with transparency.
    """
    f, multiple = host.layout.latent_factor, host.size_multiple_px
    tiles = settings.tiles(host.auto_tiles(*size))
    height, width = (-(-edge // multiple) * multiple // f for edge in size)
    grids = {
        stage: TileGrid(height, width, getattr(tiles, stage).in_latents(f).aligned(multiple // f), multiple // f)
        for stage in STAGES
    }
    image = height * width * f * f * 4 * 3  # float32
    latents = height * width * host.layout.latent_channels * 4
    networks = {stage: latents + _inside(stage, grids[stage], host) for stage in STAGES}
    highest = max(
        image + networks["encode"],
        networks["unet"],
        image + _strip(grids["decode"], f) + networks["decode"],
        image * 9 // 4,  # x_sr, and x_lr with half of its making
        image + image * channels // 3,  # x_sr and the output
    )
    beside = _ONCE + min(highest * 3 // 4, _BETWEEN) + (_FILE_BYTES * size[0] * size[1] if writing else 0)
    return Need(grids=grids, factor=f, bytes=highest + beside)


def fitted(
    need: Need, size: tuple[int, int], host: Host, settings: UpscaleSettings, free: int | None
) -> UpscaleSettings:
    """`settings`, with smaller tiles where the automatic ones need more than `free` bytes (None: nobody knows).

    Tiles that the user has chosen stay. Raises ImageFileError, one line, if even small tiles do not help.
    """
    if free is None or need.bytes <= free or (settings.unet_tile is not None and settings.vae_tile is not None):
        return settings
    least = need.bytes
    for edge in _EDGES:
        given = {name: getattr(settings, name) for name in ("unet_tile", "vae_tile")}
        smaller = replace(settings, **{name: edge if tile is None else tile for name, tile in given.items()})
        least = need_of(size, host, smaller).bytes
        if least <= free:
            logger.warning(
                "%s are free and about %s needed: tiles of %d pixels are taken.",
                gigabytes(free),
                gigabytes(need.bytes),
                edge,
            )
            return smaller
    raise ImageFileError(
        f"A result of {size[1]}x{size[0]} needs about {gigabytes(least)} of memory even with small tiles, "
        f"{gigabytes(free)} are free. {MEMORY_ADVICE}"
    )


def _inside(stage: str, grid: TileGrid, host: Host) -> int:
    """Bytes in the networks while one tile is computed."""
    own = getattr(host, "_host", host)  # below a light decoder, which takes less than the base's own
    cells = max(row.length for row in grid.rows) * max(column.length for column in grid.columns)
    if isinstance(own, OwnHost):
        widths, item = own.vae.config.block_out_channels, next(own.unet.parameters()).element_size()
    else:
        widths, item = (128, 256), 4
    if stage == "unet":
        return _HELD[stage] * cells * host.layout.block_out_channels[0] * item
    width = widths[0] if stage == "encode" else widths[1]
    held = _HELD[stage] * cells * host.layout.latent_factor**2 * width * item
    return min(held, _STREAMED) if getattr(grid.size, "parts", 1) > 1 else held


def _strip(grid: TileGrid, factor: int) -> int:
    """Bytes of a row of decoded tiles."""
    return grid.rows[0].length * grid.width * factor * factor * 4 * 3 if len(grid) > 1 else 0


def free_memory(device: torch.device, sharing: int = 1) -> int | None:
    """Bytes that this process may still take on `device`; None where nobody says. `sharing`: processes on the cores."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    known = [found for found in (_available(Path("/proc/meminfo")), _left_to_group(Path("/sys/fs/cgroup"))) if found]
    return min(known) // max(sharing, 1) if device.type == "cpu" and known else None


def held_memory(device: torch.device) -> int:
    """Bytes that this process holds on `device` now; 0 where nobody says."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError, StopIteration):
        return _kilobytes(Path("/proc/self/status"), "VmRSS:")
    return 0


def gigabytes(count: int) -> str:
    """For people: `1.4 GB`, by thousands."""
    return f"{count / 1e9:.1f} GB"


def _available(meminfo: Path) -> int | None:
    with suppress(OSError, StopIteration):  # no Linux
        return _kilobytes(meminfo, "MemAvailable:")
    return None


def _left_to_group(folder: Path) -> int | None:
    """Of a container's limit (cgroups 2)."""
    with suppress(OSError, ValueError):  # none, or "max"
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    return None


def _kilobytes(file: Path, name: str) -> int:
    line = next(line for line in file.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
