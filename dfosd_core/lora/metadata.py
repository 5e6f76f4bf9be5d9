"""What a LoRA says about itself: LoraMetadata <-> the header of a safetensors file, and the check of its base."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..errors import BaseModelMismatchError, LoraFormatError, one_line
from ..one_step import EPS_X0, PREDICTION_RULES

FORMAT_VERSION = "1"
BASE_PREDICTIONS = ("epsilon", "v_prediction")
_ORIGIN = ("source", "source_sha256", "license")
# Written afresh at each save from the fields below (or from the tensors), so never kept as `extra`.
DERIVED_KEYS = (
    "modelspec.sai_model_spec",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "modelspec.hash_sha256",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, ASCII, no NaN: the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, kw_only=True)
class BaseLayout:
    """What tells one base model from another: read from a checkpoint's files, written into each LoRA."""

    context_dim: int
    """Width of the prompt embedding: 768 for SD 1.x, 1024 for SD 2.x."""
    in_channels: int
    """Channels into the UNet: the latent's, or more for inpainting and depth models."""
    out_channels: int
    """Channels out of the UNet."""
    latent_channels: int
    """Channels of the VAE's latent."""
    latent_factor: int
    """Pixels per latent cell along one side: 8 for Stable Diffusion."""
    block_out_channels: tuple[int, ...]
    """Width of each UNet level."""
    prediction_type: Literal["epsilon", "v_prediction"]
    """What the UNet predicts."""

    def __post_init__(self) -> None:
        if self.prediction_type not in BASE_PREDICTIONS:
            raise ValueError(f"prediction_type must be one of {BASE_PREDICTIONS}, got {self.prediction_type!r}")

    def to_json(self) -> str:
        """Canonical JSON of all fields."""
        return canonical_json({**vars(self), "block_out_channels": list(self.block_out_channels)})

    @staticmethod
    def from_json(text: str) -> BaseLayout:
        """Inverse of `to_json`; raises ValueError, TypeError or KeyError."""
        fields: dict[str, Any] = json.loads(text)
        fields["block_out_channels"] = tuple(fields["block_out_channels"])
        return BaseLayout(**fields)


@dataclass(frozen=True, kw_only=True)
class LoraMetadata:
    """Everything a DFOSD LoRA's header holds; field `x` is stored as `dfosd.x` where it says nothing else."""

    base_layout: BaseLayout
    """The base the LoRA was trained on; any other is refused."""
    timestep: int
    """T_L: the timestep given to the UNet, 0 to 999."""
    rank: int
    """Rank of the LoRA (the largest, if layers differ)."""
    lora_alpha: float
    """The LoRA's alpha; a layer's delta is alpha / rank * up @ down."""
    rule: str = EPS_X0
    """One of `PREDICTION_RULES`, stored as `dfosd.prediction`."""
    scale: float = 4.0
    """Super-resolution factor it was trained for."""
    base_model: str = ""
    """Name of the base model, for people."""
    base_model_sha256: str = ""
    """SHA-256 of the base's weight file it was trained on, for people: the same weights come in many files."""
    train_config: Mapping[str, Any] = field(default_factory=lambda: cast("dict[str, Any]", {}))
    """The training configuration; plain JSON values."""
    git_commit: str = ""
    """Commit of the code that trained it."""
    source: str = ""
    """The method whose file this was imported from; empty for a LoRA trained with DFOSD. As the next two, in the header
    only where it says something."""
    source_sha256: str = ""
    """SHA-256 of that file (of a folder: of its weight files, one behind the other)."""
    license: str = ""
    """What its authors allow, as far as they say."""
    parts: Mapping[str, int] = field(default_factory=lambda: cast("dict[str, int]", {}))
    """name -> rank, where each pair is several LoRAs, one behind the other (PiSA-SR); see `lora/parts.py`."""
    extra: Mapping[str, str] = field(default_factory=lambda: cast("dict[str, str]", {}))
    """Further header entries kept as they are, e.g. `modelspec.title`, `modelspec.license`."""

    def __post_init__(self) -> None:
        if self.rule not in PREDICTION_RULES:
            raise ValueError(f"prediction must be one of {PREDICTION_RULES}, got {self.rule!r}")
        if not 0 <= self.timestep < 1000:
            raise ValueError(f"timestep must be in 0..999, got {self.timestep}")
        if self.rank < 1 or self.scale <= 0:
            raise ValueError(f"rank and scale must be positive, got rank {self.rank}, scale {self.scale}")
        if not all(type(rank) is int and rank > 0 for rank in self.parts.values()):
            raise ValueError(f"parts must have whole positive ranks, got {dict(self.parts)}")
        # Through JSON once, so that tuples become lists here and not only after a load.
        object.__setattr__(self, "train_config", json.loads(canonical_json(self.train_config)))

    def to_header(self) -> dict[str, str]:
        """The `str -> str` header, without `modelspec.hash_sha256` (it needs the tensors)."""
        return {
            **{key: value for key, value in self.extra.items() if key not in DERIVED_KEYS},
            "dfosd.format_version": FORMAT_VERSION,
            "dfosd.base_layout": self.base_layout.to_json(),
            "dfosd.timestep": str(self.timestep),
            "dfosd.prediction": self.rule,
            "dfosd.scale": _number(self.scale),
            "dfosd.rank": str(self.rank),
            "dfosd.lora_alpha": _number(self.lora_alpha),
            "dfosd.base_model": self.base_model,
            "dfosd.base_model_sha256": self.base_model_sha256,
            "dfosd.train_config": canonical_json(self.train_config),
            "dfosd.git_commit": self.git_commit,
            **{f"dfosd.{key}": value for key in _ORIGIN if (value := vars(self)[key])},
            **({"dfosd.parts": canonical_json(list(self.parts.items()))} if self.parts else {}),
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{_architecture(self.base_layout)}/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": "v" if self.base_layout.prediction_type == "v_prediction" else "epsilon",
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(self.rank),
            "ss_network_alpha": _number(self.lora_alpha),
        }

    @staticmethod
    def from_header(header: Mapping[str, str], name: str) -> LoraMetadata:
        """Read a header; raises LoraFormatError naming the file `name` and the entry at fault."""
        version = header.get("dfosd.format_version")
        if version != FORMAT_VERSION:
            raise LoraFormatError(
                f"'{name}' has DFOSD format version {version!r}, this program reads {FORMAT_VERSION!r}. Update DFOSD."
            )
        try:
            return LoraMetadata(
                base_layout=BaseLayout.from_json(header["dfosd.base_layout"]),
                timestep=int(header["dfosd.timestep"]),
                rule=header["dfosd.prediction"],
                scale=float(header["dfosd.scale"]),
                rank=int(header["dfosd.rank"]),
                lora_alpha=float(header["dfosd.lora_alpha"]),
                base_model=header.get("dfosd.base_model", ""),
                base_model_sha256=header.get("dfosd.base_model_sha256", ""),
                train_config=json.loads(header.get("dfosd.train_config", "{}")),
                git_commit=header.get("dfosd.git_commit", ""),
                **{key: header.get(f"dfosd.{key}", "") for key in _ORIGIN},
                parts=dict(json.loads(header.get("dfosd.parts", "[]"))),
                extra={k: v for k, v in header.items() if not k.startswith("dfosd.") and k not in DERIVED_KEYS},
            )
        except KeyError as error:
            raise LoraFormatError(f"'{name}' lacks the metadata entry {error}. Get the file again.") from error
        except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            reason = one_line(str(error), 150)
            raise LoraFormatError(f"'{name}' has unreadable metadata: {reason}. Get the file again.") from error


