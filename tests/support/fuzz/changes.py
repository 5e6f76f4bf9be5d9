"""Changes of bytes, of trees of plain values, and of safetensors' headers, drawn from a generator."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any, cast

ODD_NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
ODD_TEXTS = ("", "\x1b[31m", "a\nb", "../../x", "NaN", "9" * 5000, "\udcff", "x" * 3000, "1e999", "-1", "0", "true")


def odd_bytes(rng: Random, blob: bytes) -> bytes:
    """The file with one to four places changed, lost, doubled or swapped, or its end cut off."""
    data = bytearray(blob)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 4, 8, 40, 400))
        match rng.randrange(8):
            case 0 | 1:
                for i in range(at, min(at + rng.choice((1, 1, 4)), len(data))):
                    data[i] = rng.randrange(256)
            case 2:
                data[at : at + length] = b""
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at:at] = rng.randbytes(length)
            case 5:
                packing = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
                number = rng.choice(ODD_NUMBERS) % 256 ** struct.calcsize(packing)
                data[at : at + struct.calcsize(packing)] = struct.pack(packing, number)
            case 6:
                other = rng.randrange(len(data) + 1)
                data[at : at + length] = data[other : other + length]
            case _:
                if rng.random() < 0.3:
                    del data[at:]
    return bytes(data)


def odd_value(rng: Random, depth: int = 0) -> Any:
    """A plain value that nobody expects."""
    match rng.randrange(9 if depth < 2 else 6):
        case 0:
            return rng.choice((None, True, False))
        case 1:
            return rng.choice(ODD_NUMBERS) * rng.choice((1, -1))
        case 2:
            return rng.choice((0.5, -0.0, 1e300, 1e-300, float("inf"), float("-inf"), float("nan"), 2.0))
        case 3 | 4:
            return rng.choice(ODD_TEXTS)
        case 5:
            return rng.choice(([], {}, [None], [[]], [1, 2], {"a": 1}, [0], [-1], [2**40], ["x"] * 40))
        case 6:
            return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 7:
            return {rng.choice(ODD_TEXTS): odd_value(rng, depth + 1) for _ in range(rng.randrange(3))}
        case _:
            nested: Any = 1
            for _ in range(rng.choice((5, 60))):
                nested = [nested]
            return nested


def odd_tree(rng: Random, tree: Any) -> Any:
    """A copy of dictionaries in dictionaries with one thing in it different."""
    if not isinstance(tree, dict) or not tree or rng.random() < 0.05:
        if isinstance(tree, list) and tree and rng.random() < 0.7:
            changed = list(cast("list[Any]", tree))
            changed[rng.randrange(len(changed))] = odd_value(rng)
            return changed
        return odd_value(rng)
    copied = dict(cast("dict[str, Any]", tree))
    key = rng.choice(list(copied))
    match rng.randrange(8):
        case 0:
            del copied[key]
        case 1:
            copied[rng.choice((*ODD_TEXTS, f"{key}.0", key.replace("0", "99999999"), f"{key}x"))] = copied.pop(key)
        case 2:
            copied[rng.choice(ODD_TEXTS)] = odd_value(rng)
        case 3:
            copied[rng.choice(list(copied))] = copied[key]
        case _:
            copied[key] = odd_tree(rng, copied[key])
    return copied


def odd_safetensors(rng: Random, blob: bytes) -> bytes:
    """A file whose header says something else, its data as they were, or one with other bytes."""
    if rng.random() < 0.3:
        return odd_bytes(rng, blob)
    length = struct.unpack("<Q", blob[:8])[0]
    header: Any = json.loads(blob[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 1, 2))):
        header = odd_tree(rng, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + blob[8 + length :]
