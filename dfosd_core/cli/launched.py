"""One of several processes that `accelerate launch` or `torchrun` has started: its share, its device, its end.

They say by the environment who they are. Their agent ends all of them as soon as one fails, so a process whose images
have failed waits for the others before it says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from ..errors import ConfigError
from ..settings import ModelChoice

_POLL_SECONDS = 0.5
_LONG = timedelta(days=365)
"""A folder may take any time."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process is number `rank` of `world_size`, and number `local_rank` of `local_world_size` on its machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """None where this process is alone. Raises ConfigError for numbers that make no sense."""
    try:
        rank, world_size = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
        local_rank = int(environment.get("LOCAL_RANK", rank))
        local_world_size = int(environment.get("LOCAL_WORLD_SIZE", world_size))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE in the environment should be whole numbers: {error}.") from error
    if not 0 <= rank < world_size:
        raise ConfigError(f"RANK in the environment is {rank}; expected 0 to {world_size - 1}, below WORLD_SIZE.")
    if world_size == 1:
        return None
    return Launch(rank=rank, world_size=world_size, local_rank=local_rank, local_world_size=local_world_size)


def with_device(choice: ModelChoice, launch: Launch) -> ModelChoice:
    """Each process of a machine has a GPU of its own, as far as there are enough; a device that was given stays."""
    import torch

    count = torch.cuda.device_count()
    if choice.device is not None or count == 0:
        return choice
    return replace(choice, device=f"cuda:{launch.local_rank % count}")


def worst_of_all(code: int, launch: Launch, environment: Mapping[str, str] = os.environ) -> int:
    """Wait for all processes; the largest of their exit codes, which all of them get.

    Without an address where they could meet, it is `code` at once.
    """
    from torch import distributed

    if "MASTER_ADDR" not in environment or not distributed.is_available():
        return code
    store, rank, count = next(iter(distributed.rendezvous("env://", timeout=_LONG)))
    keys = [f"dfosd/{each}" for each in range(count)]
    store.set(keys[rank], str(code))
    while not store.check(keys):
        time.sleep(_POLL_SECONDS)  # and not a wait in the store, which would hear no signal
    worst = max(int(store.get(key)) for key in keys)
    store.add("dfosd/gone", 1)
    while rank == 0 and store.add("dfosd/gone", 0) < count:  # the store may live in this process
        time.sleep(_POLL_SECONDS)
    return worst
