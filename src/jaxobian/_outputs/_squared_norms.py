"""Sums of squares of J: of its rows, of its columns, or of all of it."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from .._analysis import Relation
from .._arrays import is_complex
from .._seeds import Run, Seeds
from .._trace import Ends
from ._output import Block, Chunk, Reduction, Results, Rows
from ._quantity import Quantity, SideName, dtype_of, matrix
from ._selected import arranged, by_array, folded, lead_first, summed_dtype, sums, to_cells

Over = Literal["in", "out", "all"]


@dataclass(frozen=True)
class SquaredNorms(Quantity):
    """Sums of |J[i, k]|^2.

    Attributes:
        over: over what is summed: "in", one for each output; "out", one for each input; "all", one.
    """

    over: Over = "in"
    name: str = "squared norms"
    by_example: bool = True

    @property
    def sides(self) -> tuple[SideName, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The side that is not summed over."""
        named: dict[Over, tuple[SideName, ...]] = {"in": ("out",), "out": ("in",), "all": ()}
        return named[self.over]

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """One for each row, or column."""
        return sum(
            math.prod((*ends.lead, *shape)) * dtype.itemsize for shape, dtype in zip(*self._rows(ends), strict=True)
        )

    def _rows(self, ends: Ends) -> tuple[list[tuple[int, ...]], list[Any]]:
        """Shape and dtype of each array of the result."""
        outs, inps = range(len(ends.outputs.avals)), range(len(ends.inputs.avals))
        if self.over == "all":
            return [()], [_real(dtype_of(ends, outs, inps))]
        if self.over == "in":
            return list(ends.outputs.shapes), [_real(dtype_of(ends, [o], inps)) for o in outs]
        return list(ends.inputs.shapes), [_real(dtype_of(ends, outs, [i])) for i in inps]

    def sums(self, ends: Ends, seeds: Seeds) -> Reduction:
        """Squares, added up over passes, over what they bring back, or over both."""
        if self.over == "all":
            return _OverAll(self, ends, seeds)
        return (_OverPasses if (self.over == "in") == seeds.forward else _OverResults)(self, ends, seeds)

    def of_sums(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """Those of all groups added."""
        found: dict[int, Any] = {}
        for seeds, brought in zip(groups, results, strict=True):
            reduction: Any = self.sums(ends, seeds)
            for run, arrays in zip(seeds.runs(), brought, strict=True):
                for row, array in reduction.rows(run, arrays):
                    found[row] = found[row] + array if row in found else array
        return self.of_parts(ends, found)

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """The squares of all elements that can be nonzero, summed."""
        found: dict[int, Any] = {}
        for o, row in enumerate(blocks):
            for i, block in enumerate(row):
                squared = self._summed(ends, o, i, block)
                number = {"in": o, "out": i, "all": 0}[self.over]
                found[number] = found[number] + squared if number in found else squared
        return self.of_parts(ends, found)

    def _summed(self, ends: Ends, o: int, i: int, block: Block) -> Any:
        """What a block adds: (*lead, elements), or (*lead, 1)."""
        m, n, lead = ends.outputs.sizes[o], ends.inputs.sizes[i], math.prod(ends.lead)
        size = {"in": m, "out": n, "all": 1}[self.over]
        if not block.has_known_zeros:
            squares = squared(matrix(block, ends, o, i))
            axes = {"in": (-1,), "out": (-2,), "all": (-2, -1)}[self.over]
            return squares.sum(axes).reshape(*ends.lead, size)
        data, index = block.entries()
        example, row, column = np.unravel_index(index, (lead, m, n)) if len(index) else (index,) * 3
        place = {"in": row, "out": column, "all": 0 * row}[self.over] + size * example
        total = jnp.zeros(lead * size, summed_dtype(_real(data.dtype))).at[place].add(squared(data))
        return total.reshape(*ends.lead, size)

    def of_parts(self, ends: Ends, parts: dict[Any, Any]) -> Rows:
        """By row of the result."""
        rows: Rows = []
        for number, (shape, dtype) in enumerate(zip(*self._rows(ends), strict=True)):
            whole = (*ends.lead, *shape)
            total = parts.get(number)
            rows.append([jnp.zeros(whole, dtype) if total is None else total.reshape(whole).astype(dtype)])
        return rows

    def of_examples(self, batch_axes: Sequence[int | None], rows: Rows) -> Rows:
        """Norms of a J that has the rows of all examples, from those of each example's J, examples first."""
        if self.over != "in":
            return [[norms.sum(0)] for (norms,) in rows]
        return [[jnp.moveaxis(norms, 0, axis or 0)] for (norms,), axis in zip(rows, batch_axes, strict=True)]


def _real(dtype: Any) -> Any:
    """The dtype of an absolute value."""
    return jnp.finfo(dtype).dtype


def squared(x: Any) -> Any:
    """|x|^2, in a dtype in which it can be summed."""
    x = x.astype(summed_dtype(x.dtype))
    return jnp.real(x) ** 2 + jnp.imag(x) ** 2 if is_complex(x) else x * x


@dataclass(frozen=True)
class _Squares:
    """Sums of squares of what passes bring back."""

    output: SquaredNorms
    ends: Ends
    seeds: Seeds

    def zeros(self, parts: Sequence[Any], shape: tuple[int, ...]) -> Any:
        """To add to."""
        dtype = jnp.result_type(*(_real(part.dtype) for part in parts))
        return sums(parts, shape, dtype)

    def squares(self, passes: Any, r: int) -> Any:
        """Of what passes bring back for a result array: (passes, *lead, ...)."""
        return squared(lead_first(passes.parts[r], self.seeds.result_batch_axis(r)))

    def joined(self, run: Run, pieces: Sequence[Sequence[Any]]) -> list[Any]:
        """Chunk by chunk."""
        return folded(self, run, pieces)  # pyright: ignore[reportArgumentType]


class _OverPasses(_Squares):
    """An array for each result array."""

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        shapes = (self.seeds.result_shape(r) for r in range(len(parts)))
        return [self.zeros([part], (*self.ends.lead, *shape)) for part, shape in zip(parts, shapes, strict=True)]

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        left = list(left)
        for passes in by_array(self.seeds, chunk, parts):
            for r, total in enumerate(left):
                left[r] = total + passes.masked(self.squares(passes, r)).sum(0)
        return left

    def rows(self, run: Run, arrays: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Which array of the result each belongs to."""
        yield from zip(self.seeds.numbers, arrays, strict=True)


class _OverResults(_Squares):
    """An array for each seeded one: passes, *lead, and the cells that a pass seeds at once."""

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        return [self.zeros(parts, (self.seeds.colors[s], *self.ends.lead, *self._bases(s))) for s in run.leaves]

    def _bases(self, s: int) -> list[int]:
        return [cell.base for cell in self.seeds.split(s).cells]

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        made = []
        for total, passes in zip(left, by_array(self.seeds, chunk, parts), strict=True):
            s, lead = passes.seeded, len(self.ends.lead)
            ours = [
                to_cells(self.seeds, s, r, self.squares(passes, r), lead)
                for r in range(len(parts))
                if self.seeds.depends(s, r)
            ]
            if ours:  # passes that were made before are written again, as they were
                total = _written(total, functools.reduce(operator.add, ours).astype(total.dtype), passes.start)
            made.append(total)
        return made

    def rows(self, run: Run, arrays: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Which array of the result each belongs to, put into its order."""
        for s, array in zip(run.leaves, arrays, strict=True):
            yield s, arranged(self.seeds, s, array, len(self.ends.lead))


def _written(total: Any, new: Any, start: Any) -> Any:
    return new if len(new) == len(total) else total.at[start + jnp.arange(len(new))].set(new)


class _OverAll(_Squares):
    """One number, or one for each example."""

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        return [self.zeros(parts, self.ends.lead)]

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        (total,) = left
        for passes in by_array(self.seeds, chunk, parts):
            for r in range(len(parts)):
                squares = passes.masked(self.squares(passes, r))
                total += squares.sum((0, *range(1 + len(self.ends.lead), squares.ndim)))
        return [total]

    def rows(self, run: Run, arrays: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """There is one."""
        yield 0, arrays[0]
