"""`dfosd info`: what a LoRA or a base model is, and what the method weighs on SD 2.1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import LoraFormatError
from ..lora.file import DfosdLora
from ..lora.importers.content import ImportedLora
from ..lora.metadata import BaseLayout, describe_layout
from ..lora.names import UNET_PREFIX
from ..lora.open import may_be_lora, open_lora
from ..networks.complexity import RANK, SIZE_PX, sd21_report
from ..networks.reading import read_base
from ..tensor_files import kind_of_file


def describe_file(name: str) -> str:
    """Lines about a LoRA, a checkpoint or a diffusers folder. Raises DfosdError for anything else."""
    path = Path(name)
    if not path.exists():
        raise LoraFormatError(f"There is no file or folder '{path}'.")
    if not may_be_lora(path) or kind_of_file(path) == "base model":
        base = read_base(path)
        networks = (("UNet", base.unet), ("VAE", base.vae))
        sizes = [(f"{name} parameters", f"{sum(p.numel() for p in net.parameters()):,}") for name, net in networks]
        return _table(f"{path}: base model", [*_layout_lines(base.layout), *sizes])
    lora = open_lora(path)
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
        ],
    )


def _lora_lines(lora: DfosdLora | ImportedLora) -> list[tuple[str, str]]:
    about = lora.metadata
    in_unet = sum(layer.startswith(UNET_PREFIX) for layer in lora.pairs)
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
        ("layers", f"{len(lora.pairs)} ({in_unet} UNet, {len(lora.pairs) - in_unet} VAE)"),
        ("parameters", f"{parameters:,}"),
        ("replaced weights", str(len(lora.set_weights) + len(lora.set_biases))),
        ("prompt", _prompt(lora)),
        ("training", json.dumps(about.train_config, sort_keys=True) if about.train_config else "not recorded"),
        ("commit", about.git_commit or "not recorded"),
    ]


def _prompt(lora: DfosdLora | ImportedLora) -> str:
    if isinstance(lora, ImportedLora):
        return "the empty text, by the base's text encoder"
    return f"{lora.prompt_embeds.shape[1]} tokens of {lora.prompt_embeds.shape[2]}"


def _layout_lines(layout: BaseLayout) -> list[tuple[str, str]]:
    return [
        ("base", describe_layout(layout)),
        ("UNet levels", " ".join(str(width) for width in layout.block_out_channels)),
        ("latent", f"{layout.latent_channels} channels, 1/{layout.latent_factor} size"),
    ]


def _table(title: str, lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join([title, *(f"  {name:<20}{value}" for name, value in lines)])
