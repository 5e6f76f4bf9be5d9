"""Small pictures of every format and most of their kinds, to be damaged."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from dfosd_core.image_files.read import decode_image
from dfosd_core.image_files.write import encode_image


@cache
def pictures() -> dict[str, bytes]:
    """Small files of every format and most of their kinds, with metadata."""
    rng, made = np.random.default_rng(0), dict[str, bytes]()
    rgb = Image.fromarray(rng.integers(0, 256, (9, 20, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    exif.get_ifd(0x8769)[0xA001] = 1
    kinds = {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "AVIF": ("RGB",),
        "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "P"),
        "GIF": ("P",),
        "BMP": ("RGB", "L"),
    }
    for form, modes in kinds.items():
        for mode in modes:
            image = Image.new(mode, rgb.size, 40000) if mode == "I;16" else rgb.convert(mode)
            buffer, more = io.BytesIO(), {} if form in ("GIF", "BMP") else {"exif": exif}
            image.save(buffer, form, **more)
            made[f"{form} {mode}"] = buffer.getvalue()
    for form in ("PNG", "WEBP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        rgb.save(buffer, form, save_all=True, append_images=[rgb.rotate(180), rgb.rotate(90)])
        made[f"{form} several"] = buffer.getvalue()
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        buffer = io.BytesIO()
        rgb.save(buffer, "TIFF", compression=compression)
        made[f"TIFF {compression}"] = buffer.getvalue()
    for form in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        picture = decode_image(made["PNG RGBA"], "x")
        deep = type(picture)(samples=picture.samples.astype(np.uint16) * 257, metadata=picture.metadata)
        encode_image(buffer, form, deep)
        made[f"{form} 16 bits"] = buffer.getvalue()
    return made
