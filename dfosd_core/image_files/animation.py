"""Animations, frame by frame: out of the files that Pillow opens, and into them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .metadata import keep
from .picture import Opened, Picture, Samples, Sequence, turn_upright
from .pil import to_pil
from .side_data import SideData, side_of_pil


def is_animated(image: Image.Image) -> bool:
    """More than one frame. MPO is a JPEG with more pictures behind the photograph, as many phones write."""
    return image.format != "MPO" and getattr(image, "n_frames", 1) > 1


def open_animation(image: Image.Image, side: SideData) -> Opened:
    """All frames as they are shown, in RGBA where any has transparency."""
    size = (image.width, image.height) if side.orientation >= 5 else (image.height, image.width)
    return Opened(size=size, decode=lambda: _decode(image, side), pictures=getattr(image, "n_frames", 1))


def _decode(image: Image.Image, side: SideData) -> Picture:
    # A PNG may have a picture for programs that show no animations; it is none of the frames.
    first = int(bool(image.info.get("default_image")))
    plays = _plays(image)
    shown: list[Samples] = []
    durations: list[float] = []
    for number in range(first, getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        shown.append(turn_upright(np.asarray(image.convert("RGBA")), side.orientation))
        durations.append(float(image.info.get("duration", 0) or 0))
    side.texts = side.texts or side_of_pil(image).texts
    is_opaque = all(frame[..., 3].min() == 255 for frame in shown)
    frames = [np.ascontiguousarray(frame[..., :3] if is_opaque else frame) for frame in shown]
    size = frames[0].shape[0], frames[0].shape[1]
    metadata = keep(side, size, is_grey=False, orientation=side.orientation)
    if first:
        metadata = replace(metadata, lost=(*metadata.lost, "the picture for programs without animations"))
    following = tuple(Picture(samples=frame) for frame in frames[1:])
    sequence = Sequence(following=following, durations=tuple(durations), plays=plays) if following else None
    return Picture(samples=frames[0], metadata=metadata, sequence=sequence)


def _plays(image: Image.Image) -> int:
    """A GIF states how often it is shown again, the others how often at all."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loop is None else loop + 1 if loop else 0
    return loop if isinstance(loop, int) else 0


def save_animation(file: BinaryIO, name: str, picture: Picture, options: dict[str, Any]) -> None:
    """Write a picture with its sequence by Pillow's writer `name`."""
    sequence = picture.sequence
    assert sequence is not None
    first, *others = (to_pil(frame.to_8_bit()) for frame in (picture, *sequence.following))
    for image in (first, *others):
        image.info.clear()
    timing: dict[str, Any] = {"duration": [round(duration) for duration in sequence.durations]}
    if name == "GIF":
        timing |= {"disposal": 2 if picture.has_alpha else 1}
        timing |= {} if sequence.plays == 1 else {"loop": max(sequence.plays - 1, 0)}
    elif name != "AVIF":
        timing |= {"loop": sequence.plays}
    first.save(file, name, save_all=True, append_images=others, **timing, **options)
