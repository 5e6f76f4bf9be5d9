"""The method's size, counted on SD 2.1's layout without weights: the figures by which the paper's model is known.

The paper counts with thop 0.1.1, and so do we, by its rules: a convolution or linear layer costs its multiplications
(no bias), a LayerNorm four operations a value, all else nothing; parameters count in those layers only, so the group
norms are missing from thop's sum. `base_parameters` is the true number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..lora.names import lora_target_names
from .layers import Resnet, Upsample
from .sd_configs import unet_config, vae_config
from .unet import TimeEmbedding, TransformerBlock, Unet, build_unet
from .vae import Vae, build_vae

RANK = 16
SIZE_PX = 512
TOKENS = 77


@dataclass(frozen=True, kw_only=True)
class RunMacs:
    """MACs of one image."""

    encode_macs: int
    """VAE encoder."""
    unet_macs: int
    """UNet with the LoRA merged."""
    decode_macs: int
    """VAE decoder."""
    lora_macs: int
    """What the LoRA adds while it is not merged, at rank `RANK`."""
    unet_folded_away: int
    """What `folding.py` saves in the UNet: most of the upsampling convolutions, keys and values of the prompt, the
    timestep."""
    decode_folded_away: int
    """The same in the decoder."""

    @property
    def macs_merged(self) -> int:
        """The paper's 2,120 G."""
        return self.encode_macs + self.unet_macs + self.decode_macs

    @property
    def macs_unmerged(self) -> int:
        """The paper's 2,132 G."""
        return self.macs_merged + self.lora_macs

    @property
    def macs_folded(self) -> int:
        """What a run takes."""
        return self.macs_merged - self.folded_away

    @property
    def folded_away(self) -> int:
        """What `folding.py` saves in all."""
        return self.unet_folded_away + self.decode_folded_away


@dataclass(frozen=True, kw_only=True)
class ArchitectureReport(RunMacs):
    """What `dfosd info --architecture sd21` shows. MACs are for one image of `SIZE_PX` and `TOKENS` text tokens."""

    lora_layers: int
    """Layers with a LoRA."""
    lora_parameters: int
    """Their parameters at rank `RANK`."""
    base_parameters: int
    """UNet and VAE, all of them."""
    thop_parameters: int
    """Base and LoRA as thop counts (no group norms); the paper's 966.3 M."""


def sd21_models() -> tuple[Unet, Vae]:
    """SD 2.1's UNet and VAE on the meta device."""
    return build_unet(unet_config(), "SD 2.1"), build_vae(vae_config(), "SD 2.1")


def sd21_report() -> ArchitectureReport:
    """Count SD 2.1-base with DFOSD's LoRA; takes seconds and no memory, since nothing is computed."""
    unet, vae = sd21_models()
    layers = [unet.get_submodule(name) for name in lora_target_names(unet)]
    lora_parameters = sum(_pair_parameters(layer) for layer in layers)
    return ArchitectureReport(
        lora_layers=len(layers),
        lora_parameters=lora_parameters,
        base_parameters=sum(p.numel() for model in (unet, vae) for p in model.parameters()),
        thop_parameters=_thop_parameters(unet) + _thop_parameters(vae) + lora_parameters,
        **asdict(run_macs(unet, vae, SIZE_PX, TOKENS)),
    )


def run_macs(unet: Unet, vae: Vae, size_px: int, tokens: int) -> RunMacs:
    """Count one image of `size_px` squared with a prompt of `tokens`. Networks on the meta device compute nothing."""
    device, layers = next(unet.parameters()).device, {unet.get_submodule(name) for name in lora_target_names(unet)}
    cells = size_px >> len(vae.config.block_out_channels) - 1
    image = torch.empty(1, 3, size_px, size_px, device=device)
    z = torch.empty(1, vae.config.latent_channels, cells, cells, device=device)
    prompt_embeds = torch.empty(1, tokens, unet.config.context_dim, device=device)
    unet_macs, lora_macs = _count(unet, lambda: unet(z, 399, prompt_embeds), layers)
    return RunMacs(
        encode_macs=macs(vae, lambda: vae.encode(image)),
        unet_macs=unet_macs,
        decode_macs=macs(vae, lambda: vae.decode(z)),
        lora_macs=lora_macs,
        unet_folded_away=_folded_away(unet, lambda: unet(z, 399, prompt_embeds)),
        decode_folded_away=_folded_away(vae, lambda: vae.decode(z)),
    )


def macs(network: nn.Module, run: Callable[[], object]) -> int:
    """Of `network`, which may be on the meta device, while `run` runs it."""
    return _count(network, run)[0]


def _count(network: nn.Module, run: Callable[[], object], lora_layers: Collection[nn.Module] = ()) -> tuple[int, int]:
    """MACs of `network` while `run` runs it, and those that unmerged LoRA pairs on `lora_layers` would add."""
    own = added = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal own, added
        if isinstance(layer, nn.LayerNorm):
            own += 4 * inputs[0].numel()
            return
        weight = cast("Tensor", layer.weight)
        own += output.numel() * weight[0].numel()
        if layer in lora_layers:
            added += output.numel() // weight.shape[0] * _pair_parameters(layer)

    with ExitStack() as hooks, torch.no_grad():
        for layer in _counted(network):
            hooks.callback(layer.register_forward_hook(count).remove)
        run()
    return own, added


def _folded_away(network: nn.Module, run: Callable[[], object]) -> int:
    """MACs that `network`, not folded while `run` runs it, would not need if it were."""
    layers: dict[nn.Module, float] = {}  # the part of its MACs that a layer loses
    for module in network.modules():
        if isinstance(module, Upsample):
            layers[module.conv] = 5 / 9
        elif isinstance(module, TransformerBlock):
            layers |= {module.attn2.to_k: 1, module.attn2.to_v: 1}
        elif isinstance(module, TimeEmbedding):
            layers |= {module.linear_1: 1, module.linear_2: 1}
        elif isinstance(module, Resnet) and module.time_emb_proj is not None:
            layers[module.time_emb_proj] = 1
    saved = 0.0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal saved
        saved += layers[layer] * output.numel() * cast("Tensor", layer.weight)[0].numel()

    with ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(count).remove)
        run()
    return round(saved)


def _counted(network: nn.Module) -> list[nn.Module]:
    """The layers that thop counts."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm)]


def _pair_parameters(layer: nn.Module) -> int:
    """Of down (r, in, kh, kw) and up (out, r); also the pair's MACs at one output position."""
    weight = cast("Tensor", layer.weight)
    return RANK * (weight[0].numel() + weight.shape[0])


def _thop_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for layer in _counted(network) for parameter in layer.parameters(recurse=False))
