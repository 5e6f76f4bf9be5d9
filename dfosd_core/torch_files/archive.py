"""The archive that torch.save writes: `NAME/data.pkl`, a pickle, and `NAME/data/KEY`, the bytes of each storage."""

from __future__ import annotations

import mmap
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

_RECORD = re.compile(r"[^/\\]+/(?:\.?\w+(?:\.\w+)?|data/\w+|\.data/\w+)")
_LINK, _KIND = 0o120000, 0o170000
_ENCRYPTED, _UTF8 = 1, 1 << 11
_LOCAL_MARK = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<26xHH")


class TorchFileError(ValueError):
    """Not such a file: "expected ..., found ..."."""


class Archive(NamedTuple):
    """A file in memory."""

    bytes_: memoryview
    """All of it; a change of them does not reach the file."""
    folder: str
    """NAME, in which all records lie."""
    records: Mapping[str, tuple[int, int]]
    """Record -> its first byte in the file, and the one behind its last."""

    def read(self, record: str) -> memoryview | None:
        """The bytes of `NAME/record`; None if there is none."""
        place = self.records.get(f"{self.folder}/{record}")
        return None if place is None else self.bytes_[slice(*place)]


def open_archive(path: Path, *, mapped: bool = False) -> Archive:
    """Read the file, or map it. Raises TorchFileError for a file that is damaged or not of torch.save; OSError."""
    with path.open("rb") as file:
        if file.read(4) != _LOCAL_MARK:
            raise TorchFileError("expected a zip archive of torch.save, found a file of another kind")
        # A copy on writing: the file is never changed, and torch takes no memory that it may not write.
        blob = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)) if mapped else _read(file)
    records = _records(path, blob)
    folders = {name.split("/")[0] for name in records}
    if len(folders) != 1 or f"{min(folders)}/data.pkl" not in records:
        raise TorchFileError(
            f"expected one folder with data.pkl, found {len(folders)}: {', '.join(sorted(records)[:3])}"
        )
    archive = Archive(blob, folders.pop(), records)
    if (archive.read("byteorder") or b"little") != b"little":
        raise TorchFileError("expected numbers with their low byte first (little-endian), found others")
    return archive


def _read(file: BufferedReader) -> memoryview:
    file.seek(0)
    # torch's memory begins where sums are fast, and torch.save has aligned each record to the file's begin.
    blob = torch.empty(os.fstat(file.fileno()).st_size, dtype=torch.uint8)
    view = memoryview(cast("Any", blob.numpy()))
    if file.readinto(view) != len(view):
        raise TorchFileError("expected a file that stays as it is while it is read, found it shorter")
    return view


def _records(path: Path, blob: memoryview) -> dict[str, tuple[int, int]]:
    """Record -> its first byte in the file, and the one behind its last."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile meets random bytes with any of half a dozen exceptions
        raise TorchFileError(
            "expected a whole zip archive of torch.save, found one that is cut off or damaged"
        ) from error
    records: dict[str, tuple[int, int]] = {}
    for entry in entries:
        name = entry.filename
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise TorchFileError(f"expected records without compression, found {name} compressed")
        if entry.flag_bits & _ENCRYPTED or entry.external_attr >> 16 & _KIND == _LINK:
            raise TorchFileError(f"expected plain records, found {name} encrypted or a link")
        if not _RECORD.fullmatch(name) or name.startswith(("./", "../")):
            raise TorchFileError(f"expected the records of torch.save, found {name}")
        if name in records:
            raise TorchFileError(f"expected each record once, found {name} twice")
        records[name] = _place(entry, blob)
    _no_overlap(records)
    return records


def _place(entry: zipfile.ZipInfo, blob: memoryview) -> tuple[int, int]:
    begin = entry.header_offset + _LOCAL_HEADER.size
    header = bytes(blob[entry.header_offset : begin])
    named = entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8 else "cp437")
    if header[:4] != _LOCAL_MARK or bytes(blob[begin : begin + len(named)]) != named:
        raise TorchFileError(f"expected {entry.filename} where the archive's list says, found other bytes")
    name_length, more_length = _LOCAL_HEADER.unpack(header)
    start = begin + name_length + more_length
    if start + entry.file_size > len(blob):
        raise TorchFileError(f"expected {entry.file_size} bytes in {entry.filename}, found the file's end before")
    return start, start + entry.file_size


def _no_overlap(records: Mapping[str, tuple[int, int]]) -> None:
    end, before = 0, ""
    for (start, stop), name in sorted((place, name) for name, place in records.items()):
        if start < end:
            raise TorchFileError(f"expected records one behind the other, found {name} inside {before}")
        end, before = stop, name
