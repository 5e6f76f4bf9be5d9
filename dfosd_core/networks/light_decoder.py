"""Light decoders for Stable Diffusion's latents, by others, in place of the VAE's own: less work, less memory.

Two kinds, told apart by what a file holds. VOSR's `sd21_lwdecoder.pth` (arXiv 2604.03225, Apache-2.0) is the VAE's
decoder at half its widths; TAESD's `taesd_decoder` (Ollin Boer Bohan, MIT) is plain convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import BaseModelMismatchError, one_line
from ..images import to_signed
from ..tensor_files import TensorFileError, is_finite, is_pickle, read_entries, read_tensors
from ..tiles.size import TileSize
from .checkpoint import Part, Tensors, fill
from .config import VaeConfig
from .folding import fold_upsampling
from .norms import norms
from .sd_configs import SD_SCALING_FACTOR, vae_config
from .vae import EPS, Decoder

LATENT_CHANNELS, LATENT_FACTOR = 4, 8
"""What both kinds decode: Stable Diffusion's latents, of 1.x and 2.x."""
SUFFIXES = (".safetensors", ".pth", ".pkl")
"""How decoders' files are called in lists."""
TAESD_WIDTH = 64
_STATE = "model_state_dict"
"""Where VOSR's file keeps the tensors."""
_MOST_WIDTH, _MOST_LAYERS = 2048, 16
_MOST_BYTES = 300_000_000
"""A list does not look into larger files; VOSR's has about 50 MB."""


class LightDecoder(nn.Module):
    """(B, 4, h, w) model-space float32 -> (B, 3, 8 h, 8 w) about [-1, 1], in the weights' format."""

    name: str
    """For people."""
    tile: TileSize
    """For the stage "decode", in pixels of the output."""

    def _placed(self, z: Tensor) -> Tensor:
        weight = next(self.parameters())
        return z.to(weight.device, weight.dtype, memory_format=torch.channels_last)


class NarrowDecoder(LightDecoder):
    """Stable Diffusion's decoder with other widths. As the VAE's own, it attends to the whole map."""

    name = "narrow decoder"
    tile = TileSize(1024, 128)

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.decoder = Decoder(config, norms(config.norm_groups, EPS, config.local_norm))

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(self._placed(z.float() / SD_SCALING_FACTOR))


class TinyDecoder(LightDecoder):
    """TAESD's: an output pixel depends on the 145 pixels around it, so tiles equal the whole map."""

    name = "TAESD"
    tile = TileSize(1536, 448)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Identity(), _conv(LATENT_CHANNELS, TAESD_WIDTH), nn.ReLU()]
        for _ in range(3):
            layers += [*(_Block() for _ in range(3)), nn.Upsample(scale_factor=2), _conv(bias=False)]
        self.layers = nn.Sequential(*layers, _Block(), _conv(TAESD_WIDTH, 3))  # numbered as in the file

    def forward(self, z: Tensor) -> Tensor:
        limited = (z.float() / 3).tanh() * 3
        return to_signed(self.layers(self._placed(limited)))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x) + x).relu()