def describe_layout(base: BaseLayout) -> str:
    """One phrase for people: `SD 2.x (context 1024, epsilon)`."""
    names = {768: "SD 1.x", 1024: "SD 2.x", 2048: "SDXL"}
    family = names.get(base.context_dim, "another model") if base.latent_factor == 8 else "another model"
    if base.in_channels != base.latent_channels:
        family += ", inpainting or depth"
    return f"{family} (context {base.context_dim}, {base.prediction_type.replace('_', '-')})"


def describe_origin(lora: LoraMetadata) -> str:
    """What an imported LoRA is, for people: method, licence, the start of the file's SHA-256. "" for DFOSD's own."""
    if not lora.source:
        return ""
    return f"{lora.source}. Licence: {lora.license or 'none stated'}. SHA-256: {lora.source_sha256[:12]}..."


def check_base(lora: BaseLayout, host: BaseLayout, lora_name: str = "The LoRA") -> None:
    """Refuse a base that the LoRA was not trained on: raises BaseModelMismatchError with one clear line."""
    differing = [key for key, value in vars(lora).items() if vars(host)[key] != value]
    if not differing:
        return
    facts = ", ".join(f"{key} {vars(lora)[key]} != {vars(host)[key]}" for key in differing)
    raise BaseModelMismatchError(
        f"{lora_name} was trained for {describe_layout(lora)} "
        f"but the loaded base is {describe_layout(host)}: {facts}. "
        f"Load the base the LoRA was trained on{_advice(lora)}."
    )


def _advice(base: BaseLayout) -> str:
    known = {
        (768, "epsilon"): " (Stable Diffusion 1.5)",
        (1024, "epsilon"): " (Stable Diffusion 2.1-base, the 512 px epsilon model)",
        (1024, "v_prediction"): " (Stable Diffusion 2.1, the 768 px v model)",
    }
    return known.get((base.context_dim, base.prediction_type), "") if base.latent_factor == 8 else ""


def _architecture(base: BaseLayout) -> str:
    """The modelspec name of the base, which other programs show."""
    if base.latent_factor == 8 and base.context_dim == 768:
        return "stable-diffusion-v1"
    if base.latent_factor == 8 and base.context_dim == 1024:
        return "stable-diffusion-v2-768-v" if base.prediction_type == "v_prediction" else "stable-diffusion-v2-512"
    return "dfosd-small-base"


def _number(value: float) -> str:
    return repr(int(value)) if float(value).is_integer() else repr(float(value))
