"""The embedded small model inside ComfyUI: on the host's device, shared by all nodes that hold it, else gone."""

from __future__ import annotations

from weakref import WeakValueDictionary

import comfy.model_management as model_management  # pyright: ignore[reportMissingImports]

from ...dfosd_core.hosts.own import fast_dtype, load_default
from ...dfosd_core.networks.embedded import EMBEDDED_LORA

EMBEDDED = f"{EMBEDDED_LORA} (no model needed)"
"""Its name in the list of LoRAs. Frozen: workflows hold it."""
NEEDED_BYTES = 2 * 2**30
"""What a tile of it takes on a graphics card, with room to spare: the host is asked to make that free."""

_alive: WeakValueDictionary[str, EmbeddedModel] = WeakValueDictionary()


class EmbeddedModel:
    """Host and LoRA of the embedded default."""

    def __init__(self, device: str) -> None:
        self.host, self.lora = load_default(fast_dtype(device), device)


def load_embedded() -> EmbeddedModel:
    """The embedded model on the device the host computes on. Keep the result, or the next call loads it again.

    Raises BaseModelMismatchError when it was left out of the installation.
    """
    device = model_management.get_torch_device()
    if not model_management.is_device_cpu(device):
        model_management.free_memory(NEEDED_BYTES, device)
    model = _alive.get(str(device))
    if model is None:
        model = _alive[str(device)] = EmbeddedModel(str(device))
    return model
