"""The autoencoder in strips gives what it gives at once, and none of the shortcuts that would not."""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import skimage
import torch
from PIL import Image
from support.held import Held
from support.tiny_models import fill
from torch import Tensor

from dfosd_core.errors import DiskSpaceError
from dfosd_core.networks import map_files, maps, streamed_vae
from dfosd_core.networks.folding import _fold_residual_blocks, fold_upsampling, unfold
from dfosd_core.networks.map_sizes import map_sizes
from dfosd_core.networks.norms import GroupNorm
from dfosd_core.networks.sd_configs import NORM_KEY, PADDING_KEY, vae_config
from dfosd_core.networks.strips import Reach
from dfosd_core.networks.vae import Half, MapAttention, Vae, build_vae
from dfosd_core.tiles.inside import Inside, listening

TOLERANCE = 1e-4
"""Of images and latents of about 1, in float32."""
F = 4
"""Pixels a latent: three levels."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "sd": {},
    "replicate": {PADDING_KEY: "replicate"},
    "attention only": {NORM_KEY: "affine"},
    "norms only": {"mid_block_add_attention": False},
}


@cache
def vae_of(layout: str) -> Vae:
    """Three levels of 16 to 48 channels in eight groups, two blocks a level, attention: random weights."""
    config = vae_config(block_out_channels=(16, 32, 48)) | {"norm_num_groups": 8} | LAYOUTS[layout]
    vae = fill(build_vae(config, "tiny"), 3).requires_grad_(False)
    if layout == "attention only":  # without norms the signal would grow from block to block
        for name, parameter in vae.named_parameters():
            if "conv2.weight" in name:
                parameter.mul_(0.2)
    return vae.to(memory_format=torch.channels_last)


@pytest.fixture
def vae() -> Vae:
    return vae_of("sd")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def photograph(height: int, width: int) -> Tensor:
    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as image:
        part = image.convert("RGB").crop((120, 80, 120 + width, 80 + height))
    x = torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8).view(1, height, width, 3)
    return x.movedim(-1, 1).float() / 127.5 - 1


def flat(height: int, width: int) -> Tensor:
    return torch.full((1, 3, height, width), 0.5)


def gradient(height: int, width: int) -> Tensor:
    down, across = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return torch.stack([down.expand(height, width), across.expand(height, width), down * across])[None]


PICTURES: dict[str, Callable[[int, int], Tensor]] = {"photograph": photograph, "flat": flat, "gradient": gradient}


def in_strips_of(rows: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(streamed_vae._Stream, "_rows", lambda *_: rows)


def differences(vae: Vae, x: Tensor) -> list[float]:
    """Of latents and image in strips from those at once, these in float64.

    In float32 torch's own group norm is off by 5e-4 on the flat picture where the memory order is channels-last.
    """
    exact = copy.deepcopy(vae).double()
    unfold(exact)
    z = exact.encode(x.double())
    pairs = ((streamed_vae.encode(vae, x), z), (streamed_vae.decode(vae, z.float()), exact.decode(z)))
    assert all(expected.std() > 0.1 for _, expected in pairs)
    return [(found - expected).abs().max().item() for found, expected in pairs]


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(("rows", "in_memory"), [(1, 0), (5, 2**30), (5, 0), (1000, 2**30)])
def test_strips_give_what_the_whole_gives(
    vae: Vae, picture: str, rows: int, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In strips of five rows, one is left over of maps of 36 and 136 rows."""
    in_strips_of(rows, monkeypatch)
    monkeypatch.setattr(maps, "IN_MEMORY", in_memory)
    for height, width in ((136, 20), (36, 60)) if rows == 5 else ((36, 28),):
        assert max(differences(vae, PICTURES[picture](height, width))) <= TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(F, 3 * F), (3 * F, F), (9 * F, 13 * F), (17 * F, 5 * F)])
