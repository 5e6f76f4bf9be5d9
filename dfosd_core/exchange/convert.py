"""Any LoRA that DFOSD takes as a DFOSD LoRA, and ordinary LoRAs too, for which the user says how they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import ConfigError, LoraFormatError, LoraMismatchError
from ..lora.changes import LoraPair
from ..lora.file import PROMPT_TEXT_KEY, DfosdLora, ImportedLora
from ..lora.importers import import_lora
from ..lora.importers.content import BASE_MODEL, Content
from ..lora.importers.plain import PlainLora, read_plain
from ..lora.merge import Place, check_fit
from ..lora.metadata import FORMAT_VERSION, BaseLayout, LoraMetadata
from ..lora.names import UNET_PREFIX
from ..lora.open import open_lora, read_content
from ..one_step import PREDICTION_RULES
from ..tensor_files import TensorFileError, is_finite, kind_of, read_tensors
from .base_files import BaseFiles, open_base, sd21_shapes
from .export import EXPORTED_KEY


class Usage(NamedTuple):
    """How an ordinary LoRA is used, which it does not say itself."""

    timestep: int
    rule: str


class Converted(NamedTuple):
    """A LoRA to save, and what the user has to know about it."""

    lora: DfosdLora | ImportedLora
    notes: list[str]


def convert(
    path: Path, usage: Usage | None = None, *, prompt_embeds: Path | None = None, base: Path | None = None
) -> Converted:
    """Read `path` as a DFOSD LoRA.

    usage: for an ordinary LoRA, and for no other. prompt_embeds: a file with the embedding (1, N, C) that it was
    trained with; None: the empty text. base: the model that it was trained on, needed where a file changes weights in
    full by a difference, and else SD 2.1-base. Raises DfosdError, one line, for all that does not go together.
    """
    content = read_content(path)
    stated = None if content is None else _stated(content)
    if content is not None and (usage or stated) and _is_plain(content):
        if usage is None and prompt_embeds is None and PROMPT_TEXT_KEY not in content.header:
            raise ConfigError(
                f"'{path.name}' was exported without its prompt embedding. Give --prompt-embeds, or use the original."
            )
        converted = _convert_plain(content, usage, stated, base)
    else:
        converted = Converted(open_lora(path), [])
        if usage is not None:
            source = converted.lora.metadata.source or "DFOSD"
            raise ConfigError(f"'{path.name}' is {source}'s and says how it is used. Leave --timestep and --rule out.")
        if base is not None:
            raise ConfigError(f"'{path.name}' needs no base to be converted. Leave --base out.")
    return converted if prompt_embeds is None else _with_prompt(converted, path.name, prompt_embeds)


def _is_plain(content: Content) -> bool:
    return import_lora(content) is None and kind_of(content.values) == "LoRA"


def _stated(content: Content) -> LoraMetadata | None:
    """What `export` leaves in a file's header."""
    if EXPORTED_KEY not in content.header:
        return None
    return LoraMetadata.from_header({**content.header, "dfosd.format_version": FORMAT_VERSION}, content.name)


def _convert_plain(
    content: Content, usage: Usage | None, stated: LoraMetadata | None, base_path: Path | None
) -> Converted:
    plain = read_plain(content)
    base = None if base_path is None else open_base(base_path)
    layout, shapes = sd21_shapes() if base is None else (base.layout, base.shapes())
    if stated is None:
        assert usage is not None
        metadata = _metadata(content, plain, usage, layout)
    else:
        metadata = stated if usage is None else replace(stated, timestep=usage.timestep, rule=usage.rule)
        shapes = shapes if base is not None or layout == stated.base_layout else {}
    lora = _whole(content, plain, base, metadata)
    try:
        if shapes:
            check_fit(lora, shapes)
    except LoraMismatchError as error:
        named = "SD 2.1-base" if base_path is None else f"'{base_path.name}'"
        raise LoraFormatError(f"'{content.name}' is no LoRA of {named}. {error}") from error
    alpha = "it states no alpha: taken to be the rank, as other programs do; PEFT's adapter_config.json would state it"
    return Converted(lora, [] if plain.states_alpha else [alpha])


