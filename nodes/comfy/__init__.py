"""DFOSD in ComfyUI. Nothing happens here: `mappings.py` is what ComfyUI is handed."""
