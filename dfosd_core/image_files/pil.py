"""Pillow's images, whatever their mode, as `Picture`s and back: the way in and out of hosts that hand over images.

Pillow has 16 bits for grey alone: 16-bit colour gets through as a file (read.py, write.py) and never as its image.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

from ..errors import ImageFileError
from .geo import GeoTags
from .metadata import keep
from .picture import Picture, Samples, add_alpha, turn_upright
from .side_data import SideData, side_of_pil

_BLACK_POINT_COMPENSATION = 0x2000
"""Little CMS's number, which Pillow has had a name for since 10.3."""


def has_avif() -> bool:
    """Whether this Pillow has the decoder and the encoder. Before 11.3 it does not know the name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(features.check("avif"))


def from_pil(image: Image.Image, side: SideData | None = None) -> Picture:
    """Upright grey or RGB with the image's metadata: 16-bit grey keeps its bits, palettes and CMYK become colours.

    `side` takes the place of what Pillow has read beside the samples. Raises ImageFileError for samples of 32 bits, and
    what Pillow raises for a damaged file that is decoded only now.
    """
    samples = samples_of(image)
    side = side or side_of_pil(image)
    if image.format == "TIFF":  # Pillow itself has turned it upright now
        return picture_of(samples, side, 1)
    return picture_of(turn_upright(samples, side.orientation), side, side.orientation)


def picture_of(samples: Samples, side: SideData, orientation: int, geo: GeoTags = ()) -> Picture:
    """Samples (H, W, C) that were turned upright from `orientation`, with what stays of `side`."""
    samples = np.ascontiguousarray(samples)
    size = samples.shape[0], samples.shape[1]
    metadata = keep(side, size, is_grey=samples.shape[2] < 3, orientation=orientation, geo=geo)
    return Picture(samples=samples, metadata=metadata)


def to_pil(picture: Picture) -> Image.Image:
    """Its image, with a colour profile in `info`, where Pillow's writers of PNG and WebP look for one.

    16-bit grey is mode "I;16"; 16-bit colour, and 16-bit grey with alpha, come out in 8 bits.
    """
    samples = picture.samples if picture.samples.shape[2] == 1 else picture.to_8_bit().samples
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    profile = picture.metadata.any_profile(is_grey=picture.is_grey)
    if profile:
        image.info["icc_profile"] = profile
    return image


def to_srgb(picture: Picture) -> Picture:
    """In 8 bits and sRGB, for formats that can state no other colours."""
    picture = picture.to_8_bit()
    profile = picture.metadata.any_profile(is_grey=picture.is_grey)
    if not profile:
        return picture
    samples = _array(_converted(to_pil(picture.without_alpha()), profile))
    if picture.has_alpha:
        samples = np.concatenate([samples, picture.samples[..., -1:]], axis=2)
    return replace(picture, samples=samples)


def samples_of(image: Image.Image) -> Samples:
    """(H, W, C) from whatever mode Pillow decodes, as stored. Raises as `from_pil`."""
    transparent = _transparent(image)
    image.load()
    has_alpha = "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        light = _grey_16(image)
        return light if transparent is None else add_alpha(light, transparent)
    if image.mode in ("1", "L", "RGB") and transparent is not None:
        return add_alpha(_array(image if image.mode == "RGB" else image.convert("L")), transparent)
    if image.mode in ("P", "PA"):
        samples = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
        light = samples[..., :3]
        # Optimisers store grey pictures with a palette; a colour profile would not fit them any more.
        grey = "icc_profile" not in image.info and bool((light == light[..., :1]).all())
        return samples[..., [0, 3] if has_alpha else [0]] if grey else samples
    if image.mode in ("1", "L", "LA", "La"):
        return _array(image.convert("LA" if has_alpha else "L"))
    if image.mode in ("CMYK", "LAB"):
        return _array(_to_rgb(image))
    return _array(image.convert("RGBA" if has_alpha else "RGB"))


def _transparent(image: Image.Image) -> int | tuple[int, ...] | None:
    """The one transparent grey or colour, if there is one, in the range of the decoded samples.

    PNGs of 1, 2 and 4 bits state it in theirs, and Pillow leaves it so. Only an image not yet loaded tells.
    """
    stated = image.info.get("transparency")
    if isinstance(stated, int) and image.mode in ("1", "L"):
        raw = next((tile[3] for tile in getattr(image, "tile", ())), "")
        bits = {"1": 1, "L;2": 2, "L;4": 4}.get(raw if isinstance(raw, str) else "", 1 if image.mode == "1" else 8)
        return min(stated, 2**bits - 1) * 255 // (2**bits - 1)
    return stated if isinstance(stated, (int, tuple)) else None


def _grey_16(image: Image.Image) -> NDArray[np.uint16]:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:  # Pillow 10.1 reads a 16-bit PNG as mode "I"
        raise ImageFileError("The image has 32-bit or floating-point samples. Convert it to 8 or 16 bits a sample.")
    return values.astype(np.uint16)[..., None]


def _to_rgb(image: Image.Image) -> Image.Image:
    """CMYK through its profile, or plainly if it has none of use; Lab through its definition."""
    try:
        if image.mode == "LAB":
            return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
        return _converted(image, image.info["icc_profile"])
    except (KeyError, OSError, ImageCms.PyCMSError):
        return image.convert("RGB")


def _converted(image: Image.Image, source: bytes | ImageCms.ImageCmsProfile) -> Image.Image:
    """To sRGB. Raises OSError and PyCMSError for a profile that cannot be used."""
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(io.BytesIO(source)) if isinstance(source, bytes) else source,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=cast("Any", _BLACK_POINT_COMPENSATION),
    )
    assert converted is not None
    return converted


def _array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).reshape(image.height, image.width, -1)
