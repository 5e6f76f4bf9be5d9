"""Files that users of these methods have at hand and that are no LoRA for SD 2.1-base: what each is, and why not.

Recognised by the names and shapes of their tensors, as each method's own code writes them (its file is named beside
each entry). DFOSD's and D3SR's authors have published no weights, so there is nothing to recognise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from torch import Tensor

from ...errors import LoraFormatError, one_line
from ...tensor_files import LDM_UNET
from ..names import UNET_PREFIX

KNOWN = "OSEDiff, PiSA-SR, HYPIR, OMGSR-S or DFOSD"

_DOWN = re.compile(r"attn2[._](processor\.)?to_[kv](_lora)?\.(lora_down|lora_A(\.\w+)?|lora\.down|down)\.weight$")

Names = Mapping[str, tuple[int, ...]]
"""Tensor -> its shape; entries that are no tensors have an empty one. Of nested dictionaries, the inner names too."""


def names_of(values: Mapping[str, Any]) -> Names:
    """The names in what a file holds: entries, and tensors one dictionary further in."""
    names: dict[str, tuple[int, ...]] = {}
    for key, value in values.items():
        names[key] = tuple(value.shape) if isinstance(value, Tensor) else ()
        inner = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else {}
        names |= {str(k): tuple(v.shape) for k, v in inner.items() if isinstance(v, Tensor)}
    return names


def names_of_header(header: Mapping[str, Any]) -> Names:
    """The same from a safetensors header, so that a large file is refused unread."""
    shapes = {key: entry.get("shape") for key, entry in header.items() if isinstance(entry, dict)}
    return {key: tuple(shape) for key, shape in shapes.items() if isinstance(shape, list) and key != "__metadata__"}


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A kind of file."""

    what: str
    """Fits behind "is"."""
    mark: Callable[[Names], str | None]
    """The name by which a file is recognised, or None."""
    why: str
    do: str = f"Expected a LoRA of {KNOWN}"


def has(*patterns: str) -> Callable[[Names], str | None]:
    """The first name that matches the first pattern, if each pattern is found somewhere in the names."""

    def mark(names: Names) -> str | None:
        found = [next((name for name in names if re.search(pattern, name)), None) for pattern in patterns]
        return found[0] if all(found) else None

    return mark


def condition(width: int) -> Callable[[Names], str | None]:
    """A LoRA on cross-attention that reads a text condition of this width; in kohya's, PEFT's and diffusers' names."""

    def mark(names: Names) -> str | None:
        return next((name for name, shape in names.items() if shape[1:2] == (width,) and _DOWN.search(name)), None)

    return mark


def _gdpo(names: Names) -> str | None:
    # modelfile/GDPOSR.py: NAOSD has a LoRA on the decoder too, GDPOSR none on the VAE; else OSEDiff's entries.
    if "vae_lora_decoder_modules" in names:
        return "vae_lora_decoder_modules"
    has_vae = {"rank_vae", "state_dict_vae", "vae_lora_encoder_modules"} & names.keys()
    is_unet = {"rank_unet", "unet_lora_encoder_modules", "state_dict_unet"} <= names.keys()
    return "rank_unet" if is_unet and not has_vae else None


def _sinsr(names: Names) -> str | None:
    first = names.get("input_blocks.0.0.weight", ())
    return "input_blocks.0.0.weight" if len(first) == 4 and first[1] != 4 else None


def _merged_osediff(names: Names) -> str | None:
    return "unet" if {"unet", "vae"} <= names.keys() and not names["unet"] else None


def _narrow_decoder(names: Names) -> str | None:
    # inference_vosr_onestep.py; also the tensors alone. A UNet has more than that, a whole VAE other names.
    has_more = any(name.startswith("down_blocks.") for name in names)
    return None if has_more else has(r"^conv_in\.", r"^up_blocks\.0\.", r"^(conv_norm_out\.|model_state_dict$)")(names)


def _embedding(names: Names) -> str | None:
    rows = [name for name, shape in names.items() if len(shape) in (1, 2) and shape[-1] in (768, 1024, 1280, 4096)]
    return rows[0] if rows and len(rows) == len(names) <= 2 and not any("." in name for name in rows) else None


