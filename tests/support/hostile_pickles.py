"""Pickles that a program must not unpickle: they call functions, ask for memory, or are none at all."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

PROTOCOL = b"\x80\x02"


def value(item: Any) -> bytes:
    """The instructions that put `item` on the stack."""
    return pickle.dumps(item, 2)[len(PROTOCOL) : -1]


def call(function: str, *arguments: Any) -> bytes:
    """The instructions that call `module.name` and leave the result on the stack."""
    module, name = function.rsplit(".", 1)
    return f"c{module}\n{name}\n".encode() + value(arguments) + b"R"


def calls(canary: Path) -> dict[str, bytes]:
    """What runs code that creates `canary`, or takes eight gigabytes, where a reader calls what it is told to."""
    shell, python, huge = f"touch {canary}", f"open({str(canary)!r}, 'w')", 1 << 33
    found = {
        function: call(function, *arguments)
        for function, arguments in {
            "os.system": (shell,),
            "posix.system": (shell,),
            "nt.system": (shell,),
            "os.popen": (shell,),
            "os.mkdir": (str(canary),),
            "subprocess.Popen": (["touch", str(canary)],),
            "subprocess.check_call": (["touch", str(canary)],),
            "pty.spawn": (["touch", str(canary)],),
            "builtins.eval": (python,),
            "builtins.exec": (python,),
            "builtins.open": (str(canary), "w"),
            "__builtin__.eval": (python,),
            "builtins.__import__": ("antigravity",),
            "builtins.getattr": ("text", "upper"),
            "code.interact": (),
            "timeit.timeit": (python, "pass", 1),
            "runpy.run_path": (str(canary),),
            "importlib.import_module": ("antigravity",),
            "pickle.loads": (call("os.system", shell) + b".",),
            "torch.load": (str(canary), None, None),
            "torch.hub.load": (str(canary), "x"),
            "torch.jit.load": (str(canary),),
            "ctypes.CDLL": (str(canary),),
            "numpy.load": (str(canary),),
            "builtins.bytearray": (huge,),
            "torch.Tensor": (huge,),
            "torch.FloatStorage": (huge,),
            "torch.storage.UntypedStorage": (huge,),
            "collections.Counter": ("text",),
            "collections.OrderedDict": ([("a", 1)],),
            "torch._utils._rebuild_parameter": (1, 2, 3),
            "torch._utils._rebuild_tensor": (1, 2, 3, 4),
            "torch._utils._rebuild_sparse_tensor": (1, 2),
            "torch._tensor._rebuild_from_type_v2": (1, 2, 3, 4),
        }.items()
    }
    nested = f"cbuiltins\ngetattr\n({call('os.getcwd').decode('latin1')}".encode("latin1") + value("upper") + b"tR"
    return {**found, "nested": nested + b")R", "method": call("builtins.str", "x") + value({"__setstate__": 1}) + b"b"}


def instructions(canary: Path) -> dict[str, bytes]:
    """Single instructions, and orders of them, that torch.save does not write."""
    shell = f"touch {canary}"
    system = b"cos\nsystem\n"
    storage = b"ctorch\nFloatStorage\n"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    huge = 1 << 40
    return {
        "instance": b"(" + value(shell) + b"ios\nsystem\n",
        "object": b"(" + system + value(shell) + b"o",
        "new object": system + value((shell,)) + b"\x81",
        "new object with names": system + value((shell,)) + value({}) + b"\x92",
        "from the stack": value("os") + value("system") + b"\x93" + value((shell,)) + b"R",
        "extension": b"\x82\x01" + value((shell,)) + b"R",
        "text id": b"Pdata\n",
        "id of text": value("storage") + b"Q",
        "id of another kind": value(("module", "os", "system", shell)) + b"Q",
        "id of a call": system + value((shell,)) + b"RQ",
        "id too short": value(("storage",)) + b"Q",
        "id without a kind": value(("storage", "float", "0", "cpu", 4)) + b"Q",
        "id without a record": b"(" + value("storage") + storage + value("none") + value("cpu") + value(4) + b"tQ",
        "id too long": b"(" + value("storage") + storage + value("0") + value("cpu") + value(huge) + b"tQ",
        "id below zero": b"(" + value("storage") + storage + value("0") + value("cpu") + value(-4) + b"tQ",
        "id out of the folder": b"(" + value("storage") + storage + value("../0") + value("cpu") + value(4) + b"tQ",
        "tensor of text": tensor + value(("storage", 0, (1,), (1,), False, {})) + b"R",
        "tensor of nothing": tensor + value(()) + b"R",
        "called text": value("os.system") + value((shell,)) + b"R",
        "state for a list": b"]" + value({"a": 1}) + b"b",
        "state for a function": system + value({"__call__": 1}) + b"b",
        "long text": b"X" + struct.pack("<I", (1 << 32) - 1) + b"x",
        "long bytes": b"\x8e" + struct.pack("<Q", huge) + b"x",
        "long byte array": b"\x96" + struct.pack("<Q", huge) + b"x",
        "long number": b"\x8b" + struct.pack("<i", 1 << 30) + b"x",
        "long frame": b"\x95" + struct.pack("<Q", huge),
        "far place in the memo": b"r" + struct.pack("<I", (1 << 32) - 1),
        "unknown place in the memo": b"j" + struct.pack("<I", 12345),
        "end of the stack": b"0" * 50,
        "mark that is none": b"t" * 9,
        "added to a dictionary": b"}" + value(1) + b"a",
        "set in a list": b"]" + value("a") + value(1) + b"s",
        "list as a name": b"}" + b"]" + value(1) + b"s",
        "number of text": b"I12\n",
        "text of Python": b"S'text'\n",
        "unknown instruction": b"\xff",
        "set": b"\x8f",
        "duplicate": b"2",
    }
