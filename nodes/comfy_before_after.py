"""Before and after as PNG files in ComfyUI's temp folder, for the slider on the node."""

from __future__ import annotations

import os

import folder_paths  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..dfosd_core.images import resize, to_bchw
from .comfy_preview import fit, to_pil

LONGEST_PX = 2048
MOST_IMAGES = 4
"""Of a batch, the first ones: a film has thousands."""

File = dict[str, str]
"""As the host's pages name a file: filename, subfolder, type."""


def save_before_after(before: Tensor, after: Tensor) -> list[dict[str, File]]:
    """`before`: (B, H, W, C), `after`: (B, h, w, C), both in [0, 1]. Both are saved in the output's size, or less."""
    size = fit((after.shape[1], after.shape[2]), LONGEST_PX)
    pairs = zip(before[:MOST_IMAGES], after[:MOST_IMAGES], strict=True)
    return [{"before": _save("before", a, size), "after": _save("after", b, size)} for a, b in pairs]


def _save(name: str, image: Tensor, size: tuple[int, int]) -> File:
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
        f"dfosd_{name}", folder_paths.get_temp_directory(), size[1], size[0]
    )
    filename = f"{stem}_{counter:05}_.png"
    picture = to_pil(resize(to_bchw(image[None].float()), size))
    picture.save(os.path.join(folder, filename), compress_level=1)
    return {"filename": filename, "subfolder": subfolder, "type": "temp"}
