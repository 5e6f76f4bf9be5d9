"""Sample k is the same whoever asks for it: workers, processes and micro-batches change nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dfosd_core.errors import ConfigError
from dfosd_core.image_files import READABLE_SUFFIXES
from train_tools.data.crops import CropDataset, MicroBatchSampler, batches
from train_tools.data.photos import PhotoFolder, PixelCache, photo_paths
from train_tools.settings.config import DataConfig

STEPS, BATCH = 3, 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def opened(photos: Path, seed: int = 0) -> CropDataset:
    return CropDataset.open(DataConfig(photos=photos, crop=32, presets=["camera", "light"]), seed)


def samples(dataset: CropDataset, rank: int = 0, world: int = 1, micro: int = BATCH, workers: int = 0) -> list[Tensor]:
    """x_lr and x_hr of each sample, in order."""
    run = {"first_step": 0, "steps": STEPS, "batch_size": BATCH}
    steps = batches(dataset, MicroBatchSampler(**run, rank=rank, world=world, micro_batch=micro), workers)
    parts = [part for step in steps for part in step]
    return [torch.stack(pair) for part in parts for pair in zip(part.x_lr, part.x_hr, strict=True)]


def test_workers_and_micro_batches_change_nothing(photos: Path) -> None:
    expected = samples(opened(photos))
    assert len(expected) == STEPS * BATCH
    for other in (samples(opened(photos), micro=1), samples(opened(photos), micro=3, workers=2)):
        assert all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


def test_two_processes_see_together_what_one_sees(photos: Path) -> None:
    whole = samples(opened(photos))
    halves = [samples(opened(photos), rank=rank, world=2) for rank in (0, 1)]
    for step in range(STEPS):
        together = [sample for half in halves for sample in half[2 * step : 2 * step + 2]]
        assert all(torch.equal(a, b) for a, b in zip(whole[4 * step : 4 * step + 4], together, strict=True))


def test_samples_and_seeds_differ(photos: Path) -> None:
    first, other = samples(opened(photos)), samples(opened(photos, seed=1))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not any(torch.equal(first[0], b) for b in first[1:])


def test_images_are_in_range_and_the_input_is_the_worse_one(photos: Path) -> None:
    x_lr, x_hr = opened(photos)[0]
    assert x_lr.shape == x_hr.shape == (3, 32, 32)
    assert x_lr.dtype == x_hr.dtype == torch.float32
    assert max(x_lr.abs().max(), x_hr.abs().max()) <= 1
    assert x_lr.diff().abs().mean() < x_hr.diff().abs().mean()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_photograph_is_named(photos: Path, tmp_path: Path, workers: int) -> None:
    whole = (photos / "a.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"torn\.png.*prepare_data"):
        samples(CropDataset.open(DataConfig(photos=tmp_path, crop=32), 0), workers=workers)


def test_a_set_that_was_given_up_is_given_up_again(photos: Path, tmp_path: Path) -> None:
    """A worker that prepares crops ahead asks once more; were it to draw for ever, nothing would end it."""
    whole = (photos / "a.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    source, rng = PhotoFolder(tmp_path, 32), np.random.default_rng(0)

    def too_long(_signal: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        for _ in range(3):
            with pytest.raises(ConfigError, match=r"1 of 1 files .* cannot be read, 0 may be.*torn\.png"):
                source.cut(rng)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_folder_without_photographs_of_that_size_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No photographs in"):
        CropDataset.open(DataConfig(photos=tmp_path), 0)
    with pytest.raises(ConfigError, match="expected photographs of 512 pixels and more, all are smaller"):
        CropDataset.open(DataConfig(photos=photos, crop=512), 0)


@pytest.mark.parametrize("ending", [".bmp", ".jpe", ".jfif"])
def test_every_kind_of_file_that_can_be_upscaled_can_be_trained_on(tmp_path: Path, ending: str) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / f"a{ending}")
    assert photo_paths(tmp_path) == [tmp_path / f"a{ending}"]


def test_decoded_photographs_stay_within_their_limit() -> None:
    cache = PixelCache(limit=250)
    for key in range(4):
        cache.put(key, np.zeros(100, dtype=np.uint8))
        cache.get(0)
    assert cache.held == 200
    assert sorted(cache.entries) == [0, 3]


def test_every_kind_of_file_that_can_be_upscaled_is_a_photograph(tmp_path: Path) -> None:
    names = [f"a{suffix}" for suffix in READABLE_SUFFIXES]
    for name in [*names, "B.BMP", ".hidden.png", "notes.txt"]:
        (tmp_path / name).touch()
    assert [path.name for path in photo_paths(tmp_path)] == sorted([*names, "B.BMP"])
