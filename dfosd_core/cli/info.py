"""`dfosd info`: what a LoRA, a base model or a light decoder is, and what the method weighs on SD 2.1."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import cast

from ..errors import LoraFormatError, printable
from ..exchange.merge import MERGED_FILE, MERGED_KEY
from ..lora.file import DfosdLora, ImportedLora
from ..lora.importers.peft_settings import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..lora.metadata import BaseLayout, describe_layout
from ..lora.names import UNET_PREFIX, VAE_PREFIX
from ..lora.open import may_be_lora, open_lora
from ..networks.complexity import RANK, SIZE_PX, sd21_report
from ..networks.light_decoder import LATENT_CHANNELS, LATENT_FACTOR, NarrowDecoder, is_decoder, read_decoder
from ..networks.reading import read_base
from ..tensor_files import kind_of_file, read_header

_BLOCK = re.compile(r"(encoder|decoder)_((down|up)_blocks_\d+|mid_block)")


def describe_file(name: str) -> str:
    """Lines about a LoRA, a checkpoint, a diffusers folder or a light decoder. Raises DfosdError for anything else."""
    path = Path(name)
    if not path.exists():
        raise LoraFormatError(f"There is no file or folder '{path}'.")
    if is_decoder(path):
        return _table(f"{path}: light decoder", _decoder_lines(path))
    is_peft = any((path / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    if kind_of_file(path) == "base model" or not (may_be_lora(path) or is_peft):
        base = read_base(path)
        networks = (("UNet", base.unet), ("VAE", base.vae))
        sizes = [(f"{name} parameters", f"{sum(p.numel() for p in net.parameters()):,}") for name, net in networks]
        return _table(f"{path}: base model", [*_layout_lines(base.layout), *sizes, *_merged_lines(path)])
    lora = open_lora(path)  # of PEFT's folder it says how to convert it
    return _table(f"{path}: {lora.metadata.source or 'DFOSD'} LoRA", _lora_lines(lora))


def describe_architecture(name: str) -> str:
    """`name`: "sd21", the only layout the paper gives figures for."""
    assert name == "sd21"
    report = sd21_report()
    return _table(
        f"DFOSD on SD 2.1-base, rank {RANK}, one {SIZE_PX}x{SIZE_PX} image",
        [
            ("LoRA layers", f"{report.lora_layers:,}"),
            ("LoRA parameters", f"{report.lora_parameters:,}"),
            ("base parameters", f"{report.base_parameters:,}"),
            ("parameters (thop)", f"{report.thop_parameters / 1e6:,.3f} M"),
            ("MACs, unmerged", f"{report.macs_unmerged / 1e9:,.2f} G"),
            ("MACs, merged", f"{report.macs_merged / 1e9:,.2f} G"),
            ("  VAE encoder", f"{report.encode_macs / 1e9:,.2f} G"),
            ("  UNet", f"{report.unet_macs / 1e9:,.2f} G"),
            ("  VAE decoder", f"{report.decode_macs / 1e9:,.2f} G"),
            ("MACs, folded", f"{report.macs_folded / 1e9:,.2f} G"),
        ],
    )


def _lora_lines(lora: DfosdLora | ImportedLora) -> list[tuple[str, str]]:
    about = lora.metadata
    in_unet = sum(layer.startswith(UNET_PREFIX) for layer in lora.pairs)
    in_vae = [layer.removeprefix(f"{VAE_PREFIX}_") for layer in lora.pairs if layer.startswith(VAE_PREFIX)]
    in_full = sorted([*lora.set_weights, *(f"{layer} (bias)" for layer in lora.set_biases)])
    parameters = sum(pair.down.numel() + pair.up.numel() for pair in lora.pairs.values())
    origin = (("source SHA-256", about.source_sha256), ("license", about.license))
    return [
        *_layout_lines(about.base_layout),
        *((name, value) for name, value in origin if value),
        ("base model", about.base_model or "not named"),
        ("base SHA-256", about.base_model_sha256 or "not given"),
        ("timestep", str(about.timestep)),
        ("prediction", about.rule),
        ("trained for scale", f"{about.scale:g}"),
        ("rank, alpha", f"{about.rank}, {about.lora_alpha:g}"),
        *([("parts", ", ".join(f"{part} {rank}" for part, rank in about.parts.items()))] if about.parts else []),
        ("layers", f"{len(lora.pairs)} ({in_unet} UNet, {len(lora.pairs) - in_unet} VAE)"),
        ("parameters", f"{parameters:,}"),
        ("VAE layers", _groups(in_vae) or "none"),
        ("replaced in full", ", ".join(layer.removeprefix("lora_") for layer in in_full) or "none"),
        ("prompt", _prompt(lora)),
        ("training", json.dumps(about.train_config, sort_keys=True) if about.train_config else "not recorded"),
        ("commit", about.git_commit or "not recorded"),
    ]


def _decoder_lines(path: Path) -> list[tuple[str, str]]:
    decoder = read_decoder(path)
    return [
        ("kind", f"{decoder.name}, as VOSR's" if isinstance(decoder, NarrowDecoder) else decoder.name),
        ("decodes", f"latents of SD 1.x and 2.x: {LATENT_CHANNELS} channels, 1/{LATENT_FACTOR} size"),
        ("parameters", f"{sum(value.numel() for value in decoder.parameters()):,}"),
        ("use", f"--decoder {path.name}, with any LoRA"),
    ]


def _groups(layers: Iterable[str]) -> str:
    """`encoder_mid_block_resnets_1_conv1` and its like as `encoder_mid_block (8)`; single layers by their names."""
    blocks = Counter(match[0] if (match := _BLOCK.match(layer)) else layer for layer in layers)
    return ", ".join(f"{name} ({count})" if _BLOCK.match(name) else name for name, count in sorted(blocks.items()))


def _prompt(lora: DfosdLora | ImportedLora) -> str:
    if isinstance(lora, ImportedLora):
        return "the empty text, by the base's text encoder"
    return f"{lora.prompt_embeds.shape[1]} tokens of {lora.prompt_embeds.shape[2]}"


def _merged_lines(path: Path) -> list[tuple[str, str]]:
    """Of a base that `dfosd merge` wrote."""
    file = path / MERGED_FILE
    try:
        text = file.read_text("utf-8") if path.is_dir() else read_header(path)["__metadata__"][MERGED_KEY]
        facts = cast("dict[str, object]", json.loads(text))
        return [("merged LoRA", ", ".join(f"{key} {value}" for key, value in facts.items() if value != ""))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # no LoRA in it, or none that says so


def _layout_lines(layout: BaseLayout) -> list[tuple[str, str]]:
    return [
        ("base", describe_layout(layout)),
        ("UNet levels", " ".join(str(width) for width in layout.block_out_channels)),
        ("latent", f"{layout.latent_channels} channels, 1/{layout.latent_factor} size"),
    ]


def _table(title: str, lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join(printable(line) for line in (title, *(f"  {name:<20}{value}" for name, value in lines)))
