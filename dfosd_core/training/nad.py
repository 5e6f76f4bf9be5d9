"""The noise-aware discriminator D_theta (arXiv 2410.04224, section 3.2): half a UNet scores noised latents."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..networks.norms import ChannelAffine
from .heads import Head, HeadKind, Space
from .lora_layers import inject_lora, new_prompt, share_weights

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class Nad(nn.Module):
    """The base's UNet up to its mid block, frozen under a trainable LoRA, and a head that scores each patch.

    The up path is dropped; the condition is a learnable prompt embedding of the discriminator's own.
    unet: the base without LoRA. It keeps its modules, is frozen, and shares its frozen tensors with this
    network: beside a generator on the same base the discriminator costs only its LoRA and head in memory.
    prompt_embeds: the embedding's start (1, N, C), copied; None draws 77 tokens. rng draws LoRA and head.
    rank: None trains all of the half UNet in place of a LoRA, for one that has no prior to keep (`fresh_weights`).
    """

    space: Space = "latent"
    PARTS = ("conv_in", "time_embedding", "down_blocks", "mid_block")
    """The UNet's modules that are taken over."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        *,
        prompt_embeds: Tensor | None = None,
        rank: int | None = 16,
        lora_alpha: float = 16.0,
        head: HeadKind = "pointwise",
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        source = cast("Any", unet)
        self.time_proj = share_weights(source.time_proj)
        self.backbone = nn.ModuleDict({name: share_weights(getattr(source, name)) for name in self.PARTS})
        self.backbone.requires_grad_(rank is None)
        self.lora_layers = 0 if rank is None else inject_lora(self.backbone, rank, lora_alpha, rng)
        self.head = Head(head, source.config.block_out_channels[-1], rng).to(source.conv_in.weight.device)
        if prompt_embeds is None:
            prompt_embeds = new_prompt(77, source.config.cross_attention_dim, rng)
        self.prompt_embeds = nn.Parameter(prompt_embeds.detach().clone().float())

    def embedding(self, t_noise: Tensor, dtype: torch.dtype) -> Tensor:
        """The blocks' time embedding of t (B,): (B, E)."""
        return cast("Any", self.backbone)["time_embedding"](self.time_proj(t_noise).to(dtype))

    def features(self, z_noised: Tensor, t_noise: Tensor) -> Tensor:
        """The mid block's output for F(z, t) (B, C, h, w) and t (B,): (B, 1280, h/8, w/8) for SD 2.1."""
        backbone = cast("Any", self.backbone)
        embedding = self.embedding(t_noise, z_noised.dtype)
        prompt_embeds = self.prompt_embeds.expand(z_noised.shape[0], -1, -1)
        hidden = backbone["conv_in"](z_noised)
        for block in backbone["down_blocks"]:
            hidden, _ = block(hidden, embedding, **_text(block, prompt_embeds))
        mid_block = backbone["mid_block"]
        return mid_block(hidden, embedding, **_text(mid_block, prompt_embeds))

    def forward(self, z_noised: Tensor, t_noise: Tensor) -> Tensor:
        """Return logits (B, 1, h', w') of F(z, t) (B, C, h, w) and its timesteps (B,): high means real.

        The head runs in float32, also under autocast; it raises ConfigError where the map is too small for it.
        """
        features = self.features(z_noised, t_noise)
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.float())


def _text(block: nn.Module, prompt_embeds: Tensor) -> dict[str, Tensor]:
    # As diffusers' UNet does: only blocks with attention take the text, and not all others have the flag.
    return {"encoder_hidden_states": prompt_embeds} if getattr(block, "has_cross_attention", False) else {}


def fresh_weights(unet: UNet2DConditionModel, rng: torch.Generator) -> UNet2DConditionModel:
    """A copy of `unet` in float32 that knows nothing: each layer as torch draws it at its making, from `rng`."""
    seed = int(torch.randint(2**31, (1,), generator=rng, device=rng.device))
    copied = copy.deepcopy(cast("nn.Module", unet)).float()
    device = next(copied.parameters()).device
    if device.type != "meta":
        copied.cpu()  # every device sees the same numbers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in copied.modules():
            if isinstance(layer, ChannelAffine):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
            elif list(layer.parameters(recurse=False)):
                cast("Any", layer).reset_parameters()  # a layer that has none is an error, not a prior left in place
    return cast("UNet2DConditionModel", copied.to(device))