_DECODER = "it takes the place of the VAE's decoder and is no LoRA"
_AS_DECODER = f"Give it as the decoder (--decoder). As the LoRA expected one of {KNOWN}"
_OWN_NETWORK = "it is a network of its own and no change of Stable Diffusion's weights"
_OTHER_BASE = "its layers are those of another base"
_SD21 = f"Expected a LoRA for SD 2.1-base: of {KNOWN}"

REFUSED: tuple[Refused, ...] = (
    Refused(
        what="TADSR's",
        mark=has(r"^state_dict_vae_time$"),  # tadsr.py, save_model
        why="its VAE encoder takes the timestep, and it predicts by a rule of its own",
    ),
    Refused(
        what="CODSR's",
        mark=has(r"^state_dict_sft$"),  # codsr.py, load_ckpt
        why="a further network changes the UNet's features with every picture, and it adds noise to the latent",
    ),
    Refused(what="GDPO-SR's", mark=_gdpo, why="it adds noise to the latent before its step"),
    Refused(
        what="S3Diff's",
        mark=has(r"^state_embeddings$"),  # s3diff.py, save_model
        why="its LoRA changes with every picture, by a network that judges the degradation, so it cannot be one fixed "
        "change of the weights",
    ),
    Refused(
        what="OSEDiff's, already merged into a whole UNet and VAE",
        mark=_merged_osediff,  # AdcSR publishes it; train.py
        why="what OSEDiff added cannot be told from the base",
        do="Expected OSEDiff's own osediff.pkl",
    ),
    Refused(what="AdcSR's", mark=has(r"^module\.body\.\d"), why=_OWN_NETWORK),  # model.py, Net
    Refused(
        what="InvSR's",
        mark=has(r"^(module\.)?encoder\.time_embedding\.", r"^(module\.)?encoder\.conv_in\."),  # autoencoder_kl.py
        why="it predicts noise for SD-Turbo to start from, and is a network of its own",
    ),
    Refused(what="SinSR's or ResShift's", mark=_sinsr, why=_OWN_NETWORK),  # models/unet.py, UNetModelSwin
    Refused(
        what="VOSR's",
        mark=has(r"(^|\.)mlp_ca\.", r"(^|\.)x_embedder\.proj\.", r"(^|\.)t_block\."),  # models/lightningdit.py
        why=_OWN_NETWORK,
        do=f"VOSR 2 runs in its own ComfyUI nodes. Expected a LoRA of {KNOWN}",
    ),
    Refused(
        what="VOSR's light decoder",
        mark=_narrow_decoder,
        why=_DECODER,
        do=_AS_DECODER,
    ),
    Refused(
        what="TAESD's light decoder",
        mark=has(r"^1\.weight$", r"^3\.conv\.0\.weight$", r"^19\.weight$"),  # taesd.py, Decoder
        why=_DECODER,
        do=_AS_DECODER,
    ),
    Refused(
        what="SeedVR2's",
        mark=has(r"(^|\.)vid_in\.proj\.", r"(^|\.)vid_out\.proj\."),  # models/dit_v2/nadit.py
        why=_OWN_NETWORK,
        do=f"SeedVR2 runs in ComfyUI. Expected a LoRA of {KNOWN}",
    ),
    Refused(
        what="a part of AddSR or SeeSR",
        mark=has(r"\.image_attentions\.\d"),  # models/unet_2d_blocks.py
        why="it is a whole UNet or ControlNet that also reads features of the picture",
    ),
    Refused(
        what="a ControlNet",
        mark=has(
            r"controlnet_cond_embedding\.|^control_model\.|input_hint_block\.|controlnet_(down|mid)_block"
            r"|^lora_controlnet|(^|\.)zero_convs?\.|^lllite_"
        ),
        why="it steers a diffusion model with a second picture and changes none of its weights",
    ),
    Refused(
        what="a textual inversion",
        mark=has(r"^(string_to_param|emb_params|clip_[lg]|<[^<>]+>)$"),
        why="it is a word for prompts, and DFOSD has none",
    ),
    Refused(what="a textual inversion", mark=_embedding, why="it is a word for prompts, and DFOSD has none"),
    Refused(
        what="TSD-SR's",
        mark=has(r"^transformer\.pos_embed\.proj\.lora_[AB]|^transformer\.encoder\.\S+\.lora_[AB]"),  # test_tsdsr.py
        why="its base is Stable Diffusion 3",
        do=_SD21,
    ),
    Refused(
        what="a LoRA for Flux",
        mark=has(r"single_transformer_blocks[._]|(double|single)_blocks[._].*lora"),
        why=_OTHER_BASE,
        do=_SD21,
    ),
    Refused(
        what="a LoRA for Stable Diffusion 3 or another transformer",
        mark=has(r"joint_blocks[._].*lora|transformer_blocks[._]\d+[._].*(add_[qkv]_proj|context).*lora"),
        why=_OTHER_BASE,
        do=_SD21,
    ),
    Refused(
        what="a LoRA for SDXL",
        mark=has(rf"^lora_te2_|^text_encoder_2\.|^{UNET_PREFIX}_(input|middle|output)_blocks?_|add_embedding.*lora"),
        why=_OTHER_BASE,
        do=_SD21,
    ),
    Refused(what="a LoRA for SDXL", mark=condition(2048), why="its base has a context of 2048", do=_SD21),
    Refused(what="a LoRA for Stable Diffusion 1.5", mark=condition(768), why="its base has a context of 768", do=_SD21),
    Refused(
        what="a LyCORIS file",
        mark=has(r"\.(hada_w1_[ab]|lokr_w[12](_[ab])?|oft_blocks|oft_diag)$"),
        why="its changes are no LoRA pairs",
        do=_SD21,
    ),
    Refused(
        what="a whole base model or a part of one",
        mark=has(rf"^{re.escape(LDM_UNET)}|^(down_blocks|encoder\.down_blocks)\.0\.resnets\.0\.conv1\.weight$"),
        why="it holds weights and not their changes",
        do=f"Give it as the base. As the LoRA expected one of {KNOWN}",
    ),
)
"""In the order in which they are asked; a method before the family that its file looks like."""