def test_odd_sizes(vae: Vae, height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (2, 3, 7):
        in_strips_of(rows, monkeypatch)
        assert max(differences(vae, photograph(height, width))) <= TOLERANCE


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_folded_or_not(layout: str, folds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = vae_of(layout)
    in_strips_of(3, monkeypatch)
    try:
        if folds:
            fold_upsampling(vae)
            _fold_residual_blocks(vae, None)
        assert max(differences(vae, photograph(52, 44))) <= TOLERANCE
    finally:
        unfold(vae)


def test_each_image_of_a_batch_has_statistics_of_its_own(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(5, monkeypatch)
    x = torch.cat([photograph(36, 44), gradient(36, 44), flat(36, 44)])
    assert max(differences(vae, x)) <= TOLERANCE


def test_bfloat16_is_as_near_to_float32_in_strips_as_at_once(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(5, monkeypatch)
    half = fill(build_vae(vae_config(block_out_channels=(16, 32, 48)) | {"norm_num_groups": 8}, "tiny"), 3).bfloat16()
    x, z = photograph(68, 44), vae.encode(photograph(68, 44))
    placed = x.bfloat16().contiguous(memory_format=torch.channels_last)
    for expected, at_once, found in (
        (vae.encode(x), half.encode(placed), streamed_vae.encode(half, x)),
        (vae.decode(z), half.decode(z.bfloat16()), streamed_vae.decode(half, z)),
    ):
        off = [(y.float() - expected).square().mean().sqrt().item() for y in (found, at_once)]
        assert 0 < off[0] < 1.1 * off[1]


# --- what would not be exact is seen by the same comparison


def test_statistics_of_each_strip_are_wrong(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(8, monkeypatch)
    monkeypatch.setattr(streamed_vae, "_knowing", lambda *_: listening(lambda _: None))
    assert min(differences(vae, photograph(68, 44))) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("CONV", Reach(0, 1)),
        ("CONV", Reach(1, 0)),
        ("DOUBLED", Reach(0, 1, up=2)),
        ("DOUBLED", Reach(1, 0, up=2)),
        ("HALVED", Reach(0, 0, down=2)),
    ],
)
def test_a_row_less_beside_a_strip_is_wrong(vae: Vae, name: str, short: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(8, monkeypatch)
    monkeypatch.setattr(streamed_vae, name, short)
    assert max(differences(vae, photograph(68, 44))) > 100 * TOLERANCE


def test_attention_within_each_strip_is_wrong(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(8, monkeypatch)
    monkeypatch.setattr(MapAttention, "of_rows", lambda self, part, k, v: self(part))
    assert min(differences(vae, photograph(68, 44))) > 10 * TOLERANCE


def test_a_map_written_over_rows_still_to_be_read_is_wrong(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(8, monkeypatch)
    monkeypatch.setattr(maps.Map, "successor", lambda self, above, real=maps.Map.successor: real(self, 0))
    assert max(differences(vae, photograph(68, 44))) > 100 * TOLERANCE


# --- memory and files


def held_by(run: Callable[[], Tensor]) -> Held:
    with Held() as held:
        run()
    return held


def test_memory_does_not_grow_with_the_height(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what is asked for, keys and values, and the attention's own rows."""
    in_strips_of(16, monkeypatch)
    monkeypatch.setattr(maps, "IN_MEMORY", 0)
    z = torch.randn(1, 4, 120, 12)
    short, long = (held_by(lambda z=z: streamed_vae.decode(vae, z)).peak for z in (z[:, :, :60], z))
    at_once = held_by(lambda: vae.decode(z)).peak
    image, keys_and_values = 3 * 4 * 60 * 12 * F**2, 2 * 48 * 4 * 60 * 12
    assert long - short <= image + 2 * keys_and_values
    assert 4 * long < at_once


def test_no_tensor_is_larger_than_a_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the attention's keys and values."""
    monkeypatch.setattr(maps, "IN_MEMORY", 0)
    monkeypatch.setattr(streamed_vae, "STRIP", 2**16)
    vae, x = vae_of("norms only"), photograph(200, 200)
    largest = max(size.values * 4 for size in map_sizes(vae.encoder, 200, 200))
    assert held_by(lambda: vae.encode(x)).largest >= largest > 25 * 2**16
    # Two rows beside a strip of five.
    assert held_by(lambda: streamed_vae.encode(vae, x)).largest <= 1.5 * 2**16


def test_two_maps_exist_at_a_time(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [0]

    class Counted(maps.MemoryRows):
        def __init__(self, values: Tensor) -> None:
            super().__init__(values)
            self.values = values.numel()
            taken.append(taken[-1] + self.values)

        def close(self) -> None:
            super().close()
            taken.append(taken[-1] - self.values)

    monkeypatch.setattr(maps, "MemoryRows", Counted)
    streamed_vae.decode(vae, torch.randn(1, 4, 40, 40))
    sizes = [size.values * (size.height + 1) // size.height for size in map_sizes(vae.decoder, 40, 40)]
    assert max(taken) == max(a + b for a, b in itertools.pairwise(sizes))
    assert taken[-1] == 0


def test_maps_that_memory_does_not_suffice_for_go_to_files(
    vae: Vae, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "IN_MEMORY", 2**30)
    monkeypatch.setattr(maps, "MemoryRows", lambda _: (_ for _ in ()).throw(MemoryError))
    assert max(differences(vae, photograph(36, 44))) <= TOLERANCE
    assert len(files) == len(vae.encoder.layers()) + len(vae.decoder.layers())


class StoppedError(Exception):
    pass


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """All maps go to temporary files, which are noted."""
    made: list[Any] = []
    real = map_files.tempfile.TemporaryFile
    monkeypatch.setattr(maps, "IN_MEMORY", 0)
    monkeypatch.setattr(map_files.tempfile, "TemporaryFile", lambda **at: made.append(real(**at)) or made[-1])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield made
    assert made
    assert all(file.closed for file in made)
    assert not any(tmp_path.iterdir())


def test_temporary_files_are_gone_afterwards(vae: Vae, files: list[Any]) -> None:
    streamed_vae.encode(vae, photograph(36, 44))
    assert len(files) == len(vae.encoder.layers())  # one a map, but the attention's is written in place


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_and_when_it_is_stopped(vae: Vae, files: list[Any], share: float) -> None:
    def stop(inside: Inside) -> None:
        if inside.share > share:
            raise StoppedError

    with pytest.raises(StoppedError), listening(stop):
        streamed_vae.decode(vae, torch.randn(1, 4, 12, 9))


def test_too_little_disk_space_is_one_line_before_any_work(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "IN_MEMORY", 0)
    monkeypatch.setattr(map_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(DiskSpaceError) as error, listening(lambda _: pytest.fail("it has begun")):
        streamed_vae.encode(vae, photograph(136, 140))
    needed = 2 * 16 * 136 * 140 * 4
    assert str(error.value) == (
        f"Expected {needed / 1e9:.1f} GB of free disk space in '{map_files.folder()}' for the autoencoder's maps, "
        "found 0.0 GB. Free some, name another folder in TMPDIR, or set a VAE tile: tiles are not exact, but need no "
        "disk."
    )


def test_a_disk_that_is_full_is_one_line(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        closed = False

        def seek(self, _: int) -> None:
            pass

        def write(self, _: object) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            self.closed = True
            raise OSError(28, "No space left on device")

    file = Full()
    monkeypatch.setattr(maps, "IN_MEMORY", 0)
    monkeypatch.setattr(map_files.tempfile, "TemporaryFile", lambda **_: file)
    with pytest.raises(DiskSpaceError, match="No space left on device. Free some, name another folder"):
        streamed_vae.encode(vae, photograph(36, 44))
    assert file.closed


# --- out of memory, overflow, progress


def test_strips_become_smaller_until_they_fit(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    x, heights = photograph(68, 44), list[int]()
    z, expected = vae.encode(x), vae.decode(vae.encode(x))

    def limited(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(self: Any, part: Tensor, *others: Any, **named: Any) -> Tensor:
            heights.append(part.shape[2])
            if part.shape[2] > 7:
                raise MemoryError
            return real(self, part, *others, **named)

        return run

    for kind, name in ((streamed_vae.Resnet, "second_half"), (MapAttention, "of_rows"), (Half, "last")):
        monkeypatch.setattr(kind, name, limited(getattr(kind, name)))
    torch.testing.assert_close(streamed_vae.encode(vae, x), z, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(streamed_vae.decode(vae, z), expected, rtol=0, atol=TOLERANCE)
    assert max(heights) > 60


def test_out_of_memory_with_one_row_is_raised(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("20 GiB")

    monkeypatch.setattr(streamed_vae.Resnet, "second_half", fails)
    with pytest.raises(torch.OutOfMemoryError, match="20 GiB"):
        streamed_vae.encode(vae, photograph(36, 44))


def test_an_overflow_ends_it_at_once(vae: Vae) -> None:
    shares: list[float] = []
    x = photograph(36, 44)
    x[0, 0, 30, 7] = torch.inf
    with listening(lambda inside: shares.append(inside.share)):
        z = streamed_vae.encode(vae, x)
    assert z.isnan().all()
    assert vae.encode(x).isnan().all()
    assert max(shares) < 0.1


def test_progress_is_even_and_complete_and_shows_finished_rows(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips_of(5, monkeypatch)
    z = torch.randn(2, 4, 17, 9)
    seen: list[Inside] = []
    rows = torch.full((2, 3, 17 * F, 9 * F), torch.nan)

    def watch(inside: Inside) -> None:
        seen.append(inside)
        if inside.rows is not None:
            rows[int(inside.share > 0.5), :, inside.top : inside.top + inside.rows.shape[2]] = inside.rows[0]

    with listening(watch):
        image = streamed_vae.decode(vae, z)
    shares = torch.tensor([0.0, *(inside.share for inside in seen)])
    assert (shares.diff() > 0).all()
    assert shares[-1] == 1.0
    assert shares.diff().max() < 0.05
    assert torch.equal(rows, image)


def test_the_attention_can_be_stopped_within_seconds(vae: Vae, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_vae, "PRODUCTS", 17 * 9 * 9 * 2)
    attended: list[int] = []
    real = MapAttention.of_rows
    monkeypatch.setattr(
        MapAttention, "of_rows", lambda self, part, k, v: attended.append(part.shape[2]) or real(self, part, k, v)
    )
    streamed_vae.decode(vae, torch.randn(1, 4, 17, 9))
    assert attended == [2] * 8 + [1]


def test_norms_are_as_before_afterwards(vae: Vae) -> None:
    streamed_vae.encode(vae, photograph(36, 44))
    assert all(norm._known is None for norm in vae.modules() if isinstance(norm, GroupNorm))
