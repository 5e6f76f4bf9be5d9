"""The host over our own UNet and autoencoder: needs torch and safetensors only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..lora.file import DfosdLora
from ..lora.merge import merged
from ..lora.metadata import BaseLayout, check_base
from ..lora.names import UNET_PREFIX, VAE_PREFIX
from ..networks import streamed_vae
from ..networks.embedded import DEFAULT_WEIGHTS, default_parts
from ..networks.folding import folded
from ..networks.reading import read_base
from ..networks.unet import Unet
from ..networks.vae import Vae
from ..tiles.size import TileSettings, TileSize
from .layout_host import LayoutHost
from .precision import WiderOnOverflow

AT_ONCE_PX = 768 * 768
"""Pixels of an image up to which an autoencoder with group norms or attention is not run in strips."""
PART_PX = 512 * 512
"""Pixels of a larger image that count for one step of the progress: about a tile of the UNet."""


class OwnHost(LayoutHost):
    """A `Host` over a `Base`'s networks. Takes tensors from any device, gives float32 back on the same one."""

    name = "DFOSD"

    def __init__(self, unet: Unet, vae: Vae, layout: BaseLayout, *, reusable: bool = True) -> None:
        """reusable: whether the weights are as before after a LoRA. Else one LoRA is taken, in half of the memory."""
        self.unet = unet
        self.vae = vae
        self.layout = layout
        self._reusable = reusable
        self._prompt: tuple[Tensor, Tensor] | None = None
        """The attached LoRA's prompt as it was given, and as the networks take it."""
        self._run_unet, self._run_vae = WiderOnOverflow("UNet"), WiderOnOverflow("VAE")

    @property
    def size_multiple_px(self) -> int:
        """f where the base has group norms: the UNet fits its skips to any latent size.

        Without them a tile can equal the whole image, if its cells fall on the UNet's grid: f times its downsampling.
        """
        if not self.unet.config.local_norm:
            return super().size_multiple_px
        return self.layout.latent_factor * 2 ** (len(self.layout.block_out_channels) - 1)

    @torch.inference_mode()
    def encode(self, x: Tensor) -> Tensor:
        config = self.vae.config
        streams = self._streams(x.shape[2] * x.shape[3])

        def run(vae: Vae) -> Tensor:
            return streamed_vae.encode(vae, x) if streams else vae.encode(_placed(x, vae))

        mean = self._run_vae(self.vae, run).to(x.device, torch.float32)
        return (mean - config.shift_factor) * config.scaling_factor

    @torch.inference_mode()
    def decode(self, z: Tensor) -> Tensor:
        latent = z.float() / self.vae.config.scaling_factor + self.vae.config.shift_factor
        streams = self._streams(z.shape[2] * z.shape[3] * self.layout.latent_factor**2)

        def run(vae: Vae) -> Tensor:
            return streamed_vae.decode(vae, latent) if streams else vae.decode(_placed(latent, vae))

        return self._run_vae(self.vae, run).to(z.device, torch.float32)

    @torch.inference_mode()
    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        def run(unet: Unet) -> Tensor:
            given, placed = self._prompt or (None, None)
            folded_prompt = placed if unet is self.unet and prompt_embeds is given else None
            return unet(_placed(z, unet), t, _placed(prompt_embeds, unet) if folded_prompt is None else folded_prompt)

        return self._eps_of(self._run_unet(self.unet, run).to(z.device, torch.float32), z, t)

    @contextmanager
    def lora(self, lora: DfosdLora, strength: float) -> Iterator[None]:
        """By merging it into the weights, and folding what is then constant (`networks/folding.py`)."""
        check_base(lora.metadata.base_layout, self.layout)
        with merged({UNET_PREFIX: self.unet, VAE_PREFIX: self.vae}, lora, strength, restores=self._reusable):
            self._forget_copies()
            self._prompt = lora.prompt_embeds, _placed(lora.prompt_embeds, self.unet)
            try:
                with folded(self.unet, self.vae, lora.metadata.timestep, self._prompt[1]):
                    yield
            finally:
                self._prompt = None
                self._forget_copies()

    def _forget_copies(self) -> None:
        self._run_unet.reset()
        self._run_vae.reset()

    def auto_tiles(self, height_px: int, width_px: int) -> TileSettings:
        """Of the embedded base one tile up to a megapixel; above, tiles whose overlaps cost little of the time.

        The base sees 38 px around a pixel in the encoder, 168 in the UNet and 52 in the decoder. Tiles that overlap by
        twice that, and are cut in the middle, equal the whole image. The UNet's tile, with the largest overlap, is the
        one that memory limits: 8192x8192 takes about 5 GB in all, in float32 as well as in 16 bits.

        An autoencoder with group norms or attention sees all of it, and goes through an image of any size whole.
        """
        pixels, tiles = height_px * width_px, super().auto_tiles(height_px, width_px)
        if self.unet.config.local_norm:
            is_float32 = next(self.unet.parameters()).dtype == torch.float32
            tiles = replace(tiles, unet=TileSize(2048 if is_float32 else 3072, 336, fades=False))
        if self.vae.config.sees_all:
            whole = TileSize(0, 0, -(-pixels // PART_PX) if self._streams(pixels) else 1)
            return replace(tiles, encode=whole, decode=whole)
        vae_tile = 0 if pixels <= 1024 * 1024 else 1536
        encode, decode = (TileSize(vae_tile, overlap, fades=False) for overlap in (80, 112))
        return replace(tiles, encode=encode, decode=decode)

    def _streams(self, pixels: int) -> bool:
        return self.vae.config.sees_all and pixels > AT_ONCE_PX


def _placed(x: Tensor, network: nn.Module) -> Tensor:
    """A map or a prompt on the network's device, in its format and order."""
    weight = next(network.parameters())
    memory_format = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    return x.to(weight.device, weight.dtype, memory_format=memory_format)


def fast_dtype(device: torch.device | str) -> torch.dtype:
    """The number format that is fast there: float16 on CUDA, bfloat16 on CPUs that multiply it, else float32.

    Elsewhere bfloat16 is emulated and slower than float32. The x0 line and the blending are float32 everywhere.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.float16
    # Private, and not in every torch: where a name is missing, float32 is right and only slower.
    native = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    has_bfloat16 = any(getattr(torch.cpu, name, lambda: False)() for name in native)
    return torch.bfloat16 if kind == "cpu" and has_bfloat16 else torch.float32


def load_base(
    path: Path | str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    reusable: bool = True,
) -> OwnHost:
    """A host over a diffusers folder or a single-file checkpoint (`.safetensors`, `.ckpt`) of SD 1.x or 2.x.

    Raises BaseModelMismatchError when the file is missing, damaged, unsafe or no model DFOSD can use.
    """
    return OwnHost(*read_base(path, dtype, device), reusable=reusable)


def load_default(
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    weights: Path = DEFAULT_WEIGHTS,
    *,
    reusable: bool = True,
) -> tuple[OwnHost, DfosdLora]:
    """The embedded small base and its LoRA. Raises BaseModelMismatchError when the installation lacks them."""
    base, lora = default_parts(weights)
    return load_base(base, dtype, device, reusable=reusable), lora
