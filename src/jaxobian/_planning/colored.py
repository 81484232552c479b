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
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .._analysis import shape_of, structure
from .._arrays import varying_axes
from .._coloring import Coloring, bicolored, color_columns, color_diagonal, color_rows, lower_bounds, star
from .._cost import Cost, Work
from .._execute import Colored, Stored, Swept
from .._lazy import sparse
from .._outputs import Diagonal, Gram, Trace
from .._seeds import Classes, Seeds
from .._trace import Linear, LinearProgram, at_line
from .._words import counted, pass_count
from . import forward, reverse
from ._patterns import example_constant_part, example_pattern
from ._problem import NO_WORK, Candidate, Impossible, Problem, Proposals
from ._sweeps import CLEAR_WIN, PassCost, choose_chunks, cost_of, together

# With fewer passes than this there is nothing worth looking for, unless it is asked for.
_WORTHWHILE = 16
# Nonzeros of all variables together that are followed where nobody asked for colors.
_EFFORT = 12_000_000
# Numbers that are the same for every x, and are kept whatever the pattern's size.
_MOST = 100_000
# Numbers that differ by no more, relatively, are the same.
_ROUNDING = 1e-12


def propose(problem: Problem, earlier: Proposals) -> Candidate | Impossible:
    """J by colors of its sparsity pattern.

    Args:
        problem: what is asked for.
        earlier: what forward and reverse propose for it.
    """
    symmetric = problem.request.symmetric
    possible = {mode: s for mode in ("fwd", "rev") if isinstance(s := earlier[mode], Candidate)}
    if not possible:
        return Impossible("colored", "it runs the whole program forward or in reverse, and neither is possible")
    wanted = problem.wants("colored") or not problem.output.has_zeros
    least = min(c.passes for c in possible.values())
    if least < _WORTHWHILE and not wanted:
        few = f"{pass_count(least)} {'is' if least == 1 else 'are'} few enough"
        return Impossible("colored", f'skipped: {few} (mode="colored" forces it)')
    sides = (*problem.inputs.avals, *problem.outputs.avals)
    if not wanted and sum(math.prod(aval.shape) for aval in sides) > _EFFORT:
        return Impossible("colored", 'skipped: its arrays are large (mode="colored" forces it)')
    matrix, dense, used = example_pattern(problem.structure, problem.ends, None if wanted else _EFFORT)
    if matrix is None:
        where = next((f" after {e.primitive.name}{at_line(e)}" for e in dense), "")
        return Impossible("colored", f"no zeros were found in J{where}", nnz=problem.outputs.size * problem.inputs.size)
    sought = _Sought(problem, matrix, possible, sparse.csr_matrix(matrix.shape), symmetric, used)
    if isinstance(problem.output, Diagonal | Trace):
        return _diagonal(sought, problem.output, math.inf if wanted else least)
    few = sought.fewest / CLEAR_WIN
    sought = _without_constant_part(sought, lambda rest: _fewest(rest, possible) <= few) or sought
    bound = _least_colors(sought.matrix, symmetric=symmetric)
    if bound >= least and not wanted:  # seen before passes are traced to be priced
        return _no_gain(sought, f"at least {counted(bound, 'color')}", least)
    sweeps = {mode: _sweep(sought.problem, candidate) for mode, candidate in sought.possible.items()}
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
    most = _MOST + 2 * int(matrix.nnz)
    few = _least_colors(matrix, symmetric=False) < least
    return not few and example_constant_part(problem.structure, problem.ends, most) is None


