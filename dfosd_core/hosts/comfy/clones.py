"""A LoRA on clones of ComfyUI's MODEL and VAE, by the host's own `clone`, `load_lora` and `add_patches`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import comfy.lora as host_lora  # pyright: ignore[reportMissingImports]
import comfy.utils as host_utils  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, nn

from ...errors import LoraMismatchError
from ...lora.file import DfosdLora
from ...lora.merge import check_fit
from ...lora.names import UNET_PREFIX, VAE_PREFIX, kohya_name, ldm_vae_table


class LoraClones:
    """The clones that carry one LoRA, kept for the next run: while they live, the host need not patch again.

    Whoever keeps this object keeps the last MODEL and VAE in memory, as the host's own cache does; `get` with others
    lets go of them.
    """

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._lora: DfosdLora | None = None
        self._clones: tuple[Any, Any] = (None, None)

    def get(self, model: Any, vae: Any, lora: DfosdLora, strength: float, vae_only: bool = False) -> tuple[Any, Any]:
        """(MODEL, VAE) with `lora` on them; the same ones as last time when nothing has changed.

        Raises LoraMismatchError, having made nothing, when not all of the LoRA fits.
        """
        if not self.holds(model, vae, lora, strength, vae_only):
            self.clear()  # before new ones are made
            patched = model if vae_only else with_unet_lora(model, lora, strength)
            self._clones = patched, self.own_vae(vae, lora, strength)
            self._key, self._lora = _key(model, vae, strength, vae_only), lora
        return self._clones

    def holds(self, model: Any, vae: Any, lora: DfosdLora, strength: float, vae_only: bool = False) -> bool:
        """Whether `get` would make nothing."""
        if self._lora is None:
            return False
        pairs = zip(_key(model, vae, strength, vae_only), self._key, strict=True)
        return all(a is b or a == b for a, b in pairs) and _same_layers(self._lora, lora)

    def exchange(self, other: LoraClones) -> None:
        """Each gets what the other holds."""
        self._key, other._key = other._key, self._key
        self._lora, other._lora = other._lora, self._lora
        self._clones, other._clones = other._clones, self._clones

    def clear(self) -> None:
        """Let go of the clones, and with them of their MODEL and VAE."""
        self._key, self._lora, self._clones = (), None, (None, None)

    @staticmethod
    def own_vae(vae: Any, lora: DfosdLora | None = None, strength: float = 1.0) -> Any:
        """A shallow copy of the VAE object, same weights: in and out are [-1, 1], unclamped, and it never tiles.

        Out of memory, the host's VAE would tile by itself, thrice and with its own progress bar: see
        `comfy.sd.VAE.decode`. Here the error comes out, and our tiles become smaller.
        """
        own = copy.copy(vae)
        own.process_input = own.process_output = _as_it_is
        own.encode_tiled_ = own.decode_tiled_ = _out_of_memory
        part = None if lora is None else lora_part(lora, VAE_PREFIX)
        if part is not None and (part.pairs or part.set_weights or part.set_biases):
            own.patcher = vae.patcher.clone()
            add_lora(own.patcher, ldm_vae_table(own.patcher.model_state_dict()), part, strength)
        return own


def _key(model: Any, vae: Any, strength: float, vae_only: bool) -> tuple[Any, ...]:
    return (model, model.patches_uuid, vae, vae.patcher.patches_uuid, strength, vae_only)


def _same_layers(a: DfosdLora, b: DfosdLora) -> bool:
    """Whatever their prompts are: those are no patches, so another caption needs no new clones."""
    if a.pairs is b.pairs and a.set_weights is b.set_weights and a.set_biases is b.set_biases:
        return True
    return a.metadata == b.metadata and replace(a, prompt_embeds=b.prompt_embeds) == b


def with_unet_lora(model: Any, lora: DfosdLora, strength: float) -> Any:
    """A clone of the MODEL with the LoRA's UNet layers. Raises LoraMismatchError when not all of them fit."""
    clone = model.clone()
    add_lora(clone, _unet_names(model), lora_part(lora, UNET_PREFIX), strength)
    return clone


def unet_layers(model: Any) -> dict[str, nn.Module]:
    """kohya name -> convolution or linear layer of the MODEL's UNet, for `hooks.hooked`."""
    modules = dict(model.model.named_modules())
    found = {layer: modules.get(name) for layer, name in _unet_names(model).items()}
    return {layer: module for layer, module in found.items() if isinstance(module, nn.Conv2d | nn.Linear)}


def patching_doubles(model: Any) -> bool:
    """Whether patched weights would lie beside the original ones: where the MODEL computes is where it rests.

    On a graphics card the originals rest in main memory anyway. With all of DFOSD's layers the patched ones are
    nearly the whole UNet.
    """
    return bool(model.load_device == model.offload_device)


def _unet_names(model: Any) -> dict[str, str]:
    """kohya name -> the layer's name in the MODEL; some are there for larger UNets only."""
    theirs = host_utils.unet_to_diffusers(model.model.model_config.unet_config)
    return {
        kohya_name(ours.removesuffix(".weight")): f"diffusion_model.{their.removesuffix('.weight')}"
        for ours, their in theirs.items()
        if ours.endswith(".weight")
    }


def add_lora(patcher: Any, names: Mapping[str, str], lora: DfosdLora, strength: float) -> None:
    """Patch `patcher`, our own clone. `names`: kohya name -> the layer's name in the patcher's state dict.

    Raises LoraMismatchError, having patched nothing, when not all of `lora` fits. Strength 0 patches nothing.
    """
    state = patcher.model_state_dict()
    places = {(layer, kind): f"{name}.{kind}" for layer, name in names.items() for kind in ("weight", "bias")}
    check_fit(lora, {place: state[key].shape for place, key in places.items() if key in state})
    if strength == 0:
        return
    added: list[Any] = []
    # In this order: a pair on a replaced weight was trained on top of it. lerp(w, value, s) = (1 - s) w + s value.
    replaced = {f"{names[layer]}.weight": ("diff", (value,)) for layer, value in lora.set_weights.items()}
    replaced |= {f"{names[layer]}.bias": ("diff", (value,)) for layer, value in lora.set_biases.items()}
    added += patcher.add_patches(replaced, strength, 1.0 - strength)
    paired = {layer: f"{names[layer]}.weight" for layer in lora.pairs}
    tensors = {name: value for layer, pair in lora.pairs.items() for name, value in pair.tensors(layer).items()}
    added += patcher.add_patches(host_lora.load_lora(tensors, paired), strength)
    wanted = len(replaced) + len(paired)
    if len(added) != wanted:
        raise LoraMismatchError(f"The host took {len(added)} of the LoRA's {wanted} changes. Update ComfyUI.")


def lora_part(lora: DfosdLora, prefix: str) -> DfosdLora:
    """The layers of the UNet or of the VAE alone."""

    def part(values: Mapping[str, Any]) -> dict[str, Any]:
        return {layer: value for layer, value in values.items() if layer.startswith(prefix)}

    return replace(lora, pairs=part(lora.pairs), set_weights=part(lora.set_weights), set_biases=part(lora.set_biases))


def _as_it_is(image: Tensor) -> Tensor:
    return image


def _out_of_memory(*_: Any, **__: Any) -> NoReturn:
    raise torch.cuda.OutOfMemoryError("out of memory in the VAE")
