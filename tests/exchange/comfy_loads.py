"""Runs in ComfyUI's own environment: loads a LoRA with ComfyUI's loader onto SD 2.x's UNet, and says what became of it.

    VENV/bin/python comfy_loads.py COMFYUI LORA [WEIGHTS]

WEIGHTS: a safetensors file of weights in ComfyUI's names to be patched. Prints one line of JSON: `unloaded` are the
keys that the loader passed over, `patched` how many weights it changes, and `values` the first few of each changed
tensor of WEIGHTS.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import logging
import os
import sys
import types
from typing import Any

comfy_folder, lora_file, *weights_file = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]


class Absent(types.ModuleType):
    """torchvision or torchaudio where they are not installed: ComfyUI imports them for other models than SD 2.x."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in ("torchvision", "torchaudio"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = Absent(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(AbsentFinder())  # asked last
sys.path.insert(0, comfy_folder)
os.chdir(comfy_folder)
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.lora  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402
import safetensors.torch  # noqa: E402

SD21: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": True,
    "context_dim": 1024,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
    "use_spatial_transformer": True,
    "num_heads": -1,
    "num_head_channels": 64,
    "dtype": None,
}


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


warnings = Warnings()
logging.getLogger().addHandler(warnings)
config = comfy.supported_models.SD20(SD21)
model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS, device="meta")
keys = comfy.lora.model_lora_keys_unet(model, {})
before = len(warnings.lines)
patches = comfy.lora.load_lora(comfy.utils.load_torch_file(lora_file), keys)
unloaded = [line.split()[-1] for line in warnings.lines[before:] if "lora key not loaded" in line]
shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
unknown = [key for key in patches if key not in shapes]
values: dict[str, list[float]] = {}
for name, weight in (safetensors.torch.load_file(weights_file[0]) if weights_file else {}).items():
    assert shapes[name] == list(weight.shape), (name, shapes[name], weight.shape)
    patched = comfy.lora.calculate_weight([(1.0, patches[name], 1.0, None, None)], weight.clone(), name)
    values[name] = patched.flatten()[:: max(1, patched.numel() // 50)].tolist()
sys.stdout.write(
    json.dumps({"unloaded": unloaded, "unknown": unknown, "patched": len(patches), "values": values}) + "\n"
)
