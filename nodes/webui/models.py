"""Which networks a run in a WebUI uses: the loaded checkpoint where it fits, else networks of DFOSD's own."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from modules import devices, sd_models  # pyright: ignore[reportMissingImports]

from ...dfosd_core.errors import BaseModelMismatchError, DfosdError
from ...dfosd_core.files import stamp_of
from ...dfosd_core.host import Host
from ...dfosd_core.hosts.light import LightHost
from ...dfosd_core.hosts.own import fast_dtype, load_base, load_default
from ...dfosd_core.hosts.webui import program
from ...dfosd_core.hosts.webui.shared import CheckpointHost
from ...dfosd_core.lora.file import DfosdLora, ImportedLora
from ...dfosd_core.lora.metadata import LoraMetadata, check_base, describe_origin
from ...dfosd_core.lora.open import open_lora
from ...dfosd_core.networks.embedded import EMBEDDED_BASE, EMBEDDED_LORA
from ...dfosd_core.networks.light_decoder import read_decoder
from ...dfosd_core.networks.reading import read_empty_prompt
from ...dfosd_core.settings import FULL_DECODER
from ...dfosd_core.tensor_files import context_dim
from .files import AUTOMATIC, ModelFile, find_base, find_decoder, find_lora, own_bases, own_loras
from .options import option

logger = logging.getLogger("dfosd")
NEEDED_BYTES = 3 * 2**30
"""What networks of our own take on a graphics card: the host is asked to make that free."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen in the drop-downs, by name."""

    lora: str = AUTOMATIC
    base: str = AUTOMATIC
    decoder: str = FULL_DECODER


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a run uses."""

    host: Host
    lora: DfosdLora
    lora_name: str
    base_name: str
    decoder_name: str = FULL_DECODER
    device: torch.device
    """Where images go in."""


_kept: dict[str, tuple[object, Any]] = {}
"""From the last run networks of our own, the LoRA, and the prompt of an imported one: name -> (what it was read from,
it)."""


_metadata: dict[tuple[object, ...], LoraMetadata] = {}
"""Of every LoRA file that was opened: whether one fits can be told without reading a gigabyte again."""


def forget_models() -> None:
    """Let go of what was kept."""
    _kept.clear()


@contextmanager
def chosen_model(choice: Choice) -> Iterator[Model]:
    """The networks for one run. Raises DfosdError, one line, when the choice cannot be had.

    Automatic: the first LoRA in models/DFOSD that fits the loaded checkpoint or a base in that folder; else the
    embedded model. The user's checkpoint stays loaded.
    """
    try:
        yield _with_decoder(_choose(choice), choice.decoder)
    finally:
        if not option("keep_models"):
            forget_models()
        devices.torch_gc()


def _choose(choice: Choice) -> Model:
    """What was chosen by name becomes files here; below are files only."""
    if choice.lora == EMBEDDED_LORA:
        return _embedded()
    if choice.lora != AUTOMATIC:
        return _with_base(find_lora(choice.lora), _chosen_base(choice))
    for lora in own_loras():
        try:
            return _with_base(lora, _chosen_base(choice))
        except DfosdError as error:
            logger.info("DFOSD: %s is not used: %s", lora.name, error)
    return _embedded()


def _with_decoder(model: Model, name: str) -> Model:
    """Raises BaseModelMismatchError for a decoder that is not there, is none, or does not fit the base's latents."""
    if name == FULL_DECODER:
        return model
    file, device = find_decoder(name), model.device
    dtype: torch.dtype = getattr(devices, "dtype_vae", torch.float32)  # the user's choice, by --no-half-vae and such
    key = (stamp_of(file.path), str(device), dtype)
    decoder = _keep("decoder", key, lambda: read_decoder(file.path, dtype, device))
    return replace(model, host=LightHost(model.host, decoder), decoder_name=name)


def _chosen_base(choice: Choice) -> ModelFile | None:
    return None if choice.base == AUTOMATIC else find_base(choice.base)


def _embedded() -> Model:
    device = devices.device
    _make_room(device)
    host, lora = _keep("embedded", str(device), lambda: load_default(fast_dtype(device), device))
    return Model(host=host, lora=lora, lora_name=EMBEDDED_LORA, base_name=EMBEDDED_BASE, device=device)


