"""ComfyUI's door: it loads this folder by path. For pip, pytest and WebUIs nothing happens here."""

import sys as _sys

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

WEB_DIRECTORY = "./web"

if __package__ and "folder_paths" in _sys.modules and hasattr(_sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS"):
    from .nodes.comfy.mappings import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
else:
    NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = {}, {}  # pyright: ignore[reportConstantRedefinition]
