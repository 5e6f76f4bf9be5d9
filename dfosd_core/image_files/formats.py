"""Which endings are read and written."""

from __future__ import annotations

READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp")
"""What is taken from a folder or a pattern. A file named by the user may be called anything."""

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""Ending of an output, in lower case -> Pillow's name of the format."""
