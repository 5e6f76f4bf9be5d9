"""Images that are too large for one tile, on our own networks with group norms: exact, shown, stopped, repeated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.diffusers_host import own_twin
from support.tiny_models import random_lora, tiny_host
from test_networks import photograph
from test_own_host import weights_hash
from test_precision import host_with
from torch import Tensor

from dfosd_core.hosts import own
from dfosd_core.hosts.own import OwnHost, load_default
from dfosd_core.lora.file import DfosdLora
from dfosd_core.memory import need_of
from dfosd_core.networks import streamed_vae
from dfosd_core.pipeline import Progress, UpscaleSettings, upscale
from dfosd_core.tiles.size import TileSettings, TileSize

SETTINGS = UpscaleSettings(color_fix="none")
TOLERANCE = 1e-4


def tiny() -> tuple[OwnHost, DfosdLora]:
    theirs = tiny_host()
    return own_twin(theirs), random_lora(theirs)


@pytest.fixture
def _in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "AT_ONCE_PX", 200)
    monkeypatch.setattr(own, "PART_PX", 100)
    monkeypatch.setattr(streamed_vae._Stream, "_rows", lambda *_: 7)


@pytest.fixture
def at_once() -> Tensor:
    return upscale(photograph(24)[:, :20], *tiny(), SETTINGS)


@pytest.fixture
def shown() -> Iterator[list[Progress]]:
    seen: list[Progress] = []
    yield seen
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1].done == seen[-1].total
    assert len({progress.total for progress in seen}) == 1


@pytest.mark.usefixtures("_in_strips")
def test_the_whole_way_gives_what_it_gives_at_once(at_once: Tensor, shown: list[Progress]) -> None:
    pieces = torch.full((1, 3, 80, 96), torch.nan)

    def show(progress: Progress) -> None:
        shown.append(progress)
        if progress.phase == "decode" and (tile := progress.tile) is not None:
            assert tile.size == (80, 96)
            pieces[:, :, tile.top : tile.top + tile.values.shape[2]] = tile.values

    result = upscale(photograph(24)[:, :20], *tiny(), SETTINGS, show)
    torch.testing.assert_close(result, at_once, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(pieces.movedim(1, -1).clamp(0, 1), result, rtol=0, atol=0)
    # 77 parts and the UNet's tile.
    assert shown[0].total == 2 * 77 + 1
    assert max(sum(progress.phase == phase for progress in shown) for phase in ("encode", "decode")) > 40


@pytest.mark.usefixtures("_in_strips")
@pytest.mark.parametrize("phase", ["encode", "decode"])
def test_it_can_be_stopped_in_the_middle(phase: str) -> None:
    host, lora = tiny()
    before, seen = weights_hash(host.unet, host.vae), list[Progress]()

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase == phase and progress.tile is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale(photograph(24), host, lora, SETTINGS, stop)
    assert weights_hash(host.unet, host.vae) == before
    assert sum(progress.phase == phase for progress in seen) == 1


@pytest.mark.usefixtures("_in_strips")
@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_a_stage_that_overflows_is_repeated_in_a_wider_format(
    stage: str, shown: list[Progress], caplog: pytest.LogCaptureFixture
) -> None:
    expected = upscale(photograph(12), *host_with(stage, torch.float32), SETTINGS)
    host, lora = host_with(stage, torch.float16)
    calls: list[Progress] = []
    with caplog.at_level(logging.WARNING, "dfosd"):
        result = upscale(photograph(12), host, lora, SETTINGS, calls.append)
    torch.testing.assert_close(result, expected, rtol=0, atol=0.02)
    assert [record.getMessage() for record in caplog.records] == [
        "The VAE overflowed in float16 and goes on in float32."
    ]
    shown.append(calls[-1])


@pytest.mark.usefixtures("_in_strips")
def test_a_tile_that_somebody_asks_for_is_one(at_once: Tensor) -> None:
    tiled = upscale(photograph(24)[:, :20], *tiny(), UpscaleSettings(color_fix="none", vae_tile=32))
    assert (tiled - at_once).abs().max() > 100 * TOLERANCE
    whole = upscale(photograph(24)[:, :20], *tiny(), UpscaleSettings(color_fix="none", vae_tile=0))
    torch.testing.assert_close(whole, at_once, rtol=0, atol=TOLERANCE)


@pytest.mark.usefixtures("_in_strips")
def test_too_little_memory_for_one_row_ends_in_tiles(
    shown: list[Progress], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Tensor:
        raise MemoryError

    host, lora = tiny()
    monkeypatch.setattr(streamed_vae.MapAttention, "keys_and_values_of", fails)
    monkeypatch.setattr(own, "AT_ONCE_PX", 200 * 200)
    calls: list[Progress] = []
    with caplog.at_level(logging.WARNING, "dfosd"):
        result = upscale(photograph(70), host, lora, SETTINGS, calls.append)
    assert result.isfinite().all()
    assert [record.getMessage() for record in caplog.records] == [
        "Out of memory; trying again with tiles of 70 latents."
    ] * 2
    shown.append(calls[-1])


def test_tiles_are_proposed_for_what_does_not_see_all_only() -> None:
    host, _ = tiny()
    embedded, _ = load_default()
    for edge in (512, 2048, 8192):
        tiles = host.auto_tiles(edge, edge)
        assert (tiles.encode.tile, tiles.decode.tile) == (0, 0)
    assert host.auto_tiles(512, 512).decode == TileSize(0, 0)
    assert host.auto_tiles(2048, 1024).encode.parts == 8
    assert embedded.auto_tiles(4096, 4096).decode == TileSize(1536, 112, fades=False)


@pytest.mark.parametrize(("dtype", "unet_tile"), [(torch.float32, 2048), (torch.bfloat16, 3072)])
def test_overlaps_of_the_small_base_are_twice_what_its_networks_see(dtype: torch.dtype, unet_tile: int) -> None:
    """38, 168 and 52 pixels around each (`OwnHost.auto_tiles`): so tiles, cut in the middle, are exact."""
    tiles = load_default(dtype=dtype)[0].auto_tiles(4096, 4096)
    expected = TileSettings(
        encode=TileSize(1536, 80, fades=False),
        unet=TileSize(unet_tile, 336, fades=False),
        decode=TileSize(1536, 112, fades=False),
    )
    assert tiles == expected
    sees = {"encode": 38, "unet": 168, "decode": 52}
    for stage, around in sees.items():
        overlap = getattr(tiles, stage).overlap
        assert 2 * around <= overlap < 2 * around + 16


def test_tiles_of_the_small_base_equal_the_whole_image() -> None:
    image = torch.rand(1, 40, 232, 3, generator=torch.Generator().manual_seed(5))
    host, lora = load_default(dtype=torch.float32)
    whole = upscale(image, host, lora, UpscaleSettings(color_fix="none", unet_tile=0, vae_tile=0))
    tiled = upscale(image, host, lora, UpscaleSettings(color_fix="none", unet_tile=704, vae_tile=320))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=TOLERANCE)
    less = replace(host.auto_tiles(2048, 2048), unet=TileSize(672, 32, fades=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "auto_tiles", lambda *_: less)
        seen = upscale(image, host, lora, UpscaleSettings(color_fix="none"))
    assert (seen - whole).abs().max() > TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overlaps_of_the_small_base_cost_little(dtype: torch.dtype) -> None:
    """Pixels computed for one of the result: the more, the longer a megapixel of a large picture takes."""
    host = load_default(dtype=dtype)[0]
    for edge in (4096, 8192):
        grids = need_of((edge, edge), host, UpscaleSettings()).grids
        done = {stage: sum(tile.height * tile.width for tile in grid) for stage, grid in grids.items()}
        more = {stage: pixels * host.layout.latent_factor**2 / edge**2 for stage, pixels in done.items()}
        assert max(more["encode"], more["decode"]) < 1.15
        assert more["unet"] < (1.4 if dtype == torch.float32 else 1.2)
        assert need_of((edge, edge), host, UpscaleSettings()).bytes < (4 if edge == 4096 else 6) * 2**30


def test_unet_of_sd_has_no_tiles_up_to_a_square_of_1536() -> None:
    host, _ = tiny()
    for size in ((1536, 1536), (768, 3072), (512, 512)):
        assert host.auto_tiles(*size).unet == TileSize(0, 0)
    for size in ((1536, 1544), (1544, 1536), (768, 3080)):
        assert host.auto_tiles(*size).unet == TileSize(768, 192)
