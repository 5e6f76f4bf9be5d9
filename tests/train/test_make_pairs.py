"""Pairs are made of photographs as one sees them: upright, of any depth, and a broken one is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dfosd_core import images
from dfosd_core.errors import ConfigError
from train_tools.make_pairs import make_pairs
from train_tools.scoring.pair_files import read_pair

LEVELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
"""A picture of 64x48."""


def test_turned_and_deep_photographs_give_the_pairs_of_plain_ones(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(LEVELS).save(photos / "plain.png")
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    Image.fromarray(np.rot90(LEVELS)).save(photos / "turned.png", exif=exif)
    cv2.imwrite(str(photos / "deep.png"), LEVELS[..., ::-1].astype(np.uint16) * 257)
    grey = photos / "grey.png"
    Image.fromarray(LEVELS[..., 0].astype(np.uint16) * 257).save(grey)
    assert make_pairs(photos, tmp_path / "pairs", size=48) == ["deep.png", "grey.png", "plain.png", "turned.png"]
    hr = {name: read_pair(tmp_path / "pairs", f"{name}.png").x_hr for name in ("plain", "turned", "deep", "grey")}
    middle = torch.from_numpy(LEVELS[None, :, 8:56].copy()).float() / 255
    assert torch.equal(hr["plain"], images.to_bchw(middle))
    assert torch.equal(hr["turned"], hr["plain"])
    assert torch.equal(hr["deep"], hr["plain"])
    assert torch.equal(hr["grey"], hr["plain"][:, :1].expand(-1, 3, -1, -1))


def test_broken_photograph_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"a\.jpg' .* Move it out of the folder, or let `python -m train_tools.prep"):
        make_pairs(tmp_path, tmp_path / "pairs")


def test_two_photographs_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.png"):
        Image.fromarray(LEVELS).save(tmp_path / name)
    with pytest.raises(ConfigError, match=r"^'a\.jpg' and 'a\.png' would both become 'a\.png'\. Rename one\.$"):
        make_pairs(tmp_path, tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_bitmaps_make_pairs_and_shadow_files_do_not(tmp_path: Path) -> None:
    Image.fromarray(LEVELS).save(tmp_path / "a.bmp")
    Image.fromarray(LEVELS).save(tmp_path / "b.jfif", "JPEG")
    (tmp_path / "._a.jpg").touch()
    assert make_pairs(tmp_path, tmp_path / "pairs", size=48) == ["a.png", "b.png"]
