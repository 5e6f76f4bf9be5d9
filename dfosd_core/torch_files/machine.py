"""The instructions of a pickle, as far as torch.save needs them for tensors and plain values."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from .archive import Archive, TorchFileError, open_archive

_ORDERED_DICT = "collections OrderedDict"
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_STORAGES = {
    f"torch {name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
_NAMES = {_ORDERED_DICT, _TENSOR, _PARAMETER, *_STORAGES}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_TAKEN = {
    "TUPLE": None,
    "TUPLE1": 1,
    "TUPLE2": 2,
    "TUPLE3": 3,
    "APPENDS": None,
    "APPEND": 1,
    "SETITEMS": None,
    "SETITEM": 2,
}
"""Instruction -> how many values it takes from the stack; None: all behind the last mark."""


class _Name(NamedTuple):
    """A function's or class's name in the file."""

    text: str


def read_torch_file(path: Path, *, mapped: bool = False) -> object:
    """What torch.save wrote. mapped: bytes are read when they are used, and the file must not change until then.

    Raises TorchFileError for a file that is damaged or holds more than it may; OSError.
    """
    archive = open_archive(path, mapped=mapped)
    code = archive.read("data.pkl")
    assert code is not None  # or there were no archive
    return _Machine(archive).run(bytes(code))


class _Machine:
    """The stack that a pickle's instructions work on; what they may do is what the methods below do."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Tensor] = {}

    def run(self, code: bytes) -> object:
        """What the pickle describes. Raises TorchFileError for instructions that torch.save needs for no tensor."""
        try:
            for instruction, argument, _ in pickletools.genops(code):
                self.step(instruction.name, argument)
        except TorchFileError:
            raise
        except ValueError as error:  # by pickletools
            raise TorchFileError("expected a whole data.pkl, found one that is cut off or damaged") from error
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise TorchFileError("expected a data.pkl of torch.save, found its instructions out of order") from error
        if len(self.stack) != 1:  # genops has seen STOP
            raise TorchFileError(f"expected one value in data.pkl, found {len(self.stack)}")
        return self.stack[0]

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in _TAKEN:
            self.collect(name, self.take(_TAKEN[name]))
        else:
            self.call(name, argument)

    def collect(self, name: str, items: list[Any]) -> None:
        """What makes a container of the stack's end, or puts it into one."""
        if name.startswith("TUPLE"):
            self.stack.append(tuple(items))
        elif any(isinstance(item, _Name) for item in items):
            _refuse("a function or class as a value")
        elif name.startswith("APPEND"):
            self.container(list).extend(items)
        else:
            keys, values = items[::2], items[1::2]
            if not all(isinstance(key, str | int) for key in keys):
                raise TypeError
            self.container(dict).update(zip(keys, values, strict=True))

    def call(self, name: str, argument: Any) -> None:
        """The instructions with which a pickle could do harm."""
        if name == "GLOBAL":
            if argument not in _NAMES:
                _refuse(argument.replace(" ", "."))
            self.stack.append(_Name(argument))
        elif name == "REDUCE":
            function, arguments = self.take(2)
            self.stack.append(self.called(function, arguments))
        elif name == "BINPERSID":
            self.stack.append(self.storage(*self.take(1)[0]))
        elif name == "BUILD":
            self.take(1)  # torch keeps a module's version numbers there
            self.container(dict)
        elif name not in ("PROTO", "STOP"):
            _refuse(f"the instruction {name}")

    def take(self, count: int | None) -> list[Any]:
        """The stack's last values, which it loses; None: those behind the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def container(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError
        return self.stack[-1]

    def called(self, function: object, arguments: Any) -> object:
        """What the call would give, for the three that torch.save needs. The name is only compared."""
        if not isinstance(function, _Name):
            raise TypeError
        if function.text == _ORDERED_DICT and arguments == ():
            return {}
        if function.text == _TENSOR:
            return _tensor(*arguments[:4])
        if function.text == _PARAMETER and isinstance(arguments[0], Tensor):
            return arguments[0]
        return _refuse(f"another call of {function.text.replace(' ', '.')} than torch.save's")

    def storage(self, tag: str, kind: _Name, key: str, device: str, length: int) -> Tensor:
        """(length,): the values of the record `data/KEY`, on the CPU wherever they were."""
        dtype = _STORAGES.get(kind.text)
        if tag != "storage" or dtype is None:
            raise TypeError
        if key not in self.storages:
            values = self.archive.read(f"data/{key}")
            if type(length) is not int or values is None or length * dtype.itemsize != len(values):
                found = "no such record" if values is None else f"{len(values)} bytes"
                raise TorchFileError(f"expected {length} values in record {key}, found {found}")
            self.storages[key] = torch.frombuffer(values, dtype=dtype) if length else torch.empty(0, dtype=dtype)
        if self.storages[key].dtype != dtype:
            raise TorchFileError(f"expected values of one kind in record {key}, found two")
        return self.storages[key]


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A view of a storage. Raises TorchFileError if it claims values outside, or one value several times."""
    are_numbers = all(type(number) is int and number >= 0 for number in (offset, *size, *stride))
    if not isinstance(storage, Tensor) or len(size) != len(stride) or not are_numbers:
        raise TypeError
    count = 1
    for length in size:
        count *= length
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else 0
    if last >= max(len(storage), 1) or count > len(storage) or (count and count > last - offset + 1):
        raise TorchFileError(
            f"expected tensors inside their values, found a shape of {size[:8]} for {len(storage)} values"
        )
    return storage.as_strided(size, stride, offset)


def _refuse(found: str) -> NoReturn:
    raise TorchFileError(
        f"expected tensors, lists, dictionaries, numbers and text only, found {found}, which was not loaded or run"
    )
