"""Other methods' files in other bytes: cut off, packed otherwise, with other instructions or headers that lie."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import safetensors.torch
from torch import Tensor

from .hostile_pickles import PROTOCOL, calls, instructions, value
from .small_files import CONFIG, FILE_NAMES, FOLDERS, SMALL, WEIGHTS, records, zipped


def cut(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """The file's start only."""
    for length in [*range(24), *(int(len(blob) * part / 24) for part in range(1, 24)), len(blob) - 1]:
        yield f"first {length} bytes", blob[:length]


def other_archives(name: str) -> Iterator[tuple[str, bytes]]:
    """Archives that torch.save does not write."""
    ours = records(SMALL[name]())
    pickled, first = (next(record for record in ours if record.endswith(end)) for end in ("data.pkl", "data/0"))
    root = pickled.split("/")[0]
    yield "deflated", zipped(ours, zipfile.ZIP_DEFLATED)
    yield "a bomb", zipped({**ours, first: bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    yield "a bomb in the pickle", zipped({**ours, pickled: bytes(1 << 24)}, zipfile.ZIP_DEFLATED)
    yield "bzip2", zipped(ours, zipfile.ZIP_BZIP2)
    yield "lzma", zipped(ours, zipfile.ZIP_LZMA)
    yield "empty", zipped({})
    for without in (pickled, first):
        yield f"without {without}", zipped({key: data for key, data in ours.items() if key != without})
    for more in ("../x", "/etc/x", f"{root}/../x", f"{root}\\data\\x", "other/data.pkl", f"{root}/a/data.pkl", "x"):
        yield f"with {more}", zipped({**ours, more: b"text"})
    yield "TorchScript", zipped({**ours, f"{root}/code/__torch__.py": b"import os"})
    yield "other low byte", zipped({**ours, f"{root}/byteorder": b"big"})
    yield "other order of bytes", zipped({**ours, f"{root}/byteorder": b"text"})
    for length in (0, 1, len(ours[first]) - 4):
        yield f"values of {length} bytes", zipped({**ours, first: ours[first][:length]})
    yield "more values", zipped({**ours, first: ours[first] + bytes(4)})
    blob = zipped(ours)
    header = blob.rindex(pickled.encode()) - 46  # its place in the archive's list
    for field, at, number in (
        ("encrypted", 8, struct.pack("<H", 1)),
        ("deflated in the list", 10, struct.pack("<H", 8)),
        ("longer", 20, struct.pack("<II", 1 << 31, 1 << 31)),
        ("longer than packed", 24, struct.pack("<I", 1 << 31)),
        ("a link", 38, struct.pack("<I", 0o120777 << 16)),
        ("elsewhere", 42, struct.pack("<I", 7)),
        ("behind the end", 42, struct.pack("<I", 1 << 31)),
        ("another's", 42, struct.pack("<I", blob.index(first.encode()) - 30)),
    ):
        yield field, blob[: header + at] + number + blob[header + at + len(number) :]
    yield "each record twice", _twice(ours)
    yield "behind other bytes", b"text" + blob
    yield "PK only", b"PK" + bytes(100)
    yield "a bare pickle", PROTOCOL + value({"a": 1}) + b"."


def _twice(ours: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's own, of the names
        for name in [*ours, *ours]:
            archive.writestr(name, ours[name])
    return buffer.getvalue()


def hostile(name: str, canary: Path) -> Iterator[tuple[str, bytes]]:
    """The file with other instructions in its pickle: instead of it, behind its last entry, and inside a list."""
    ours = records(SMALL[name]())
    pickled = next(record for record in ours if record.endswith("data.pkl"))
    start, end = ours[pickled][:-2], ours[pickled][-2:]  # "u." closes the dictionary
    assert end == b"u."
    for what, code in {**calls(canary), **instructions(canary)}.items():
        yield f"{what} alone", zipped({**ours, pickled: PROTOCOL + code + b"."})
        yield f"{what} in an entry", zipped({**ours, pickled: start + value("more") + code + end})
        yield f"{what} in a list", zipped({**ours, pickled: start + value("more") + b"](" + code + b"e" + end})
    yield "no end", zipped({**ours, pickled: ours[pickled][:-1]})
    yield "nothing", zipped({**ours, pickled: b""})
    yield "a list", zipped({**ours, pickled: PROTOCOL + value(["a"]) + b"."})
    yield "numbers as names", zipped({**ours, pickled: PROTOCOL + value({1: 2}) + b"."})


def other_safetensors(tensors: dict[str, Tensor]) -> Iterator[tuple[str, bytes]]:
    """safetensors files whose header lies."""
    blob = safetensors.torch.save(tensors)
    length = struct.unpack("<Q", blob[:8])[0]
    header, data = json.loads(blob[8 : 8 + length]), blob[8 + length :]
    first = next(iter(header))

    def packed(other: object) -> bytes:
        text = other if isinstance(other, bytes) else json.dumps(other).encode()
        return struct.pack("<Q", len(text)) + text + data

    for what, changes in {
        "huge shape": {"shape": [1 << 40]},
        "huge shape and place": {"shape": [1 << 40], "data_offsets": [0, 1 << 42]},
        "shape below zero": {"shape": [-1]},
        "shape of text": {"shape": ["a"]},
        "no shape": {"shape": None},
        "other type": {"dtype": "F64"},
        "unknown type": {"dtype": "X9"},
        "no type": {"dtype": None},
        "place of another": {"data_offsets": [0, 4]},
        "place behind the end": {"data_offsets": [len(data), len(data) + 4]},
        "backwards": {"data_offsets": [8, 0]},
    }.items():
        yield what, packed({**header, first: {**header[first], **changes}})
    yield "not JSON", packed(b"{" + b"x" * 50)
    yield "a list", packed([1])
    yield "nested", packed(b'{"a":' * 2000 + b"1" + b"}" * 2000)
    yield "metadata of numbers", packed({**header, "__metadata__": {"a": 1}})
    yield "nothing", packed({})
    for long in (0, 1, 1 << 20, 1 << 40, (1 << 64) - 1):
        yield f"header of {long}", struct.pack("<Q", long) + blob[8:]
    yield "more data", blob + bytes(8)
    yield "no data", blob[: 8 + length]


def changed_file(name: str, canary: Path) -> Iterator[tuple[str, bytes, Path]]:
    """The file in other bytes; HYPIR's also as safetensors."""
    tensors = SMALL[name]() if name == "hypir" else {}
    flat = chain(cut(safetensors.torch.save(tensors)), other_safetensors(tensors)) if tensors else ()
    for what, blob in chain(cut(zipped(records(SMALL[name]()))), other_archives(name), hostile(name, canary)):
        yield what, blob, Path(FILE_NAMES[name])
    for what, blob in flat:
        yield f"safetensors: {what}", blob, Path(FILE_NAMES[name])


def changed_folder() -> Iterator[tuple[str, bytes, Path]]:
    """OMGSR-S's files in other bytes."""
    for part in FOLDERS:
        inside, tensors = Path(FILE_NAMES["omgsr"], part), SMALL["omgsr"]()[part]
        for what, blob in chain(cut(safetensors.torch.save(tensors)), other_safetensors(tensors)):
            yield f"{part}: {what}", blob, inside / WEIGHTS
        for text in (b"", b"[]", b"{", b"{}", b"\xff", b"[" * 5000, b"1" * 5000, b" " * 2_000_000 + b"{}"):
            yield f"{part}: settings {text[:4]!r} of {len(text)}", text, inside / CONFIG