def _conv(inputs: int = TAESD_WIDTH, outputs: int = TAESD_WIDTH, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def is_decoder(path: Path) -> bool:
    """Whether a list shows `path` as a decoder, and not as a LoRA: by the names and shapes of the tensors in it.

    A file named after TAESD for SDXL is left out, the only thing that tells it from the one for SD.
    """
    if path.suffix not in SUFFIXES or path.name.startswith("taesdxl") or not path.is_file():
        return False
    facts = path.stat()
    return facts.st_size <= _MOST_BYTES and _is_decoder(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=1024)
def _is_decoder(path: Path, changed_ns: int, size: int) -> bool:
    """Read once for each state of the file."""
    try:
        tensors = _tensors(path)
        with torch.device("meta"):
            network, prefix = _network(path.name, tensors)
    except (BaseModelMismatchError, OSError):
        return False
    shapes = {key.removeprefix(prefix): value.shape for key, value in network.state_dict().items()}
    return shapes == {key: getattr(value, "shape", None) for key, value in tensors.items()}


def read_decoder(
    path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> LightDecoder:
    """The decoder in a `.safetensors` file or a pickle, which is read without running its code.

    Raises BaseModelMismatchError, one line, for a file that is missing, damaged, unsafe or none of the two kinds.
    """
    path = Path(path)
    tensors = _tensors(path)
    with torch.device("meta"):
        network, prefix = _network(path.name, tensors)
    named = {f"{prefix}{key}": value for key, value in tensors.items()}
    decoder = fill(network, Part({}, partial(_checked, path.name, prefix, named)), dtype, device)
    fold_upsampling(decoder)
    return decoder


def _tensors(path: Path) -> Tensors:
    if not path.is_file():
        raise BaseModelMismatchError(
            f"There is no decoder '{path}'. Give VOSR's sd21_lwdecoder.pth or TAESD's taesd_decoder."
        )
    try:
        values: Mapping[str, Any] = read_entries(path, mapped=True) if is_pickle(path) else read_tensors(path).tensors
    except TensorFileError as error:
        raise BaseModelMismatchError(str(error)) from error
    table = values.get(_STATE, values)
    return cast("Tensors", table) if isinstance(table, Mapping) else {}


def _network(name: str, tensors: Tensors) -> tuple[LightDecoder, str]:
    """The empty network of the file's kind, and what its state dict puts before the file's names."""
    first = {key: tensors[key].shape for key in ("1.weight", "conv_in.weight") if _is_weight(tensors.get(key))}
    if "1.weight" in first:
        _check_latents(name, first["1.weight"][1])
        return TinyDecoder(), "layers."
    first_name = one_line(min(map(str, tensors), default="none"), 60)
    if "conv_in.weight" not in first or not any(key.startswith("up_blocks.") for key in tensors):
        raise BaseModelMismatchError(
            f"'{name}' is no light decoder that DFOSD knows: expected VOSR's sd21_lwdecoder or TAESD's taesd_decoder, "
            f"found {len(tensors)} entries, first {first_name}. Give one of them."
        )
    _check_latents(name, first["conv_in.weight"][1])
    return NarrowDecoder(_config(name, tensors)), "decoder."


def _check_latents(name: str, channels: int) -> None:
    if channels != LATENT_CHANNELS:
        raise BaseModelMismatchError(
            f"'{name}' decodes latents of {channels} channels, expected {LATENT_CHANNELS}. Give one for SD 1.x or 2.x."
        )


def _config(name: str, tensors: Tensors) -> VaeConfig:
    """From the shapes: the first block of each level tells its width, and the level its number of blocks."""

    def block(level: int, number: int) -> Tensor | None:
        found = tensors.get(f"up_blocks.{level}.resnets.{number}.conv1.weight")
        return found if _is_weight(found) else None

    levels = LATENT_FACTOR.bit_length()  # each but the last doubles the size
    widths = [0 if (found := block(level, 0)) is None else found.shape[0] for level in range(levels)]
    layers = next((number for number in range(_MOST_LAYERS) if block(0, number) is None), 0)
    groups = 32
    if not layers or any(width % groups or not 0 < width <= _MOST_WIDTH for width in widths):
        raise BaseModelMismatchError(
            f"'{name}' is damaged: expected blocks of a multiple of {groups} channels at {levels} levels, found "
            f"{', '.join(map(str, widths))}. Get it again."
        )
    config = vae_config(block_out_channels=tuple(widths[::-1]), layers_per_block=layers - 1)
    return VaeConfig.from_diffusers(config, name)


def _is_weight(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _checked(name: str, prefix: str, tensors: Tensors, expected: Tensors) -> Tensors:
    """All of `expected` in their shapes, finite, and nothing else. Raises BaseModelMismatchError."""
    for key in sorted(expected.keys() ^ tensors.keys()):
        what = "lacks" if key in expected else "has besides"
        shown = one_line(key.removeprefix(prefix), 80)
        raise BaseModelMismatchError(f"'{name}' is damaged: expected a decoder's tensors, it {what} {shown}.")
    for key, like in expected.items():
        value, shown = cast("object", tensors[key]), key.removeprefix(prefix)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.shape != like.shape:
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise BaseModelMismatchError(
                f"'{name}' is damaged: expected {tuple(like.shape)} as {shown}, found {found}."
            )
        if not is_finite(value):
            raise BaseModelMismatchError(f"'{name}' is damaged: values of {shown} are not finite. Get it again.")
    return tensors
