"""A random base that ComfyUI takes for SD 2.1-base, its diffusers twin, LoRAs for it, and ComfyUI itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from comfy_graph import BASE, CHECKPOINT, LORA, VAE_LORA, Graph, with_vae_layers
from comfy_process import HERE, NOT_SET, PATH, ROOT, ComfyProcess
from safetensors.torch import save_file
from support.diffusers_host import DiffusersHost
from support.tiny_models import fill, ldm_tensors, random_lora
from text_encoder import text_encoder_tensors

from dfosd_core.lora.file import DfosdLora, save_lora
from dfosd_core.networks.sd_configs import unet_config, vae_config
from dfosd_core.training.base import build_unet, build_vae, layout_of

PACK = "comfyui-dfosd"


@pytest.fixture(scope="session")
def comfyui() -> None:
    """Skips what needs the real host, before anything is made for it."""
    if not PATH:
        pytest.skip(NOT_SET)


@pytest.fixture(scope="session")
def twin(comfyui: None) -> DiffusersHost:
    """The base in diffusers. ComfyUI wants 320 channels and context 1024, and has one VAE: only depth can be saved."""
    layout = unet_config(block_out_channels=(320, 320), layers_per_block=1, attention_levels=(True, False))
    unet = fill(build_unet(layout), 0)
    vae = fill(build_vae(vae_config()), 1)
    return DiffusersHost(unet, vae, layout_of(unet, vae, "epsilon"))


@pytest.fixture(scope="session")
def lora(twin: DiffusersHost) -> DfosdLora:
    return random_lora(twin, size=0.2)


@pytest.fixture(scope="session")
def vae_lora(twin: DiffusersHost, lora: DfosdLora) -> DfosdLora:
    """As an imported peer's: it changes the VAE too, and replaces a layer of the UNet."""
    return with_vae_layers(lora, twin)


@pytest.fixture(scope="session")
def graph(
    tmp_path_factory: pytest.TempPathFactory, twin: DiffusersHost, lora: DfosdLora, vae_lora: DfosdLora
) -> Iterator[Graph]:
    base = tmp_path_factory.mktemp("comfy")
    for folder in ("checkpoints", "dfosd", "loras"):
        (base / "models" / folder).mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in ldm_tensors(twin).items()}, base / "models" / "checkpoints" / CHECKPOINT)
    save_lora(base / "models" / "dfosd" / LORA, lora)
    save_lora(base / "models" / "loras" / VAE_LORA, vae_lora)
    process = ComfyProcess(base, {PACK: ROOT, "probe_pack": HERE / "probe_pack"})
    try:
        yield Graph(process, base)
    finally:
        process.close()


@pytest.fixture(scope="module")
def base(graph: Graph, twin: DiffusersHost) -> Iterator[Path]:
    """BASE among the host's checkpoints."""
    path = graph.process.base / "models" / "checkpoints" / BASE
    tensors = {**ldm_tensors(twin), **text_encoder_tensors()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    graph.refresh()
    yield path
    path.unlink()
