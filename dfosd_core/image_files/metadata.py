"""What the upscaled image keeps of what its input says beside its samples."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..sizes import Placement
from .color_space import adobe_rgb, is_adobe_rgb, profile_of
from .exif import exif_of_part, kept_exif, scaled_exif
from .geo import GeoTags, scaled_geo
from .icc import color_from_grey, grey_from_color, space_of
from .side_data import SideData, usable_dpi
from .xmp import kept_xmp, scaled_xmp, xmp_of_part


@dataclass(frozen=True, kw_only=True)
class ImageMetadata:
    """What stays true for the upscaled image, or is made so by `of_size`. None and empty: the input had none."""

    icc_profile: bytes | None = None
    """Fits the samples: a grey profile for grey, an RGB profile for colour."""
    color: tuple[tuple[bytes, bytes], ...] = ()
    """PNG's chunks about colour (color_space.py), which other PNGs take over."""
    exif: bytes | None = None
    """`Exif\\0\\0` and a TIFF structure, without what would be wrong now: orientation, thumbnail."""
    xmp: bytes | None = None
    """An XMP packet, without an orientation and what lies behind the picture in its file."""
    dpi: tuple[float, float] | None = None
    """Dots an inch, across and down: as in the input, so the print gets larger and not finer."""
    text: tuple[tuple[str, str], ...] = ()
    """A PNG's text entries. A JPEG's comment is the one called "Comment"."""
    iptc: bytes | None = None
    """IPTC's entries (IIM)."""
    geo: GeoTags = ()
    """Where on earth a TIFF's picture lies."""
    size: tuple[int, int] | None = None
    """(height, width) of the image that sizes and points in here are of."""
    lost: tuple[str, ...] = ()
    """What of the input is not in here, in words."""

    def of_size(self, size: tuple[int, int]) -> ImageMetadata:
        """For the same image upscaled to (height, width) `size`."""
        if self.size is None or self.size == size:
            return self
        return replace(
            self,
            exif=scaled_exif(self.exif, self.size, size) if self.exif else None,
            xmp=scaled_xmp(self.xmp, self.size, size) if self.xmp else None,
            geo=scaled_geo(self.geo, self.size, size),
            size=size,
        )

    def placed(self, placement: Placement) -> ImageMetadata:
        """For the same image upscaled and, where the placement says so, cut or padded: places in it are lost then."""
        if placement.is_whole or self.size is None:
            return self
        larger = self.of_size(placement.scaled)
        exif = exif_of_part(larger.exif, placement.output) if larger.exif else None
        xmp = xmp_of_part(larger.xmp, placement.output) if larger.xmp else None
        lost = ["the place on earth (the picture was cut or padded)"] if self.geo else []
        return replace(larger, exif=exif, xmp=xmp, geo=(), size=placement.output, lost=(*self.lost, *lost))

    def any_profile(self, *, is_grey: bool) -> bytes | None:
        """For formats that know of profiles alone: the input's, or one that says what its other marks said."""
        return self.icc_profile or profile_of(dict(self.color), is_grey=is_grey)


def keep(side: SideData, size: tuple[int, int], *, is_grey: bool, orientation: int, geo: GeoTags = ()) -> ImageMetadata:
    """What stays of `side` for the image of (height, width) `size`, which was turned upright from `orientation`."""
    lost = list(side.lost)
    profile = _profile(side, is_grey=is_grey, lost=lost)
    exif = None
    try:
        if side.exif is not None and len(side.exif):
            exif = kept_exif(side.exif, size, orientation)
            if not profile and not side.color and is_adobe_rgb(side.exif):
                profile = adobe_rgb(is_grey=is_grey)
    except Exception:  # Pillow raises nearly anything over damaged EXIF; the picture is still good
        lost.append("EXIF (damaged)")
    xmp = None
    if side.xmp:
        xmp, lost_in_xmp = kept_xmp(side.xmp, orientation)
        lost += lost_in_xmp
    if geo and orientation != 1:
        geo, lost = (), [*lost, "the place on earth (the picture was turned)"]
    return ImageMetadata(
        icc_profile=profile,
        color=tuple(side.color.items()),
        exif=exif,
        xmp=xmp,
        dpi=usable_dpi(side.dpi if orientation < 5 or not side.dpi else side.dpi[::-1]),
        text=tuple(side.texts),
        iptc=side.iptc,
        geo=geo,
        size=size,
        lost=tuple(dict.fromkeys(lost)),
    )


def _profile(side: SideData, *, is_grey: bool, lost: list[str]) -> bytes | None:
    if not side.icc_profile:
        return None
    space = space_of(side.icc_profile)
    if space == (b"GRAY" if is_grey else b"RGB "):
        return side.icc_profile
    if space in (b"RGB ", b"GRAY"):
        converted = (grey_from_color if is_grey else color_from_grey)(side.icc_profile)
        if converted is None:
            lost.append("the colour profile (it is for colours, the picture is grey, or the other way round)")
        return converted
    if space.startswith((b"CMY", b"Lab")):  # used up by the conversion to sRGB
        return None
    lost.append("the colour profile (it is for other samples)" if space else "the colour profile (damaged)")
    return None
