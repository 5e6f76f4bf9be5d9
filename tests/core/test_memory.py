"""The memory of an image, estimated before it is upscaled: against what it takes, and what follows from it."""

from __future__ import annotations

import gc
import mmap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from support.peak import Peak

from dfosd_core import memory
from dfosd_core.allocator import keep_freed_memory
from dfosd_core.attach import attached
from dfosd_core.errors import ImageFileError
from dfosd_core.hosts.own import OwnHost, load_default
from dfosd_core.image_files.picture import Picture
from dfosd_core.memory import fitted, free_memory, gigabytes, held_memory, need_of
from dfosd_core.settings import UpscaleSettings
from dfosd_core.tiles.grid import TileGrid
from dfosd_core.tiles.run import MIN_TILE_PX
from dfosd_core.tiles.size import TileSize
from dfosd_core.upscale_file import upscale_picture

AUTO = UpscaleSettings()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def host() -> OwnHost:
    return load_default()[0]


def need_and_peak(edge: int, tile: int | None, dtype: torch.dtype) -> tuple[int, int]:
    """Of the second of two images, as the command computes them: it keeps what it frees."""
    keep_freed_memory()
    settings = UpscaleSettings(vae_tile=tile, unet_tile=tile)
    host, lora = load_default(dtype)
    rng = torch.Generator().manual_seed(0)
    with attached(host, lora, settings) as with_lora:

        def run(edge: int) -> None:
            picture = Picture(samples=torch.randint(0, 256, (edge, edge, 3), generator=rng, dtype=torch.uint8).numpy())
            upscale_picture(picture, lambda _: None, host=with_lora, lora=lora, settings=settings, device=CPU)

        run(16)  # what is made once
        gc.collect()
        peak = Peak()
        run(edge)
        run(edge)
    return need_of((4 * edge, 4 * edge), host, settings).bytes, peak.above()


@pytest.mark.parametrize(
    ("edge", "tile", "dtype"),
    [
        (128, None, torch.float32),
        (256, None, torch.float32),
        (256, None, torch.bfloat16),
        (256, 512, torch.bfloat16),
    ],
)
def test_estimate_is_above_the_peak_and_not_far_above(edge: int, tile: int | None, dtype: torch.dtype) -> None:
    Peak()  # or it is skipped
    # In a process of its own: this one has memory left from other tests, and would not have to ask for more.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        need, peak = fresh.submit(need_and_peak, edge, tile, dtype).result()
    assert need / 3 < peak < need


def test_large_images_need_what_they_hold_and_one_tile(host: OwnHost) -> None:
    a_tile, at_4096, at_8192 = (need_of((edge, edge), host, AUTO).bytes for edge in (2048, 4096, 8192))
    held = 8192 * 8192 * 12
    assert 2 * held < at_8192 < 2 * held + a_tile
    assert at_4096 < at_8192 < 4 * at_4096
    assert need_of((8192, 8192), host, AUTO, writing=True).bytes == at_8192 + 8192 * 8192 * 10
    assert need_of((8192, 8192), host, AUTO, channels=4).bytes >= at_8192


