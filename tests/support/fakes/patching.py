"""Weights that a program patches when it loads them and restores for the next: ComfyUI, and Forge and reForge after it.

Mirrors comfy/model_patcher.py and comfy/model_management.py of ComfyUI 0.3.64, backend/patcher/base.py and
backend/memory_management.py of Forge f2.0.1, ldm_patched/modules/model_patcher.py and model_management.py of reForge.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ModelPatcher:
    """A network and patches for it. Clones share the network; the one loaded last has its patches on the weights."""

    def __init__(self, model: nn.Module, load_device: torch.device, offload_device: torch.device) -> None:
        self.model = model
        self.load_device, self.offload_device = load_device, offload_device
        self.patches: dict[str, list[tuple[float, Any, float]]] = {}
        self.patches_uuid = uuid.uuid4()
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self._on_weights: dict[str, Any] = {"uuid": self.patches_uuid, "backup": {}}  # shared by clones

    def clone(self) -> Any:
        """Another patcher of the same network with the same patches so far (model_patcher.py, `clone`)."""
        other = copy.copy(self)
        other.patches = {key: list(patches) for key, patches in self.patches.items()}
        return other

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Tensor]:
        """model_patcher.py, `model_state_dict`."""
        state = self.model.state_dict()
        return {key: value for key, value in state.items() if key.startswith(filter_prefix or "")}

    def add_patches(
        self, patches: Mapping[str, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[str]:
        """The keys that exist; others are passed over in silence (model_patcher.py, `add_patches`)."""
        known = [key for key in patches if key in self.model.state_dict()]
        for key in known:
            self.patches.setdefault(key, []).append((strength_patch, patches[key], strength_model))
        self.patches_uuid = uuid.uuid4()
        return known

    def get_model_object(self, name: str) -> Any:
        """model_patcher.py, `get_model_object`."""
        return getattr(self.model, name)

    def memory_required(self, input_shape: Sequence[int]) -> float:
        """backend/patcher/base.py and ldm_patched's, `memory_required`."""
        return float(torch.Size(input_shape).numel() * 4)

    def put_on_weights(self) -> None:
        """What loading does (`patch_model`, `unpatch_model`): others' patches go, ours come."""
        if self._on_weights["uuid"] == self.patches_uuid:
            return
        backup: dict[str, nn.Parameter] = self._on_weights["backup"]
        for key, parameter in backup.items():
            self._set(key, parameter)
        backup.clear()
        for key, patches in self.patches.items():
            backup[key] = self.model.get_parameter(key)
            weight = backup[key].detach().clone()
            for strength, patch, strength_model in patches:
                weight = patched(weight * strength_model, patch, strength)
            self._set(key, nn.Parameter(weight.to(backup[key].dtype), requires_grad=False))
        self._on_weights["uuid"] = self.patches_uuid

    def _set(self, key: str, parameter: nn.Parameter) -> None:
        module, _, last = key.rpartition(".")
        setattr(self.model.get_submodule(module), last, parameter)


def patched(weight: Tensor, patch: Any, strength: float) -> Tensor:
    """comfy/lora.py, `calculate_weight`: a difference, or an adapter that computes one."""
    if isinstance(patch, LoRAAdapter):
        return weight + strength * patch.difference().view_as(weight)
    kind, (value,) = patch
    assert kind == "diff", kind
    return weight + strength * value


class LoRAAdapter:
    """comfy/weight_adapter/lora.py: alpha / rank * up @ down, and alpha = rank where there is none."""

    def __init__(self, up: Tensor, down: Tensor, alpha: float | None) -> None:
        self._weights = (up, down, alpha)

    def difference(self) -> Tensor:
        up, down, alpha = self._weights
        return (up.flatten(1) @ down.flatten(1)) * (1.0 if alpha is None else alpha / down.shape[0])


def load_models_gpu(models: Sequence[ModelPatcher], memory_required: float = 0) -> None:
    """model_management.py, `load_models_gpu`."""
    for model in models:
        model.put_on_weights()


def soft_empty_cache(force: bool = False) -> None:
    """model_management.py, `soft_empty_cache`: nothing is cached on a CPU."""


def free_memory(memory_required: float, device: torch.device, keep_loaded: Sequence[Any] = ()) -> list[Any]:
    """model_management.py, `free_memory`: everything fits."""
    return []
