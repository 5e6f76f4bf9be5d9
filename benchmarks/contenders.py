"""What `benchmarks.compare` lets run: our program in each of its modes, plain diffusers, and two networks by ncnn.

A contender runs in a process of its own, so that its peak memory is its own; this module imports only what is needed
to name it. MACs are counted as the paper counts them (`networks/complexity.py`), with what is folded taken off ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from dfosd_core.hosts.own import load_base, load_default
from dfosd_core.images import enlarge, to_bchw, to_bhwc, to_signed, to_unit
from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX, kohya_name
from dfosd_core.networks.complexity import RunMacs, macs, run_macs, sd21_models
from dfosd_core.networks.config import base_layout
from dfosd_core.one_step import predict_z_sr

from . import peers

if TYPE_CHECKING:
    from dfosd_core.networks.light_decoder import LightDecoder

Run = Callable[[Tensor], Tensor]
"""(1, H, W, 3) -> (1, 4 H, 4 W, 3), both in [0, 1]."""
RANK, TOKENS, TIMESTEP = 16, 77, 399
VOSR_WIDTHS = (64, 128, 256, 256)


class Contender(NamedTuple):
    """One row."""

    name: str
    numbers: str
    """The number format, as torch calls it."""
    opened: Callable[[Path, torch.dtype], Any]
    """(base, number format) -> a context manager that gives a `Run`; the embedded default needs no base."""
    macs: Callable[[int], float]
    """Of an output of so many pixels squared."""
    equals: int | None = None
    """The row of its group whose images it should give."""
    peer: str | None = None
    """Its folder in `benchmarks.peers`, if it is of those."""

    def is_installed(self) -> bool:
        """What it needs is."""
        return self.peer is None or peers.is_installed(peers.named(self.peer))


class Group(NamedTuple):
    """Rows that can be compared. The first is what the others are measured against."""

    title: str
    rows: tuple[Contender, ...]


def random_lora() -> DfosdLora:
    """For SD 2.1: rank 16 on the UNet's attention layers, of a strength that can be seen."""
    rng, (unet, vae) = torch.Generator().manual_seed(2), sd21_models()
    pairs: dict[str, LoraPair] = {}
    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".attn" in name:
            down = torch.randn(RANK, layer.in_features, generator=rng) / layer.in_features**0.5
            up = torch.randn(layer.out_features, RANK, generator=rng) * 0.2
            pairs[kohya_name(name)] = LoraPair(down=down, up=up, alpha=float(RANK))
    layout = base_layout(unet.config, vae.config, "epsilon")
    metadata = LoraMetadata(base_layout=layout, timestep=TIMESTEP, rank=RANK, lora_alpha=float(RANK))
    prompt_embeds = torch.randn(1, TOKENS, 1024, generator=rng)
    return DfosdLora(pairs=pairs, prompt_embeds=prompt_embeds, metadata=metadata)


@contextmanager
def ours(base: Path, dtype: torch.dtype, *, decoder: Callable[[], LightDecoder] | None = None) -> Iterator[Run]:
    """Our program on Stable Diffusion's layout, with a light decoder (of random weights) where one is given."""
    from dfosd_core.hosts.light import LightHost

    own, lora = load_base(base, dtype, reusable=False), random_lora()
    host = own if decoder is None else LightHost(own, filled(decoder(), dtype))
    with running(host, lora, color_fix="none") as run:
        yield run


@contextmanager
def ours_embedded(_: Path, dtype: torch.dtype) -> Iterator[Run]:
    """The embedded default as users run it."""
    host, lora = load_default(dtype, reusable=False)
    with running(host, lora) as run:
        yield run


@contextmanager
def running(host: Any, lora: DfosdLora, **settings: Any) -> Iterator[Run]:
    """Attached, and with freed memory kept, as in the command."""
    from dfosd_core.allocator import keep_freed_memory
    from dfosd_core.attach import attached
    from dfosd_core.freed_memory import give_back_freed_memory
    from dfosd_core.pipeline import UpscaleSettings, upscale_attached

    keep_freed_memory()
    chosen = UpscaleSettings(**settings)
    with attached(host, lora, chosen) as own:
        give_back_freed_memory()
        yield lambda image: upscale_attached(image, own, lora, chosen)


def filled(network: LightDecoder, dtype: torch.dtype) -> LightDecoder:
    """With random weights, folded as our program folds it."""
    from dfosd_core.networks.folding import fold_upsampling

    from .random_base import fill_randomly

    fill_randomly(network, dtype)
    fold_upsampling(network)
    return network


@contextmanager
def diffusers(base: Path, dtype: torch.dtype, *, is_merged: bool) -> Iterator[Run]:
    """Stable Diffusion's layout by diffusers alone, channels last; the LoRA merged, or by peft beside the layers."""
    from dfosd_core.lora.merge import merged
    from dfosd_core.training.base import read_training_base

    networks = read_training_base(base, torch.device("cpu"), dtype)
    unet, vae = (
        cast("Any", net).to(dtype, memory_format=torch.channels_last).eval() for net in (networks.unet, networks.vae)
    )
    lora = random_lora()
    scale, prompt = vae.config.scaling_factor, lora.prompt_embeds.to(dtype)

    @torch.inference_mode()
    def run(image: Tensor) -> Tensor:
        x = enlarge(to_bchw(image), (4 * image.shape[1], 4 * image.shape[2]))
        x = to_signed(x).to(dtype, memory_format=torch.channels_last)
        z = vae.encode(x).latent_dist.mode().float() * scale
        eps = unet(z.to(dtype), TIMESTEP, encoder_hidden_states=prompt).sample
        z = predict_z_sr(z, eps.float(), TIMESTEP)
        y = vae.decode((z / scale).to(dtype)).sample
        return to_bhwc(to_unit(y.float())).clamp(0.0, 1.0)

    with ExitStack() as stack:
        if is_merged:
            stack.enter_context(merged({UNET_PREFIX: networks.unet, VAE_PREFIX: networks.vae}, lora, 1.0))
        else:
            _add_by_peft(unet, lora)
        yield run