def test_each_stage_counts_with_the_width_of_its_widest_map(host: OwnHost) -> None:
    """The UNet's first level, the encoder's first, the decoder's second: those lie over the most places."""
    cells, f = (512 // host.layout.latent_factor) ** 2, host.layout.latent_factor
    grids = need_of((512, 512), host, AUTO).grids
    widths = {"unet": host.layout.block_out_channels[0]}
    widths |= dict(zip(("encode", "decode"), host.vae.config.block_out_channels, strict=False))
    assert widths["unet"] != host.layout.block_out_channels[-1]
    assert widths["encode"] != widths["decode"]
    item = next(host.unet.parameters()).element_size()
    for stage, width in widths.items():
        places = cells if stage == "unet" else cells * f**2
        assert memory._inside(stage, grids[stage], host) == memory._HELD[stage] * places * width * item


def test_strips_of_a_large_stage_are_counted_as_such(host: OwnHost) -> None:
    grids = need_of((8192, 8192), host, AUTO).grids
    rows, width, f = grids["decode"].rows[0].length, grids["decode"].width, host.layout.latent_factor
    assert len(grids["decode"]) > 1
    assert memory._strip(grids["decode"], f) == rows * width * f**2 * 3 * 4  # float32
    assert memory._strip(need_of((64, 64), host, AUTO).grids["decode"], f) == 0


def test_stage_that_goes_through_its_map_part_by_part_holds_no_more_than_the_parts(host: OwnHost) -> None:
    at_once, in_parts = (TileGrid(4096, 4096, TileSize(0, 0, parts=parts)) for parts in (1, 64))
    assert memory._inside("decode", at_once, host) > memory._inside("decode", in_parts, host) == memory._STREAMED


def test_tiles_are_those_of_the_run(host: OwnHost) -> None:
    need = need_of((1000, 3000), host, UpscaleSettings(vae_tile=0, unet_tile=1024))
    assert need.factor == host.layout.latent_factor
    assert {stage: len(grid) for stage, grid in need.grids.items()} == {"encode": 1, "unet": 4, "decode": 1}
    assert need.grids["decode"].width * need.factor == 3000


def test_little_memory_makes_the_automatic_tiles_smaller(host: OwnHost, caplog: pytest.LogCaptureFixture) -> None:
    size = (2048, 2048)
    need = need_of(size, host, AUTO)
    assert fitted(need, size, host, AUTO, need.bytes) is fitted(need, size, host, AUTO, None) is AUTO
    smaller = fitted(need, size, host, AUTO, need.bytes * 2 // 3)
    assert smaller.unet_tile == smaller.vae_tile in (1024, 768, 512)
    assert need_of(size, host, smaller).bytes <= need.bytes * 2 // 3
    assert f"tiles of {smaller.vae_tile} pixels are taken." in caplog.text
    chosen = UpscaleSettings(unet_tile=2048, vae_tile=0)
    assert fitted(need_of(size, host, chosen), size, host, chosen, 1) is chosen
    half = fitted(need, size, host, UpscaleSettings(unet_tile=640), need.bytes * 2 // 3)
    assert half.unet_tile == 640
    assert half.vae_tile is not None


def test_tiles_become_smaller_step_by_step_down_to_the_smallest(host: OwnHost) -> None:
    """Each step is a whole number of the smallest tiles, and is taken as soon as it fits."""
    size, edges = (2048, 2048), list[int]()
    need = need_of(size, host, AUTO)
    free = need.bytes
    while not edges or edges[-1] != MIN_TILE_PX:
        smaller = fitted(need, size, host, AUTO, free - 1)
        assert smaller.unet_tile == smaller.vae_tile
        assert smaller.vae_tile is not None
        edges.append(smaller.vae_tile)
        free = need_of(size, host, smaller).bytes
        assert fitted(need, size, host, AUTO, free) == smaller
    assert edges == sorted(set(edges), reverse=True)
    assert all(edge % MIN_TILE_PX == 0 for edge in edges), edges
    with pytest.raises(ImageFileError):
        fitted(need, size, host, AUTO, free - 1)


def test_too_little_memory_is_one_line(host: OwnHost) -> None:
    size = (8192, 8192)
    with pytest.raises(ImageFileError) as caught:
        fitted(need_of(size, host, AUTO), size, host, AUTO, 10**9)
    assert str(caught.value) == (
        "A result of 8192x8192 needs about 2.5 GB of memory even with small tiles, 1.0 GB are free. "
        "Free some memory or use a smaller scale."
    )


def test_free_memory_is_the_machines_or_the_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:  4000 kB\n")
    assert memory._available(tmp_path / "meminfo") == 4000 * 1024
    assert memory._available(tmp_path / "none") is None
    assert memory._left_to_group(tmp_path) is None
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_to_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory._left_to_group(tmp_path) == 4000
    monkeypatch.setattr(memory, "_available", lambda _: 10_000)
    monkeypatch.setattr(memory, "_left_to_group", lambda _: 4000)
    assert (free_memory(CPU), free_memory(CPU, 2)) == (4000, 2000)
    monkeypatch.setattr(memory, "_available", lambda _: None)
    monkeypatch.setattr(memory, "_left_to_group", lambda _: None)
    assert free_memory(CPU) is None


def test_held_memory_grows_with_what_is_held() -> None:
    before = held_memory(CPU)
    if not before:
        pytest.skip("this system has no /proc/self/status")
    # New from the system: a tensor may get what an earlier test of this process has freed.
    kept = mmap.mmap(-1, 2**27)
    kept.write(b"1" * len(kept))
    assert held_memory(CPU) - before > 2**26
    assert gigabytes(len(kept)) == "0.1 GB"
