"""Pillow's images, whatever their mode, as `Picture`s and back: the way in and out of hosts that hand over images.

Pillow has 16 bits for grey alone: 16-bit colour gets through as a file (read.py, write.py) and never as its image.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from ..errors import ImageFileError
from .metadata import read_metadata
from .picture import Picture, Samples, add_alpha, turn_upright


def from_pil(image: Image.Image) -> Picture:
    """Upright grey or RGB with the image's metadata: 16-bit grey keeps its bits, palettes and CMYK become colours.

    Raises ImageFileError for samples of 32 bits, and what Pillow raises for a damaged file that is decoded only now.
    """
    image.load()  # a TIFF is turned upright by Pillow itself here, and no longer has an orientation after
    orientation = image.getexif().get(274, 1)
    samples = np.ascontiguousarray(turn_upright(_samples(image), orientation))
    return Picture(samples=samples, metadata=read_metadata(image, is_grey=samples.shape[2] < 3))


def to_pil(picture: Picture) -> Image.Image:
    """Its image, with the colour profile in `info`, where Pillow's writers of PNG and WebP look for one.

    16-bit grey is mode "I;16"; 16-bit colour, and 16-bit grey with alpha, come out in 8 bits.
    """
    samples = picture.samples if picture.samples.shape[2] == 1 else picture.to_8_bit().samples
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    if picture.metadata.icc_profile:
        image.info["icc_profile"] = picture.metadata.icc_profile
    return image


def _samples(image: Image.Image) -> Samples:
    """(H, W, C) from whatever mode Pillow decoded."""
    has_alpha = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        return _grey_16(image)
    if image.mode in ("P", "PA"):
        samples = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        light = samples[..., :3]
        # Optimisers store grey pictures with a palette; a colour profile would not fit them any more.
        grey = "icc_profile" not in image.info and bool((light == light[..., :1]).all())
        return samples[..., [0, 3] if has_alpha else [0]] if grey else samples
    if image.mode in ("1", "L", "LA", "La"):
        return _array(image.convert("LA" if has_alpha else "L"))
    if image.mode in ("CMYK", "LAB"):
        return _array(_to_srgb(image))
    return _array(image.convert("RGBA" if has_alpha else "RGB"))


def _grey_16(image: Image.Image) -> NDArray[np.uint16]:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:  # Pillow 10.1 reads a 16-bit PNG as mode "I"
        raise ImageFileError("The image has 32-bit or floating-point samples. Convert it to 8 or 16 bits a sample.")
    light = values.astype(np.uint16)[..., None]
    transparent = image.info.get("transparency")
    return add_alpha(light, transparent) if isinstance(transparent, int) else light


def _to_srgb(image: Image.Image) -> Image.Image:
    """CMYK through its profile, or plainly if it has none of use; Lab through its definition."""
    try:
        if image.mode == "LAB":
            source = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        else:
            source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (KeyError, OSError, ImageCms.PyCMSError):
        return image.convert("RGB")
    assert converted is not None
    return converted


def _array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).reshape(image.height, image.width, -1)
