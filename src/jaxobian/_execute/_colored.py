"""J by colors: nonzeros are read off what passes of several rows or columns bring back, and put in their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._arrays import block_dtype
from .._coloring import Coloring
from .._lazy import sparse
from .._outputs import Kept, Output, Results, Rows
from .._seeds import Seeds
from .._trace import Ends, Linear
from ._entries import Entries, in_block
from ._execution import Blocks, Residuals, Stage
from ._swept import Stored

# Of numbers that are known, so many are added to one by one; more are all gathered anew.
_FEW = 1 / 4


@dataclass(frozen=True, eq=False)
class Colored:
    """Passes that each stand for all rows or columns of a color.

    Attributes:
        program: what passes go through, and whose primal program is evaluated.
        ends: both sides of J.
        matrix: the pattern of what passes bring back, of one example where there is a batch.
        coloring: its colors.
        pushed, pulled: the passes; None where there are none.
        constant: numbers that are the same for every x, and are added.
        used_numbers: as in `Execution`.
    """

    program: Linear
    ends: Ends
    matrix: sparse.csr_matrix
    coloring: Coloring
    pushed: Seeds | None
    pulled: Seeds | None
    constant: sparse.csr_matrix
    used_numbers: frozenset[int]

    @property
    def nnz(self) -> int:
        """How many elements can be nonzero."""
        return int((self.matrix + (self.constant != 0)).nnz)

    @property
    def _made(self) -> tuple[Seeds, ...]:
        return tuple(seeds for seeds in (self.pushed, self.pulled) if seeds is not None and seeds.runs())

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those pushed, then those pulled."""
        stored = Stored(self.program)
        return tuple(
            Stage(seeds, partial(stored.linear, forward=seeds.forward), lambda _, seeds=seeds: Kept(seeds))
            for seeds in self._made
        )

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """Residuals."""
        return Residuals(residuals)

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """As the output makes it of the nonzeros."""
        return output.of_blocks(self.ends, self._entries(results))

    def added(self, results: Sequence[Results], others: Blocks) -> Blocks:
        """Other blocks, with each nonzero added."""
        pairs = zip(self._entries(results), others, strict=True)
        return [[e.added_to(other) for e, other in zip(*rows, strict=True)] for rows in pairs]

    def in_place(self, output: Output) -> bool:
        """Nonzeros are gathered."""
        return False

    def _entries(self, results: Sequence[Results]) -> list[list[Entries]]:
        brought: dict[bool, Any] = {}
        for seeds, (run,) in zip(self._made, results, strict=True):
            brought[seeds.forward] = run
        pushed, pulled = brought.get(True), brought.get(False)
        rows, columns = range(len(self.ends.outputs.avals)), range(len(self.ends.inputs.avals))
        return [[_entries(self, o, i, pushed, pulled) for i in columns] for o in rows]


def _entries(found: Colored, o: int, i: int, pushed: list[Any] | None, pulled: list[Any] | None) -> Entries:
    """The elements of the block of an output and an input, read off what the passes brought back."""
    outputs, inputs, coloring = found.ends.outputs, found.ends.inputs, found.coloring
    row, column = sum(outputs.sizes[:o]), sum(inputs.sizes[:i])
    m, n = outputs.sizes[o], inputs.sizes[i]
    ours, index = in_block(found.matrix, (row, m), (column, n))
    batch = found.ends.lead
    dtype = block_dtype(outputs.avals[o], inputs.avals[i])
    values, places, offset = [], np.zeros(len(ours), np.int64), 0
    if pushed is not None:
        flat = pushed[o].reshape(*batch, coloring.n_columns * m)  # colors, then own
        places = coloring.color[ours] * m + coloring.landing[ours] - row
        values, offset = [flat.astype(dtype)], flat.shape[-1]
    if pulled is not None:
        flat = pulled[i].reshape(*batch, coloring.n_rows * n)  # colors, then own
        there = offset + coloring.color[ours] * n + coloring.landing[ours] - column
        places = np.where(coloring.pulled[ours], there, places)
        values.append(flat.astype(dtype))
    joined = jnp.concatenate(values, -1) if values else jnp.zeros((*batch, 1), dtype)
    shape = found.ends.shape(o, i)

    kept, known = in_block(found.constant, (row, m), (column, n))
    if not len(kept):
        return Entries(joined.at[..., places].get(mode="promise_in_bounds"), index, m * n, shape)
    every = np.union1d(index, known)
    numbers, passed = np.zeros(len(every)), np.searchsorted(every, index)
    numbers[np.searchsorted(every, known)] = found.constant.data[kept]
    numbers = jnp.asarray(numbers, dtype)
    if len(index) <= _FEW * len(every):
        few = joined.at[..., places].get(mode="promise_in_bounds")
        data = (
            jnp.broadcast_to(numbers, (*batch, len(every)))
            .at[..., passed]
            .add(few, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds")
        )
    else:
        source, there = np.zeros(len(every), np.int64), np.zeros(len(every), bool)
        source[passed], there[passed] = places, True
        data = joined.at[..., source].get(mode="promise_in_bounds")
        data = numbers + jnp.where(there, data, jnp.zeros((), dtype))
    return Entries(data, every, m * n, shape)
