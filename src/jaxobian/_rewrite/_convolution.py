"""Convolutions as matrix products: by tiles of the image, or by patches where the kernel is what is differentiated.

XLA's convolution on CPU works as wide as there are output channels; with few of them, as the transpose of a first
layer has, it reaches a small part of what a matrix product does.

    tiles      a tile of y = (the window of x that it reads) @ B     B: the kernel, banded, the same for every tile
    patches    y = (what the kernel reads, for each element of y) @ kernel
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ._pooling import pooled_next
from ._rewrite import Around, Rewrite

# What moving an element costs, in multiply-adds of a matrix product. Measured on LeNet's two layers.
_MOVED = 16
# With more channels on both sides than this, convolutions run well as they are.
_WIDE = 12
# Up to so many elements in a row of the image, its windows are picked by a product.
_NARROW = 128


@dataclass(frozen=True)
class _Convolution:
    """A convolution with a batch and two axes of space, of (batch, *space, channels) by (*space, in, out).

    Attributes:
        shape: of x.
        kernel: its shape.
        strides, low, high: for each axis of space: the stride, and the padding before and after.
        spread, holes: dilation of x and of the kernel.
    """

    shape: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    spread: tuple[int, ...]
    holes: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the kernel reaches along each axis."""
        return self._each(lambda a: (self.kernel[a] - 1) * self.holes[a] + 1)

    @property
    def out(self) -> tuple[int, ...]:
        """The result's sizes along the axes of space."""
        return self._each(
            lambda a: (self._spread_size(a) + self.low[a] + self.high[a] - self.reach[a]) // self.strides[a] + 1
        )

    def _spread_size(self, axis: int) -> int:
        return (self.shape[1 + axis] - 1) * self.spread[axis] + 1

    @staticmethod
    def _each(value: Any) -> tuple[int, ...]:
        return value(0), value(1)

    # By tiles --------------------------------------------------------------------------------------------------

    def window(self, tile: tuple[int, ...]) -> tuple[int, ...]:
        """The size of what a tile of the result reads."""
        return self._each(lambda a: (tile[a] - 1) * self.strides[a] + self.reach[a])

    def tile_cost(self, tile: tuple[int, ...]) -> float:
        """What one example takes in tiles of that size, in multiply-adds."""
        window, tiles = self.window(tile), self._each(lambda a: -(-self.out[a] // tile[a]))
        steps = self._each(lambda a: tile[a] * self.strides[a])
        read = math.prod(window) * self.kernel[2]
        made = math.prod(tile) * self.kernel[3]
        parts = self._each(lambda a: -(-window[a] // steps[a]))
        columns = self.shape[1] * tiles[1] * window[1] * self.kernel[2]
        moved = math.prod(tiles) * (read + made) + (parts[0] - 1) * columns + (parts[1] - 1) * math.prod(self.shape[1:])
        return math.prod(tiles) * read * made + _MOVED * moved

    def best_tile(self) -> tuple[int, ...]:
        """The size of tiles that take least."""
        options = [sorted({min(n, k) for k in (1, 2, 4, 8)} | {n}) for n in self.out]
        return min(product(*options), key=self.tile_cost)

    def by_tiles(
        self,
        x: Array,
        kernel: Array,
        tile: tuple[int, ...],
        *,
        transposed: bool = False,
        pooled: tuple[int, ...] = (1, 1),
        **precision: Any,
    ) -> Array:
        """The convolution, a tile at a time: each is one row of a matrix product.

        Args:
            x: the image.
            kernel: the kernel.
            tile: the size of a tile.
            transposed: whether it is there to be transposed.
            pooled: windows of the result, side by side, whose places come last in a row: of what is pulled back to
                them only one is not zero, and a processor compares several places at once if they are neighbors.
            precision: of the product.
        """
        window, tiles = self.window(tile), self._each(lambda a: -(-self.out[a] // tile[a]))
        steps = self._each(lambda a: tile[a] * self.strides[a])
        x = self._padded(x, self._each(lambda a: (tiles[a] - 1 + -(-window[a] // steps[a])) * steps[a]))
        narrow = transposed and math.prod(x.shape[2:]) <= _NARROW
        x = (_windows_by_product if narrow else _windows)(x, 2, tiles[1], steps[1], window[1])
        x = _windows(x, 1, tiles[0], steps[0], window[0])  # batch, tiles, rows, tiles, columns, channels
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), *tiles, -1)
        cut = self._each(lambda a: tile[a] // pooled[a])  # windows of a tile
        parts, channels = (cut[0], pooled[0], cut[1], pooled[1]), self.kernel[3]
        rows = self._band(kernel, tile).reshape(*window, self.kernel[2], *parts, channels)
        rows = rows.transpose(0, 1, 2, 3, 5, 7, 4, 6).reshape(x.shape[-1], -1)
        y = lax.dot_general(x, rows, (((3,), (0,)), ((), ())), **precision)
        y = y.reshape(len(x), *tiles, *cut, channels, *pooled).transpose(0, 1, 3, 6, 2, 4, 7, 5)
        y = y.reshape(len(x), tiles[0] * tile[0], tiles[1] * tile[1], channels)
        return y[:, : self.out[0], : self.out[1]]

    def _band(self, kernel: Array, tile: tuple[int, ...]) -> Array:
        """The kernel as a matrix from windows to tiles: (*window, in, *tile, out)."""
        bands = []
        for axis, size in enumerate(self.window(tile)):
            read = np.arange(size)[:, None, None]
            at = np.arange(self.kernel[axis])[None, :, None] * self.holes[axis]
            made = np.arange(tile[axis])[None, None, :] * self.strides[axis]
            bands.append(jnp.asarray(read == at + made, kernel.dtype))
        return jnp.einsum("hdr,wec,deio->hwirco", *bands, kernel, precision=lax.Precision.HIGHEST)

    def _padded(self, x: Array, sizes: tuple[int, ...]) -> Array:
        """`x` dilated and padded to `sizes`, what lies beyond them cut off."""
        ends = [(self.low[a], sizes[a] - self._spread_size(a) - self.low[a], self.spread[a] - 1) for a in (0, 1)]
        return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *ends, (0, 0, 0)))

    # By patches ------------------------------------------------------------------------------------------------

    def by_patches(self, x: Array, kernel: Array, **precision: Any) -> Array:
        """The convolution as one matrix product of all that the kernel reads."""
        x = self._padded(x, self._each(lambda a: (self.out[a] - 1) * self.strides[a] + self.reach[a]))
        patches = []
        for i, j in product(range(self.kernel[0]), range(self.kernel[1])):
            first = (i * self.holes[0], j * self.holes[1])
            ends = self._each(lambda a, first=first: first[a] + (self.out[a] - 1) * self.strides[a] + 1)
            patches.append(lax.slice(x, (0, *first, 0), (len(x), *ends, x.shape[3]), (1, *self.strides, 1)))
        joined = jnp.concatenate(patches, axis=3)
        return lax.dot_general(joined, kernel.reshape(-1, self.kernel[3]), (((3,), (0,)), ((), ())), **precision)


def _windows(x: Array, axis: int, count: int, step: int, size: int) -> Array:
    """`count` windows of `size` along an axis, one every `step`: (..., count, size, ...), of slices side by side."""
    parts = []
    for first in range(0, size, step):
        part = lax.slice_in_dim(x, first, first + count * step, axis=axis)
        part = part.reshape(*x.shape[:axis], count, step, *x.shape[axis + 1 :])
        parts.append(lax.slice_in_dim(part, 0, min(step, size - first), axis=axis + 1))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis + 1)


def _windows_by_product(x: Array, axis: int, count: int, step: int, size: int) -> Array:
    """The same for the last axis of space, as a product with zeros and ones.

    What overlapping windows send back is then summed by a product: as fast as sums of padded slices, which XLA may make
    anew wherever they are read, and compiled in less time.
    """
    n, c = x.shape[axis:]
    read = np.arange(count)[:, None] * step + np.arange(size)
    picked = np.arange(n)[:, None, None] == read
    matrix = np.einsum("ntw,cd->nctwd", picked, np.eye(c)).reshape(n * c, count * size * c)
    y = lax.dot_general(
        x.reshape(*x.shape[:axis], n * c), jnp.asarray(matrix, x.dtype), (((axis,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    )  # fmt: skip
    return y.reshape(*x.shape[:axis], count, size, c)


def convolution(equation: Any, active: set[int], mode: str, around: Around) -> list[Rewrite]:
    """Tiles where the image is what is differentiated (or nothing is), patches where the kernel is."""
    params, (x, kernel) = equation.params, (v.aval for v in equation.invars)
    numbers, space = params["dimension_numbers"], len(x.shape) - 2
    plain = params["feature_group_count"] == params["batch_group_count"] == 1
    real = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype == kernel.dtype
    if not plain or not real or space not in (1, 2) or 0 in (*x.shape, *kernel.shape) or len(active) > 1:
        return []
    lift = (1,) * (2 - space)  # a line is an image of one row
    sizes = [x.shape[a] for a in numbers.lhs_spec]
    taps = [kernel.shape[a] for a in numbers.rhs_spec]
    low, high = zip(*params["padding"], strict=True)
    none = (0,) * (2 - space)
    conv = _Convolution(
        (sizes[0], *lift, *sizes[2:], sizes[1]),
        (*lift, *taps[2:], taps[1], taps[0]),
        (*lift, *params["window_strides"]),
        (*none, *map(int, low)),
        (*none, *map(int, high)),
        (*lift, *params["lhs_dilation"]),
        (*lift, *params["rhs_dilation"]),
    )
    if min(conv.out) < 1:
        return []
    precision, operands = _precision(params), tuple(equation.invars)

    def canonical(x: Array, kernel: Array) -> tuple[Array, Array]:
        x = jnp.moveaxis(x.transpose(numbers.lhs_spec), 1, -1).reshape(conv.shape)
        kernel = kernel.transpose(numbers.rhs_spec)  # out, in, space
        return x, jnp.moveaxis(kernel, (0, 1), (-1, -2)).reshape(conv.kernel)

    def finished(y: Array) -> list[Array]:
        y = jnp.moveaxis(y.reshape(len(y), *conv.out[2 - space :], y.shape[-1]), -1, 1)
        return [y.transpose(np.argsort(numbers.out_spec))]

    def by_tiles(x: Array, kernel: Array) -> list[Array]:
        x, kernel = canonical(x, kernel)
        return finished(conv.by_tiles(x, kernel, tile, transposed=transposed, pooled=pooled, **precision))

    def by_patches(x: Array, kernel: Array) -> list[Array]:
        return finished(conv.by_patches(*canonical(x, kernel), **precision))

    if active == {1}:
        return [Rewrite(by_patches, "kernel gradient", "matmul with patches", operands)]
    if min(conv.kernel[2:]) > _WIDE:
        return []
    tile, transposed = conv.best_tile(), bool(active) and mode == "rev"
    windows = pooled_next(equation.outvars[0], around) if transposed else None
    pooled = (1, 1)
    if windows is not None:
        sizes = (*lift, *(windows[a] for a in numbers.out_spec[2:]))
        if math.prod(sizes) == math.prod(windows) and all(t % n == 0 for t, n in zip(tile, sizes, strict=True)):
            pooled = sizes
    return [Rewrite(by_tiles, "convolution", f"matmuls of {tile[0]} x {tile[1]} tiles", operands)]


def _precision(params: dict[str, Any]) -> dict[str, Any]:
    return {name: params[name] for name in ("precision", "preferred_element_type")}
