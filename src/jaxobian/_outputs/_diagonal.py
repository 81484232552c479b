"""The diagonal of J, and its trace: of each pass, the elements whose row is the column that it seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._analysis import Relation
from .._arrays import block_dtype
from .._seeds import Run, Seeds
from .._trace import Ends
from ._output import Block, Chunk, Reduction, Results, Rows
from ._quantity import Quantity, SideName, matrix
from ._scatter import scattered
from ._selected import by_array, diagonal_mask, folded, lead_first, summed_dtype, sums


@dataclass(frozen=True)
class Diagonal(Quantity):
    """dy_k / dx_k, like y.

    Attributes:
        paired: for each output the input that it has the shape of; that of a Hessian's row has it after its own.
    """

    paired: tuple[int | None, ...] = ()
    name: str = "diagonal"
    sides: tuple[SideName, ...] = ("out",)

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """As many elements as y has."""
        sizes = zip(ends.outputs.avals, self.paired, strict=True)
        return sum(math.prod(y.shape) * _dtype(ends, o, i).itemsize for o, (y, i) in enumerate(sizes))

    def sums(self, ends: Ends, seeds: Seeds) -> Reduction:
        """An array for each pair."""
        return _Selected(self.paired, ends, seeds, summed=False)

    def of_sums(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """Each from the run that has it."""
        return self.of_parts(ends, _collected(self, ends, groups, results))

    def of_parts(self, ends: Ends, parts: dict[Any, Any]) -> Rows:
        """By output."""
        return [[_like(ends, o, i, parts.get(o))] for o, i in enumerate(self.paired)]

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """Read off."""
        return [
            [_like(ends, o, i, None if i is None else _diagonal(ends, o, i, blocks[o][i]))]
            for o, i in enumerate(self.paired)
        ]


@dataclass(frozen=True)
class Trace(Quantity):
    """The sum of the diagonal.

    Attributes:
        paired: as in `Diagonal`.
        group: for each output, which sum it belongs to: all to one, but of a Hessian those of one output of f.
    """

    paired: tuple[int | None, ...] = ()
    group: tuple[int, ...] = ()
    name: str = "trace"
    sides: tuple[SideName, ...] = ()

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """A number for each example, or few."""
        pairs = [(o, i) for o, i in enumerate(self.paired) if i is not None]
        return sum(math.prod((*ends.lead, *_above(ends, o, i))) * _dtype(ends, o, i).itemsize for o, i in pairs)

    def sums(self, ends: Ends, seeds: Seeds) -> Reduction:
        """A number for each pair."""
        return _Selected(self.paired, ends, seeds, summed=True)

    def of_sums(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """Pairs added."""
        return self.of_parts(ends, _collected(self, ends, groups, results))

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """The diagonal, summed."""
        found = {}
        for o, i in enumerate(self.paired):
            if i is not None:
                diagonal = _diagonal(ends, o, i, blocks[o][i])
                wide = diagonal.astype(summed_dtype(diagonal.dtype))
                found[o] = wide.sum(tuple(range(len(ends.lead) + len(_above(ends, o, i)), wide.ndim)))
        return self.of_parts(ends, found)

    def of_parts(self, ends: Ends, parts: dict[Any, Any]) -> Rows:
        """By output, added up in groups."""
        rows: Rows = []
        for number in sorted(set(self.group)):
            members = [(o, i) for o, i in enumerate(self.paired) if self.group[o] == number and i is not None]
            dtype = jnp.result_type(*[_dtype(ends, o, i) for o, i in members] or [float])
            total = sum((parts[o] for o, _ in members if o in parts), start=jnp.zeros((), summed_dtype(dtype)))
            shape = (*ends.lead, *(_above(ends, *members[0]) if members else ()))
            rows.append([jnp.broadcast_to(total, shape).astype(dtype)])
        return rows or [[jnp.zeros(ends.lead)]]


def _above(ends: Ends, o: int, i: int | None) -> tuple[int, ...]:
    """The axes that an output has before those of its input: of a Hessian's rows, those of f's output."""
    shape = ends.outputs.shapes[o]
    return shape if i is None else shape[: len(shape) - len(ends.inputs.shapes[i])]


def _dtype(ends: Ends, o: int, i: int | None) -> Any:
    return ends.outputs.avals[o].dtype if i is None else block_dtype(ends.outputs.avals[o], ends.inputs.avals[i])


def _like(ends: Ends, o: int, i: int | None, found: Any) -> Any:
    """The diagonal of an output, zeros where there is none."""
    shape = (*ends.lead, *ends.outputs.shapes[o])
    return jnp.zeros(shape, _dtype(ends, o, i)) if found is None else found.reshape(shape).astype(_dtype(ends, o, i))


def _diagonal(ends: Ends, o: int, i: int, block: Block) -> Any:
    """The diagonal of a block: (*lead, *out)."""
    shape, m, n = (*ends.lead, *ends.outputs.shapes[o]), ends.outputs.sizes[o], ends.inputs.sizes[i]
    if not n:
        return jnp.zeros(shape, _dtype(ends, o, i))
    if block.has_known_zeros:
        data, index = block.entries()
        row, column = index // n, index % n
        ours = row % m % n == column
        return scattered(data[np.flatnonzero(ours)], row[ours], (math.prod((*ends.lead, m)),)).reshape(shape)
    square = matrix(block, ends, o, i).reshape(*ends.lead, m // n, n, n)
    return jnp.diagonal(square, axis1=-2, axis2=-1).reshape(shape)


@dataclass(frozen=True)
class _Selected:
    """Diagonal elements, or their sums: for each pair of an output and an input that a run has passes of."""

    paired: tuple[int | None, ...]
    ends: Ends
    seeds: Seeds
    summed: bool

    def pairs(self, run: Run) -> Iterator[tuple[int, int, int]]:
        """Output, seeded array, and the place of the result array in its group."""
        for s in run.leaves:
            for r, number in enumerate(self.seeds.numbers):
                out, inp = (number, s) if self.seeds.forward else (s, number)
                if self.paired[out] == inp:
                    yield out, s, r

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        made = []
        for o, _, _ in self.pairs(run):
            shape = _above(self.ends, o, self.paired[o]) if self.summed else self.ends.outputs.shapes[o]
            made.append(sums(parts, (*self.ends.lead, *shape), _dtype(self.ends, o, self.paired[o])))
        return made

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        by_number = {passes.seeded: passes for passes in by_array(self.seeds, chunk, parts)}
        pairs = zip(self.pairs(chunk.run), left, strict=True)
        return [total + self._of(o, r, by_number[s]).astype(total.dtype) for (o, s, r), total in pairs]

    def _of(self, o: int, r: int, passes: Any) -> Any:
        """What some passes bring back of the diagonal of an output."""
        ends, above = self.ends, _above(self.ends, o, self.paired[o])
        part = lead_first(passes.parts[r], self.seeds.result_batch_axis(r))
        lead, rank = len(ends.lead), len(ends.outputs.shapes[o])
        part = part.astype(_dtype(ends, o, self.paired[o]))
        # A result of reverse mode lacks the axes of f's output, along which it is the same pass or another.
        own = (1,) * (rank - (part.ndim - 1 - lead))
        part = part.reshape(*part.shape[: 1 + lead], *own, *part.shape[1 + lead :])
        mask = diagonal_mask(self.seeds, passes, r, rank)
        mask = mask.reshape(mask.shape[0], *(1,) * lead, *mask.shape[1:])
        found = jnp.where(mask, part, jnp.zeros((), part.dtype))
        found = found.astype(summed_dtype(found.dtype))
        found = jnp.broadcast_to(found, (len(found), *ends.lead, *ends.outputs.shapes[o]))
        return found.sum((0, *range(1 + lead + len(above), found.ndim))) if self.summed else found.sum(0)

    def joined(self, run: Run, pieces: Sequence[Sequence[Any]]) -> list[Any]:
        return folded(self, run, pieces)


def _collected(
    output: Diagonal | Trace, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]
) -> dict[int, Any]:
    """The sums of each output."""
    found: dict[int, Any] = {}
    for seeds, brought in zip(groups, results, strict=True):
        reduction = output.sums(ends, seeds)
        assert isinstance(reduction, _Selected)
        for run, arrays in zip(seeds.runs(), brought, strict=True):
            for (o, _, _), array in zip(reduction.pairs(run), arrays, strict=True):
                found[o] = found[o] + array if o in found else array
    return found