def refuse_known(file: str, names: Names) -> None:
    """Raises LoraFormatError, one line, for a file of one of these kinds."""
    for kind in REFUSED:
        if (found := kind.mark(names)) is not None:
            raise LoraFormatError(f"'{file}' is {kind.what}: {kind.why}. {kind.do}, found {one_line(found)[:80]}.")


def refuse_unknown(file: str, entries: Collection[str]) -> NoReturn:
    """Raises LoraFormatError for a file that no importer and nothing here knows."""
    first = one_line(min(entries, default="none"))[:80]
    raise LoraFormatError(
        f"'{file}' is no LoRA that DFOSD knows: expected one of {KNOWN}, found {len(entries)} entries, first {first}."
    )


FOLDERS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("AddSR's or SeeSR's", ("unet", "controlnet"), "it is a whole UNet with a ControlNet"),
    ("TSD-SR's", ("transformer.safetensors", "vae.safetensors"), "its base is Stable Diffusion 3"),
    ("OMGSR-F's", ("flux_adapter", "vae_encoder_adapter"), "its base is Flux"),  # train_omgsr_f.py
    ("VOSR's", ("args.json", "checkpoints"), _OWN_NETWORK),
    ("a base model", ("unet", "vae"), "it holds weights and not their changes"),  # also GDPO-SR's, merged
)
"""Kind, what lies in such a folder, why it is refused."""


def refuse_folder(folder: str, contents: set[str]) -> NoReturn:
    """Raises LoraFormatError for a folder that is no LoRA. contents: what lies in it."""
    for what, parts, why in FOLDERS:
        if contents >= set(parts):
            raise LoraFormatError(
                f"'{folder}' is {what}: {why}. Expected a LoRA of {KNOWN}, found {' and '.join(parts)}."
            )
    first = ", ".join(one_line(name) for name in sorted(contents)[:3]) or "nothing"
    raise LoraFormatError(
        f"'{folder}' is no LoRA: expected a file, or OMGSR-S's folder with unet_lora_adapter and "
        f"vae_encoder_lora_adapter, found a folder with {first}. Give a LoRA."
    )
