"""Giving the output the colours of the input, once over the whole image, so that no tile has its own tint.

Functions of (B, 3, H, W) images, nominally [0, 1], float32; each image of a batch on its own. The result takes the
place of `x_sr` and is not clamped. They work in bands of rows, since whole copies add up at large sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import ConfigError
from .images import BAND_ROWS
from .settings import COLOR_FIX_NAMES

WAVELET_LEVELS = 5
CELL_PX = 4
"""Of the cells whose means take the place of the wavelet's first two levels. BAND_ROWS is a multiple of it."""
EXCHANGES = 3
"""How often the low band is taken over."""


def fix_color(name: str, x_sr: Tensor, x_lr: Tensor) -> Tensor:
    """`x_sr`, changed in place to the colours of `x_lr` (same shape) by the method of that name in `COLOR_FIXES`."""
    if name not in COLOR_FIXES:
        raise ConfigError(f"Expected a colour fix of {', '.join(COLOR_FIXES)}, found '{name}'.")
    return COLOR_FIXES[name](x_sr, x_lr)


def none(x_sr: Tensor, x_lr: Tensor) -> Tensor:
    """No colour fix: `x_sr` as it is."""
    return x_sr


def wavelet(x_sr: Tensor, x_lr: Tensor) -> Tensor:
    """The details of `x_sr` over the low frequencies of `x_lr`, which the result then has almost exactly.

    StableSR's fix is x_sr - low(x_sr) + low(x_lr), and since its filter is linear, x_sr + low(x_lr - x_sr). But low is
    not a sharp cut: what it halves is only half exchanged, and low(result) keeps up to a quarter of the difference.
    So the same is done to the result twice more, which leaves a tenth at most.

    Of the filter's five levels the first two are means of 4x4 pixels and bilinear steps between them, which is nearly
    the same and leaves a sixteenth of the work to the others.
    """
    for sr, lr in zip(x_sr, x_lr, strict=True):
        change = torch.stack([_exchanged(_cells(a, b)) for a, b in zip(lr, sr, strict=True)])
        for i, band in enumerate(_bands(sr)):
            band.add_(_enlarged(change, i * BAND_ROWS, *band.shape[-2:]))
    return x_sr


