"""Image files: what is read and written, with its metadata.

Here is which endings they have, and nothing is imported: a command line can say it at once.
"""

from __future__ import annotations

from pathlib import Path

_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".heic", ".heif")
READABLE_SUFFIXES = (".png", *_PHOTOGRAPHS, ".tif", ".tiff", ".gif", ".bmp")
"""What is taken from a folder or a pattern. A file named by the user may be called anything."""

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".gif": "GIF",
    ".bmp": "BMP",
}
"""Ending of an output, in lower case -> Pillow's name of the format."""


def is_image_name(path: Path) -> bool:
    """By its ending, and not hidden: macOS leaves shadow files `._photo.jpg` on other systems' disks."""
    return path.suffix.lower() in READABLE_SUFFIXES and not path.name.startswith(".")
