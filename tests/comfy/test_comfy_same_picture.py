"""The table of docs/formats.md held against a real ComfyUI: Load Image, Join Image with Alpha, the node, Save Image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_graph import EMBEDDED
from comfy_process import HERE, ROOT, ComfyProcess
from safetensors.torch import load_file
from support.same_picture import documented, row, write_pictures

from dfosd_core.image_files.picture import Picture
from dfosd_core.models import load_models
from dfosd_core.pipeline import upscale
from dfosd_core.settings import ModelChoice, UpscaleSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = UpscaleSettings(scale=2.0)


@pytest.fixture(scope="module")
def host(comfyui: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyProcess]:
    """In one thread, as this process: another number may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("OMP_NUM_THREADS", "1")
        process = ComfyProcess(
            tmp_path_factory.mktemp("comfy"), {"comfyui-dfosd": ROOT, "probe_pack": HERE / "probe_pack"}
        )
    try:
        yield process
    finally:
        process.close()
        torch.set_num_threads(before)


def workflow(file: Path, folder: Path, *, joined: bool) -> dict[str, Any]:
    """Keeps the floats that were loaded, too: the host has decoders of its own."""
    image = ["join", 0] if joined else ["load", 0]
    automatic = dict.fromkeys(("unet_tile", "unet_overlap", "vae_tile", "vae_overlap"), -1)
    upscaled = {"image": image, "lora": EMBEDDED, "scale": 2.0, "color_fix": "wavelet", "strength": 1.0}
    upscaled |= {"long_edge": 0, "short_edge": 0, **automatic}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "load": ("LoadImage", {"image": file.name}),
        "loaded": ("ProbeSaveTensor", {"image": image, "path": str(folder / f"{file.stem}.safetensors")}),
        "dfosd": ("DFOSDUpscale", upscaled),
        "saved": ("SaveImage", {"images": ["dfosd", 0], "filename_prefix": file.stem}),
    }
    if joined:
        nodes["join"] = ("JoinImageWithAlpha", {"image": ["load", 0], "alpha": ["load", 1]})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def rounded_down(image: torch.Tensor) -> Picture:
    """As Save Image does it."""
    return Picture(samples=(255 * image[0].numpy()).clip(0, 255).astype(np.uint8))


def test_node_between_the_hosts_own(host: ComfyProcess, tmp_path: Path) -> None:
    model, lora = load_models(ModelChoice(), torch.device("cpu"))
    compared = {}
    # ComfyUI 0.33 itself fails over 16 bits and grey where a width is small and no multiple of 32.
    for file in write_pictures(host.base / "input", width=32):
        result = host.run(workflow(file, tmp_path, joined=file.stem == "hidden"))
        assert result.status == "success", result.error
        (saved,) = (host.base / "output").glob(f"{file.stem}*.png")
        (given,) = load_file(tmp_path / f"{file.stem}.safetensors").values()
        compared[file] = saved, rounded_down(upscale(given, model, lora, SETTINGS))
    assert row(compared) == documented()["ComfyUI: Load Image, DFOSD Upscale, Save Image"]