def _add_by_peft(unet: Any, lora: DfosdLora) -> None:
    from peft import LoraConfig

    names = {kohya_name(name): name for name, _ in unet.named_modules()}
    layers = {names[key]: pair for key, pair in lora.pairs.items()}
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(layers)))
    with torch.no_grad():
        for name, pair in layers.items():
            layer = unet.get_submodule(name)
            layer.lora_A["default"].weight.copy_(pair.down)
            layer.lora_B["default"].weight.copy_(pair.up)
    unet.to(next(unet.parameters()).dtype)


@contextmanager
def by_ncnn(_: Path, __: torch.dtype, *, name: str) -> Iterator[Run]:
    """A network of `benchmarks.peers`, on as many threads as torch uses."""
    net = peers.open_peer(peers.named(name), torch.get_num_threads())
    yield lambda image: torch.from_numpy(peers.enlarge(net, (image[0] * 255).round().byte().numpy()))[None] / 255


@cache
def _sd21() -> RunMacs:
    return run_macs(*sd21_models(), 512, TOKENS)


@cache
def _embedded() -> RunMacs:
    host, lora = load_default(torch.float32)
    return run_macs(host.unet.to("meta"), host.vae.to("meta"), 512, lora.prompt_embeds.shape[1])


@cache
def _light(make: Callable[[], LightDecoder]) -> int:
    network, z = make().to("meta"), torch.empty(1, 4, 64, 64, device="meta")
    return macs(network, lambda: network(z))


def _of_area(count: Callable[[], float], edge: int) -> float:
    """Convolutions and linear layers cost the same at each place."""
    return count() * (edge / 512) ** 2


def narrow_decoder() -> LightDecoder:
    """VOSR's."""
    from dfosd_core.networks.config import VaeConfig
    from dfosd_core.networks.light_decoder import NarrowDecoder
    from dfosd_core.networks.sd_configs import vae_config

    with torch.device("meta"):
        return NarrowDecoder(VaeConfig.from_diffusers(vae_config(block_out_channels=VOSR_WIDTHS), "VOSR's"))


def tiny_decoder() -> LightDecoder:
    """TAESD's."""
    from dfosd_core.networks.light_decoder import TinyDecoder

    with torch.device("meta"):
        return TinyDecoder()


def _with_light(make: Callable[[], LightDecoder]) -> float:
    sd21 = _sd21()
    return sd21.encode_macs + sd21.unet_macs - sd21.unet_folded_away + _light(make)


def _ncnn(name: str) -> float:
    return peers.macs_of(peers.named(name), 512)


def _row(
    name: str, numbers: str, opened: Callable[..., Any], count: Callable[[], float], equals: int | None = None
) -> Contender:
    return Contender(name, numbers, opened, partial(_of_area, count), equals)


def _plain(numbers: str) -> tuple[Contender, Contender]:
    return (
        _row("diffusers, LoRA merged", numbers, partial(diffusers, is_merged=True), lambda: _sd21().macs_merged),
        _row("ours", numbers, ours, lambda: _sd21().macs_folded, 0),
    )


def _sd21_rows() -> tuple[Contender, ...]:
    by_peft, narrow, tiny = partial(diffusers, is_merged=False), narrow_decoder, tiny_decoder
    return (
        *_plain("bfloat16"),
        _row("diffusers, LoRA by peft", "bfloat16", by_peft, lambda: _sd21().macs_unmerged, 0),
        _row("ours, VOSR's decoder", "bfloat16", partial(ours, decoder=narrow), partial(_with_light, narrow)),
        _row("ours, TAESD's decoder", "bfloat16", partial(ours, decoder=tiny), partial(_with_light, tiny)),
    )


def _small_rows() -> tuple[Contender, ...]:
    def peer(name: str, folder: str) -> Contender:
        row = _row(name, "float32", partial(by_ncnn, name=folder), partial(_ncnn, folder))
        return row._replace(peer=folder)

    def embedded(numbers: str, equals: int | None) -> Contender:
        return _row("ours, embedded default", numbers, ours_embedded, lambda: _embedded().macs_folded, equals)

    return (
        peer("Real-ESRGAN x4plus (ncnn)", "Real-ESRGAN"),
        peer("SPAN (ncnn)", "SPAN"),
        embedded("float32", None),
        embedded("bfloat16", 2),
    )


GROUPS = {
    "sd21": Group("SD 2.1's layout, bfloat16", _sd21_rows()),
    "sd21_float32": Group("SD 2.1's layout, float32", _plain("float32")),
    "small": Group("Small networks", _small_rows()),
}
