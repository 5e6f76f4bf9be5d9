"""A LoRA on a host as the user's settings want it: "fidelity or realism" is `strength`, whatever kind of LoRA it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from torch import Tensor

from .errors import ConfigError
from .host import Host, HostAround
from .lora.file import DfosdLora
from .lora.parts import PIXEL, SEMANTIC, LoraT, scaled
from .settings import UpscaleSettings


def attached(host: Host, lora: DfosdLora, settings: UpscaleSettings) -> AbstractContextManager[Host]:
    """`with attached(...) as host`: the host to use inside the block, with the LoRA on it.

    Afterwards, also after an error, the weights are bit for bit as before, but for those of an `OwnHost` that is not
    reusable. Raises what `Host.lora` raises, and ConfigError for a `pixel_strength` where the LoRA has no pixel part.
    """
    if settings.pixel_strength is None:
        return _in_one_pass(host, lora, settings.strength)
    if set(lora.metadata.parts) != {PIXEL, SEMANTIC}:
        raise ConfigError(
            f"Expected no pixel_strength with this LoRA of {lora.metadata.source or 'DFOSD'}, found "
            f"{settings.pixel_strength:g}: it has no pixel part, as PiSA-SR's does. Leave it out, and set strength."
        )
    return _in_two_passes(host, lora, settings.pixel_strength, settings.strength)


def weighted(lora: LoraT, strength: float) -> tuple[LoraT, float]:
    """What `Host.lora` is to be given for this strength. Of two parts it is the semantic one's; the other stays."""
    return (scaled(lora, {SEMANTIC: strength}), 1.0) if SEMANTIC in lora.metadata.parts else (lora, strength)


@contextmanager
def _in_one_pass(host: Host, lora: DfosdLora, strength: float) -> Iterator[Host]:
    with host.lora(*weighted(lora, strength)):
        yield host


@contextmanager
def _in_two_passes(host: Host, lora: DfosdLora, pixel: float, semantic: float) -> Iterator[Host]:
    with ExitStack() as stack:
        yield _TwoPasses(host, lora, pixel, semantic, stack)


class _TwoPasses(HostAround):
    """PiSA-SR's adjustable rule (arXiv 2412.03017, section 3.4), l_pix and l_sem being the two strengths:

    prediction = l_pix p_pix + l_sem (p_full - p_pix), p_pix by the pixel LoRA alone and p_full by both.
    """

    def __init__(self, host: Host, lora: DfosdLora, pixel: float, semantic: float, stack: ExitStack) -> None:
        super().__init__(host)
        self._strengths = pixel, semantic
        self._loras = {"pix": scaled(lora, {SEMANTIC: 0.0}), "full": lora}
        self._stack, self._on = stack, ""
        self._put_on("full")  # one is on at any time: encoding and decoding belong into a host's `lora` block, too

    def predict_eps(self, z: Tensor, t: int, prompt_embeds: Tensor) -> Tensor:
        """As `Host.predict_eps`, in float32."""
        predictions: dict[str, Tensor] = {}
        # First with the LoRA that is on: hosts may have to write all weights to change it.
        for name in sorted(self._loras, key=lambda name: name != self._on):
            self._put_on(name)
            predictions[name] = self._host.predict_eps(z, t, prompt_embeds).float()
        pixel, semantic = self._strengths
        p_pix, p_full = predictions["pix"], predictions["full"]
        return pixel * p_pix + semantic * (p_full - p_pix)

    def _put_on(self, name: str) -> None:
        if name != self._on:
            self._on = ""  # if it fails, for want of memory, none is on, and the next call tries again
            self._stack.close()
            self._stack.enter_context(self._host.lora(self._loras[name], 1.0))
            self._on = name
