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

QUALITY = 95
"""Of JPEG, WebP and AVIF, from 1 to 100: what was just restored should not be blurred again."""
SAME = "same"
FORMAT_NAMES = (SAME, "png", "jpg", "webp", "avif", "tiff")
"""What a whole folder can be written as."""


def format_suffix(name: str, source: Path) -> str:
    """The ending of a result of `source`, for one of `FORMAT_NAMES`. What cannot be written becomes a PNG."""
    if name != SAME:
        return f".{name}"
    suffix = source.suffix.lower()
    return suffix if suffix in FORMATS else ".jpg" if suffix in (".jpe", ".jfif") else ".png"


def is_image_name(path: Path) -> bool:
    """By its ending, and not hidden: macOS leaves shadow files `._photo.jpg` on other systems' disks."""
    return path.suffix.lower() in READABLE_SUFFIXES and not path.name.startswith(".")
