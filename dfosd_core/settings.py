"""The one list of what a user can set, with defaults, limits and help: nodes, panels and flags read it. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import ConfigError, one_line
from .sizes import MAX_SCALE, MIN_SCALE, Placement, Size, by_edge, by_megapixels, exactly, scaled
from .tiles.size import TileSettings, TileSize

COLOR_FIX_NAMES = ("wavelet", "adain", "lab", "none")
"""Each is a function of this name in `color_fix.py`."""
FIT_NAMES = ("crop", "pad")

RESULT_NAME = re.compile(r"(.+)_(?:x\d+(?:\.\d+)?|(?:long|short)\d+|\d+(?:\.\d+)?mp|\d+x\d+(?:crop|pad))")
"""The stem of a result of any size: `UpscaleSettings.size_name` behind its input's stem."""
_EDGE = {"min": 1, "max": 65536, "step": 8}
_TILE = {"min": 0, "max": 8192, "step": 64}


def _setting(default: float | str | None, meaning: str, **limits: Any) -> Any:
    return field(default=default, metadata={**limits, "help": meaning})


@dataclass(frozen=True, kw_only=True)
class UpscaleSettings:
    """Settings of `pipeline.upscale`. Raises ConfigError, naming the setting, for a value outside its limits.

    Each field's metadata has "help" and its limits: "min", "max" and "step", or "choices". None: not given.
    """

    scale: float = _setting(
        4.0, "How many times larger the output is; fractions are allowed.", min=MIN_SCALE, max=MAX_SCALE, step=0.25
    )
    long_edge: int | None = _setting(None, "Longer edge of the output in pixels, instead of a scale.", **_EDGE)
    short_edge: int | None = _setting(None, "Shorter edge of the output in pixels, instead of a scale.", **_EDGE)
    megapixels: float | None = _setting(
        None,
        "Million pixels of the output, in the image's shape, instead of a scale.",
        min=0.01,
        max=1000.0,
        step=0.01,
    )
    width: int | None = _setting(None, "Exact width of the output in pixels, together with a height.", **_EDGE)
    height: int | None = _setting(None, "Exact height of the output in pixels, together with a width.", **_EDGE)
    fit: str = _setting(
        "crop",
        "For a width and height in another shape: crop the image's edges, or pad it with black or transparent bars.",
        choices=FIT_NAMES,
    )
    unet_tile: int | None = _setting(
        None, "Largest UNet tile in output pixels; 0: no tiles. Default: automatic.", **_TILE
    )
    unet_overlap: int | None = _setting(
        None, "Smallest overlap of UNet tiles in output pixels. Default: automatic.", **_TILE
    )
    vae_tile: int | None = _setting(
        None, "Largest VAE tile in output pixels; 0: no tiles. Default: automatic.", **_TILE
    )
    vae_overlap: int | None = _setting(
        None, "Smallest overlap of VAE tiles in output pixels. Default: automatic.", **_TILE
    )
    color_fix: str = _setting(
        "wavelet",
        "How to keep the input's colours: wavelet (low frequencies), adain or lab (mean and contrast), or none.",
        choices=COLOR_FIX_NAMES,
    )
    strength: float = _setting(
        1.0,
        "Fidelity or realism: strength of the LoRA; of one in two parts (the embedded one, PiSA-SR's) of the second. "
        "1: as trained, 0: without it.",
        min=0.0,
        max=2.0,
        step=0.05,
    )
    pixel_strength: float | None = _setting(
        None,
        "LoRAs of two parts only: strength of the first, by PiSA-SR's exact rule, which calls the UNet twice.",
        min=0.0,
        max=2.0,
        step=0.05,
    )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> UpscaleSettings:
        """From what a page, a node or a request says.

        None, an empty text or a missing name is the default; a number may be a text, a whole one a float.
        Raises ConfigError for a value outside its limits and for a name that is none.
        """
        known = {setting.name: setting for setting in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"There is no setting '{one_line(unknown[0], 80)}'. Settings are {', '.join(known)}.")
        given = {name: _parsed(value, known[name].metadata) for name, value in values.items()}
        return cls(**{name: value for name, value in given.items() if value is not None})

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if value is not None or setting.default is not None:
                _check(setting.name, value, setting.metadata)
        self._check_one_target()
        for stage in ("unet", "vae"):
            tile, overlap = getattr(self, f"{stage}_tile"), getattr(self, f"{stage}_overlap")
            if tile and overlap and overlap > tile // 2:
                raise ConfigError(
                    f"Expected a {stage}_overlap of at most half the {stage}_tile ({tile // 2}), "
                    f"found {overlap}. Enlarge {stage}_tile or reduce {stage}_overlap."
                )

    def _check_one_target(self) -> None:
        if (self.width is None) != (self.height is None):
            given, missing = ("width", "height") if self.height is None else ("height", "width")
            raise ConfigError(
                f"Expected a width and a height, found {given} {getattr(self, given)} alone. "
                f"Give a {missing} too, or use long_edge or short_edge."
            )
        targets = [name for name in ("long_edge", "short_edge", "megapixels", "width") if getattr(self, name)]
        if len(targets) > 1:
            found = " and ".join(f"{name} {getattr(self, name):g}" for name in targets[:2])
            raise ConfigError(f"Expected one target for the size, found {found}. Give only one of them.")

    def output_size(self, height: int, width: int) -> Size:
        """(height, width) of the output of an image of that size. Raises what `placement` raises."""
        return self.placement(height, width).output

    def placement(self, height: int, width: int) -> Placement:
        """How an image of that size lies in the output: each edge times the scale, or as the target says.

        A target is met exactly and overrides the scale. Raises ConfigError if it asks for less than the
        smallest or more than the largest scale: no image is silently shrunk or left short of its target.
        """
        size = height, width
        if self.width and self.height:
            return exactly(size, (self.height, self.width), self.fit)
        if self.megapixels:
            larger = by_megapixels(size, self.megapixels)
        elif self.long_edge:
            larger = by_edge(size, "long_edge", self.long_edge)
        elif self.short_edge:
            larger = by_edge(size, "short_edge", self.short_edge)
        else:
            larger = scaled(size, self.scale)
        return Placement(larger, larger)

    @property
    def size_name(self) -> str:
        """The size asked for, as a part of a file's name: `x4`, `long2048`, `short1080`, `8mp`, `1920x1080crop`."""
        if self.width and self.height:
            return f"{self.width}x{self.height}{self.fit}"
        if self.megapixels:
            return f"{self.megapixels:g}mp"
        if self.long_edge:
            return f"long{self.long_edge}"
        if self.short_edge:
            return f"short{self.short_edge}"
        return f"x{self.scale:g}"

    def tiles(self, auto: TileSettings) -> TileSettings:
        """The host's proposal, with what the user has given in its place.

        A tile given to a host that proposes none, and so no overlap, overlaps by a quarter.
        """

        def given(proposal: TileSize, tile: int | None, overlap: int | None) -> TileSize:
            tile = proposal.tile if tile is None else tile
            if overlap is None:
                return proposal._replace(tile=tile, overlap=proposal.overlap or tile // 4)
            return TileSize(tile, overlap, proposal.parts)

        return TileSettings(
            encode=given(auto.encode, self.vae_tile, self.vae_overlap),
            unet=given(auto.unet, self.unet_tile, self.unet_overlap),
            decode=given(auto.decode, self.vae_tile, self.vae_overlap),
        )


FULL_DECODER = "full"
"""In drop-downs the base's own; all other entries are light decoders' files. Frozen: workflows hold it."""


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which networks, where and how. None: the embedded ones, a GPU if there is one, its fast format.

    Raises ConfigError for a base without a LoRA: the embedded one would fit no other base.
    """

    base: str | None = None
    lora: str | None = None
    device: str | None = None
    dtype: str | None = None
    decoder: str | None = None
    """A light decoder's file; None: the base's own."""

    def __post_init__(self) -> None:
        if self.base and not self.lora:
            raise ConfigError(
                f"Expected a DFOSD LoRA trained on the base '{Path(self.base).name}', found none: the embedded LoRA "
                "fits the embedded base only. Give --lora, or choose that base's LoRA; train_tools trains one."
            )


def _parsed(value: Any, limits: Mapping[str, Any]) -> Any:
    """Texts become numbers, and 512.0 becomes 512 where a whole number is asked for; `_check` refuses the rest."""
    if isinstance(value, str):
        value = value.strip() or None
        if value and "min" in limits:
            with suppress(ValueError):
                value = float(value)
    is_whole = isinstance(value, float) and value.is_integer() and isinstance(limits.get("step"), int)
    return int(value) if is_whole else value


def _check(name: str, value: float | str | None, limits: Mapping[str, Any]) -> None:
    if "choices" in limits and value not in limits["choices"]:
        raise ConfigError(f"Expected {name} to be one of {', '.join(limits['choices'])}, found '{_shown(value)}'.")
    if "min" not in limits:
        return
    whole = isinstance(limits["step"], int)
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not limits["min"] <= value <= limits["max"]:
        kind = "a whole number " if whole else ""
        raise ConfigError(f"Expected {name} {kind}from {limits['min']:g} to {limits['max']:g}, found {_shown(value)}.")


def _shown(value: object) -> str:
    """For a message: Python refuses to write numbers of more than 4,300 digits, and nobody would read them."""
    try:
        return one_line(str(value), 80)
    except ValueError:
        return "a number of thousands of digits"
