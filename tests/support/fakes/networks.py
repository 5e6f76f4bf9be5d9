"""Stable Diffusion's networks as other programs hold them: LDM names and shapes, and our arithmetic behind them.

The layers are real ones with random weights. Each sits under its LDM name in a tree of modules, so whatever is put on
a layer there, by hooks or in its weights, acts on the output.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from support.tiny_models import fill, random_lora
from torch import Tensor, nn
from torch.nn import functional

from dfosd_core.lora.file import DfosdLora, LoraPair
from dfosd_core.lora.metadata import BaseLayout
from dfosd_core.lora.names import UNET_PREFIX, VAE_PREFIX, kohya_name, ldm_unet_key, ldm_vae_key
from dfosd_core.networks.sd_configs import SD_SCALING_FACTOR, unet_config, vae_config
from dfosd_core.networks.unet import build_unet
from dfosd_core.networks.vae import build_vae
from dfosd_core.schedule import alpha_bar_at

ATTENTION_LEVELS = (True, False)
UNET = unet_config(block_out_channels=(64, 128), layers_per_block=1, attention_levels=ATTENTION_LEVELS, context_dim=24)
"""SD 2.x's layout with two levels instead of four."""
VAE = vae_config(block_out_channels=(32, 32, 64, 64), layers_per_block=1)
"""SD's, with its four levels, so f is 8, but narrow."""


class Part(nn.Module):
    """A module of LDM's tree."""

    def __len__(self) -> int:
        return len(self._modules)

    def put(self, place: str, layer: nn.Module) -> None:
        """`layer` under the dotted name `place`."""
        first, _, rest = place.partition(".")
        if not rest:
            self.add_module(first, layer)
            return
        if first not in self._modules:
            self.add_module(first, Part())
        child = self._modules[first]
        assert isinstance(child, Part)
        child.put(rest, layer)


class LdmUnet(Part):
    """What callers use of `UNetModel` (ldm/modules/diffusionmodules/openaimodel.py, in every host)."""

    num_classes: Any = None

    def __init__(self, unet: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        widths, layers = config["block_out_channels"], config["layers_per_block"]
        up_has_attention = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]
        for name, layer in layers_of(unet):
            self.put(ldm_unet_key(f"{name}.weight", layers, up_has_attention).removesuffix(".weight"), layer)
        self.in_channels, self.out_channels = config["in_channels"], config["out_channels"]
        self.model_channels, self.channel_mult = widths[0], [width // widths[0] for width in widths]
        self._run = unet.forward  # no child: its layers are in the tree already

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        *,
        control: Any = None,
        transformer_options: Any = None,
    ) -> Tensor:
        """x: (B, C, h, w), timesteps: (B,), context: (B, N, context_dim)."""
        assert timesteps.shape == x.shape[:1] == context.shape[:1]
        return self._run(x, int(timesteps[0]), context)


class Weights(nn.Module):
    """A tree of modules that holds tensors under given names, and computes nothing."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            here, *_, last = self._at(name.split(".")[:-1]), name.rpartition(".")[2]
            here.register_parameter(last, nn.Parameter(value.clone(), requires_grad=False))

    def _at(self, path: list[str]) -> nn.Module:
        here: nn.Module = self
        for part in path:
            if part not in here._modules:
                here.add_module(part, Weights({}))
            here = here.get_submodule(part)
        return here


class Coder(Part):
    """The encoder or the decoder of an `LdmVae`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._run = network.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x)


class LdmVae(Part):
    """What the hosts' autoencoders have in common (`AutoencoderKL`, ldm/models/autoencoder.py)."""

    quant_conv: nn.Module
    post_quant_conv: nn.Module

    def __init__(self, vae: Any, config: dict[str, Any]) -> None:
        super().__init__()
        for coder in (vae.encoder, vae.decoder):
            coder.mid_block.attentions[0] = MapAttention(coder.mid_block.attentions[0])
        self.encoder, self.decoder = Coder(vae.encoder), Coder(vae.decoder)
        for name, layer in layers_of(vae):
            place = ldm_vae_key(f"{name}.weight", len(config["block_out_channels"])).removesuffix(".weight")
            self.put(place, layer)

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the posterior."""
        mean, log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) in the VAE's own scale -> (B, 3, H, W)."""
        return self.decoder(self.post_quant_conv(z))


