"""A base model as it lies on disk, understood but not yet a network: configurations, and where each weight is found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .sd_configs import Config

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Tensors = Mapping[str, Tensor]


class Part(NamedTuple):
    """A UNet or an autoencoder."""

    config: Config
    """As diffusers writes it."""
    weights: Callable[[Tensors], Tensors]
    """Takes a network's state dict (diffusers' names; shapes only) and gives the file's tensors under its names, all
    of them and in its shapes. Raises BaseModelMismatchError where one is missing."""


class Checkpoint(NamedTuple):
    """Both parts, and what the file says of them."""

    name: str
    """Of the file or folder, for messages."""
    unet: Part
    vae: Part
    prediction_type: str
    """`epsilon` or `v_prediction`."""


# Some programs call us in inference mode; weights made there could never be merged into outside of it.
@torch.inference_mode(False)
def fill(network: NetworkT, part: Part, dtype: torch.dtype, device: torch.device | str) -> NetworkT:
    """Give a network on the meta device its weights; returns it in evaluation mode, without gradients."""
    # A copy even where nothing changes: a view of the file lies at any address, and sums differ in their last
    # bits with the address; folder and single file must give the same image.
    placed = {key: _place(weight, dtype, device) for key, weight in part.weights(network.state_dict()).items()}
    network.load_state_dict(placed, assign=True)
    return network.eval().requires_grad_(False)


def _place(weight: Tensor, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    # Convolutions are a third faster on a CPU with their channels last, and no slower elsewhere.
    memory_format = torch.channels_last if weight.ndim == 4 else torch.contiguous_format
    return weight.to(device, dtype, copy=True, memory_format=memory_format)
