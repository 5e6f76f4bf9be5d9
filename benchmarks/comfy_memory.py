"""What DFOSD's nodes add to ComfyUI's memory, in the real host, with Stable Diffusion 2.1's layout at full size.

    COMFYUI_PATH=... python -m benchmarks.comfy_memory              # 64x64 -> 128x128: 6 GB of memory, minutes
    COMFYUI_PATH=... python -m benchmarks.comfy_memory --size 256

COMFYUI_PATH holds `ComfyUI` and its environment `venv`. Random weights, a LoRA on all of DFOSD's layers; ComfyUI runs
on the CPU with the UNet in float16. Figures are of its process: anonymous memory after each state, and the largest
resident size, files mapped into memory included, on the way there. A second copy of both networks is what other packs
load; the host patching a LoRA into a MODEL, as for any LoRA loader, keeps the original weights beside the patched ones.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from dfosd_core.lora.file import DfosdLora, LoraPair, save_lora
from dfosd_core.lora.metadata import LoraMetadata
from dfosd_core.lora.names import kohya_name, ldm_unet_key, ldm_vae_key, lora_target_names
from dfosd_core.networks.complexity import RANK, TOKENS, sd21_models
from dfosd_core.networks.config import base_layout
from dfosd_core.tensor_files import LDM_UNET, LDM_VAE

from .random_base import random_half

ROOT = Path(__file__).parents[1]
UP_HAS_ATTENTION = (False, True, True, True)


def write_models(models: Path) -> None:
    """`checkpoints/full.safetensors` with LDM names, and `dfosd/full_lora.safetensors` on all of DFOSD's layers."""
    unet, vae = sd21_models()
    unet_weights, vae_weights = random_half(unet, 0), random_half(vae, 1)
    ldm = {f"{LDM_UNET}{ldm_unet_key(k, 2, UP_HAS_ATTENTION)}": v for k, v in unet_weights.items()}
    for key, value in vae_weights.items():
        is_linear = ".attentions." in key and value.ndim == 2
        ldm[f"{LDM_VAE}{ldm_vae_key(key, 4)}"] = value[:, :, None, None] if is_linear else value
    (models / "checkpoints").mkdir(parents=True)
    safetensors.torch.save_file(ldm, models / "checkpoints" / "full.safetensors")
    pairs: dict[str, LoraPair] = {}
    for name in lora_target_names(unet):
        shape = unet.get_parameter(f"{name}.weight").shape
        up = torch.zeros(shape[0], RANK, *(1,) * (len(shape) - 2)).half()
        pairs[kohya_name(name)] = LoraPair(down=torch.randn(RANK, *shape[1:]).half(), up=up, alpha=RANK)
    layout = base_layout(unet.config, vae.config, "epsilon")
    metadata = LoraMetadata(base_layout=layout, timestep=273, rank=RANK, lora_alpha=RANK)
    lora = DfosdLora(pairs=pairs, prompt_embeds=torch.zeros(1, TOKENS, 1024), metadata=metadata)
    save_lora(models / "dfosd" / "full_lora.safetensors", lora)


def workflows(size: int) -> dict[str, dict[str, Any]]:
    """State that is measured -> the workflow that leads to it, in this order."""
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "full.safetensors"}}
    base = {"model": ["1", 0], "vae": ["1", 2]}
    use = {"class_type": "ProbeFingerprint", "inputs": base}
    lora = {"model": ["1", 0], "lora": "full_lora.safetensors", "strength": 1.0}
    image = {"class_type": "EmptyImage", "inputs": {"width": size, "height": size, "batch_size": 1, "color": 0}}
    settings = dict.fromkeys(("unet_tile", "unet_overlap", "vae_tile", "vae_overlap"), -1)
    settings |= {"scale": 2.0, "long_edge": 0, "short_edge": 0, "color_fix": "wavelet"}
    upscale = {**settings, **lora, **base, "image": ["2", 0]}
    states: dict[str, dict[str, Any]] = {
        "base loaded and used": {"9": use},
        "LoRA on a clone, not applied": {"9": {"class_type": "DFOSDLoadLoRA", "inputs": lora}},
        "DFOSD Upscale has run": {"2": image, "9": {"class_type": "DFOSDUpscale", "inputs": upscale}},
        "base used again": {"9": use},
        "second copy of UNet and VAE": {"9": {"class_type": "ProbeSecondCopy", "inputs": base}},
        "LoRA patched in by the host": {
            "5": {"class_type": "DFOSDLoadLoRA", "inputs": lora},
            "9": {"class_type": "ProbeFingerprint", "inputs": {**base, "model": ["5", 0]}},
        },
    }
    for workflow in states.values():
        kind = "image" if "2" in workflow else "model"
        workflow |= {"1": loader, "10": {"class_type": "ProbeTrim", "inputs": {kind: ["9", 0]}}}
    return states


def main() -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="edge of the square input in pixels")
    args = parser.parse_args()
    sys.path.append(str(ROOT / "tests" / "comfy"))
    comfy_process: Any = importlib.import_module("comfy_process")  # the tests' way to run ComfyUI

    if not comfy_process.PATH:
        parser.error(comfy_process.NOT_SET)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        write_models(base / "models")
        packs = {"comfyui-dfosd": ROOT, "probe_pack": comfy_process.HERE / "probe_pack"}
        process = comfy_process.ComfyProcess(base, packs, ("--fp16-unet",))
        try:
            first = 0.0
            for state, workflow in workflows(args.size).items():
                result = process.run(workflow)
                if result.status != "success":
                    parser.exit(1, f"{state}: {result.status} {result.error}\n")
                now, peak = (result.memory_kib[name] / 1024 for name in ("RssAnon", "VmHWM"))
                first = first or now
                row = f"{state:30} {now:6.0f} MiB ({now - first:+6.0f}), peak of the run {peak:6.0f}"
                print(f"{row}, {result.seconds:.1f} s", flush=True)
        finally:
            process.close()


if __name__ == "__main__":
    main()
