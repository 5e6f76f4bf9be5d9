"""OSEDiff (Wu et al., arXiv 2406.08177): `osediff.pkl` and `osediff_face.pkl`, as its `OSEDiff_test` loads them.

A LoRA of rank 4 on the UNet and on the VAE's encoder, both with peft's default alpha of 8, and `conv_in` trained in
full beneath its LoRA. Timestep 999, noise prediction. The official prompt is a caption of the picture by another
network; without it the empty text serves. AdcSR publishes a file of the same name: full weights, refused by its keys.

By its `osediff.py`: `initialize_unet` and `initialize_vae` choose the layers, `save_model` the entries, `OSEDiff_test`
timestep and rule; prompt by `test_osediff.py`, licence by LICENCE.
"""

from __future__ import annotations

from ..metadata import LoraMetadata
from ..names import UNET_PREFIX, VAE_PREFIX, kohya_name
from .content import (
    BASE_MODEL,
    PEFT_DEFAULT_ALPHA,
    UNET_PARTS,
    Content,
    ImportedLora,
    check_modules,
    peft_pairs,
    sd_layout,
)

_CONV_IN = "conv_in.base_layer."


def detect(content: Content) -> bool:
    """Its list of the layers of the UNet's first half, which PiSA-SR has twice under other names."""
    return "unet_lora_encoder_modules" in content.values


def read(content: Content) -> ImportedLora:
    """Raises LoraFormatError for a file that is incomplete or damaged."""
    lists = {f"default_{part}": f"unet_lora_{part}_modules" for part in UNET_PARTS}
    vae_list = "vae_lora_encoder_modules"
    content.only(["rank_unet", "rank_vae", "state_dict_unet", "state_dict_vae", vae_list, *lists.values()])
    unet, vae = content.tensors("state_dict_unet"), content.tensors("state_dict_vae")
    weight, bias = (unet.pop(f"{_CONV_IN}{kind}", None) for kind in ("weight", "bias"))
    check_modules(content, unet, {adapter: content.names(key) for adapter, key in lists.items()})
    check_modules(content, vae, {"default_encoder": content.names(vae_list)})
    rank, rank_vae = content.whole("rank_unet"), content.whole("rank_vae")
    pairs = peft_pairs(content, unet, rank=rank, alpha=PEFT_DEFAULT_ALPHA)
    layout = sd_layout(content, pairs)
    width = layout.block_out_channels[0]
    if weight is None or bias is None or weight.shape != (width, layout.in_channels, 3, 3) or bias.shape != (width,):
        content.refuse(f"expected {_CONV_IN}weight and .bias for {width} channels, found others or none")
    encoder = peft_pairs(content, vae, rank=rank_vae, alpha=PEFT_DEFAULT_ALPHA, prefix=VAE_PREFIX)
    layer = kohya_name("conv_in", UNET_PREFIX)
    return ImportedLora(
        pairs=pairs | encoder,
        metadata=LoraMetadata(
            base_layout=layout,
            timestep=999,
            rank=max(rank, rank_vae),
            lora_alpha=PEFT_DEFAULT_ALPHA,
            base_model=BASE_MODEL,
            source="OSEDiff",
            source_sha256=content.sha256,
            license="Apache-2.0",
        ),
        set_weights={layer: weight},
        set_biases={layer: bias},
    )
