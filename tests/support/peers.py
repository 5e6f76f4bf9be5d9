"""Files of other one-step methods in the layout of each, with random weights, and what each method makes of an image.

Independent of our importers: the adapters are peft's, on diffusers' networks, and the last step is written out here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from dfosd_core.networks.sd_configs import vae_config
from dfosd_core.training.base import build_unet, build_vae, layout_of

from .diffusers_host import DiffusersHost
from .tiny_models import TINY_UNET, fill, ldm_tensors, write_folder

CONTEXT = 64
"""Also the text encoder's width, whose heads are 64 wide."""
LAYERS = 2
TOKENS = [49406, 49407, *[0] * 75]
"""The empty text."""
OMGSR_FOLDERS = ("unet_lora_adapter", "vae_encoder_lora_adapter")

Entries = dict[str, Any]


def sd_host() -> DiffusersHost:
    """Stable Diffusion's kind (latents at 1/8), narrow and shallow; the same weights each time."""
    unet = fill(build_unet({**TINY_UNET, "cross_attention_dim": CONTEXT}), 0)
    vae = fill(build_vae(vae_config(block_out_channels=(32, 32, 32, 32), layers_per_block=1)), 1)
    return DiffusersHost(unet, vae, layout_of(unet, vae, "epsilon"))


@cache
def text_encoder() -> CLIPTextModel:
    torch.manual_seed(5)
    config = CLIPTextConfig(
        hidden_size=CONTEXT,
        intermediate_size=2 * CONTEXT,
        num_attention_heads=1,
        num_hidden_layers=LAYERS,
        hidden_act="gelu",
        vocab_size=49408,
    )
    model = CLIPTextModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def empty_prompt() -> Tensor:
    """(1, 77, CONTEXT), by transformers."""
    with torch.no_grad():
        return text_encoder()(torch.tensor([TOKENS])).last_hidden_state


def encoder_tensors() -> dict[str, Tensor]:
    """As a diffusers folder has them."""
    state = text_encoder().state_dict()
    return {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in state.items()}


def write_base(folder: Path) -> Path:
    """A diffusers folder with its text encoder."""
    write_folder(folder, sd_host(), {"prediction_type": "epsilon"})
    (folder / "text_encoder").mkdir()
    safetensors.torch.save_file(encoder_tensors(), folder / "text_encoder" / "model.safetensors")
    return folder


