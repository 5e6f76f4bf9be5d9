"""The generator G_theta in training (arXiv 2410.04224, section 3.1): VAE and UNet frozen, LoRA and prompt trainable.

The equation itself lives in `one_step.py`, what an upscaled image goes through besides in `pipeline.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..lora.changes import LoraChanges
from ..lora.file import DfosdLora
from ..lora.merge import Place, changes_of, check_fit
from ..lora.metadata import LoraMetadata
from ..lora.names import VAE_PREFIX, kohya_name
from ..lora.parts import joined
from ..one_step import EPS_X0, predict_z_sr
from .lora_layers import LoraLayer, inject_lora, lora_pairs, new_prompt, share_weights
from .noise import Rng, randn
from .starting_lora import fit_pair, freeze_into, layers_of, untrained_part

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

IDENTITY = "timestep, rank, lora_alpha, rule"
"""What an exported LoRA's metadata and a generator must agree on."""


class DfosdGenerator(nn.Module):
    """x_lr -> (z_sr, x_sr) with gradients for the UNet's LoRA and the prompt embedding only.

    vae, unet: the base, an eps-predicting one. Both are frozen. `unet` keeps its modules (a `DiffusersHost`
    or a `Nad` may stand on it too) and shares its frozen tensors with the generator's own, wrapped copy.
    t: T_L, the timestep given to the UNet. prompt_embeds: the embedding's start (1, N, C), copied; None draws
    77 tokens. rng draws the LoRA's start.
    """

    timestep: Tensor

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        *,
        prompt_embeds: Tensor | None = None,
        t: int = 399,
        rank: int = 16,
        lora_alpha: float = 16.0,
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.vae = cast("nn.Module", vae).requires_grad_(False)
        self.lr_vae: nn.Module | None = None
        """Encodes x_lr instead, where a LoRA to start from changes the encoder."""
        self.untrained: LoraChanges | None = None
        """What that LoRA changes besides; in the networks and in each exported LoRA."""
        self.pixel: DfosdLora | None = None
        """The part that stays as it is; see `stand_on`."""
        self.unet = share_weights(cast("nn.Module", unet))
        self.t, self.rank, self.lora_alpha = t, rank, float(lora_alpha)
        self.lora_layers = inject_lora(self.unet, rank, lora_alpha, rng)
        if prompt_embeds is None:
            prompt_embeds = new_prompt(77, cast("Any", unet).config.cross_attention_dim, rng)
        self.prompt_embeds = nn.Parameter(prompt_embeds.detach().clone().float())
        facts = cast("Any", vae).config
        # As a tensor that is there: from a number the UNet would make one in each call, and wait for the copy.
        self.register_buffer("timestep", torch.tensor([t], device=self.prompt_embeds.device), persistent=False)
        self._scaling_factor = float(facts.scaling_factor)
        self._shift_factor = float(facts.get("shift_factor") or 0.0)

    @torch.no_grad()
    def encode(self, x: Tensor, rng: Rng | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> model-space latent (B, C, H/f, W/f) float32, without gradient.

        rng: a sample of the posterior (training); None: its mean (evaluation).
        """
        return self._encode(self.vae, x, rng)

    def encode_again(self, x_sr: Tensor) -> Tensor:
        """x_sr (B, 3, H, W) -> its latent, the posterior's mean, with gradient: for the cycle term."""
        return self._encode(self.vae, x_sr, None)

    def _encode(self, vae: nn.Module, x: Tensor, rng: Rng | None) -> Tensor:
        posterior = cast("Any", vae).encode(x).latent_dist
        latent = posterior.mean.float()
        if rng is not None:
            latent = latent + posterior.std.float() * randn(rng, latent.shape, latent.device)
        return (latent - self._shift_factor) * self._scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Model-space latent -> (B, 3, H, W) float32, about [-1, 1], not clamped; gradients pass through."""
        latent = z / self._scaling_factor + self._shift_factor
        return cast("Any", self.vae).decode(latent).sample.float()

    def predict(self, z_lr: Tensor) -> Tensor:
        """z_lr (B, C, h, w) float32 -> z_sr, the paper's eq. 1 in float32, also under autocast."""
        prompt_embeds = self.prompt_embeds.expand(z_lr.shape[0], -1, -1)
        eps = cast("Any", self.unet)(z_lr, self.timestep, encoder_hidden_states=prompt_embeds).sample
        return predict_z_sr(z_lr.float(), eps, self.t)

    def forward(self, x_lr: Tensor, rng: Rng | None = None) -> tuple[Tensor, Tensor]:
        """Return z_sr (B, C, H/f, W/f) and x_sr (B, 3, H, W), both float32, of x_lr (B, 3, H, W) in [-1, 1].

        H and W must be multiples of f. rng: as in `encode`; give one in training.
        """
        with torch.no_grad():
            z_lr = self._encode(self.lr_vae or self.vae, x_lr, rng)
        z_sr = self.predict(z_lr)
        return z_sr, self.decode(z_sr)

    def export_lora(self, metadata: LoraMetadata, dtype: torch.dtype = torch.float32) -> DfosdLora:
        """What has been trained so far as a LoRA file's content, detached and copied.

        Raises ValueError where metadata's timestep, rank, lora_alpha or rule are not this generator's.
        """
        said, own = _identity(metadata), self._identity()
        if said != own:
            raise ValueError(f"metadata says {said} ({IDENTITY}), the generator has {own}")
        more = self.untrained
        own = DfosdLora(
            pairs={**lora_pairs(self.unet, dtype), **(more.pairs if more else {})},
            prompt_embeds=self.prompt_embeds.detach().to(dtype, copy=True),
            metadata=metadata,
            set_weights=more.set_weights if more else {},
            set_biases=more.set_biases if more else {},
        )
        return own if self.pixel is None else joined(self.pixel, own)

    def stand_on(self, pixel: DfosdLora) -> None:
        """Take a finished LoRA, and its prompt, as a part that stays as it is: what is trained comes on top of it.

        As PiSA-SR has it (arXiv 2412.03017, section 3.3); `export_lora` then gives both. Raises ConfigError before
        anything changes for a LoRA of several parts or ranks, of other layers, or another number of prompt tokens.
        """
        layers = layers_of(self.unet)
        trained = {kohya_name(name) for name, layer in self.unet.named_modules() if isinstance(layer, LoraLayer)}
        ranks = {pair.rank for pair in pixel.pairs.values()}
        is_plain = not (pixel.metadata.parts or pixel.set_weights or pixel.set_biases)
        if not is_plain or set(pixel.pairs) != trained or ranks != {pixel.metadata.rank}:
            raise ConfigError(
                f"Expected a LoRA of one part and one rank on the {len(trained)} layers that are trained, found "
                f"{len(pixel.pairs)} layers, ranks {sorted(ranks)} and {len(pixel.metadata.parts)} parts. Give one "
                "that this program has trained."
            )
        check_fit(pixel, _shapes(layers))
        if pixel.prompt_embeds.shape != self.prompt_embeds.shape:
            found, own = tuple(pixel.prompt_embeds.shape), tuple(self.prompt_embeds.shape)
            raise ConfigError(f"The LoRA has prompt embeddings of {found}, expected {own}.")
        freeze_into(layers, pixel)
        with torch.no_grad():
            self.prompt_embeds.copy_(pixel.prompt_embeds)
        self.prompt_embeds.requires_grad_(False)
        self.pixel = pixel

    def load_lora(self, lora: DfosdLora) -> dict[str, float]:
        """Take a LoRA's layers and prompt as the start: what `export_lora` wrote, or any other of this base.

        Before that nothing may have been loaded but by `stand_on`, for the part on top of it. Timestep and rule stay
        this generator's. Returns the relative error of each weight's change that did not fit into the rank (see
        `starting_lora`). Raises LoraMismatchError before anything changes where the base has no such layers,
        ConfigError for another number of prompt tokens. The base's layout is the caller's to check (`check_base`).
        """
        lr_vae = share_weights(self.vae)
        layers = {**layers_of(self.unet), **layers_of(lr_vae, VAE_PREFIX)}
        check_fit(lora, _shapes(layers))
        if lora.prompt_embeds.shape != self.prompt_embeds.shape:
            found, own = tuple(lora.prompt_embeds.shape), tuple(self.prompt_embeds.shape)
            raise ConfigError(f"The LoRA to start from has prompt embeddings of {found}, expected {own}.")
        modules = self.unet.named_modules()
        trained = {kohya_name(name): layer for name, layer in modules if isinstance(layer, LoraLayer)}
        fitted = {name: fit_pair(lora.pairs[name], layer) for name, layer in trained.items() if name in lora.pairs}
        more = untrained_part(lora, trained)
        if more.tensors():
            freeze_into(layers, more)
            self.untrained = more
        if any(name.startswith(VAE_PREFIX) for (name, _), _ in changes_of(more)):
            self.lr_vae = lr_vae
        with torch.no_grad():
            for name, (down, up, _) in fitted.items():
                trained[name].down_weight.copy_(down)
                trained[name].up_weight.copy_(up)
            self.prompt_embeds.copy_(lora.prompt_embeds)
        return {name: pair.error for name, pair in fitted.items() if lora.pairs[name].rank > self.rank}

    def _identity(self) -> tuple[object, ...]:
        return self.t, self.rank, self.lora_alpha, EPS_X0


def _shapes(layers: Mapping[str, nn.Module]) -> dict[Place, torch.Size]:
    return {(name, kind): p.shape for name, layer in layers.items() for kind, p in layer.named_parameters()}


def _identity(metadata: LoraMetadata) -> tuple[object, ...]:
    return metadata.timestep, metadata.rank, metadata.lora_alpha, metadata.rule
