"""Checkpoints that are no SD 2.1-base, made from one that is: SD 2.1's v-prediction, SD 1.5's layout, SDXL's."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

TOO_LARGE = "sdxl"
"""What no test loads."""
DESCRIPTION = "repositories/stable-diffusion-stability-ai/configs/stable-diffusion/v2-inference-v.yaml"
"""Stability's own, of SD 2.x with v-prediction, in a host's folder."""
UNET = "model.diffusion_model."


def write_v_prediction(root: Path, own: Path, target: Path) -> None:
    """The same weights, with a description beside them that says v. The WebUIs go by that."""
    target.symlink_to(own.resolve())
    described = root / DESCRIPTION  # a host that has it wants all of it, Forge reads this line only
    text = described.read_text() if described.exists() else 'model:\n  params:\n    parameterization: "v"\n'
    if own.with_suffix(".yaml").exists():  # of other widths than the host's own description
        text = own.with_suffix(".yaml").read_text()
        if "parameterization" not in text:
            text = text.replace("  params:\n", '  params:\n    parameterization: "v"\n', 1)
    target.with_suffix(".yaml").write_text(text)


def write_sd15(own: Path, target: Path) -> None:
    """SD 1.5's tensors: a context of 768, projections by convolutions, CLIP-L."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    with safe_open(own, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            if key.startswith("cond_stage_model."):
                continue
            value = file.get_tensor(key)
            if key.startswith(UNET) and key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                value = value[:, :768].contiguous()
            elif key.startswith(UNET) and key.endswith(("proj_in.weight", "proj_out.weight")):
                value = value[..., None, None]
            tensors[key] = value
    for key, shape in clip_l_shapes().items():
        value = torch.randn(shape, generator=generator) * 0.02
        if len(shape) == 1:
            value = torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
        tensors[key] = value.half()
    save_file(tensors, target)


def clip_l_shapes() -> dict[str, tuple[int, ...]]:
    """The text encoder of SD 1.x."""
    width, head = 768, "cond_stage_model.transformer.text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{head}embeddings.token_embedding.weight": (49408, width),
        f"{head}embeddings.position_embedding.weight": (77, width),
    }
    layers = {f"self_attn.{name}_proj": (width, width) for name in "qkv"}
    layers |= {"self_attn.out_proj": (width, width), "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for number in range(12):
        for name, shape in layers.items():
            shapes[f"{head}encoder.layers.{number}.{name}.weight"] = shape
            shapes[f"{head}encoder.layers.{number}.{name}.bias"] = shape[:1]
        for name in ("layer_norm1", "layer_norm2"):
            shapes[f"{head}encoder.layers.{number}.{name}.weight"] = (width,)
            shapes[f"{head}encoder.layers.{number}.{name}.bias"] = (width,)
    shapes[f"{head}final_layer_norm.weight"] = shapes[f"{head}final_layer_norm.bias"] = (width,)
    return shapes


def write_sdxl_head(target: Path) -> None:
    """Of SDXL's tensors those that tell it from others."""
    shapes = {
        f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
        f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
        f"{UNET}label_emb.0.0.weight": (1280, 2816),
        "conditioner.embedders.1.model.ln_final.weight": (1280,),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    }
    write_zeros(shapes, target)


def write_broken_sd21(target: Path) -> None:
    """By its head an SD 2.1, of which nearly all is missing."""
    write_zeros({f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)}, target)


def write_zeros(shapes: dict[str, tuple[int, ...]], target: Path) -> None:
    """A safetensors file with a hole for its numbers."""
    header, place = {}, 0
    for key, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": (place, place + size)}
        place += size
    text = json.dumps(header).encode()
    with target.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
