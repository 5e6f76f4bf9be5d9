"""The name table: each spelling is understood, and the way back exists for a network at hand."""

from __future__ import annotations

import pytest
from torch import nn

from dfosd_core.lora.names import (
    LoraKey,
    current_vae_key,
    is_lora_target,
    kohya_name,
    kohya_table,
    ldm_unet_key,
    ldm_vae_key,
    ldm_vae_table,
    lora_target_names,
    lora_tensor_name,
    parse_lora_key,
)
from dfosd_core.networks.sd_configs import vae_config
from dfosd_core.training.base import build_vae

NAME = "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0"
KOHYA = "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn1_to_out_0"


def test_kohya_name_replaces_the_dots() -> None:
    assert kohya_name(NAME) == KOHYA
    assert kohya_name("encoder.conv_in", "lora_vae") == "lora_vae_encoder_conv_in"


@pytest.mark.parametrize(
    ("key", "layer", "part"),
    [
        (f"{KOHYA}.lora_down.weight", KOHYA, "down"),
        (f"{KOHYA}.lora_up.weight", KOHYA, "up"),
        (f"{KOHYA}.alpha", KOHYA, "alpha"),
        (f"unet.{NAME}.lora_A.weight", KOHYA, "down"),
        (f"unet.{NAME}.lora_B.weight", KOHYA, "up"),
        (f"unet.{NAME}.alpha", KOHYA, "alpha"),
        (f"{NAME}.lora_A.weight", KOHYA, "down"),
        (f"{NAME}.lora_B.default.weight", KOHYA, "up"),
        (f"{NAME}.lora_A.default_encoder.weight", KOHYA, "down"),
        (f"base_model.model.{NAME}.lora_A.weight", KOHYA, "down"),
        (f"unet.base_model.model.{NAME}.lora_B.weight", KOHYA, "up"),
        (f"base_model.model.unet.{NAME}.lora_B.weight", KOHYA, "up"),
        ("vae.encoder.conv_in.lora_A.weight", "lora_vae_encoder_conv_in", "down"),
        ("lora_unet_conv_in.set_weight", "lora_unet_conv_in", "set_weight"),
        ("lora_unet_conv_in.set_bias", "lora_unet_conv_in", "set_bias"),
    ],
)
def test_each_spelling_is_understood(key: str, layer: str, part: str) -> None:
    assert parse_lora_key(key) == LoraKey(layer, part)
    assert parse_lora_key(lora_tensor_name(layer, part)) == LoraKey(layer, part)


@pytest.mark.parametrize(
    "key",
    [
        "dfosd.prompt_embeds",
        "lora_te_text_model.lora_up.weight",
        "conv_in.weight",
        "lora_unet_x.lora_mid.weight",
        "",
    ],
)
def test_other_names_are_not_taken_for_a_lora(key: str) -> None:
    assert parse_lora_key(key) is None


def test_kohya_names_are_inverted_by_the_network_itself() -> None:
    network = nn.Module()
    network.add_module("time_emb_proj", nn.Linear(2, 2))
    network.add_module("blocks", nn.ModuleList([nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2)]))
    assert kohya_table(network) == {
        "lora_unet_time_emb_proj": "time_emb_proj",
        "lora_unet_blocks_0": "blocks.0",
    }
    assert lora_target_names(network) == ["time_emb_proj"]


def test_targets_are_matched_by_whole_parts_of_the_name() -> None:
    assert is_lora_target(NAME)
    assert is_lora_target("conv1")
    assert not is_lora_target("conv_in")
    assert not is_lora_target("mid_block.resnets.0.my_conv1")
    assert not is_lora_target("time_embedding.linear_1")


@pytest.mark.parametrize(
    ("ours", "ldm"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("time_embedding.linear_2.bias", "time_embed.2.bias"),
        ("down_blocks.0.resnets.0.conv1.weight", "input_blocks.1.0.in_layers.2.weight"),
        ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
        ("down_blocks.1.attentions.1.proj_in.weight", "input_blocks.5.1.proj_in.weight"),
        (
            "up_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            "output_blocks.6.1.transformer_blocks.0.attn2.to_k.weight",
        ),
        ("down_blocks.3.resnets.1.time_emb_proj.bias", "input_blocks.11.0.emb_layers.1.bias"),
        ("mid_block.resnets.1.norm2.weight", "middle_block.2.out_layers.0.weight"),
        ("mid_block.attentions.0.proj_in.weight", "middle_block.1.proj_in.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("up_blocks.3.attentions.2.proj_out.bias", "output_blocks.11.1.proj_out.bias"),
        ("up_blocks.3.resnets.2.conv_shortcut.weight", "output_blocks.11.0.skip_connection.weight"),
        ("conv_norm_out.bias", "out.0.bias"),
        ("conv_out.weight", "out.2.weight"),
    ],
)
def test_sd_unet_names_in_ldm(ours: str, ldm: str) -> None:
    assert ldm_unet_key(ours, 2, (False, True, True, True)) == ldm


@pytest.mark.parametrize(
    ("ours", "ldm"),
    [
        ("encoder.conv_in.weight", "encoder.conv_in.weight"),
        ("encoder.down_blocks.1.resnets.0.conv_shortcut.bias", "encoder.down.1.block.0.nin_shortcut.bias"),
        ("encoder.down_blocks.2.downsamplers.0.conv.weight", "encoder.down.2.downsample.conv.weight"),
        ("encoder.mid_block.resnets.1.norm1.weight", "encoder.mid.block_2.norm1.weight"),
        ("encoder.mid_block.attentions.0.to_q.weight", "encoder.mid.attn_1.q.weight"),
        ("decoder.mid_block.attentions.0.to_out.0.bias", "decoder.mid.attn_1.proj_out.bias"),
        ("decoder.mid_block.attentions.0.group_norm.weight", "decoder.mid.attn_1.norm.weight"),
        ("decoder.up_blocks.0.resnets.2.conv2.weight", "decoder.up.3.block.2.conv2.weight"),
        ("decoder.up_blocks.2.upsamplers.0.conv.bias", "decoder.up.1.upsample.conv.bias"),
        ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
        ("post_quant_conv.bias", "post_quant_conv.bias"),
    ],
)
def test_sd_vae_names_in_ldm(ours: str, ldm: str) -> None:
    assert ldm_vae_key(ours, 4) == ldm


def test_vae_table_has_every_layer_of_sds_autoencoder() -> None:
    vae = build_vae(vae_config())
    keys = {ldm_vae_key(key, 4) for key in vae.state_dict()}
    expected = {
        kohya: ldm_vae_key(f"{name}.weight", 4).removesuffix(".weight")
        for kohya, name in kohya_table(vae, "lora_vae").items()
    }
    assert ldm_vae_table(keys) == expected
    assert ldm_vae_table(keys - {"quant_conv.weight"}).keys() == expected.keys() - {"lora_vae_quant_conv"}


def test_old_vae_attention_names_are_brought_up_to_date() -> None:
    old = "encoder.mid_block.attentions.0.{}.weight"
    renamed = [current_vae_key(old.format(part)) for part in ("query", "key", "value", "proj_attn", "group_norm")]
    assert renamed == [old.format(part) for part in ("to_q", "to_k", "to_v", "to_out.0", "group_norm")]
    assert current_vae_key("quant_conv.weight") == "quant_conv.weight"