def _with_base(file: ModelFile, base: ModelFile | None) -> Model:
    """The LoRA of `file` with `base`; without one with the loaded checkpoint or, if it does not fit, our own bases."""
    about = read_metadata(file)
    if base is not None:
        return _own_base(file, base)
    reason = ""
    try:
        loaded = loaded_checkpoint(about)
        whole = _with_prompt(file, _loaded_facts(), loaded.empty_prompt)
        device = torch.device(devices.device)  # beside the networks on a graphics card, which move as the host likes
        return Model(host=loaded, lora=whole, lora_name=file.name, base_name=_loaded_name(), device=device)
    except BaseModelMismatchError as error:
        reason = str(error)
    for own in own_bases():
        if context_dim(own.path) == about.base_layout.context_dim:
            try:
                return _own_base(file, own)
            except BaseModelMismatchError as error:
                reason = str(error)  # a v-predicting one, or a damaged file; the next may be the right one
    raise BaseModelMismatchError(reason)


def read_lora(file: ModelFile) -> DfosdLora | ImportedLora:
    """The LoRA of `file`, as it was kept if the file is the same. Raises LoraFormatError."""
    return _keep("lora", stamp_of(file.path), lambda: open_lora(file.path))


def about_lora(name: str) -> str:
    """Where an imported LoRA of the drop-downs comes from; "" for all other entries. Raises LoraFormatError."""
    if name in (AUTOMATIC, EMBEDDED_LORA):
        return ""
    return describe_origin(read_metadata(find_lora(name)))


def read_metadata(file: ModelFile) -> LoraMetadata:
    """What the LoRA of `file` says of itself. Raises LoraFormatError."""
    facts = stamp_of(file.path)
    if facts not in _metadata:
        _metadata[facts] = read_lora(file).metadata
    return _metadata[facts]


def _with_prompt(file: ModelFile, base: object, empty_prompt: Callable[[], torch.Tensor]) -> DfosdLora:
    """The LoRA of `file`. An imported one gets the empty prompt of the base it runs on, which is computed once."""
    lora = read_lora(file)
    return lora if isinstance(lora, DfosdLora) else lora.with_prompt(_keep("prompt", base, empty_prompt))


def _own_base(file: ModelFile, base: ModelFile) -> Model:
    device, layout = devices.device, read_metadata(file).base_layout
    _make_room(device)
    host = _keep("base", (stamp_of(base.path), str(device)), lambda: load_base(base.path, fast_dtype(device), device))
    check_base(layout, host.layout, f"'{file.name}'")
    whole = _with_prompt(file, stamp_of(base.path), lambda: read_empty_prompt(base.path, layout.context_dim))
    return Model(host=host, lora=whole, lora_name=file.name, base_name=base.name, device=device)


def loaded_checkpoint(lora: LoraMetadata) -> CheckpointHost:
    """The checkpoint that the user has chosen, as a `Host`. Raises BaseModelMismatchError when `lora` does not fit."""
    host = program().open_checkpoint(lora)
    check_base(lora.base_layout, host.layout)
    return host


def _loaded_name() -> str:
    info = getattr(sd_models.model_data.sd_model, "sd_checkpoint_info", None)
    return str(getattr(info, "name_for_extra", None) or "loaded checkpoint")


def _loaded_facts() -> tuple[object, str]:
    """What tells the loaded checkpoint from others: A1111 puts the next one's weights into the same networks."""
    return weakref.ref(sd_models.model_data.sd_model), _loaded_name()


def _make_room(device: Any) -> None:
    for name in ("backend.memory_management", "ldm_patched.modules.model_management"):  # Forge's, and reForge's
        manager = sys.modules.get(name)
        if manager is not None and torch.device(device).type != "cpu":
            manager.free_memory(NEEDED_BYTES, device)
    devices.torch_gc()


def _keep(kind: str, key: object, load: Callable[[], Any]) -> Any:
    """What was kept under `kind` if it is the same, else what `load` gives; never two at a time."""
    if kind in _kept and _kept[kind][0] == key:
        return _kept[kind][1]
    _kept.pop(kind, None)
    if kind in ("embedded", "base"):
        _kept.pop("base" if kind == "embedded" else "embedded", None)
    # A1111 loads its checkpoint in a thread, and changes torch's own methods while it does.
    with getattr(sd_models.model_data, "lock", nullcontext()):
        value = load()
    _kept[kind] = (key, value)
    return value
