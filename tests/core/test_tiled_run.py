from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dfosd_core.tiles import run as tiles_run
from dfosd_core.tiles.run import Progress, Stage, TiledRun, is_out_of_memory, with_smaller_tiles_on_oom
from dfosd_core.tiles.size import TileSize

CPU_MESSAGE = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"


def out_of_memory_above(limit: int, error: BaseException, tried: list[TileSize]) -> TileSize:
    def run(size: TileSize) -> TileSize:
        tried.append(size)
        if not size.tile or size.tile > limit:
            raise error
        return size

    return with_smaller_tiles_on_oom(run, TileSize(0, 0), longest=100, align=4, minimum=8)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError(CPU_MESSAGE), MemoryError()]
)
def test_tiles_are_halved_until_they_fit(error: BaseException) -> None:
    tried: list[TileSize] = []
    assert out_of_memory_above(30, error, tried) == TileSize(24, 12)
    assert tried == [TileSize(0, 0), TileSize(48, 12), TileSize(24, 12)]


def test_error_is_raised_again_with_what_was_tried() -> None:
    tried: list[TileSize] = []
    with pytest.raises(torch.cuda.OutOfMemoryError, match="even with tiles of 12 latents. Free some memory or use"):
        out_of_memory_above(1, torch.cuda.OutOfMemoryError("20 GiB"), tried)
    assert [size.tile for size in tried] == [0, 48, 24, 12]


def test_without_a_minimum_a_tile_of_one_latent_is_tried_too() -> None:
    tried: list[int] = []

    def run(size: TileSize) -> None:
        tried.append(size.tile)
        raise MemoryError

    with pytest.raises(MemoryError, match="even with tiles of 1 latents"):
        with_smaller_tiles_on_oom(run, TileSize(0, 0), longest=5)
    assert tried == [0, 2, 1]


def test_other_errors_are_not_retried() -> None:
    tried: list[TileSize] = []
    with pytest.raises(RuntimeError, match="shapes"):
        out_of_memory_above(1, RuntimeError("shapes do not match"), tried)
    assert len(tried) == 1


def test_the_cpu_allocators_own_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"))
    assert not is_out_of_memory(KeyError("out of memory"))


def test_failed_run_is_gone_before_the_next_one() -> None:
    held: list[weakref.ref[Tensor]] = []

    def run(size: TileSize) -> bool:
        if held:
            return held[0]() is None
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        raise MemoryError

    gc.disable()
    try:
        assert with_smaller_tiles_on_oom(run, TileSize(0, 0), longest=100)
    finally:
        gc.enable()


def test_progress_counts_over_stages_and_images() -> None:
    seen: list[Progress] = []
    stages = [Stage(name="a", size=TileSize(8, 2)), Stage(name="b", size=TileSize(0, 0))]
    run = TiledRun(stages, (14, 8), align=1, minimum=4, images=2, progress=seen.append)
    x = torch.rand(1, 1, 14, 8)
    for _ in range(2):
        assert torch.equal(run("b", lambda y: y, run("a", lambda y: y, x)), x)
    assert [p.phase for p in seen] == ["a", "a", "b"] * 2
    assert [p.done for p in seen] == [1, 2, 3, 4, 5, 6]
    assert {p.total for p in seen} == {6}


def test_progress_hands_out_each_finished_tile_and_its_place() -> None:
    pieces = torch.full((2, 1, 12, 20), torch.nan)

    def paste(progress: Progress) -> None:
        tile = progress.tile
        assert tile is not None
        assert tile.size == (12, 20)
        height, width = tile.values.shape[-2:]
        pieces[tile.image, :, tile.top : tile.top + height, tile.left : tile.left + width] = tile.values[0]

    stages = [Stage(name="decode", size=TileSize(4, 0), out_factor=2)]
    run = TiledRun(stages, (6, 10), align=1, minimum=4, images=2, progress=paste)
    x = torch.rand(2, 1, 6, 10)
    enlarged = [run("decode", lambda z: functional.interpolate(z, scale_factor=2.0), x[i : i + 1]) for i in (0, 1)]
    assert torch.equal(pieces, torch.cat(enlarged))


def test_progress_ends_at_its_total_after_running_out_of_memory() -> None:
    seen: list[Progress] = []
    run = TiledRun([Stage(name="a", size=TileSize(0, 0))], (32, 32), align=1, minimum=4, images=2, progress=seen.append)

    def limited(x: Tensor) -> Tensor:
        if x.shape[-1] > 16:
            raise MemoryError
        return x

    x = torch.rand(1, 1, 32, 32)
    for _ in range(2):
        assert torch.equal(run("a", limited, x), x)
    assert (seen[-1].done, seen[-1].total) == (len(seen), len(seen))


@pytest.mark.parametrize(
    ("each_stage", "each_image", "times"),
    [
        (2**30, 2**30, 0),
        (2**30, 1, 2),  # images
        (1, 1, 4),  # stages of two images
    ],
)
def test_free_memory_goes_back_after_a_large_image_or_each_stage_of_a_very_large_one(
    each_stage: int, each_image: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(tiles_run, "give_back_freed_memory", lambda: given_back.append(True))
    monkeypatch.setattr(tiles_run, "VERY_LARGE_BYTES", each_stage)
    monkeypatch.setattr(tiles_run, "LARGE_BYTES", each_image)
    stages = [Stage(name="first", size=TileSize(0, 0)), Stage(name="last", size=TileSize(0, 0))]
    run = TiledRun(stages, (8, 8), align=1, minimum=1, images=2)
    for _ in range(2):
        for stage in stages:
            run(stage.name, lambda part: part, torch.zeros(1, 1, 8, 8))
    assert len(given_back) == times
