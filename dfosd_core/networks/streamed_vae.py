"""The autoencoder in bounded memory, exact at any size: layer by layer, each in strips of rows.

A layer reads its map strip by strip, with the rows beside a strip that its convolutions reach, and writes the next
map (`maps.py`). While a map is written the statistics for the group norm after it are gathered; when it is read they
are known (`moments.py`). Keys and values of the attention are those of the whole map. So nothing is an approximation,
nothing is computed twice but the rows beside the strips, and at most two maps exist at a time.

For n latents the attention takes 2 n^2 C multiplications: in the decoder a quarter of what the convolutions take at
2048 pixels, as much at 4096, four times as much at 8192.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from ..freed_memory import give_back_freed_memory
from ..tiles.inside import Inside, tell
from .layers import Downsample, Resnet, Upsample
from .map_sizes import MapSize, map_sizes, work_of
from .maps import Map, Maps
from .norms import GroupNorm
from .strips import CONV, DOUBLED, HALVED, PLACE, Reach, strips
from .vae import Decoder, Half, MapAttention, Vae

STRIP = 64 * 2**20
"""Bytes of a strip of the larger of two maps. While it is computed, about five times as much is held."""
PRODUCTS = 2**31
"""Of a query and a key, in one step of the attention: seconds, after which a run can be stopped."""


def encode(vae: Vae, x: Tensor) -> Tensor:
    """As `vae.encode`, from images of any format on any device; in the network's format, on its device."""
    weight = vae.quant_conv.weight
    moments = _through(vae.encoder, x).to(weight.device, weight.dtype)
    return vae.quant_conv(moments).chunk(2, dim=1)[0]


def decode(vae: Vae, z: Tensor) -> Tensor:
    """As `vae.decode`, from latents of any format on any device; float32 on their device."""
    weight = vae.post_quant_conv.weight
    return _through(vae.decoder, vae.post_quant_conv(z.to(weight.device, weight.dtype)).to(z.device))


