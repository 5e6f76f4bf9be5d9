"""ComfyUI's MODEL and VAE as a `Host`, through the host's own loading, patching and sampling.

No weight is copied or written to here. On a graphics card a LoRA goes onto clones, which the host applies when a tile
runs and takes back when anything else wants the weights. On a CPU the host would hold patched and original weights side
by side, a second UNet; there the UNet's LoRA acts through hooks for the length of the run. Imports `comfy`, so this
file loads inside ComfyUI only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.model_management as model_management  # pyright: ignore[reportMissingImports]
import comfy.samplers as samplers  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor

from ...errors import LoraMismatchError
from ...images import to_bchw, to_bhwc
from ...lora.file import DfosdLora
from ...lora.hooks import hooked
from ...lora.metadata import check_base
from ...lora.names import UNET_PREFIX
from ...tiles.run import is_out_of_memory
from ..layout_host import LayoutHost
from .clones import LoraClones, lora_part, patching_doubles, unet_layers
from .layout import check_vae, read_layout


class EpsInOneStep(samplers.Sampler):  # pyright: ignore[reportUntypedBaseClass]
    """The UNet's prediction at the first sigma, for latents that carry no noise of that sigma's."""

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """The signature is `comfy.samplers.Sampler`'s. Returns eps, (B, C, h, w), for eps and v models alike."""
        sigma = sigmas[0]
        # The host divides its input by this root; what the UNet then sees is the latent itself.
        x = latent_image * (sigma**2 + 1.0).sqrt()
        x0: Tensor = model_wrap(x, sigma.expand(x.shape[0]), **extra_args)
        return (x - x0) / sigma


class ComfyHost(LayoutHost):
    """A `Host` over a MODEL (`ModelPatcher`) and a VAE (`comfy.sd.VAE`) of ComfyUI's.

    `clones`: where the clones with the LoRA live on between runs; without it each `lora` makes new ones.
    Every call first gives way to the user's stop button: it raises the host's InterruptProcessingException.
    Raises BaseModelMismatchError when MODEL or VAE is nothing DFOSD can use.
    """

    name = "ComfyUI"

    def __init__(self, model: Any, vae: Any, clones: LoraClones | None = None) -> None:
        self.layout = read_layout(model, vae)
        self._clones = clones or LoraClones()
        self._other_clones: LoraClones | None = None
        self._bases = (model, vae)
        self._model, self._vae = model, LoraClones.own_vae(vae)
        self._has_lora = False
        self._ran_out_of_memory = False

    def encode(self, x: Tensor) -> Tensor:
        with self._tile():
            latent: Tensor = self._vae.encode(to_bhwc(x))
            return self._format().process_in(latent).to(x.device)

    def decode(self, z: Tensor) -> Tensor:
        with self._tile():
            image: Tensor = self._vae.decode(self._format().process_out(z))
            return to_bchw(image).to(z.device)

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        """With everything the user put on the MODEL."""
        sampling = self._model.get_model_object("model_sampling")
        sigma: Tensor = sampling.sigma(torch.tensor([float(t)]))
        conditions = [[prompt_embeds, {}]]
        guider = samplers.CFGGuider(self._model)
        guider.set_conds(conditions, conditions)
        guider.set_cfg(1.0)
        # The guider scales latents on their way in and out, and does so with our eps, too.
        latent = self._format().process_out(z)
        sigmas = torch.cat([sigma, torch.zeros(1)])
        with self._tile():
            eps = guider.sample(torch.zeros_like(latent), latent, EpsInOneStep(), sigmas, disable_pbar=True, seed=0)
        return self._format().process_in(eps).to(z.device)

    @contextmanager
    def lora(self, lora: DfosdLora, strength: float) -> Iterator[None]:
        """On clones or by hooks: MODEL and VAE themselves never change."""
        check_vae(lora.metadata.base_layout, self.layout)
        check_base(lora.metadata.base_layout, self.layout)
        if self._has_lora:
            raise LoraMismatchError("A LoRA is attached already. Leave its `with` block before attaching another.")
        hooks = self._unet_hooks(lora, strength)
        before = self._model, self._vae
        with hooks or nullcontext():
            self._model, self._vae = self._carrying(lora, strength, hooks is not None)
            self._has_lora = True
            try:
                yield
            finally:
                self._model, self._vae = before
                self._has_lora = False

    def _carrying(self, lora: DfosdLora, strength: float, vae_only: bool) -> tuple[Any, Any]:
        """The clones with this LoRA. A run has its last two at hand: PiSA-SR's two passes change LoRAs at each tile."""
        wanted = (*self._bases, lora, strength, vae_only)
        if self._other_clones is None:
            self._other_clones = LoraClones()  # lives as long as this host: one run
        elif not self._clones.holds(*wanted):
            self._clones.exchange(self._other_clones)
        return self._clones.get(*wanted)

    def _unet_hooks(self, lora: DfosdLora, strength: float) -> AbstractContextManager[None] | None:
        """What lets the UNet's part act by hooks; None where it goes onto a clone."""
        model, _ = self._bases
        if not patching_doubles(model):
            return None
        return hooked(unet_layers(model), lora_part(lora, UNET_PREFIX), strength)

    def _format(self) -> Any:
        return self._model.get_model_object("latent_format")

    @contextmanager
    def _tile(self) -> Iterator[None]:
        model_management.throw_exception_if_processing_interrupted()
        if self._ran_out_of_memory:
            # Not where the error is caught: its traceback still holds the tensors there.
            model_management.soft_empty_cache()
            self._ran_out_of_memory = False
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            self._ran_out_of_memory = is_out_of_memory(error)
            raise


class LoadedLoraHost(ComfyHost):
    """As `ComfyHost`, over a MODEL that has the LoRA on it (DFOSD Load LoRA): `lora` attaches the VAE's part only."""

    def _unet_hooks(self, lora: DfosdLora, strength: float) -> AbstractContextManager[None]:
        return nullcontext()
