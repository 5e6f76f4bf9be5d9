"""Files of torch.save read by our own reader give what torch.load gives; what else they may hold is refused."""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfosd_core.tensor_files import TensorFileError, read_tensors
from dfosd_core.torch_files import archive
from dfosd_core.torch_files.archive import TorchFileError
from dfosd_core.torch_files.machine import read_torch_file


def save(path: Path, content: object, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def same(ours: object, theirs: object) -> bool:
    if isinstance(theirs, Tensor):
        return isinstance(ours, Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs.detach())
    if isinstance(theirs, dict):
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in theirs)
    return type(ours) is type(theirs) and ours == theirs


VALUES = torch.randn(4, 6)
CONTENTS: dict[str, Any] = {
    **{str(dtype): {"x": VALUES.to(dtype)} for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)},
    **{str(dtype): {"x": VALUES.to(dtype)} for dtype in (torch.int64, torch.int32, torch.int16, torch.int8)},
    **{str(dtype): {"x": VALUES.abs().to(dtype)} for dtype in (torch.uint8, torch.bool)},
    "transposed": {"x": VALUES.t()},
    "a part": {"x": VALUES[1:3, ::2]},
    "two of one": {"x": VALUES[0], "y": VALUES[1:]},
    "channels last": {"x": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)},
    "a number": {"x": torch.tensor(3.0)},
    "no values": {"x": torch.empty(0, 3)},
    "a parameter": {"x": nn.Parameter(torch.ones(2))},
    "a module's state": {"x": nn.Conv2d(2, 3, 3).state_dict()},
    "an empty one": {"x": {}, "y": [], "z": ()},
    "plain values": {
        "a": 1,
        "b": -1,
        "c": 1 << 70,
        "d": 1.5,
        "e": "text",
        "f": "日本",
        "g": None,
        "h": True,
        "i": False,
    },
    "lists": {"a": ["x", "y"], "b": [1, [2, [3]]], "c": (1, 2, 3, 4), "d": {1: {2: 3}}},
    "many": {f"layer.{i}": torch.full((3,), float(i)) for i in range(300)},
    "a list": [torch.ones(2)],
    "a tensor": torch.ones(2),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_content_is_that_of_torch_load(what: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", CONTENTS[what])
    theirs: Any = torch.load(path, weights_only=True)
    ours: Any = read_torch_file(path)
    if what in ("a list", "a tensor"):
        ours, theirs = {"x": ours[0] if what == "a list" else ours}, {"x": theirs[0] if what == "a list" else theirs}
    assert same(ours, theirs)


def test_tensors_are_mapped_and_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", {"x": torch.ones(5)})
    before = path.read_bytes()
    found: Any = read_torch_file(path)
    found["x"].add_(1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "options", "found"),
    [
        ({"x": torch.ones(2)}, {"pickle_protocol": 4}, "the instruction FRAME"),
        ({"x": torch.ones(2)}, {"_use_new_zipfile_serialization": False}, "a file of another kind"),
        ({"x": torch.ones(2).to_sparse()}, {}, "torch._utils._rebuild_sparse_tensor"),
        ({"x": torch.ones(2, dtype=torch.complex64)}, {}, "torch.ComplexFloatStorage"),
        ({"x": torch.ones(2, dtype=torch.float8_e5m2)}, {}, "torch._utils._rebuild_tensor_v3"),
        ({"x": {1, 2}}, {}, "__builtin__.set"),
        ({"x": Path("a")}, {}, "pathlib.PosixPath"),
        ({"x": torch.float32}, {}, "torch.float32"),
        ({"x": torch.FloatStorage}, {}, "a function or class as a value"),
        ({"x": b"bytes"}, {}, "_codecs.encode"),
        ({"x": torch.zeros(1).expand(1 << 40)}, {}, "a shape of (1099511627776,) for 1 values"),
    ],
)
def test_other_content_is_refused(content: object, options: dict[str, Any], found: str, tmp_path: Path) -> None:
    with pytest.raises(TorchFileError, match=f"^expected .* found {re.escape(found)}"):
        read_torch_file(save(tmp_path / "x.pkl", content, **options))