def _metadata(content: Content, plain: PlainLora, usage: Usage, layout: BaseLayout) -> LoraMetadata:
    kept = ("modelspec.title", "modelspec.author", "modelspec.license", "modelspec.description")
    # Of the largest pair; each keeps its own.
    largest = max(plain.pairs.values(), key=lambda pair: pair.rank, default=None)
    try:
        return LoraMetadata(
            base_layout=layout,
            timestep=usage.timestep,
            rule=usage.rule,
            rank=1 if largest is None else largest.rank,
            lora_alpha=1.0 if largest is None else largest.alpha,
            base_model=BASE_MODEL,
            source=Path(content.name).stem,
            source_sha256=content.sha256,
            license=content.header.get("modelspec.license", "none stated"),
            extra={key: content.header[key] for key in kept if key in content.header},
        )
    except ValueError as error:
        raise ConfigError(f"--timestep {usage.timestep} --rule {usage.rule}: {error}.") from error


def _whole(content: Content, plain: PlainLora, base: BaseFiles | None, metadata: LoraMetadata) -> ImportedLora:
    """With differences turned into what takes the base's place."""
    differences: dict[Place, Tensor] = {(layer, "weight"): value for layer, value in plain.diffs.items()}
    differences |= {(layer, "bias"): value for layer, value in plain.bias_diffs.items()}
    if differences and base is None:
        first = next(iter(differences))[0]
        raise ConfigError(
            f"'{content.name}' changes {len(differences)} weights in full by a difference, first {first}. Give --base, "
            "the model that the differences were made for."
        )
    sums: dict[Place, Tensor] = {}
    shapes = {} if base is None else base.shapes()
    for place, value in differences.items():
        if base is None or shapes.get(place) is None or shapes[place].numel() != value.numel():
            raise LoraFormatError(
                f"'{content.name}' is no LoRA of this base: expected {tuple(shapes.get(place, ()))} for the {place[1]} "
                f"of {place[0]}, found {tuple(value.shape)}. Give the base it was made for."
            )
        sums[place] = base.tensor(place).float() + value.reshape(shapes[place]).float()
    both = sorted(plain.pairs.keys() & plain.diffs.keys())
    if both:
        raise LoraFormatError(f"'{content.name}' changes {both[0]} twice, by a pair and in full. Get the file again.")
    weights = plain.set_weights | {layer: value for (layer, kind), value in sums.items() if kind == "weight"}
    biases = plain.set_biases | {layer: value for (layer, kind), value in sums.items() if kind == "bias"}
    pairs: Mapping[str, LoraPair] = plain.pairs
    if not any(layer.startswith(UNET_PREFIX) for layer in (*pairs, *weights)):
        raise LoraFormatError(f"'{content.name}' changes no layer of the UNet. Give a LoRA of SD 2.1-base's UNet.")
    return ImportedLora(pairs=pairs, metadata=metadata, set_weights=weights, set_biases=biases)


def _with_prompt(converted: Converted, name: str, path: Path) -> Converted:
    if isinstance(converted.lora, DfosdLora):
        raise ConfigError(f"'{name}' has a prompt of its own. Leave --prompt-embeds out.")
    try:
        if not path.is_file():
            raise ConfigError(f"There is no file '{path}' for --prompt-embeds.")
        found = list(read_tensors(path).tensors.values())
    except TensorFileError as error:
        raise LoraFormatError(str(error)) from error
    width = converted.lora.metadata.base_layout.context_dim
    fitting = [value for value in found if value.ndim == 3 and value.shape[0::2] == (1, width)]
    if len(found) != 1 or len(fitting) != 1 or not is_finite(fitting[0]):
        shapes = ", ".join(str(tuple(value.shape)) for value in found[:3])
        raise LoraFormatError(
            f"'{path.name}' is no prompt embedding: expected one finite tensor of (1, N, {width}), found {len(found)} "
            f"({shapes}). Save it as {{'prompt_embeds': tensor}} in a .safetensors file."
        )
    return Converted(converted.lora.with_prompt(fitting[0].clone()), converted.notes)


def usage_of(timestep: int | None, rule: str | None) -> Usage | None:
    """From the two flags. Raises ConfigError for one alone or a value outside its limits."""
    if timestep is None and rule is None:
        return None
    if timestep is None or rule is None:
        missing = "--rule" if rule is None else "--timestep"
        raise ConfigError(f"{missing} is missing: an ordinary LoRA needs both --timestep and --rule.")
    if not 0 <= timestep < 1000:
        raise ConfigError(f"--timestep: expected 0 to 999, found {timestep}.")
    if rule not in PREDICTION_RULES:
        raise ConfigError(f"--rule: expected {' or '.join(PREDICTION_RULES)}, found '{rule}'.")
    return Usage(timestep, rule)
