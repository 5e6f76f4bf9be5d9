"""Other methods' files with one thing in their content different, as the name of the change and the content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .small_files import CONFIG, FOLDERS, SMALL, Entries


def copied(name: str) -> Entries:
    return {key: dict(v) if isinstance(v, dict) else v for key, v in SMALL[name]().items()}


def tables(entries: Entries) -> list[Entries]:
    """The dictionaries that hold tensors: the file itself, for HYPIR's."""
    nested = [v for v in entries.values() if isinstance(v, dict) and any(isinstance(x, Tensor) for x in v.values())]
    return nested or [entries]


TENSOR_CHANGES: dict[str, Callable[[Tensor], object]] = {
    "nan": lambda x: torch.full_like(x, float("nan")),
    "one nan": lambda x: torch.cat([x.flatten()[:-1], torch.tensor([float("nan")])]).reshape(x.shape),
    "infinite": lambda x: torch.cat([x.flatten()[:-1], torch.tensor([float("inf")])]).reshape(x.shape),
    "minus infinite": lambda x: torch.cat([torch.tensor([-float("inf")]), x.flatten()[1:]]).reshape(x.shape),
    "whole numbers": lambda x: x.int(),
    "long numbers": lambda x: x.long(),
    "double": lambda x: x.double(),
    "bool": lambda x: x > 0,
    "flat": lambda x: x.flatten(),
    "one value": lambda x: x.flatten()[0].clone(),
    "empty": lambda x: x[:0],
}
RANK_CHANGES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "one more": lambda x, dim: torch.cat([x, x.narrow(dim, 0, 1)], dim),
    "one less": lambda x, dim: x.narrow(dim, 0, x.shape[dim] - 1).contiguous(),
    "twice": lambda x, dim: torch.cat([x, x], dim),
}
NAME_CHANGES: dict[str, Callable[[str], str | None]] = {
    "missing": lambda key: None,
    "renamed layer": lambda key: key.replace(".lora_", "_.lora_").replace("base_layer", "base_player"),
    "renamed half": lambda key: key.replace("lora_A", "lora_C").replace("lora_B", "lora_C").replace("base_l", "bass_l"),
    "other case": lambda key: key.replace("lora_", "LORA_").replace("base_l", "BASE_L"),
}
OTHER_VALUES = (None, "text", 7, 1.5, True, ["text"], {"a": "text"}, [[1]], [], {}, (1, 2), -(10**300), torch.zeros(3))


def changed_tensors(name: str) -> Iterator[tuple[str, Entries]]:
    """The file's content with one tensor different."""
    for i, table in enumerate(tables(copied(name))):
        for key in [key for key, item in table.items() if isinstance(item, Tensor)]:
            of_rank = 1 if "lora_B" in key else 0
            changed: dict[str, object] = {
                **{change: change_to(table[key]) for change, change_to in TENSOR_CHANGES.items()},
                **{f"rank {change}": change_to(table[key], of_rank) for change, change_to in RANK_CHANGES.items()},
            }
            if key.endswith(".bias"):
                del changed["flat"]  # no change at all
            for change, tensor in changed.items():
                entries = copied(name)
                tables(entries)[i][key] = tensor
                yield f"table {i}: {key} {change}", entries


def changed_names(name: str) -> Iterator[tuple[str, Entries]]:
    """The file's content with one tensor called otherwise, missing, or more than there should be."""
    for i, table in enumerate(tables(copied(name))):
        for key in [key for key, item in table.items() if isinstance(item, Tensor)]:
            for change, renamed in NAME_CHANGES.items():
                entries = copied(name)
                item = tables(entries)[i].pop(key)
                if new := renamed(key):
                    tables(entries)[i][new] = item
                yield f"table {i}: {key} {change}", entries
        for extra in ("extra.weight", "conv_new.lora_A.default.weight", "a\nb", "conv_in.lora_A.weight", ""):
            entries = copied(name)
            tables(entries)[i][extra] = torch.zeros(4, 4)
            yield f"table {i}: {extra!r} too", entries


def changed_entries(name: str) -> Iterator[tuple[str, Entries]]:
    """The file's content with an entry beside the tensors different."""
    for key in SMALL[name]():
        yield f"without {key}", {k: v for k, v in copied(name).items() if k != key}
        for other in () if key.startswith(FOLDERS) else OTHER_VALUES:
            yield f"{key} {str(other)[:20]}", {**copied(name), key: other}
    if name == "omgsr":
        return
    yield "more", {**copied(name), "more": 1}
    for key in [key for key in SMALL[name]() if "rank" in key]:
        for rank in (0, 3, 5, 8, 4096, 4097, 1 << 40):
            yield f"{key} {rank}", {**copied(name), key: rank}
    for key in [key for key in SMALL[name]() if "_modules" in key]:
        listed: list[Any] = copied(name)[key]
        yield f"{key} less one", {**copied(name), key: [layer for layer in listed if layer != listed[0]]}
        yield f"{key} and one more", {**copied(name), key: [*listed, "conv_new"]}
        yield f"{key} and a number", {**copied(name), key: [*listed, 1]}


def changed_settings() -> Iterator[tuple[str, Entries]]:
    """OMGSR-S's `adapter_config.json` with other settings."""
    settings: tuple[dict[str, Any], ...] = (
        {"r": 31},
        {"r": None},
        {"r": "32"},
        {"r": 32.0},
        {"r": True},
        {"r": -1},
        {"r": 1 << 70},
        {"lora_alpha": 8},
        {"lora_alpha": 4096},
        {"lora_alpha": None},
        {"lora_alpha": "16"},
        {"use_dora": True},
        {"use_rslora": True},
        {"alpha_pattern": {"conv1": 4}},
        {"rank_pattern": {"conv1": 4}},
        {"modules_to_save": ["conv_in"]},
        {"lora_bias": True},
        {"peft_type": "LOHA"},
        {"init_lora_weights": "pissa"},
        {"fan_in_fan_out": True},
    )
    for folder in FOLDERS:
        for setting in settings:
            entries = copied("omgsr")
            entries[f"{folder}/{CONFIG}"] = entries[f"{folder}/{CONFIG}"] | setting
            yield f"{folder} {setting}", entries
