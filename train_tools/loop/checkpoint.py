"""OUT/checkpoint.pt: everything a run needs to go on, in one file that is either the old one or the whole new one.

Beside it stand the last few under their steps, checkpoint_00000500.pt; the latest of them is checkpoint.pt itself under
a second name. They hold only tensors and plain Python values, so they load with `weights_only=True`. The sampler's
position and the learning rates are functions of the step and need no entry.
"""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dfosd_core.errors import ConfigError
from dfosd_core.files import copy_whole, write_whole

CHECKPOINT = "checkpoint.pt"
FORMAT = "dfosd-training-1"
State = dict[str, Any]


def write_checkpoint(out: Path, state: State, keep: int = 1) -> Path:
    """Write OUT/checkpoint.pt so that a kill or a power cut at any moment leaves the old or the new one.

    keep: how many to have in all; from two on, each also gets a name by its step, and the oldest goes.
    Raises OSError as the file system does, also where torch hides it.
    """
    path = out / CHECKPOINT
    try:
        with write_whole(path) as file:
            torch.save({"format": FORMAT, **state}, file)
    except RuntimeError as error:  # torch's writer, after it could not write all of its bytes
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    if keep > 1:
        _second_name(path, out / checkpoint_name(state["step"]))
    named = earlier_checkpoints(out)
    for old in named[: -keep if keep > 1 else None]:
        old.unlink(missing_ok=True)
    return path


def checkpoint_name(step: int) -> str:
    """Of the one kept under its step."""
    name = Path(CHECKPOINT)
    return f"{name.stem}_{step:08}{name.suffix}"


def earlier_checkpoints(out: Path) -> list[Path]:
    """Those under their steps, the one written last at the end."""
    name = Path(CHECKPOINT)
    found = out.glob(f"{name.stem}_{'[0-9]' * 8}{name.suffix}")
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _second_name(path: Path, name: Path) -> None:
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        copy_whole(path, name)


def read_checkpoint(out: Path, name: str = CHECKPOINT) -> State | None:
    """The state in OUT, its tensors on the CPU; None without one. name: another checkpoint's than the last.

    Raises ConfigError for a damaged or foreign file.
    """
    path = out / name
    if not path.exists():
        return None
    earlier = [each.name for each in earlier_checkpoints(out)[:-1]]
    advice = "Put a copy back, or delete it to start afresh."
    if earlier:
        advice = f"Copy '{earlier[-1]}' over it, or delete it to start afresh."
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not check the sums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"'{path}' holds more than tensors and numbers, so it is no checkpoint of DFOSD. {advice}"
        ) from error
    except Exception as error:  # zipfile and torch meet random bytes with any of a dozen exceptions
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"'{path}' is damaged or no checkpoint ({reason}). {advice}") from error
    if not isinstance(state, dict) or cast("State", state).get("format") != FORMAT:
        raise ConfigError(f"'{path}' is not a checkpoint of this version of DFOSD ({FORMAT}). {advice}")
    return cast("State", state)


def remove_leftovers(out: Path) -> list[str]:
    """Delete what a killed run had half written; return the names."""
    parts = sorted(out.glob(".*.part"))
    for part in parts:
        part.unlink(missing_ok=True)
    return [part.name for part in parts]


def trainable_state(network: nn.Module) -> dict[str, Tensor]:
    """name -> trainable parameter, detached; the frozen base stays where it is."""
    return {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}


def load_trainable(network: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Put the tensors of `trainable_state` back. Raises ConfigError unless names and shapes are the network's."""
    own = trainable_state(network)
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if wrong:
        raise ConfigError(
            f"The checkpoint's {what} does not fit the configuration's: {len(wrong)} of {len(own)} parameters are "
            f"missing, unknown or of another shape, first {wrong[0]}. Set the model as it was, or give another run.out."
        )
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Take moments and counts from `state`; the settings stay the configuration's."""
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def random_states() -> State:
    """The global generators' states. Training itself draws from (seed, sample) alone; a library might not."""
    kind, keys, position, has_gauss, gauss = cast("Any", np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: State) -> None:
    """The inverse of `random_states`; GPUs only where there are as many as then."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, numpy_keys, *rest = states["numpy"]
    np.random.set_state((kind, numpy_keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    cuda = cast("Sequence[Tensor]", states["cuda"])
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(list(cuda))
