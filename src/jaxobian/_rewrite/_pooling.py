"""Pooling: the winner of each window is found once, not by every pass; windows side by side are a reshape.

y_t[w] = t[winner of window w]          max-pooling's derivative (`select_and_gather_add`)
y_t[w] = sum of t over window w         average pooling's (`reduce_window_sum`)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._trace import pullback
from ._rewrite import Around, Rewrite

# With more elements in a window than this, one slice for each of them is no way to go about it.
_LARGEST = 64
# What a plan calls it.
_MASK = "mask of the winners"


@dataclass(frozen=True)
class _Windows:
    """Windows over an array: sizes, strides, and padding before and after, for each axis."""

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, equation: Any, shape: Sequence[int]) -> _Windows | None:
        """None for windows that are diluted, too large, or of which there are none."""
        params = equation.params
        sizes, strides = params["window_dimensions"], params["window_strides"]
        dilations = (*params.get("base_dilation", ()), *params.get("window_dilation", ()))
        if any(d != 1 for d in dilations) or 0 in shape or not 1 < math.prod(sizes) <= _LARGEST:
            return None
        padding = tuple((int(low), int(high)) for low, high in params["padding"])
        windows = cls(tuple(shape), tuple(map(int, sizes)), tuple(map(int, strides)), padding)
        return windows if min(windows.counts) > 0 else None

    @property
    def counts(self) -> tuple[int, ...]:
        """How many windows there are along each axis."""
        axes = zip(self.shape, self.sizes, self.strides, self.padding, strict=True)
        return tuple((n + sum(pad) - size) // stride + 1 for n, size, stride, pad in axes)

    @property
    def side_by_side(self) -> bool:
        """Whether no two windows share an element, and none is left out between them."""
        return self.sizes == self.strides

    @property
    def offsets(self) -> list[tuple[int, ...]]:
        """The places in a window, in the order in which JAX looks at them."""
        return list(product(*map(range, self.sizes)))

    def padded(self, x: Array, fill: Any) -> Array:
        """`x` with its padding, just as long as the windows reach."""
        config = []
        for n, size, stride, count, (low, _) in zip(
            self.shape, self.sizes, self.strides, self.counts, self.padding, strict=True
        ):
            config.append((low, (count - 1) * stride + size - n - low, 0))
        return lax.pad(x, jnp.asarray(fill, x.dtype), config)

    def at(self, padded: Array, offset: tuple[int, ...]) -> Array:
        """The element at `offset` of every window."""
        ends = [o + (count - 1) * s + 1 for o, count, s in zip(offset, self.counts, self.strides, strict=True)]
        return lax.slice(padded, offset, ends, self.strides)

    def summed(self, t: Array, winner: Array | None = None) -> Array:
        """The sum of `t` over each window, or its element at the winner's place."""
        t = self.padded(t, 0)
        if not self.side_by_side:
            total = None
            for k, offset in enumerate(self.offsets):
                part = self.at(t, offset)
                part = part if winner is None else jnp.where(winner == k, part, jnp.zeros((), t.dtype))
                total = part if total is None else total + part
            assert total is not None
            return total
        cut = [n for pair in zip(self.counts, self.sizes, strict=True) for n in pair]
        t = t.reshape(cut)
        if winner is not None:
            place = np.arange(math.prod(self.sizes)).reshape([n for size in self.sizes for n in (1, size)])
            own = winner.reshape([n for count in self.counts for n in (count, 1)])
            t = jnp.where(own == place.astype(winner.dtype), t, jnp.zeros((), t.dtype))
        return t.sum(tuple(range(1, len(cut), 2)), dtype=t.dtype)

    def winner(self, x: Array, select: Any) -> Array:
        """The place in its window of the element that JAX's search ends at.

        It goes from place to place, padding included, and keeps what it holds if `select(held, found)`: of equals the
        first, and NaN never. So does JAX in reverse mode; in forward mode XLA may search large windows in another
        order, and equals are then told apart in another way.

        Args:
            x: what is searched.
            select: ge for the largest, le for the smallest.
        """
        padded = self.padded(x, -np.inf if select.name == "ge" else np.inf)
        dtype = np.int8 if math.prod(self.sizes) < 127 else np.int32
        first, *others = self.offsets
        held, place = self.at(padded, first), jnp.zeros(self.counts, dtype)
        for k, offset in enumerate(others, start=1):
            found = self.at(padded, offset)
            kept = select.bind(held, found)
            held, place = jnp.where(kept, held, found), jnp.where(kept, place, dtype(k))
        # XLA would find the winner anew in every pass that it fuses this into; what a reduction makes, it keeps.
        each = np.arange(math.prod(self.sizes), dtype=dtype)
        return jnp.where(place[..., None] == each, each, dtype(0)).sum(-1, dtype=dtype)


