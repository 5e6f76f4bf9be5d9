"""Before and after as PNG files in ComfyUI's temp folder, for the slider on the node."""

from __future__ import annotations

import os
import secrets

import folder_paths  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ...dfosd_core.image_files.picture import fit
from ...dfosd_core.image_files.pil import to_pil
from ...dfosd_core.image_files.tensors import to_picture
from ...dfosd_core.images import place
from ...dfosd_core.sizes import Placement

LONGEST_PX = 2048
MOST_IMAGES = 4
"""Of a batch, the first ones: a film has thousands."""

File = dict[str, str]
"""As the host's pages name a file: filename, subfolder, type."""


def save_before_after(before: Tensor, after: Tensor, placement: Placement) -> list[dict[str, File]]:
    """`before`: (B, H, W, C), `after`: (B, h, w, C), both in [0, 1]. Both are saved in the output's size, or less."""
    size = fit(placement.output, LONGEST_PX)
    small, whole = placement.reduced_to(size), Placement(size, size)
    run = secrets.token_hex(8)  # the page remembers names: none may mean another picture after the host's next start
    return [
        {"before": _save(f"{run}_{i}_before", before[i], small), "after": _save(f"{run}_{i}_after", after[i], whole)}
        for i in range(min(MOST_IMAGES, after.shape[0]))
    ]


def _save(name: str, image: Tensor, placement: Placement) -> File:
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    filename = f"dfosd_{name}.png"
    to_pil(to_picture(place(image[None], placement))).save(os.path.join(folder, filename), compress_level=1)
    return {"filename": filename, "subfolder": "", "type": "temp"}
