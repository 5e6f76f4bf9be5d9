"""Run by ComfyUI-Manager once, by WebUIs at every start: installs nothing, names what is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

NEEDED = {"torch": "torch", "numpy": "numpy", "PIL": "Pillow", "safetensors": "safetensors"}
"""What the method needs, and every host brings: module -> package."""


def missing_packages() -> list[str]:
    """Packages that are not there; nothing is imported to find out."""
    return [package for module, package in NEEDED.items() if find_spec(module) is None]


if __name__ == "__main__":
    missing = missing_packages()
    if missing:
        print(
            f"DFOSD: {', '.join(missing)} missing in {sys.executable}. Install it with: "
            f"{sys.executable} -m pip install {' '.join(missing)}",
            file=sys.stderr,
        )