def gathered(equation: Any, active: set[int], mode: str, around: Around) -> list[Rewrite]:
    """Max-pooling's derivative: the winner's place as a residual, and a mask for each pass.

    What a relu before it lets through is looked up at the winner's place, rather than everywhere.
    """
    t, x = equation.invars
    windows = _Windows.of(equation, x.aval.shape)
    if active != {0} or windows is None:
        return []
    select = equation.params["select_prim"]

    relu, cases = around.makers.get(t, (None, set()))
    if relu is None or not _is_mask(relu, cases):
        return [Rewrite(lambda t, x: [windows.summed(t, windows.winner(x, select))], _name(select), _MASK, (t, x))]
    (kept,) = cases  # the other case is zero, or this would not be linear

    def run(t: Array, x: Array, which: Array) -> list[Array]:
        place = windows.winner(x, select)
        through = windows.summed((which == (kept == 2)).astype(np.int8), place)
        return [jnp.where(through > 0, windows.summed(t, place), jnp.zeros((), t.dtype))]

    return [Rewrite(run, _name(select), _MASK, (relu.invars[kept], x, relu.invars[0]))]


def pooled_next(variable: Any, around: Around) -> tuple[int, ...] | None:
    """The windows, side by side, in which max-pooling looks at a variable next, behind a relu perhaps; else None."""
    reader = around.readers.get(variable)
    if reader is not None and reader.primitive.name == "select_n":
        (variable,) = reader.outvars
        reader = around.readers.get(variable)
    if reader is None or reader.primitive.name != "select_and_gather_add" or reader.invars[0] is not variable:
        return None
    windows = _Windows.of(reader, variable.aval.shape)
    if windows is None or not windows.side_by_side or any(low for low, _ in windows.padding):
        return None
    return windows.sizes


def scattered(equation: Any, active: set[int], mode: str, around: Around) -> list[Rewrite]:
    """The transpose of that, which the derivative of a gradient has in it."""
    windows = _Windows.of(equation, equation.invars[1].aval.shape)
    if active != {0} or windows is None:
        return []
    select = equation.params["select_prim"]

    def run(t: Array, x: Array) -> list[Array]:
        place = windows.winner(x, select)
        return list(pullback(lambda source: (windows.summed(source, place),), [equation.invars[1].aval])(t))

    return [Rewrite(run, _name(select), _MASK, tuple(equation.invars))]


def summed(equation: Any, active: set[int], mode: str, around: Around) -> list[Rewrite]:
    """Average pooling: windows side by side as axes of their own."""
    windows = _Windows.of(equation, equation.invars[0].aval.shape)
    if windows is None:
        return []
    return [Rewrite(lambda t: [windows.summed(t)], "sum-pool", "sums along axes", tuple(equation.invars))]


def _is_mask(equation: Any, active: set[int]) -> bool:
    """Whether an equation lets some elements through and makes others zero."""
    if equation.primitive.name != "select_n" or len(equation.invars) != 3 or active not in ({1}, {2}):
        return False
    which = equation.invars[0].aval
    return which.dtype == np.bool_ and which.shape == equation.outvars[0].aval.shape


def _name(select: Any) -> str:
    return f"{'max' if select.name == 'ge' else 'min'}-pool gradient"
