"""Coloured mode: columns that share no row are pushed together, rows that share no column pulled together.

    J[i, j] = (J s_c)[i]    for j of colour c, where s_c has ones at all columns of the colour

The pattern of J is found on the linear program (`_structure`), element by element, and holds for every value of the
arguments; what each pass brings back is then a sum of columns that do not overlap.

Source: Curtis, Powell and Reid, On the estimation of sparse Jacobian matrices (IMA Journal of Applied Mathematics 13,
1974); Gebremedhin, Manne and Pothen (SIAM Review 47, 2005) for both sides at once and for symmetry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from .._coloring import Coloring, by_both, by_columns, by_rows, fewest, star
from .._cost import Cost, Work
from .._layout import block_dtype, zeros_like
from .._linear import Linear, pullback, source_line
from .._seeds import Classes, Seeds, Side
from .._structure import Full, Pattern, Structure, csr, elements, merged, rows_of
from ._fill import bcoo
from ._problem import NO_WORK, Candidate, Impossible, Problem
from ._sweeps import Sweep, choose_chunks, count_passes

# With fewer passes than this there is nothing worth looking for, unless it is asked for.
_WORTHWHILE = 16
# Nonzeros of all variables together that are followed where nobody asked for colours.
_EFFORT = 12_000_000


@dataclass(frozen=True, eq=False)
class Colored:
    """What a coloured candidate does.

    Attributes:
        matrix: the pattern, of one example where there is a batch.
        coloring: its colours.
        pushed, pulled: the passes; None where there are none.
    """

    matrix: sparse.csr_matrix
    coloring: Coloring
    pushed: Seeds | None
    pulled: Seeds | None


def propose(
    problem: Problem, singles: Sequence[Candidate | Impossible], *, forced: bool, symmetric: bool = False
) -> Candidate | Impossible:
    """J by colours of its sparsity pattern.

    Args:
        problem: what is asked for.
        singles: what forward and reverse propose for it.
        forced: whether coloured mode is what the user wants, whatever it takes.
        symmetric: whether J is known to be symmetric.
    """
    possible = {s.mode: s for s in singles if isinstance(s, Candidate)}
    if not possible:
        return Impossible("colored", "it pushes or pulls through the whole program, and neither is possible")
    wanted = forced or problem.format == "bcoo"
    least = min(c.passes for c in possible.values())
    if least < _WORTHWHILE and not wanted:
        return Impossible("colored", f"not looked for: {least} {'pass does' if least == 1 else 'passes do'}")
    sides = (*problem.inputs.avals, *problem.outputs.avals)
    if not wanted and sum(math.prod(aval.shape) for aval in sides) > _EFFORT:
        return Impossible("colored", 'not looked for in arrays this large: mode="colored" looks')
    matrix, dense = example_pattern(problem.structure, problem.inputs, problem.outputs, None if wanted else _EFFORT)
    if matrix is None:
        where = next((f" after {e.primitive.name} ({source_line(e)})" for e in dense), "")
        return Impossible("colored", f"no zeros are known in J{where}")
    sweeps = {mode: _sweep(problem, candidate) for mode, candidate in possible.items()}
    coloring = _cheapest(problem, matrix, sweeps, math.inf if wanted else least, symmetric)
    if coloring is None:
        needed = min(fewest(matrix)[k] for k, mode in enumerate(("fwd", "rev")) if mode in possible)
        return Impossible("colored", f"J takes {needed} colours or more, no fewer than passes without")
    if coloring.passes >= least and not wanted:
        return Impossible("colored", f"J takes {coloring.passes} colours, no fewer than passes without")
    return _candidate(problem, matrix, coloring, sweeps, possible)


def blocks(problem: Problem, candidate: Candidate, residuals: Sequence[Any], format: str) -> list[list[Any]]:
    """blocks[out][in] of J: what the passes bring back, each nonzero put in its place."""
    found, (pushed, pulled) = candidate.variant, _passed(problem, candidate, residuals)
    return [
        [_placed(_entries(problem, found, o, i, pushed, pulled), format) for i in range(len(problem.inputs.avals))]
        for o in range(len(problem.outputs.avals))
    ]


def added(
    problem: Problem, candidate: Candidate, residuals: Sequence[Any], others: list[list[Any]]
) -> list[list[Any]]:
    """Other dense blocks of the same sides, with these added."""
    found, (pushed, pulled) = candidate.variant, _passed(problem, candidate, residuals)
    total = []
    for o, row in enumerate(others):
        total.append([])
        for i, block in enumerate(row):
            entries = _entries(problem, found, o, i, pushed, pulled)
            total[-1].append(_placed(entries, "dense") if block is None else entries.added_to(block))
    return total


def _passed(
    problem: Problem, candidate: Candidate, residuals: Sequence[Any]
) -> tuple[list[Any] | None, list[Any] | None]:
    """What the pushed and the pulled passes bring back, an array for each landed one."""
    found: Colored = candidate.variant
    program = candidate.program or problem.program

    def push(*tangents: Any) -> list[Any]:
        return program.push(residuals, tangents)

    return (
        _swept(found.pushed, push, problem.inputs),
        _swept(found.pulled, pullback(push, program.in_avals), problem.outputs),
    )


def _swept(seeds: Seeds | None, linear: Callable[..., Any], side: Side) -> list[Any] | None:
    """What passes bring back, an array for each landed one."""
    runs = seeds.runs() if seeds is not None else []
    if seeds is None or not runs:
        return None
    return seeds.sweep(linear, [zeros_like(aval) for aval in side.avals])[0]


# The pattern --------------------------------------------------------------------------------------------------------


def example_pattern(
    structure: Structure, inputs: Side, outputs: Side, effort: int | None = None
) -> tuple[sparse.csr_matrix | None, list[Any]]:
    """The pattern of J, of one example where there is a batch; None where no zeros are known, and what is to blame."""
    starts = [0, *accumulate(inputs.sizes)]
    columns = [
        start + _within_example(aval.shape, tied)
        for start, aval, tied in zip(starts, inputs.avals, inputs.tied, strict=False)
    ]
    found, dense = elements(structure, columns, starts[-1], effort)
    parts = []
    for rows, aval, tied, size in zip(found, outputs.avals, outputs.tied, outputs.sizes, strict=True):
        if rows is None:
            rows = sparse.csr_matrix((size, starts[-1]), dtype=bool)
        elif tied is not None:
            rows = merged(rows, _within_example(aval.shape, tied).reshape(-1), size)
        if isinstance(rows, Full):
            if all(isinstance(r, Full) for r in found if r is not None):
                return None, dense
            rows = csr(np.arange(size + 1) * starts[-1], np.tile(np.arange(starts[-1]), size), (size, starts[-1]))
        parts.append(rows)
    matrix = sparse.csr_matrix(sparse.vstack(parts, format="csr"), dtype=bool)
    matrix.sum_duplicates()
    return matrix, dense


def pattern(structure: Structure, inputs: Side, outputs: Side) -> Pattern:
    """The pattern of J, dense where no zeros are known."""
    matrix, _ = example_pattern(structure, inputs, outputs)
    if matrix is None:
        matrix = sparse.csr_matrix(np.ones((sum(outputs.sizes), sum(inputs.sizes)), bool))
    return Pattern(matrix)


def _within_example(shape: Sequence[int], tied: int | None) -> np.ndarray:
    """The number of each element within its example."""
    own = [n for axis, n in enumerate(shape) if axis != tied]
    numbers = np.arange(math.prod(own)).reshape(own)
    return numbers if tied is None else np.broadcast_to(np.expand_dims(numbers, tied), tuple(shape))


# The choice ---------------------------------------------------------------------------------------------------------


def _sweep(problem: Problem, candidate: Candidate) -> Sweep:
    """One pass in a mode, counted."""
    forward, program = candidate.mode == "fwd", _program(problem, candidate)
    seeded, _ = problem.sides(forward=forward)

    def run(residuals: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        def push(*tangents: Any) -> list[Any]:
            return program.push(residuals, tangents)

        return (push if forward else pullback(push, program.in_avals))(*seeds)

    passes = max(1, min(candidate.passes, 64))
    return count_passes(run, program.residual_avals, seeded.avals, passes, forward=forward, one_hot=False)


def _program(problem: Problem, candidate: Candidate) -> Linear:
    return candidate.program or problem.program


def _cheapest(
    problem: Problem, matrix: sparse.csr_matrix, sweeps: dict[str, Sweep], least: float, symmetric: bool
) -> Coloring | None:
    """The colouring whose passes take the least time; the likelier mode first, the other only if it can still win."""
    price = {mode: problem.machine.time(sweep.work.each) + 1e-12 for mode, sweep in sweeps.items()}
    columns, rows = problem.inputs.shapes, problem.outputs.shapes
    makers: dict[str, Any] = {"fwd": (by_columns, columns), "rev": (by_rows, rows)}
    bounds: dict[str, int] = dict(zip(("fwd", "rev"), fewest(matrix), strict=True))
    best, cost = None, math.inf
    for mode in sorted(sweeps, key=lambda mode: bounds[mode] * price[mode]):
        make, shapes = makers[mode]
        found = make(matrix, shapes, min(least, cost / price[mode]))
        if found is not None and found.passes * price[mode] < cost:
            best, cost = found, found.passes * price[mode]
    if len(sweeps) == 2:

        def both(pushed: int, pulled: int) -> float:
            return pushed * price["fwd"] + pulled * price["rev"]

        limit = min(cost, least * max(price.values()))
        found = by_both(matrix, columns, rows, both, limit)
        if found is not None and both(found.n_columns, found.n_rows) < cost:
            best, cost = found, both(found.n_columns, found.n_rows)
    if symmetric and "fwd" in sweeps and len(columns) == len(rows) == 1:
        found = star(matrix)
        if found is not None and found.passes * price["fwd"] < cost:
            best = found
    return best


def _candidate(
    problem: Problem,
    matrix: sparse.csr_matrix,
    coloring: Coloring,
    sweeps: dict[str, Sweep],
    possible: dict[str, Candidate],
) -> Candidate:
    """The candidate that a colouring is, with its cost."""
    batch, nnz = problem.batch or 1, int(matrix.nnz)
    size = problem.jacobian_bytes if problem.format == "dense" else batch * nnz * _entry_bytes(problem)
    held, peak, work, flops = size + problem.residual_bytes, 0, NO_WORK, 0.0
    made: dict[str, Seeds | None] = {"fwd": None, "rev": None}
    for mode, count in (("fwd", coloring.n_columns), ("rev", coloring.n_rows)):
        if not count:
            continue
        sweep = replace(sweeps[mode], passes=count)
        held += math.ceil(sweep.compressed_bytes)
        chunking = choose_chunks(problem, sweep, held)
        seeded, landed = problem.sides(forward=mode == "fwd")
        colours = coloring.columns if mode == "fwd" else coloring.rows
        classes = Classes(tuple(np.split(colours, np.cumsum(seeded.sizes)[:-1])), count)
        arranged = sweep.arranged(chunking, problem)
        made[mode] = Seeds(
            seeded, landed, mode == "fwd", chunking.width, sweep.vmapped, chunking.looped, classes=classes,
            arranged=arranged,
        )  # fmt: skip
        work, flops, peak = work + sweep.total(chunking, problem), flops + sweep.flops, max(peak, sweep.peak(chunking))
    placed = Work(gather=float(batch * nnz)) + Work(scatter=float(batch * nnz) * (problem.format == "dense"))
    work += placed + problem.primal_work + problem.machine.result(float(size))
    cost = Cost(work, flops, held + peak, problem.machine.time(work))
    # Which program runs is all the same to the values: that of the mode with more passes.
    main = possible.get("fwd" if coloring.n_columns >= coloring.n_rows else "rev") or next(iter(possible.values()))
    seeds = tuple(s for s in made.values() if s is not None)
    variant = Colored(matrix, coloring, made["fwd"], made["rev"])
    cells = problem.outputs.size * problem.inputs.size
    note = f"{nnz:,} of {cells:,} elements can be nonzero: {_told(coloring)}"
    return Candidate("colored", seeds, cost, variant, note, 0, main.program, main.rewrites)


def _told(coloring: Coloring) -> str:
    each = ((coloring.n_columns, "columns"), (coloring.n_rows, "rows"))
    parts = [f"{n} colour{'' if n == 1 else 's'} of {what}" for n, what in each if n]
    return ", ".join(parts) or "no colours"


def _entry_bytes(problem: Problem) -> int:
    """Size of an element and its index."""
    pairs = [(a, b) for a in problem.outputs.avals for b in problem.inputs.avals]
    return max(block_dtype(a, b).itemsize + 4 * (len(a.shape) + len(b.shape)) for a, b in pairs)


# The blocks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entries:
    """The elements of a block that can be nonzero.

    Attributes:
        data: (batch, elements).
        index: their sorted flat indices in the block of one example.
        size: elements of that block.
        shape: of the whole block, examples first.
    """

    data: Any
    index: np.ndarray
    size: int
    shape: tuple[int, ...]

    def added_to(self, block: Any) -> Any:
        """A dense block, with these added."""
        flat = block.reshape(*self.data.shape[:-1], self.size)
        added = flat.at[..., self.index].add(
            self.data, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
        )
        return added.reshape(self.shape)


def _entries(
    problem: Problem, found: Colored, o: int, i: int, pushed: list[Any] | None, pulled: list[Any] | None
) -> _Entries:
    """The elements of the block of an output and an input, read off what the passes brought back."""
    outputs, inputs, coloring = problem.outputs, problem.inputs, found.coloring
    row, column = sum(outputs.sizes[:o]), sum(inputs.sizes[:i])
    rows, columns = rows_of(found.matrix), found.matrix.indices
    m, n = outputs.sizes[o], inputs.sizes[i]
    ours = np.flatnonzero((rows >= row) & (rows < row + m) & (columns >= column) & (columns < column + n))
    batch = () if problem.batch is None else (problem.batch,)
    dtype = block_dtype(outputs.avals[o], inputs.avals[i])
    values, places, offset = [], np.zeros(len(ours), np.int64), 0
    if pushed is not None:
        flat = pushed[o].reshape(*batch, coloring.n_columns * m)  # colours, then own
        places = coloring.colour[ours] * m + coloring.landing[ours] - row
        values, offset = [flat.astype(dtype)], flat.shape[-1]
    if pulled is not None:
        flat = pulled[i].reshape(*batch, coloring.n_rows * n)  # colours, then own
        there = offset + coloring.colour[ours] * n + coloring.landing[ours] - column
        places = np.where(coloring.pulled[ours], there, places)
        values.append(flat.astype(dtype))
    joined = jnp.concatenate(values, -1) if values else jnp.zeros((*batch, 1), dtype)
    index = (rows[ours] - row) * n + columns[ours] - column
    data = joined.at[..., places].get(mode="promise_in_bounds")
    return _Entries(data, index, m * n, (*batch, *outputs.shapes[o], *inputs.shapes[i]))


def _placed(entries: _Entries, format: str) -> Any:
    """A block of its nonzeros."""
    data, index, size = entries.data, entries.index, entries.size
    if format == "bcoo":
        examples = math.prod(data.shape[:-1])
        every = np.arange(examples)[:, None] * size + index
        return bcoo(data.reshape(-1), every.reshape(-1), entries.shape)
    # Under shard_map the zeros must vary as the data do.
    zeros = jnp.zeros((*data.shape[:-1], size), data.dtype) + jnp.zeros_like(data[..., :1].sum(-1, keepdims=True))
    filled = zeros.at[..., index].set(
        data, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
    )
    return filled.reshape(entries.shape)