def _cells(a: Tensor, b: Tensor) -> Tensor:
    """a - b (H, W), averaged over CELL_PX x CELL_PX pixels: (H / CELL_PX, W / CELL_PX), rounded up."""
    height, width = a.shape
    cells = a.new_empty(-(-height // CELL_PX), -(-width // CELL_PX))
    for own, other, means in zip(_bands(a), _bands(b), cells.split(BAND_ROWS // CELL_PX), strict=True):
        difference = (own - other)[None, None]
        padding = (0, -width % CELL_PX, 0, -len(own) % CELL_PX)
        means.copy_(F.avg_pool2d(F.pad(difference, padding, mode="replicate"), CELL_PX)[0, 0])
    return cells


def _exchanged(difference: Tensor) -> Tensor:
    """What taking over the reference's low band EXCHANGES times adds, of (h, w) cells of reference - image."""
    left, change = difference.clone(), torch.zeros_like(difference)
    for _ in range(EXCHANGES):
        low = low_pass(left, WAVELET_LEVELS - 2)
        change.add_(low)
        left.sub_(low)
    return change


def _enlarged(cells: Tensor, start: int, rows: int, width: int) -> Tensor:
    """Rows `start` to `start + rows` of the cells' bilinear enlargement: (C, h, w) -> (C, rows, width)."""
    first, last = max(start // CELL_PX - 1, 0), -(-(start + rows) // CELL_PX) + 1
    full = F.interpolate(cells[None, :, first:last], scale_factor=CELL_PX, mode="bilinear", align_corners=False)[0]
    return full[:, start - first * CELL_PX :, :width][:, :rows]


def low_pass(x: Tensor, levels: int = WAVELET_LEVELS) -> Tensor:
    """The a-trous wavelet's low band of (..., H, W): [1, 2, 1] / 4 with gaps of 1, 2, 4, ..., edges repeated.

    Five levels together look 31 pixels far and come close to a Gaussian of sigma 13.
    """
    for level in range(levels):
        for dim in (-2, -1):
            x = _smooth(x, 2**level, dim)
    return x


def _smooth(x: Tensor, gap: int, dim: int) -> Tensor:
    out = x * 0.5
    size = x.shape[dim]
    inner, edge = max(size - gap, 0), min(gap, size)  # samples with a neighbour on one side; without
    out.narrow(dim, edge, inner).add_(x.narrow(dim, 0, inner), alpha=0.25)
    out.narrow(dim, 0, edge).add_(x.narrow(dim, 0, 1), alpha=0.25)
    out.narrow(dim, 0, inner).add_(x.narrow(dim, edge, inner), alpha=0.25)
    out.narrow(dim, inner, edge).add_(x.narrow(dim, size - 1, 1), alpha=0.25)
    return out


def adain(x_sr: Tensor, x_lr: Tensor) -> Tensor:
    """`x_sr` with each RGB channel's mean and standard deviation made those of `x_lr`."""
    for sr, lr in _channels(x_sr, x_lr):
        gain, offset = _match(_moments([sr]), _moments([lr]))
        sr.mul_(gain).add_(offset)
    return x_sr


def lab(x_sr: Tensor, x_lr: Tensor) -> Tensor:
    """As `adain`, but in CIE L*a*b*, where lightness and colour are apart. Both images are taken as sRGB."""
    for sr, lr in zip(x_sr, x_lr, strict=True):
        gain, offset = _match(_moments(map(rgb_to_lab, _bands(sr))), _moments(map(rgb_to_lab, _bands(lr))))
        for band in _bands(sr):
            band.copy_(lab_to_rgb(rgb_to_lab(band) * gain + offset))
    return x_sr


COLOR_FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {name: globals()[name] for name in COLOR_FIX_NAMES}
"""By name. A new one is a function above and its name in settings.py."""


def _channels(x_sr: Tensor, x_lr: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views (H, W) of both, one channel after the other."""
    for image, reference in zip(x_sr, x_lr, strict=True):
        yield from zip(image, reference, strict=True)


def _bands(x: Tensor) -> tuple[Tensor, ...]:
    return torch.split(x, BAND_ROWS, dim=-2)


def _moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the last two axes of an image given in bands of rows."""
    counts: list[int] = []
    variances: list[Tensor] = []
    means: list[Tensor] = []
    for part in parts:
        variance, mean = torch.var_mean(part, dim=(-2, -1), correction=0, keepdim=True)
        counts.append(part.shape[-2] * part.shape[-1])
        variances.append(variance)
        means.append(mean)
    weights = [count / sum(counts) for count in counts]
    mean = _weighted(weights, means)
    spread = [variance + (m - mean) ** 2 for variance, m in zip(variances, means, strict=True)]
    return mean, _weighted(weights, spread).sqrt()


def _weighted(weights: list[float], values: list[Tensor]) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(dim=0)


def _match(of: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Gain and offset that take one mean and deviation to the other; a flat channel is only shifted."""
    gain = torch.where(of[1] > 1e-6, target[1] / of[1].clamp_min(1e-6), torch.ones_like(of[1]))
    return gain, target[0] - gain * of[0]


# sRGB (IEC 61966-2-1) to CIE XYZ, each row divided by the D65 white point, which is what L*a*b* wants of XYZ.
_RGB_TO_XYZ = (
    (0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883),
)
_DELTA = 6.0 / 29.0


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """sRGB (3, H, W), clamped to [0, 1] -> L* in [0, 100], a*, b*."""
    rgb = rgb.clamp(0.0, 1.0)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,jhw->ihw", torch.tensor(_RGB_TO_XYZ).to(rgb), linear)
    f = torch.where(xyz > _DELTA**3, xyz.clamp_min(_DELTA**3) ** (1 / 3), xyz / (3 * _DELTA**2) + 4 / 29)
    return torch.stack([116.0 * f[1] - 16.0, 500.0 * (f[0] - f[1]), 200.0 * (f[1] - f[2])])


def lab_to_rgb(x: Tensor) -> Tensor:
    """L*a*b* (3, H, W) -> sRGB, colours outside its gamut clamped to [0, 1]."""
    fy = (x[0] + 16.0) / 116.0
    f = torch.stack([fy + x[1] / 500.0, fy, fy - x[2] / 200.0])
    xyz = torch.where(f > _DELTA, f**3, 3 * _DELTA**2 * (f - 4 / 29))
    linear = torch.einsum("ij,jhw->ihw", torch.tensor(_RGB_TO_XYZ).inverse().to(x), xyz).clamp(0.0, 1.0)
    curve = 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, linear * 12.92, curve)
