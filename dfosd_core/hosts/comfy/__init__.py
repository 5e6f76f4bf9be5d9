"""ComfyUI as a host: loads inside ComfyUI only."""
