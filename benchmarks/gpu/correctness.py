"""Encoder, UNet and decoder on the card against the CPU in float32, folded and not; the overflow guard; an image.

The three stages are SD 2.1's with random weights, at 256 pixels, each on the same input. The image is the repository's
photograph by the embedded default, whose weights are real. `folded` is what a run does on a card (constants of timestep
and prompt); `upsampling too` adds the transposed convolution, which is in use on CPUs only; `in strips` is how encoder
and decoder take large images.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from dfosd_core.hosts.own import OwnHost, load_base, load_default
from dfosd_core.image_files.read import read_image
from dfosd_core.image_files.tensors import to_tensor
from dfosd_core.images import to_signed
from dfosd_core.networks import streamed_vae
from dfosd_core.networks.folding import folded, transposed_kernel
from dfosd_core.networks.layers import Upsample
from dfosd_core.pipeline import upscale

from .setting import Row, Setting, exact, relative_error

COLUMNS = ("what", "format", "way", "relative error", "allowed")
PHOTO = Path(__file__).parents[2] / "examples" / "photo.png"
ALLOWED = {torch.float32: 1e-4, torch.float16: 6e-3, torch.bfloat16: 5e-2}
ALLOWED_IMAGE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Relative errors: three times those of a CPU in the same format (float16 2e-3, bfloat16 1.7e-2, the image's 1.6e-3 and
1.2e-2); in float32, where a CPU's is 3e-6, room for another order of the sums."""
T = 399
HUGE = 3e5
"""float16 ends at 65504."""


class Inputs(NamedTuple):
    """The same for every device."""

    x: Tensor
    z: Tensor
    prompt_embeds: Tensor


def rows(setting: Setting) -> Generator[Row, None, None]:
    """The card's results, one after the other."""
    inputs, names = _inputs(setting), ("encode", "UNet", "decode")
    reference = load_base(setting.base, torch.float32, "cpu")
    expected = _stages(reference, inputs, inputs.prompt_embeds)
    for dtype, allowed in ALLOWED.items():
        host = load_base(setting.base, dtype, setting.device)
        for way in ("as it is", "folded", "upsampling too"):
            with exact(dtype):
                found = _results(host, inputs, way)
            for name, ours, theirs in zip(names, found, expected, strict=True):
                yield _row(name, dtype, way, relative_error(ours, theirs), allowed)
        with exact(dtype):
            strips = _in_strips(host, inputs)
        for name, ours, theirs in zip(names[::2], strips, expected[::2], strict=True):
            yield _row(name, dtype, "in strips", relative_error(ours, theirs), allowed)
        del host
    del reference
    setting.empty()
    yield _overflow(setting, inputs)
    yield from _images(setting)


def _inputs(setting: Setting) -> Inputs:
    rng, (unet, _), edge = torch.Generator().manual_seed(5), setting.layout, 8 if setting.tiny else 32
    factor = 2 ** (len(setting.layout[1]["block_out_channels"]) - 1)
    return Inputs(
        to_signed(torch.rand(1, 3, factor * edge, factor * edge, generator=rng)),
        torch.randn(1, 4, edge, edge, generator=rng),
        torch.randn(1, 77, unet["cross_attention_dim"], generator=rng),
    )


def _results(host: OwnHost, inputs: Inputs, way: str) -> list[Tensor]:
    weight = host.unet.conv_in.weight
    prompt = inputs.prompt_embeds.to(weight.device, weight.dtype)
    with nullcontext() if way == "as it is" else folded(host.unet, host.vae, T, prompt):
        if way == "upsampling too":
            fold_upsampling_anywhere(host.unet)
            fold_upsampling_anywhere(host.vae)
        return _stages(host, inputs, prompt)


@torch.no_grad()
def fold_upsampling_anywhere(network: nn.Module) -> None:
    """As `folding.fold_upsampling`, which does it on CPUs."""
    for layer in network.modules():
        if isinstance(layer, Upsample):
            layer.folded = transposed_kernel(layer.conv.weight)


@torch.no_grad()
def _stages(host: OwnHost, inputs: Inputs, prompt: Tensor) -> list[Tensor]:
    weight = host.unet.conv_in.weight
    x, z = (each.to(weight.device, weight.dtype, memory_format=torch.channels_last) for each in inputs[:2])
    found = host.vae.encode(x), host.unet(z, T, prompt), host.vae.decode(z)
    return [each.float().cpu() for each in found]


@torch.no_grad()
def _in_strips(host: OwnHost, inputs: Inputs) -> list[Tensor]:
    """Encoder and decoder in a few strips, with maps on the device."""
    device = host.vae.quant_conv.weight.device
    with mock.patch.object(streamed_vae, "STRIP", 2**20):
        x, z = streamed_vae.encode(host.vae, inputs.x.to(device)), streamed_vae.decode(host.vae, inputs.z.to(device))
    return [x.float().cpu(), z.float().cpu()]


def _row(what: str, dtype: torch.dtype, way: str, error: float, allowed: float) -> Row:
    return Row((what, str(dtype)[6:], way, f"{error:.2g}", f"{allowed:g}"), error <= allowed)


def _overflow(setting: Setting, inputs: Inputs) -> Row:
    """A decoder whose activations leave float16's range goes on in the next format: bfloat16 on a card that has it."""
    results: list[Tensor] = []
    with _warnings_kept() as said:
        for dtype, device in ((torch.float32, torch.device("cpu")), (torch.float16, setting.device)):
            host = load_base(setting.base, dtype, device)
            host.vae.decoder.conv_in.register_forward_hook(_enlarged)
            results.append(host.decode(inputs.z))
    wider = torch.float32
    if setting.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        wider = torch.bfloat16
    error, allowed = relative_error(results[1], results[0]), ALLOWED[wider]
    way = f"goes on in {str(wider)[6:]}"
    as_said = len(said) == 1 and f"{way}." in said[0]
    return Row(("overflow in decode", "float16", way, f"{error:.2g}", f"{allowed:g}"), error <= allowed and as_said)


def _enlarged(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output * HUGE


@contextmanager
def _warnings_kept() -> Iterator[list[str]]:
    """The warnings of the `with` block, in the list."""
    logger, said = logging.getLogger("dfosd"), list[str]()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Keep()
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def _images(setting: Setting) -> Iterator[Row]:
    photo = to_tensor(read_image(PHOTO))
    photo = photo[:, :16, :16] if setting.tiny else photo
    expected = upscale(photo, *load_default())
    for dtype, allowed in ALLOWED_IMAGE.items():
        with exact(dtype):
            found = upscale(photo.to(setting.device), *load_default(dtype, setting.device))
        yield _row("photograph", dtype, "whole", relative_error(found, expected), allowed)