def _least_colors(matrix: sparse.csr_matrix, *, symmetric: bool) -> int:
    """Colors that a pattern takes at least, on one side or on both: a pass brings back an element a row, or a column.

    Of a symmetric matrix it brings back two elements at once.
    """
    count = -(-int(matrix.nnz) // max(1, *shape_of(matrix)))
    return min(*lower_bounds(matrix), -(-count // 2) if symmetric else count)


# The choice ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Sought:
    """What passes are to bring back.

    Attributes:
        problem: whose program they run through.
        matrix: the pattern of it.
        possible: what single modes propose for it.
        constant: numbers to be added.
        symmetric: whether it is symmetric.
        used: the operands whose numbers all that is known by.
    """

    problem: Problem
    matrix: sparse.csr_matrix
    possible: dict[str, Candidate]
    constant: sparse.csr_matrix
    symmetric: bool
    used: frozenset[int]

    @property
    def nnz(self) -> int:
        """How many elements can be nonzero."""
        return int((self.matrix + (self.constant != 0)).nnz)

    @property
    def independent_of_x(self) -> str:
        """How many of them passes need not bring back, as it is said."""
        always = self.nnz - int(self.matrix.nnz)
        return f" ({always:,} do not depend on x)" if always else ""

    @property
    def fewest(self) -> int:
        """Colors that it takes at least."""
        return _fewest(self.matrix, self.possible)


def _fewest(matrix: sparse.csr_matrix, modes: Container[str]) -> int:
    pairs = zip(("fwd", "rev"), lower_bounds(matrix), strict=True)
    return min(least for mode, least in pairs if mode in modes)


def _without_constant_part(sought: _Sought, few: Callable[[sparse.csr_matrix], bool]) -> _Sought | None:
    """The same without what is the same for every x; None where that takes hardly fewer colors.

    Numbers are added to what passes bring back, which takes about as long as to bring it back does.

    Args:
        sought: with it.
        few: whether the pattern of what is left takes clearly fewer colors.
    """
    problem, matrix = sought.problem, sought.matrix
    if any(varying_axes(aval) for aval in (*problem.inputs.avals, *problem.outputs.avals)):
        return None
    found = example_constant_part(problem.structure, problem.ends, _MOST + 2 * int(matrix.nnz))
    if found is None:
        return None
    numbers, program, used = found
    if not few(sparse.csr_matrix(matrix - matrix.multiply(numbers != 0))):
        return None  # not even if nothing else were where they are
    rest = _of_program(problem, program)
    left, _, more = example_pattern(rest.structure, rest.ends)
    if left is None or not few(left):
        return None
    possible = {s.mode: s for s in (forward.propose(rest), reverse.propose(rest)) if isinstance(s, Candidate)}
    if not possible.keys() & sought.possible.keys():
        return None
    symmetric = sought.symmetric and _is_symmetric(numbers)
    return _Sought(rest, left, possible, numbers, symmetric, sought.used | used | more)


def _is_symmetric(numbers: sparse.csr_matrix) -> bool:
    """Whether numbers are; if they are not, what is left of a symmetric J is not either."""
    height, width = shape_of(numbers)
    return height == width and bool(abs(numbers - numbers.T).max() <= _ROUNDING * abs(numbers).max())


def _of_program(problem: Problem, linear: Linear) -> Problem:
    """The same question of a program with the same inputs."""
    program = problem.program
    if isinstance(program, LinearProgram):
        program = program.rewritten(program.primal, linear.linear)
        return replace(problem, program=program, structure=structure(program))
    return replace(problem, program=linear, structure=problem.structure.part(linear))


def _sweep(problem: Problem, candidate: Candidate) -> PassCost:
    """One pass in a mode, counted."""
    forward = candidate.mode == "fwd"
    made = together(problem, Stored(candidate.execution.program), candidate.passes, forward=forward)
    return made.counted(candidate.passes, forward=forward, one_hot=False)


def _cheapest(sought: _Sought, sweeps: dict[str, PassCost], least: float) -> Coloring | None:
    """The coloring whose passes take the least time; the likelier mode first, the other only if it can still win."""
    problem, matrix = sought.problem, sought.matrix
    price = {mode: problem.machine.time(pass_cost.work.each) + 1e-12 for mode, pass_cost in sweeps.items()}
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


def _no_gain(sought: _Sought, colors: str, least: int) -> Impossible:
    return Impossible("colored", f"no gain: {colors} instead of {pass_count(least)}", nnz=sought.nnz)


def _candidate(sought: _Sought, coloring: Coloring, sweeps: dict[str, PassCost]) -> Candidate:
    """The candidate that a coloring is, with its cost."""
    problem, possible = sought.problem, sought.possible
    batch, nnz = problem.batch or 1, sought.nnz
    size = problem.output.entries_size(problem.ends, batch * nnz)
    held_bytes, peak, work, flops = size + problem.residual_bytes, 0, NO_WORK, 0.0
    products, products_bytes = _products(sought)
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
    note = f"{nnz:,} of {cells:,} elements can be nonzero{sought.independent_of_x}: {_told(coloring)}"
    return Candidate("colored", execution, cost, note, main.rewrites, nnz)


def _products(sought: _Sought) -> tuple[Work, int]:
    """What it takes to make a Gram matrix of the nonzeros, and bytes that are held for it."""
    problem = sought.problem
    if not isinstance(problem.output, Gram):
        return NO_WORK, 0
    pattern = sparse.coo_matrix(sought.matrix + (sought.constant != 0))
    counts = np.bincount(pattern.col if problem.output.side == "out" else pattern.row).astype(float)
    return problem.output.of_pairs(problem.ends, (problem.batch or 1) * float(counts @ counts))


# Diagonals ----------------------------------------------------------------------------------------------------------


def _diagonal(sought: _Sought, output: Diagonal | Trace, below: float) -> Candidate | Impossible:
    """Passes whose elements do not disturb each other on the diagonal, however much they do elsewhere."""
    problem, every = sought.problem, sought.nnz
    columns = _columns_of_rows(problem, output)
    moved = _on_diagonal(columns, problem.inputs.size).T

    def colored(matrix: sparse.csr_matrix, below: float) -> np.ndarray | None:
        return color_diagonal(sparse.csr_matrix(moved @ matrix), problem.inputs.shapes, below)

    colors = colored(sought.matrix, below)
    few = below if colors is None else _count(colors) / CLEAR_WIN
    rest = _without_constant_part(sought, lambda matrix: _count(colored(matrix, math.inf)) < few)
    if rest is not None:
        sought, colors = rest, colored(rest.matrix, below)
    if colors is None or _count(colors) >= below:
        many = counted(_count(colors), "color") if colors is not None else "at least as many colors"
        return Impossible("colored", f"no gain: {many} instead of {pass_count(int(below))}", nnz=every)
    best = min(
        (_diagonal_by(sought, mode, colors, columns) for mode in _modes(columns, sought.possible)),
        key=lambda offer: offer.cost.seconds,
    )
    cells, same = problem.outputs.size * problem.inputs.size, sought.independent_of_x
    note = f"{every:,} of {cells:,} elements can be nonzero{same}: the diagonal in {counted(_count(colors), 'color')}"
    return replace(best, note=note, nnz=every)


def _count(colors: np.ndarray | None) -> int:
    return 0 if colors is None else int(colors.max(initial=-1)) + 1


def _columns_of_rows(problem: Problem, output: Diagonal | Trace) -> np.ndarray:
    """For each row of J the column of its diagonal element; -1 where it has none."""
    found = []
    starts = np.concatenate([[0], np.cumsum(problem.inputs.sizes)])
    for o, i in enumerate(output.paired):
        own = np.arange(problem.outputs.sizes[o])
        found.append(np.full(len(own), -1) if i is None else starts[i] + own % max(1, problem.inputs.sizes[i]))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _on_diagonal(columns: np.ndarray, width: int) -> sparse.csr_matrix:
    """The elements of J that are on its diagonal, by the column of each row."""
    rows = np.flatnonzero(columns >= 0)
    return sparse.csr_matrix((np.ones(len(rows), bool), (rows, columns[rows])), shape=(len(columns), width))


def _modes(columns: np.ndarray, possible: Container[str]) -> list[str]:
    """A pulled row brings back one element; of a Hessian of several outputs, a column has several."""
    alone = len(np.unique(columns)) == len(columns)
    return [mode for mode in ("fwd", "rev") if mode in possible and (mode == "fwd" or alone or "fwd" not in possible)]


def _diagonal_by(sought: _Sought, mode: str, colors: np.ndarray, columns: np.ndarray) -> Candidate:
    """The passes of all colors in a mode."""
    problem, single, count = sought.problem, sought.possible[mode], _count(colors)
    forward = mode == "fwd"
    seeded, result = problem.sides(forward=forward)
    if not forward:
        colors = np.where(columns >= 0, colors[columns], -1)
        if len(np.unique(columns)) < len(columns):  # rows of one column are told apart by their place among them
            order = _place_among(columns)
            colors, count = np.where(colors >= 0, colors * (order.max() + 1) + order, -1), count * int(order.max() + 1)
    program = single.execution.program
    made = together(problem, Stored(program), single.passes, forward=forward)
    pass_cost = made.counted(count, forward=forward, one_hot=False)
    work = replace(pass_cost.work, intermediates=pass_cost.work.intermediates + pass_cost.result_bytes)
    pass_cost = replace(pass_cost, work=work, summed=True)
    held_bytes = problem.output_bytes + problem.residual_bytes
    chunking = choose_chunks(problem, pass_cost, held_bytes)
    classes = Classes(tuple(np.split(colors, np.cumsum(seeded.sizes)[:-1])), count)
    seeds = Seeds(seeded, result, forward, chunking.width, pass_cost.vmapped, chunking.looped, classes=classes)
    cost = cost_of(problem, [(pass_cost, chunking)], held_bytes + pass_cost.peak(chunking))
    known = sparse.csr_matrix(sought.constant.multiply(_on_diagonal(columns, problem.inputs.size)))
    constant = known if known.nnz else None
    execution = Swept(program, problem.ends, (seeds,), Stored(program), sought.used, constant)
    return Candidate("colored", execution, cost, "", single.rewrites)


def _place_among(columns: np.ndarray) -> np.ndarray:
    """For each row which one it is of those with its column."""
    order = np.argsort(columns, kind="stable")
    ranked = columns[order]
    first = np.searchsorted(ranked, ranked)
    place = np.empty(len(columns), np.int64)
    place[order] = np.arange(len(columns)) - first
    return place


def _told(coloring: Coloring) -> str:
    each = ((coloring.n_columns, "columns"), (coloring.n_rows, "rows"))
    parts = [f"{what} in {counted(n, 'color')}" for n, what in each if n]
    return " and ".join(parts) or "no pass is needed"
