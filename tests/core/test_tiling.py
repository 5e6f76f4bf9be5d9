from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfosd_core.tiles.grid import Tile, TileGrid, blend_window, tiled_apply
from dfosd_core.tiles.size import TileSize

SIZES = [(1, 1), (1, 9), (7, 5), (16, 16), (17, 40), (33, 31)]
TILE_SIZES = [TileSize(t, o) for t, o in itertools.product((0, 1, 2, 3, 8, 16, 64), (0, 1, 3, 8, 40))]


def grid_of(size: tuple[int, int], tiles: TileSize, align: int = 1) -> TileGrid:
    return TileGrid(*size, tiles.aligned(align), align)


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("tiles", TILE_SIZES)
def test_grid_covers_everything_with_equal_aligned_tiles(tiles: TileSize, align: int) -> None:
    for length in range(align, 61, align):
        grid = grid_of((length, length), tiles, align)
        end = 0
        for span in grid.rows:
            assert span.start % align == span.length % align == 0
            assert end == 0 or end - span.start >= grid.size.overlap
            assert not grid.size.tile or span.length <= grid.size.tile
            assert span.start <= end < span.start + span.length
            end = span.start + span.length
        assert end == length
        assert len({span.length for span in grid.rows}) == 1
        assert len(grid) == len(list(grid)) == len(grid.rows) ** 2


def test_tiles_are_no_larger_than_their_number_needs() -> None:
    spans = TileGrid(1088, 1024, TileSize(1024, 256)).rows
    assert [(s.start, s.length) for s in spans] == [(0, 672), (416, 672)]


def test_last_tile_is_shifted_inward() -> None:
    spans = TileGrid(104, 8, TileSize(48, 8), align=8).rows
    assert [(s.start, s.length) for s in spans] == [(0, 40), (32, 40), (64, 40)]
    assert [s.start for s in TileGrid(100, 8, TileSize(40, 11)).rows] == [0, 23, 46, 66]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tiles", TILE_SIZES)
def test_identity_is_identity_bit_for_bit(size: tuple[int, int], tiles: TileSize) -> None:
    x = torch.randn(2, 3, *size)
    assert torch.equal(tiled_apply(lambda tile: tile, x, grid_of(size, tiles)), x)


@pytest.mark.parametrize("tiles", [TileSize(1, 0), TileSize(8, 3), TileSize(16, 8), TileSize(64, 8)])
def test_pointwise_function_is_exact(tiles: TileSize) -> None:
    def pointwise(x: Tensor) -> Tensor:
        return (x * 1.7 - 0.3).tanh()

    for size in SIZES:
        x = torch.randn(1, 3, *size)
        assert torch.equal(tiled_apply(pointwise, x, grid_of(size, tiles)), pointwise(x))


def test_half_precision_is_blended_in_float32() -> None:
    x = torch.randn(1, 1, 20, 20).half()
    result = tiled_apply(lambda tile: tile, x, TileGrid(20, 20, TileSize(8, 4)))
    assert result.dtype == torch.float32
    assert torch.equal(result, x.float())


@pytest.mark.parametrize("radius", [1, 3, 7])
def test_convolutions_with_an_overlap_of_their_field_are_equal(radius: int) -> None:
    weight = torch.full((1, 1, 3, 3), 1 / 9)

    def convolutions(x: Tensor) -> Tensor:
        for _ in range(radius):
            x = functional.conv2d(x, weight, padding=1)
        return x

    x = torch.rand(1, 1, 61, 47)
    field = 2 * radius + 1
    tiled = tiled_apply(convolutions, x, TileGrid(61, 47, TileSize(2 * field, field)))
    assert (tiled - convolutions(x)).abs().max() < 2 / 255
    generous = tiled_apply(convolutions, x, TileGrid(61, 47, TileSize(6 * field, 3 * field)))
    torch.testing.assert_close(generous, convolutions(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 8])
def test_input_and_output_may_have_more_samples_a_unit(factor: int) -> None:
    grid = TileGrid(13, 9, TileSize(6, 3))
    pixels = torch.rand(1, 3, 13 * factor, 9 * factor)
    latents = tiled_apply(lambda x: functional.pixel_unshuffle(x, factor), pixels, grid, in_factor=factor)
    assert torch.equal(latents, functional.pixel_unshuffle(pixels, factor))
    back = tiled_apply(lambda z: functional.pixel_shuffle(z, factor), latents, grid, out_factor=factor)
    assert torch.equal(back, pixels)


def test_aligned_tiles_keep_the_phase_of_a_strided_network() -> None:
    x = torch.rand(1, 1, 44, 44)

    def halve(x: Tensor) -> Tensor:
        return functional.interpolate(x[..., ::4, ::4], scale_factor=4.0)

    grid = grid_of((44, 44), TileSize(18, 5), align=4)
    assert len(grid) > 1
    assert torch.equal(tiled_apply(halve, x, grid), halve(x))


def test_tiles_that_disagree_join_without_a_step() -> None:
    levels = iter(range(100))
    result = tiled_apply(
        lambda x: torch.full_like(x, next(levels) % 2),
        torch.zeros(1, 1, 1, 300),
        TileGrid(1, 300, TileSize(100, 48)),
    )
    assert result.min() == 0.0
    assert result.max() == 1.0
    assert result.diff(dim=-1).abs().max() < 0.1


def test_window_leaves_the_outer_thirds_to_the_other_tile() -> None:
    window = blend_window(30)
    assert (window[:10] == 0).all()
    assert (window[20:] == 1).all()
    assert (window.diff() >= 0).all()
    torch.testing.assert_close(window + window.flip(0), torch.ones(30))
    assert blend_window(1).tolist() == [0.5]


def test_tiles_that_agree_are_cut_in_the_middle() -> None:
    assert blend_window(6, fades=False).tolist() == [0, 0, 0, 1, 1, 1]
    levels = iter(range(3))
    result = tiled_apply(
        lambda x: torch.full_like(x, next(levels)),
        torch.zeros(1, 1, 1, 240),
        TileGrid(1, 240, TileSize(100, 30, fades=False)),
    )
    assert result.flatten().tolist() == [0] * 85 + [1] * 70 + [2] * 85


def test_tiles_are_reported_and_errors_pass_through() -> None:
    calls: list[Tile] = []
    grid = TileGrid(20, 30, TileSize(10, 2))
    x = torch.rand(1, 1, 20, 30)

    def interrupt(tile: Tile, y: Tensor) -> None:
        calls.append(tile)
        assert torch.equal(y, 2 * tile.crop(x))
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiled_apply(lambda part: 2 * part, x, grid, on_tile=interrupt)
    assert calls == list(grid)[:3]


def test_tile_sizes_are_rounded_to_what_networks_take() -> None:
    assert TileSize(100, 33).aligned(16) == TileSize(96, 48)
    assert TileSize(5, 5).aligned(16) == TileSize(16, 0)
    assert TileSize(64, 64).aligned(16) == TileSize(64, 32)
    assert TileSize(0, 33).aligned(16) == TileSize(0, 48)
    assert TileSize(100, 33).in_latents(8) == TileSize(12, 5)
    assert TileSize(100, 48, fades=False).aligned(16) == TileSize(96, 48, fades=False)
    assert TileSize(64, 48, fades=False).aligned(16) == TileSize(64, 32, fades=True)
    assert not TileSize(100, 33, fades=False).in_latents(8).fades
    assert TileSize(3, 0).in_latents(8) == TileSize(1, 0)
    assert TileSize(0, 0).in_latents(8) == TileSize(0, 0)