def _through(half: Half, x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C', H', W') float32 on the same device."""
    results = [_Stream(half, x[i : i + 1], i, len(x)).result() for i in range(len(x))]
    give_back_freed_memory()  # up to two gigabytes, in blocks that no other stage needs
    return results[0] if len(results) == 1 else torch.cat(results)


class _Source(Protocol):
    height: int

    def read(self, start: int, stop: int) -> Tensor: ...


class _OverflowError(Exception):
    """A map is not finite, so the result isn't either."""


class _Stream:
    """One image on its way through an encoder or decoder."""

    def __init__(self, half: Half, x: Tensor, index: int, count: int) -> None:
        """It is image `index` of `count`."""
        self._half, self._x = half, x
        self._weight = half.conv_in.weight
        self._sizes = list(map_sizes(half, x.shape[2], x.shape[3]))
        self._maps = Maps(self._weight.dtype, self._weight.device)
        work = sum(map(work_of, (half.conv_in, *half.layers(), half.conv_out), (*self._sizes, self._sizes[-1])))
        self._done, self._work = index * work, count * work

    def result(self) -> Tensor:
        """(1, C', H', W') float32 where `x` is. All NaN if a map on the way is not finite."""
        largest = max(a.values + b.values for a, b in zip(self._sizes, self._sizes[1:], strict=False))
        try:
            with self._maps:
                self._maps.check_room(largest * self._weight.itemsize)
                return self._run()
        except _OverflowError:
            return self._empty().fill_(torch.nan)

    def _empty(self) -> Tensor:
        height, width, _ = self._sizes[-1]
        return torch.empty(1, self._half.conv_out.out_channels, height, width, device=self._x.device)

    def _run(self) -> Tensor:
        half, sizes = self._half, self._sizes
        x = self._maps.new(*sizes[0])
        self._over(half.conv_in, [_Image(self._x, self._weight)], x, CONV, work_of(half.conv_in, sizes[0]))
        for layer, size in zip(half.layers(), sizes[1:], strict=True):
            x = self._next(layer, x, size)
        values = self._empty()
        result = _Result(values, shown=isinstance(half, Decoder))
        self._over(half.last, [x], result, CONV, work_of(half.conv_out, sizes[-1]), half.conv_norm_out)
        return values

    def _next(self, layer: nn.Module, x: Map, size: MapSize) -> Map:
        """The map after `layer`. `x` is gone then."""
        if isinstance(layer, MapAttention):
            return self._attention(layer, x, size)
        y = self._maps.new(*size)
        if isinstance(layer, Resnet):
            first, norm = work_of(layer.conv1, size), layer.norm_between()
            self._over(layer.first_half, [x], y, CONV, first, layer.norm1)
            h, y = y, y.successor(CONV.above)

            def second_half(h: Tensor, x: Tensor) -> Tensor:
                # Without a norm the activation is done in place, and would be in the map itself.
                return layer.second_half(h if isinstance(norm, GroupNorm) else h.clone(), x, norm)

            self._over(second_half, [h, x], y, CONV, work_of(layer, size) - first, norm)
        else:
            assert isinstance(layer, Upsample | Downsample)
            self._over(layer, [x], y, DOUBLED if isinstance(layer, Upsample) else HALVED, work_of(layer, size))
        self._maps.close(x)
        if isinstance(layer, Upsample | Downsample):
            give_back_freed_memory()  # from here on maps have another size, and would not fit where the last ones were
        return y

    def _attention(self, layer: MapAttention, x: Map, size: MapSize) -> Map:
        k, v = (self._weight.new_empty(1, 1, size.places, size.channels) for _ in range(2))
        with _knowing(layer.group_norm, x):
            for start, stop, part in strips(
                lambda start, stop: layer.keys_and_values_of(self._read(x, start, stop)), x.height, self._rows(x, x)
            ):
                places = slice(start * x.width, stop * x.width)
                k[:, :, places], v[:, :, places] = part
        rows = max(PRODUCTS // (size.places * size.width), 1)
        y = x.successor(PLACE.above)
        self._over(partial(layer.of_rows, k=k, v=v), [x], y, PLACE, work_of(layer, size), layer.group_norm, rows)
        return y

    def _over(
        self,
        layer: Callable[..., Tensor],
        sources: Sequence[_Source],
        target: Map | _Result,
        reach: Reach,
        work: int,
        norm: nn.Module | None = None,
        rows: int | None = None,
    ) -> None:
        """Write `target` with `layer`, which reads `sources`, the first of them through `norm`."""

        def compute(start: int, stop: int) -> Tensor:
            first, last = reach.read(start, stop, sources[0].height)
            y = layer(*(self._read(source, first, last) for source in sources))
            return y.narrow(2, reach.surplus(start, first), stop - start)

        most = self._rows(sources[0], target)
        with _knowing(norm, sources[0]):
            for start, stop, part in strips(compute, target.height, min(rows or most, most)):
                finished = target.write(start, part)
                self._done += work * (stop - start) / target.height
                tell(Inside(min(self._done / self._work, 1.0), start, finished))
                del part  # or it would be held while the next one is computed
        if isinstance(target, Map) and not target.moments.is_finite:
            raise _OverflowError

    def _read(self, source: _Source, start: int, stop: int) -> Tensor:
        return source.read(start, stop).to(self._weight.device)

    def _rows(self, source: _Source, target: Map | _Result) -> int:
        """Of `target`, in a strip."""
        values = max(m.height * m.width * m.channels for m in (source, target) if isinstance(m, Map))
        return STRIP // (values // target.height * self._weight.itemsize)


class _Image:
    """What an encoder or decoder is given, as a source: its rows in the network's format."""

    def __init__(self, x: Tensor, weight: Tensor) -> None:
        self._x, self._weight, self.height = x, weight, x.shape[2]

    def read(self, start: int, stop: int) -> Tensor:
        rows = self._x[:, :, start:stop]
        return rows.to(self._weight.device, self._weight.dtype, memory_format=torch.channels_last)


class _Result:
    """What becomes of it, as a target."""

    def __init__(self, values: Tensor, shown: bool) -> None:
        """shown: whether finished rows can be shown."""
        self._values, self._shown, self.height = values, shown, values.shape[2]

    def write(self, start: int, part: Tensor) -> Tensor | None:
        rows = self._values[:, :, start : start + part.shape[2]]
        rows.copy_(part)
        return rows if self._shown else None


def _knowing(norm: nn.Module | None, source: _Source) -> AbstractContextManager[None]:
    """The norm takes the statistics of the whole map."""
    if not isinstance(norm, GroupNorm):
        return nullcontext()
    assert isinstance(source, Map)
    return norm.knowing(*source.moments.of_groups(norm.num_groups))