class MapAttention(nn.Module):
    """The VAE's attention with 1x1 convolutions, as LDM has it, from one with linear layers."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.group_norm = linear.group_norm
        self.to_q, self.to_k, self.to_v = (as_convolution(x) for x in (linear.to_q, linear.to_k, linear.to_v))
        self.to_out = nn.Sequential(as_convolution(linear.to_out[0]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v))
        h = functional.scaled_dot_product_attention(q, k, v)
        return x + self.to_out(h.transpose(1, 2).unflatten(2, x.shape[2:]))


def as_convolution(linear: nn.Linear) -> nn.Conv2d:
    """The same numbers as a 1x1 convolution."""
    layer = nn.Conv2d(linear.in_features, linear.out_features, 1)
    layer.weight = nn.Parameter(linear.weight.detach().clone()[:, :, None, None], requires_grad=False)
    layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return layer


def layers_of(network: nn.Module) -> list[tuple[str, Any]]:
    """Everything that holds weights itself, by its diffusers name."""
    return [(name, m) for name, m in network.named_modules() if next(m.parameters(recurse=False), None) is not None]


@dataclasses.dataclass(frozen=True)
class TinySd:
    """A random SD 2.x: its networks for a host, and ours with the same numbers as the reference."""

    unet: LdmUnet
    vae: LdmVae
    our_unet: Any
    our_vae: Any
    layout: BaseLayout
    lora: DfosdLora
    """On every layer DFOSD trains, and not small."""

    def weights(self) -> str:
        """A hash over the bits of both networks of the host, and over what is not weights but would stay, too."""
        digest = hashlib.sha256()
        for network in (self.unet, self.vae):
            for name, value in network.state_dict().items():
                digest.update(f"{name} {value.dtype}".encode())
                digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def hooks(self) -> int:
        """Forward hooks that are on any layer."""
        return sum(len(module._forward_hooks) for network in (self.unet, self.vae) for module in network.modules())

    def merged_eps(self, z: Tensor, t: int, prompt_embeds: Tensor, strength: float) -> Tensor:
        """Our UNet's eps with `lora` added to its weights: W + strength alpha / rank up down, written out."""
        unet = with_pairs(self.our_unet, self.lora, UNET_PREFIX, strength)
        with torch.no_grad():
            output = unet(z, t, prompt_embeds.expand(len(z), -1, -1))
        if self.layout.prediction_type == "v_prediction":
            return alpha_bar_at(t) ** 0.5 * output + (1 - alpha_bar_at(t)) ** 0.5 * z
        return output

    def encoded(self, x: Tensor, lora: DfosdLora | None = None) -> Tensor:
        """Our VAE's latent, scaled."""
        with torch.no_grad():
            return self._vae_with(lora).encode(x) * SD_SCALING_FACTOR

    def decoded(self, z: Tensor, lora: DfosdLora | None = None) -> Tensor:
        """Our VAE's image of a scaled latent."""
        with torch.no_grad():
            return self._vae_with(lora).decode(z / SD_SCALING_FACTOR)

    def _vae_with(self, lora: DfosdLora | None) -> Any:
        return self.our_vae if lora is None else with_pairs(self.our_vae, lora, VAE_PREFIX, 1.0)


def with_pairs(network: nn.Module, lora: DfosdLora, prefix: str, strength: float) -> Any:
    """A copy of `network` with the LoRA's pairs merged."""
    merged = copy.deepcopy(network)
    for name, layer in layers_of(merged):
        pair = lora.pairs.get(kohya_name(name, prefix))
        if pair is not None:
            change = strength * pair.alpha / pair.rank * (pair.up.flatten(1) @ pair.down.flatten(1))
            layer.weight.data += change.view_as(layer.weight)
    return merged


def tiny_sd(prediction_type: Any = "epsilon") -> TinySd:
    unet, vae = fill(build_unet(UNET, "tiny"), 0), fill(build_vae(VAE, "tiny"), 1)
    for network in (unet, vae):
        network.eval().requires_grad_(False)
    layout = BaseLayout(
        context_dim=24,
        in_channels=4,
        out_channels=4,
        latent_channels=4,
        latent_factor=8,
        block_out_channels=(64, 128),
        prediction_type=prediction_type,
    )
    lora = random_lora(SimpleNamespace(unet=unet, layout=layout, context_dim=layout.context_dim))  # type: ignore[arg-type]
    return sd_of(unet, vae, UNET, VAE, layout, lora)


def sd_of(unet: Any, vae: Any, unet_config: Any, vae_config: Any, layout: BaseLayout, lora: DfosdLora) -> TinySd:
    """The host gets copies of our networks, whose diffusers configurations are given."""
    theirs = copy.deepcopy((unet, vae))
    return TinySd(LdmUnet(theirs[0], unet_config), LdmVae(theirs[1], vae_config), unet, vae, layout, lora)


def with_vae_pairs(lora: DfosdLora, vae: nn.Module) -> DfosdLora:
    """`lora` and pairs on every layer of the VAE, as a peer's may have."""
    generator = torch.Generator().manual_seed(11)
    pairs = dict(lora.pairs)
    for name, layer in vae.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            shape = layer.weight.shape
            down = torch.randn(2, *shape[1:], generator=generator) / layer.weight[0].numel() ** 0.5
            up = torch.randn(shape[0], 2, *(1,) * (len(shape) - 2), generator=generator) * 0.1
            pairs[kohya_name(name, VAE_PREFIX)] = LoraPair(down=down, up=up, alpha=2.0)
    return dataclasses.replace(lora, pairs=pairs)