def openclip_tensors(start: str = "") -> dict[str, Tensor]:
    """The text encoder's as OpenCLIP names them, with its last, unused layer; `start` before each name."""
    theirs = encoder_tensors()
    tensors = {
        f"{start}token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        f"{start}positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        tensors[f"{start}ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        for layer in range(LAYERS + 1):
            ours, block = f"{start}transformer.resblocks.{layer}.", f"text_model.encoder.layers.{layer % LAYERS}."
            parts = [theirs[f"{block}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"{ours}attn.in_proj_{kind}"] = torch.cat(parts)
            tensors[f"{ours}attn.out_proj.{kind}"] = theirs[f"{block}self_attn.out_proj.{kind}"]
            for name, other in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
                tensors[f"{ours}{name}.{kind}"] = theirs[f"{block}{other}.{kind}"]
            for name, other in (("c_fc", "fc1"), ("c_proj", "fc2")):
                tensors[f"{ours}mlp.{name}.{kind}"] = theirs[f"{block}mlp.{other}.{kind}"]
    return tensors


def write_checkpoint(path: Path) -> Path:
    """The same base in a single file, as LDM and OpenCLIP name the tensors."""
    tensors = openclip_tensors("cond_stage_model.model.") | ldm_tensors(sd_host())
    safetensors.torch.save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    return path


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A method: its file, and its image."""

    file_name: str
    source: str
    entries: Entries
    """What the file holds; for OMGSR-S: folder -> tensors, folder/adapter_config.json -> settings."""
    image: Callable[..., Tensor]
    """(1, 3, H, W) in [-1, 1] to the same, by diffusers and peft; a second argument is the prompt's embedding, by
    default the small base's for the empty text."""

    def write(self, folder: Path, entries: Mapping[str, Any] | None = None) -> Path:
        """The file, or the folder, with `entries` instead of its own."""
        path, entries = folder / self.file_name, self.entries if entries is None else entries
        if self.source != "OMGSR-S":
            torch.save(dict(entries), path)
            return path
        for part in OMGSR_FOLDERS:
            (path / part).mkdir(parents=True)
            if part in entries:
                safetensors.torch.save_file(entries[part], path / part / "adapter_model.safetensors")
            if f"{part}/adapter_config.json" in entries:
                text = json.dumps(entries[f"{part}/adapter_config.json"])
                (path / part / "adapter_config.json").write_text(text)
        return path


def unit_image(peer: Peer, image: Tensor, prompt_embeds: Tensor) -> Tensor:
    """(1, H, W, 3) in [0, 1] -> (1, 4H, 4W, 3) in [0, 1]: resized bicubically, then the method's."""
    size = (4 * image.shape[1], 4 * image.shape[2])
    x_lr = nn.functional.interpolate(image.permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
    return (peer.image(x_lr.clamp(0, 1) * 2 - 1, prompt_embeds).permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1)


def _layers(network: nn.Module, *, but: Sequence[str] = ()) -> list[str]:
    """Convolutions and linear layers but those with one of these in their names."""
    found = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return [name for name in found if not any(part in name for part in ("time_", *but))]


def _inject(network: nn.Module, adapters: Mapping[str, Sequence[str]], rank: int, **more: Any) -> None:
    """peft's adapters with random weights on these layers, all of them active."""
    for adapter, layers in adapters.items():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are meant
        inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(layers), **more), network, adapter)
    generator = torch.Generator().manual_seed(11)
    for layer in network.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.set_adapter([name for name in adapters if name in cast("Any", layer.lora_A)])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4 / parameter[0].numel() ** 0.5)


def _loras(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items() if ".lora_" in name}


def _thirds(layers: Sequence[str]) -> dict[str, list[str]]:
    first = [name for name in layers if name.startswith(("conv_in", "down_blocks"))]
    second = [name for name in layers if name.startswith(("conv_out", "up_blocks"))]
    return {"encoder": first, "decoder": second, "others": [n for n in layers if n not in {*first, *second}]}


def _image(host: DiffusersHost, t: int, step: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    @torch.no_grad()
    def image(x: Tensor, prompt_embeds: Tensor | None = None) -> Tensor:
        z = host.vae.encode(x).latent_dist.mode() * 0.18215
        prompt_embeds = empty_prompt() if prompt_embeds is None else prompt_embeds
        pred = host.unet(z, t, encoder_hidden_states=prompt_embeds).sample
        return host.vae.decode(step(z, pred) / 0.18215).sample

    return image


@cache
def osediff(base: DiffusersHost | None = None) -> Peer:
    host = base or sd_host()
    thirds = _thirds(_layers(host.unet))
    encoder = [name for name in _layers(host.vae, but=("decoder", "post_quant")) if name != "post_quant_conv"]
    _inject(host.unet, {f"default_{part}": layers for part, layers in thirds.items()}, 4)
    _inject(host.vae, {"default_encoder": encoder}, 4)
    conv_in = host.unet.conv_in.base_layer
    with torch.no_grad():
        conv_in.weight.mul_(1.3).add_(0.05)
        conv_in.bias.sub_(0.2)
    names = {f"unet_lora_{part}_modules": layers for part, layers in thirds.items()}
    state = _loras(host.unet) | {f"conv_in.base_layer.{k}": v.clone() for k, v in conv_in.state_dict().items()}
    entries = {
        **names,
        "vae_lora_encoder_modules": [*encoder, *encoder[:3]],
        "rank_unet": 4,
        "rank_vae": 4,
        "state_dict_unet": state,
        "state_dict_vae": _loras(host.vae),
    }
    image = _image(host, 999, lambda z, eps: (z - 0.9976672442 * eps) / 0.0682650698)
    return Peer(file_name="osediff.pkl", source="OSEDiff", entries=entries, image=image)


@cache
def pisa_sr(base: DiffusersHost | None = None) -> Peer:
    host = base or sd_host()
    thirds = _thirds(_layers(host.unet))
    _inject(host.unet, {f"default_{p}_{kind}": names for kind in ("pix", "sem") for p, names in thirds.items()}, 4)
    lists = {f"unet_lora_{p}_modules_{kind}": names for kind in ("pix", "sem") for p, names in thirds.items()}
    entries = {**lists, "lora_rank_unet_pix": 4, "lora_rank_unet_sem": 4, "state_dict_unet": _loras(host.unet)}
    image = _image(host, 1, lambda z, pred: z - pred)
    return Peer(file_name="pisa_sr.pkl", source="PiSA-SR", entries=entries, image=image)


@torch.no_grad()
def pisa_sr_image(x: Tensor, pixel: float, semantic: float, *, two_passes: bool) -> Tensor:
    """As `pisa_sr().image`, with a strength for each LoRA: of its prediction, or (in one pass) of its weights."""
    host = sd_host()
    thirds = _thirds(_layers(host.unet))
    kinds = {kind: [f"default_{part}_{kind}" for part in thirds] for kind in ("pix", "sem")}
    _inject(host.unet, {f"default_{p}_{kind}": names for kind in kinds for p, names in thirds.items()}, 4)
    layers: list[Any] = [layer for layer in host.unet.modules() if isinstance(layer, BaseTunerLayer)]

    def predict(active: Sequence[str]) -> Tensor:
        for layer in layers:
            layer.set_adapter([name for name in layer.lora_A if name in active])
        return host.unet(z, 1, encoder_hidden_states=empty_prompt()).sample

    z = host.vae.encode(x).latent_dist.mode() * 0.18215
    if two_passes:
        p_pix = predict(kinds["pix"])
        pred = pixel * p_pix + semantic * (predict([*kinds["pix"], *kinds["sem"]]) - p_pix)
    else:
        for layer in layers:
            for name in layer.lora_A:
                layer.scaling[name] *= pixel if name.endswith("pix") else semantic
        pred = predict([*kinds["pix"], *kinds["sem"]])
    return host.vae.decode((z - pred) / 0.18215).sample


@cache
def hypir(base: DiffusersHost | None = None) -> Peer:
    host = base or sd_host()
    _inject(host.unet, {"default": _layers(host.unet, but=("conv_in",))}, 256, lora_alpha=256)
    image = _image(host, 200, lambda z, eps: (z - 0.4962939 * eps) / 0.8681545)
    return Peer(file_name="HYPIR_sd2.pth", source="HYPIR", entries=_loras(host.unet), image=image)


@cache
def omgsr(base: DiffusersHost | None = None) -> Peer:
    host = base or sd_host()
    _inject(host.unet, {"default": _layers(host.unet, but=("ff.", "proj_"))}, 32, lora_alpha=32)
    _inject(host.vae.encoder, {"default": _layers(host.vae.encoder)}, 16, lora_alpha=16)
    entries: Entries = {}
    for part, network, rank in zip(OMGSR_FOLDERS, (host.unet, host.vae.encoder), (32, 16), strict=True):
        names = {key: f"base_model.model.{key.replace('.default', '')}" for key in _loras(network)}
        entries[part] = {names[key]: value for key, value in _loras(network).items()}
        entries[f"{part}/adapter_config.json"] = {"r": rank, "lora_alpha": rank, "peft_type": "LORA"}
    alpha_bar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)[273]
    a = alpha_bar.item()
    image = _image(host, 273, lambda z, eps: (z - (1 - a) ** 0.5 * eps) / a**0.5)
    return Peer(file_name="OMGSR-S", source="OMGSR-S", entries=entries, image=image)


PEERS: dict[str, Callable[..., Peer]] = {"osediff": osediff, "pisa_sr": pisa_sr, "hypir": hypir, "omgsr": omgsr}
"""Name -> the method on the small base, or on another base, whose networks then carry its adapters."""
