"""Light decoders' files with random weights, and what each gives: diffusers' decoder, and TAESD written out here."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.models.autoencoders.vae import Decoder
from torch import Tensor
from torch.nn import functional as F

from .tiny_models import fill

VOSR_WIDTHS = (64, 128, 256, 256)
TAESD_BLOCKS = ((3, 4, 5), (8, 9, 10), (13, 14, 15), (18,))
"""The residual blocks' numbers in its file, stage by stage; behind each but the last: doubling, and a convolution."""


def vosr_decoder(widths: tuple[int, ...] = VOSR_WIDTHS, layers: int = 2) -> Decoder:
    """diffusers' decoder."""
    with torch.device("meta"):
        network = Decoder(
            in_channels=4,
            out_channels=3,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths,
            layers_per_block=layers,
        )
    return fill(network, 3)


def write_vosr(path: Path, network: Decoder) -> Path:
    """As VOSR saves it."""
    facts = {"in_channels": 4, "out_channels": 3, "block_out_channels": list(VOSR_WIDTHS), "layers_per_block": 2}
    torch.save({"config": facts, "model_state_dict": dict(network.state_dict()), "epoch": 7}, path)
    return path


def taesd_tensors(latent_channels: int = 4) -> dict[str, Tensor]:
    """Under the names of `taesd_decoder`."""
    generator = torch.Generator().manual_seed(8)
    shapes: dict[str, tuple[int, ...]] = {"1": (64, latent_channels), "19": (3, 64)}
    shapes |= {f"{n}.conv.{m}": (64, 64) for stage in TAESD_BLOCKS for n in stage for m in (0, 2, 4)}
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = torch.randn(*shape, 3, 3, generator=generator) * (0.7 / (9 * shape[1])) ** 0.5
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1
    for n in (7, 12, 17):
        tensors[f"{n}.weight"] = torch.randn(64, 64, 3, 3, generator=generator) / (9 * 64) ** 0.5
    return tensors


def taesd_image(tensors: dict[str, Tensor], z: Tensor) -> Tensor:
    """(B, 4, h, w) scaled -> (B, 3, 8 h, 8 w) in about [0, 1]."""

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), padding=1)

    x = F.relu(conv(3 * torch.tanh(z / 3), "1"))
    for i, blocks in enumerate(TAESD_BLOCKS):
        for n in blocks:
            h = F.relu(conv(x, f"{n}.conv.0"))
            h = F.relu(conv(h, f"{n}.conv.2"))
            x = F.relu(conv(h, f"{n}.conv.4") + x)
        if i < 3:
            x = conv(x.repeat_interleave(2, -1).repeat_interleave(2, -2), str((7, 12, 17)[i]))
    return conv(x, "19")