def test_what_is_persistent_but_no_storage_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", {"x": torch.ones(2)})
    changed = tmp_path / "changed.pkl"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"storage", b"strange"))
    assert read_torch_file(path)
    with pytest.raises(TorchFileError):
        read_torch_file(changed)


@pytest.mark.parametrize(
    ("state", "found"), [({1: torch.ones(2)}, "keys that are no text"), ([torch.ones(2)], "list"), (3, "int")]
)
def test_a_state_of_another_kind_is_named(state: object, found: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.ckpt", {"state_dict": state})
    with pytest.raises(TensorFileError, match=f"expected a dictionary of tensors with names, found {found}. Get it"):
        read_tensors(path)


ONE = torch.ones(1)


@pytest.mark.parametrize(
    "tensor",
    [ONE.expand(10), torch.arange(9.0).as_strided((3, 3), (1, 1)), torch.arange(5.0).as_strided((3, 2), (1, 2))],
    ids=["one value ten times", "rows that overlap", "columns that overlap"],
)
def test_values_that_are_claimed_several_times_are_refused(tensor: Tensor, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", {"x": tensor})
    with pytest.raises(TorchFileError, match="expected tensors inside their values"):
        read_torch_file(path)


def test_folder_in_the_archive_may_have_any_name(tmp_path: Path) -> None:
    """torch names it after the file; zip marks names beyond ASCII."""
    path, other = save(tmp_path / "x.pkl", {"x": torch.ones(3)}), tmp_path / "y.pkl"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name.replace(name.split("/")[0], "modèle 日本", 1), old.read(name))
    found: Any = read_torch_file(other)
    assert torch.equal(found["x"], torch.ones(3))


def test_file_of_another_kind_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"a text, and no archive")
    with pytest.raises(TorchFileError, match="found a file of another kind"):
        read_torch_file(tmp_path / "x.pkl")


def test_checkpoint_is_mapped_and_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be as large as the memory, and the tensors that are taken from it are few."""
    path = save(tmp_path / "x.ckpt", {"state_dict": {"x": VALUES}})

    def read(_: object) -> None:
        pytest.fail("all of it was read")

    monkeypatch.setattr(archive, "_read", read)
    assert torch.equal(read_tensors(path).tensors["x"], VALUES)


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo], object]) -> Path:
    """The archive with what `change` does to each entry. An entry for which it gives False is left out."""
    changed = path.with_name("changed.pkl")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(changed, "w") as target:
        for entry in source.infolist():
            content = source.read(entry)
            if change(entry) is not False:
                target.writestr(entry, content)
    return changed


@pytest.mark.parametrize("rights", [0o777, 0o644, 0o000])
def test_link_in_the_archive_is_refused_whatever_its_rights(rights: int, tmp_path: Path) -> None:
    """As Info-ZIP stores one: the kind of file and its rights are one number, in the upper half of the attributes."""
    path = save(tmp_path / "x.pkl", {"x": torch.ones(2)})

    def link(entry: zipfile.ZipInfo) -> None:
        entry.external_attr = (stat.S_IFLNK | rights) << 16

    def plain(entry: zipfile.ZipInfo) -> None:
        entry.external_attr = (stat.S_IFREG | rights) << 16

    assert same(read_torch_file(rewritten(path, plain)), {"x": torch.ones(2)})
    with pytest.raises(TorchFileError, match=r"expected plain records, found .*/data\.pkl encrypted or a link"):
        read_torch_file(rewritten(path, link))


def test_record_that_is_missing_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pkl", {"x": torch.ones(2)})
    without = rewritten(path, lambda entry: not entry.filename.endswith("/data/0"))
    with pytest.raises(TorchFileError, match="^expected 2 values in record 0, found no such record$"):
        read_torch_file(without)
