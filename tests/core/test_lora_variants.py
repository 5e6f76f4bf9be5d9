"""Other methods' files, changed in every way we could think of: each is refused in one line that names the file, what
was expected and what was found; none runs code, none takes more memory than its size.

More than 500 variants of each format, on small layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from support.changed_bytes import changed_file, changed_folder
from support.changed_entries import changed_entries, changed_names, changed_settings, changed_tensors, tables
from support.hostile_pickles import PROTOCOL, calls
from support.peak import Peak
from support.small_files import FILE_NAMES, SMALL, UNET, WEIGHTS, records, write, zipped

from dfosd_core.errors import LoraFormatError
from dfosd_core.lora.file import ImportedLora, save_lora
from dfosd_core.lora.open import open_lora

SLACK = 8 << 20
"""Bytes that Python and torch take for themselves while they work on a file of some kilobytes."""
LIMIT = 1.2
Variant = Callable[[Path], Path]
"""Writes one into a folder; returns what to open."""


def variants(name: str, canary: Path) -> Iterator[tuple[str, Variant]]:
    """What each is called, and how it is written."""
    changes = [changed_tensors(name), changed_names(name)]
    changes += [changed_entries(name)] if name != "hypir" else []
    changes += [changed_settings()] if name == "omgsr" else []
    for what, entries in chain(*changes):
        yield what, partial(write, name, entries=entries)
    for what, blob, inside in changed_folder() if name == "omgsr" else changed_file(name, canary):
        yield what, partial(_write_bytes, name, blob=blob, inside=inside)


def _write_bytes(name: str, folder: Path, blob: bytes, inside: Path) -> Path:
    path = write(name, folder, SMALL[name]()) if name == "omgsr" else folder / FILE_NAMES[name]
    (folder / inside).write_bytes(blob)
    return path


def complaint(path: Path, canary: Path) -> str:
    """What is wrong with how the file is refused; empty if nothing is."""
    size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    peak = Peak()
    try:
        open_lora(path)
    except LoraFormatError as error:
        message = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "accepted"
    taken = peak.above()
    if canary.exists():
        return "ran code"
    if taken > LIMIT * size + SLACK:
        return f"took {taken} bytes for {size}"
    names = [path.name, *(WEIGHTS if path.is_dir() else "",)]
    is_clear = any(f"'{name}'" in message for name in names if name) and "\n" not in message
    return "" if is_clear and "expected" in message.lower() and "found" in message else f"says: {message}"


@pytest.mark.parametrize("name", SMALL)
def test_every_variant_is_refused(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    found: dict[str, str] = {}
    for what, written in variants(name, canary):
        assert what not in found, f"two variants are called {what}"
        found[what] = complaint(written(tmp_path), canary)
        canary.unlink(missing_ok=True)
    wrong = [f"{what}: {said}" for what, said in found.items() if said]
    assert not wrong, f"{len(wrong)} of {len(found)}\n" + "\n".join(wrong[:40])
    assert len(found) >= 200


@pytest.mark.parametrize("name", SMALL)
def test_unchanged_file_is_accepted(name: str, tmp_path: Path) -> None:
    assert isinstance(open_lora(write(name, tmp_path, SMALL[name]())), ImportedLora)


def test_hostile_pickles_would_do_harm(tmp_path: Path) -> None:
    """Without our reader: the canary of the tests above does sing."""
    canary, path = tmp_path / "canary", tmp_path / "x.pkl"
    path.write_bytes(
        zipped({**records(SMALL["hypir"]()), "archive/data.pkl": PROTOCOL + calls(canary)["os.system"] + b"."})
    )
    torch.load(path, weights_only=False)
    assert canary.exists()


def large(name: str) -> dict[str, Any]:
    """48 MiB in one pair; the small variants above cannot tell a copy from the slack."""
    rank = {"osediff": 4, "pisa_sr": 4, "hypir": 256, "omgsr": 32}[name]
    return SMALL[name]({**UNET, "down_blocks.0.resnets.0.conv1": (8, (48 << 20) // (4 * 9 * rank), 3, 3)})


def taken_for(path: Path, message: str) -> float:
    """Memory while the file is refused with this message, in sizes of it."""
    size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    assert size > 48 << 20
    peak = Peak()
    with pytest.raises(LoraFormatError, match=message):
        open_lora(path)
    return peak.above() / size


@pytest.mark.parametrize("name", SMALL)
def test_large_file_takes_no_more_than_its_size(name: str, tmp_path: Path) -> None:
    entries = large(name)
    table = tables(entries)[0]
    last = [key for key in table if ".lora_B" in key][-1]
    table[last] = torch.full_like(table[last], float("nan"))
    path = write(name, tmp_path, entries)
    del entries, table
    assert taken_for(path, "expected finite values, found others in") <= LIMIT


def test_two_loras_are_compared_before_they_are_stacked(tmp_path: Path) -> None:
    entries = large("pisa_sr")
    table, last = entries["state_dict_unet"], "conv_out.lora_B.default_decoder_sem.weight"
    table[last] = torch.cat([table[last], table[last]])
    path = write("pisa_sr", tmp_path, entries)
    del entries, table
    assert taken_for(path, "expected two LoRAs of one shape on lora_unet_conv_out") <= LIMIT


@pytest.mark.parametrize("name", ["osediff", "omgsr"])
def test_file_that_changes_later_does_not_change_the_lora(name: str, tmp_path: Path) -> None:
    """Nor does it end the program: a part of a file that is gone, mapped into memory, would."""
    path = write(name, tmp_path, SMALL[name]())
    lora = open_lora(path)
    before = {key: value.clone() for key, value in lora.tensors().items()}
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            file.write_bytes(b"")
    after = lora.tensors()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_own_lora_takes_no_more_than_its_size(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_lora(path, open_lora(write("hypir", tmp_path, large("hypir"))))
    size = path.stat().st_size
    assert size > 48 << 20
    peak = Peak()
    lora = open_lora(path)
    assert peak.above() / size <= LIMIT
    peak = Peak()
    save_lora(tmp_path / "again.safetensors", lora)
    assert peak.above() / size <= 0.2
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
