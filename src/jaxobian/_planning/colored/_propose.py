"""Colored mode: columns that share no row are pushed together, rows that share no column pulled together.

    J[i, j] = (J s_c)[i]    for j of color c, where s_c has ones at all columns of the color

The pattern of J is found on the linear program, element by element (`_analysis/pattern`), and holds for every value of
the arguments; what each pass brings back is then a sum of columns that do not overlap.

Elements that are the same for every x take no pass: J(x) = F + R(x), F known, and the colors are those of R. A
reaction-diffusion equation, whose stencil is in F, takes one pass for each species.

Source: Curtis, Powell and Reid, On the estimation of sparse Jacobian matrices (IMA Journal of Applied Mathematics 13,
1974); Gebremedhin, Manne and Pothen (SIAM Review 47, 2005) for both sides at once and for symmetry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..._analysis import denser, shape_of
from ..._coloring import Coloring, bicolored, color_columns, color_rows, lower_bounds, star
from ..._cost import Cost, Work
from ..._execute import Colored
from ..._lazy import sparse
from ..._outputs import Diagonal, Gram, Slogdet, Trace
from ..._seeds import Classes, Seeds
from ..._trace import at_line
from ..._words import counted, pass_count
from .._patterns import example_constant_part, example_pattern
from .._problem import NO_WORK, Candidate, Impossible, Problem, Proposals
from .._sweeps import CLEAR_WIN, PassCost, choose_chunks
from ._determinant import Blocks, blocks_of, of_blocks
from ._diagonal import of_diagonal
from ._sought import MOST, Sought, fewest_colors, sweep, without_constant_part

# With fewer passes than this there is nothing worth looking for, unless it is asked for.
_WORTHWHILE = 16
# Nonzeros of all variables together that are followed where nobody asked for colors.
_EFFORT = 12_000_000
# Half of a coupling layer's J may be full, and its determinant takes one pass: so dense patterns are followed for it.
_DENSE = 0.9


def propose(problem: Problem, earlier: Proposals) -> Candidate | Impossible:
    """J by colors of its sparsity pattern.

    Args:
        problem: what is asked for.
        earlier: what forward and reverse propose for it.
    """
    if isinstance(problem.output, Slogdet):
        with denser(_DENSE):
            return _proposed(problem, earlier, 4 * _EFFORT)
    return _proposed(problem, earlier, _EFFORT)


def _proposed(problem: Problem, earlier: Proposals, effort: int) -> Candidate | Impossible:
    symmetric = problem.request.symmetric
    possible = {mode: s for mode in ("fwd", "rev") if isinstance(s := earlier[mode], Candidate)}
    if not possible:
        return Impossible("colored", "it runs the whole program forward or in reverse, and neither is possible")
    declared = problem.request.sparsity
    wanted = problem.wants("colored") or not problem.output.has_zeros or declared is not None
    least = min(c.passes for c in possible.values())
    if least < _WORTHWHILE and not wanted:
        few = f"{pass_count(least)} {'is' if least == 1 else 'are'} few enough"
        return Impossible("colored", f'skipped: {few} (mode="colored" forces it)')
    sides = (*problem.inputs.avals, *problem.outputs.avals)
    if not wanted and sum(math.prod(aval.shape) for aval in sides) > effort:
        return Impossible("colored", 'skipped: its arrays are large (mode="colored" forces it)')
    if declared is None:
        matrix, dense, used = example_pattern(problem.structure, problem.ends, None if wanted else effort)
    else:
        matrix, dense, used = declared.matrix, (), frozenset[int]()
    if matrix is None:
        where = next((f" after {e.primitive.name}{at_line(e)}" for e in dense), "")
        return Impossible("colored", f"no zeros were found in J{where}", nnz=problem.outputs.size * problem.inputs.size)
    sought = Sought(problem, matrix, possible, sparse.csr_matrix(matrix.shape), symmetric, used)
    if isinstance(problem.output, Diagonal | Trace):
        return of_diagonal(sought, problem.output, math.inf if wanted else least)
    if isinstance(problem.output, Slogdet) and (blocks := blocks_of(sought)) is not None:
        return _determinant(blocks, problem.output, sought.nnz)
    few = sought.fewest / CLEAR_WIN
    sought = without_constant_part(sought, lambda rest: fewest_colors(rest, possible) <= few) or sought
    bound = _least_colors(sought.matrix, symmetric=symmetric)
    if bound >= least and not wanted:  # seen before passes are traced to be priced
        return _no_gain(sought, f"at least {counted(bound, 'color')}", least)
    sweeps = {mode: sweep(sought.problem, candidate) for mode, candidate in sought.possible.items()}
    coloring = _cheapest(sought, sweeps, math.inf if wanted else least)
    if coloring is None:
        return _no_gain(sought, f"at least {counted(sought.fewest, 'color')}", least)
    if coloring.passes >= least and not wanted:
        return _no_gain(sought, counted(coloring.passes, "color"), least)
    return _candidate(sought, coloring, sweeps)


def hopeless(problem: Problem) -> bool:
    """Whether colors cannot save passes where nobody asks for them: seen on the pattern, before any pass is traced."""
    least = min(problem.passes(forward=True), problem.passes(forward=False))
    sides = (*problem.inputs.avals, *problem.outputs.avals)
    if least < _WORTHWHILE or sum(math.prod(aval.shape) for aval in sides) > _EFFORT:
        return True
    matrix, _, _ = example_pattern(problem.structure, problem.ends, _EFFORT)
    if matrix is None:
        return True
    # What does not depend on x takes no colors.
    most = MOST + 2 * int(matrix.nnz)
    few = _least_colors(matrix, symmetric=False) < least
    return not few and example_constant_part(problem.structure, problem.ends, most) is None


def _least_colors(matrix: sparse.csr_matrix, *, symmetric: bool) -> int:
    """Colors that a pattern takes at least, on one side or on both: a pass brings back an element a row, or a column.

    Of a symmetric matrix it brings back two elements at once.
    """
    count = -(-int(matrix.nnz) // max(1, *shape_of(matrix)))
    return min(*lower_bounds(matrix), -(-count // 2) if symmetric else count)


def _cheapest(sought: Sought, sweeps: dict[str, PassCost], least: float) -> Coloring | None:
    """The coloring whose passes take the least time; the likelier mode first, the other only if it can still win."""
    problem, matrix = sought.problem, sought.matrix
    price = _prices(sought, sweeps)
    columns, rows = problem.inputs.shapes, problem.outputs.shapes
    makers: dict[str, Any] = {"fwd": (color_columns, columns), "rev": (color_rows, rows)}
    bounds: dict[str, int] = dict(zip(("fwd", "rev"), lower_bounds(matrix), strict=True))
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
        found = bicolored(matrix, columns, rows, both, limit)
        if found is not None and both(found.n_columns, found.n_rows) < cost:
            best, cost = found, both(found.n_columns, found.n_rows)
    if sought.symmetric and "fwd" in sweeps and len(columns) == len(rows) == 1:
        found = star(matrix)
        if found is not None and found.passes * price["fwd"] < cost:
            best = found
    return best


def _determinant(blocks: Blocks, output: Slogdet, nnz: int) -> Candidate:
    """The passes that bring back the diagonal blocks, and their factorizations."""
    sought = blocks.sought
    sweeps = {mode: sweep(sought.problem, candidate) for mode, candidate in sought.possible.items()}
    coloring = of_blocks(blocks, _prices(sought, sweeps))
    found = _candidate(sought, coloring, sweeps, blocks.sizes)
    return replace(found, note=blocks.note(coloring, nnz), nnz=nnz)


def _prices(sought: Sought, sweeps: dict[str, PassCost]) -> dict[str, float]:
    """Seconds of a pass in each mode."""
    time = sought.problem.machine.time
    return {mode: time(pass_cost.work.each) + 1e-12 for mode, pass_cost in sweeps.items()}


def _no_gain(sought: Sought, colors: str, least: int) -> Impossible:
    return Impossible("colored", f"no gain: {colors} instead of {pass_count(least)}", nnz=sought.nnz)


def _candidate(
    sought: Sought, coloring: Coloring, sweeps: dict[str, PassCost], sizes: Sequence[tuple[int, int]] | None = None
) -> Candidate:
    """The candidate that a coloring is, with its cost.

    Args:
        sought: what passes are to bring back.
        coloring: of it.
        sweeps: a pass in each mode, counted.
        sizes: of a determinant, the blocks that are factored.
    """
    problem, possible = sought.problem, sought.possible
    batch, nnz = problem.batch or 1, sought.nnz
    size = problem.output.entries_size(problem.ends, batch * nnz)
    held_bytes, peak, work, flops = size + problem.residual_bytes, 0, NO_WORK, 0.0
    products, products_bytes = _products(sought, sizes)
    held_bytes += products_bytes
    made: dict[str, Seeds | None] = {"fwd": None, "rev": None}
    for mode, count in (("fwd", coloring.n_columns), ("rev", coloring.n_rows)):
        if not count:
            continue
        pass_cost = replace(sweeps[mode], passes=count)
        held_bytes += math.ceil(pass_cost.compressed_bytes)
        chunking = choose_chunks(problem, pass_cost, held_bytes)
        seeded, result = problem.sides(forward=mode == "fwd")
        colors = coloring.columns if mode == "fwd" else coloring.rows
        classes = Classes(tuple(np.split(colors, np.cumsum(seeded.sizes)[:-1])), count)
        weights_first = pass_cost.weights_first(chunking, problem)
        made[mode] = Seeds(
            seeded,
            result,
            mode == "fwd",
            chunking.width,
            pass_cost.vmapped,
            chunking.looped,
            classes=classes,
            weights_first=weights_first,
        )
        work, flops, peak = (
            work + pass_cost.total(chunking, problem),
            flops + pass_cost.flops,
            max(peak, pass_cost.peak(chunking)),
        )
    placed = Work(gather=float(batch * nnz)) + Work(scatter=float(batch * nnz) * problem.output.has_zeros)
    work += placed + products + problem.primal_work + problem.machine.result(float(size))
    cost = Cost(work, flops, held_bytes + peak, problem.machine.call_time(work))
    # Which program runs is all the same to the values: that of the mode with more passes.
    main = possible.get("fwd" if coloring.n_columns >= coloring.n_rows else "rev") or next(iter(possible.values()))
    program, parts = main.execution.program, (made["fwd"], made["rev"], sought.constant, sought.used)
    execution = Colored(program, problem.ends, sought.matrix, coloring, *parts)
    cells = problem.outputs.size * problem.inputs.size
    note = f"{nnz:,} of {cells:,} elements can be nonzero{sought.known}: {_told(coloring)}"
    return Candidate("colored", execution, cost, note, main.rewrites, nnz)


def _products(sought: Sought, sizes: Sequence[tuple[int, int]] | None) -> tuple[Work, int]:
    """What it takes to make a Gram matrix, or a determinant, of the nonzeros, and bytes that are held for it."""
    problem = sought.problem
    if isinstance(problem.output, Slogdet):
        return problem.output.of_sizes(problem.ends, sizes or [(1, problem.inputs.size)])
    if not isinstance(problem.output, Gram):
        return NO_WORK, 0
    pattern = sparse.coo_matrix(sought.matrix + (sought.constant != 0))
    counts = np.bincount(pattern.col if problem.output.side == "out" else pattern.row).astype(float)
    return problem.output.of_pairs(problem.ends, (problem.batch or 1) * float(counts @ counts))


def _told(coloring: Coloring) -> str:
    each = ((coloring.n_columns, "columns"), (coloring.n_rows, "rows"))
    parts = [f"{what} in {counted(n, 'color')}" for n, what in each if n]
    return " and ".join(parts) or "no pass is needed"
