"""What DFOSD asks of whoever owns the weights: this page is the whole duty of a host.

Memory and placement are the host's own business: the core never moves anything to a device.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from .tiles.size import TileSettings

if TYPE_CHECKING:
    from .lora.file import DfosdLora
    from .lora.metadata import BaseLayout


class Host(Protocol):
    """A base model's UNet and autoencoder, already loaded.

    Latents are model-space: the VAE's scaling factor has been applied after encoding, and is taken away again
    before decoding. Inputs arrive float32 on the image's device, their heights and widths are multiples of
    `size_multiple_px`; outputs may be of any float type, on that same device. A call that takes long may say how far
    it is (`tiles/inside.py`).
    """

    def encode(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, C, H/f, W/f): the mean of the posterior, never a sample of it."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h*f, w*f), nominally in [-1, 1]."""
        ...

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        """The UNet's prediction for (B, C, h, w) at step `t` under the fixed (1, N, context_dim) condition.

        A v-predicting base converts with `schedule.eps_from_v`.
        """
        ...

    def lora(self, lora: DfosdLora, strength: float) -> AbstractContextManager[None]:
        """Attach the LoRA; afterwards, also after an error, the weights are bit for bit as before.

        Raises BaseModelMismatchError or LoraMismatchError, having changed nothing, when it does not fit or another
        one is attached.
        """
        ...

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        """Tiles for an output of this size: as large as memory allows, overlapping as far as the nets see."""
        ...

    @property
    def name(self) -> str:
        """The program that owns the networks, for people."""
        ...

    @property
    def layout(self) -> BaseLayout:
        """What kind of base it is: a LoRA fits a host of its own `base_layout` only."""
        ...

    @property
    def size_multiple_px(self) -> int:
        """Images and tiles are padded and aligned to this: the VAE's factor, or that times the UNet's downsampling.

        The larger one where tiles are to equal the whole image, or where the host's UNet asks for it.
        """
        ...


class HostAround:
    """A `Host` that does what another one does, but for what a subclass does itself."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def encode(self, x: Tensor) -> Tensor:
        return self._host.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        return self._host.decode(z)

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        return self._host.predict_eps(z, t, prompt_embeds)

    def lora(self, lora: DfosdLora, strength: float) -> AbstractContextManager[None]:
        return self._host.lora(lora, strength)

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        return self._host.auto_tiles(height_px, width_px)

    @property
    def name(self) -> str:
        return self._host.name

    @property
    def layout(self) -> BaseLayout:
        return self._host.layout

    @property
    def size_multiple_px(self) -> int:
        return self._host.size_multiple_px
