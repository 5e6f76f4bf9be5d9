"""How large an image becomes, and how it lies in the output. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import ConfigError

MIN_SCALE = 1.0
MAX_SCALE = 8.0
MEGAPIXEL = 1_000_000

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Placement:
    """An enlarged image in the output: as a whole, cut at its edges, or with bars beside it; always in the middle."""

    scaled: Size
    """Of the whole image, enlarged."""
    output: Size

    @property
    def is_whole(self) -> bool:
        """Nothing is cut off, and there are no bars."""
        return self.scaled == self.output

    @property
    def computed(self) -> Size:
        """Of the part of the image that is in the output."""
        return min(self.scaled[0], self.output[0]), min(self.scaled[1], self.output[1])

    @property
    def cut(self) -> Size:
        """Rows above and columns left of that part in the enlarged image."""
        return _halves(self.scaled, self.computed)

    @property
    def bars(self) -> Size:
        """Rows above and columns left of that part in the output."""
        return _halves(self.output, self.computed)

    def reduced_to(self, output: Size) -> Placement:
        """The same for a smaller picture of the output, to the nearest pixel."""
        down, across = output[0] / self.output[0], output[1] / self.output[1]
        return Placement((max(round(self.scaled[0] * down), 1), max(round(self.scaled[1] * across), 1)), output)


def scaled(size: Size, scale: float) -> Size:
    """Each edge times the scale, rounded, at least 1."""
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def by_edge(size: Size, name: str, target: int) -> Size:
    """`name`, "long_edge" or "short_edge", becomes `target`. Raises ConfigError for less or more than the limits."""
    edge = min(size) if name == "short_edge" else max(size)
    if not MIN_SCALE * edge <= target <= MAX_SCALE * edge:
        raise ConfigError(
            f"Expected a {name} from {edge} to {round(MAX_SCALE * edge)} for a {size[1]}x{size[0]} image "
            f"({MIN_SCALE:g} to {MAX_SCALE:g} times its own), found {target}. Change {name} or use scale."
        )
    return max(round(size[0] * target / edge), 1), max(round(size[1] * target / edge), 1)


def by_megapixels(size: Size, megapixels: float) -> Size:
    """About so many million pixels, in the image's shape. Raises ConfigError for less or more than the limits."""
    own = size[0] * size[1] / MEGAPIXEL
    if not MIN_SCALE**2 * own <= megapixels <= MAX_SCALE**2 * own:
        raise ConfigError(
            f"Expected megapixels from {own:.3g} to {MAX_SCALE**2 * own:.3g} for a {size[1]}x{size[0]} image "
            f"({MIN_SCALE:g} to {MAX_SCALE:g} times its edges), found {megapixels:g}. Change megapixels or use scale."
        )
    return scaled(size, (megapixels / own) ** 0.5)


def exactly(size: Size, output: Size, fit: str) -> Placement:
    """`output`, filled ("crop") or with the whole image in it ("pad").

    Raises ConfigError where the image would have to be enlarged less or more than the limits.
    """
    down, across = output[0] / size[0], output[1] / size[1]
    scale = max(down, across) if fit == "crop" else min(down, across)
    if not MIN_SCALE <= scale <= MAX_SCALE:
        raise ConfigError(
            f"Expected a width and height that take {MIN_SCALE:g} to {MAX_SCALE:g} times a {size[1]}x{size[0]} image "
            f"(fit {fit}), found {output[1]}x{output[0]}, which take {scale:.4g} times. Change them or use scale."
        )
    return Placement(scaled(size, scale), output)


def _halves(outer: Size, inner: Size) -> Size:
    return (outer[0] - inner[0]) // 2, (outer[1] - inner[1]) // 2
