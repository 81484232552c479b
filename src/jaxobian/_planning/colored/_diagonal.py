"""Diagonals by colors: passes whose elements do not disturb each other there, however much they do elsewhere."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace

import numpy as np

from ..._coloring import color_diagonal
from ..._execute import Stored, Swept
from ..._lazy import sparse
from ..._outputs import Diagonal, Trace
from ..._seeds import Classes, Seeds
from ..._words import counted, pass_count
from .._problem import Candidate, Impossible, Problem
from .._sweeps import CLEAR_WIN, choose_chunks, cost_of, together
from ._sought import Sought, without_constant_part


def of_diagonal(sought: Sought, output: Diagonal | Trace, below: float) -> Candidate | Impossible:
    """Passes whose elements do not disturb each other on the diagonal, however much they do elsewhere."""
    problem, every = sought.problem, sought.nnz
    columns = _columns_of_rows(problem, output)
    moved = _on_diagonal(columns, problem.inputs.size).T

    def colored(matrix: sparse.csr_matrix, below: float) -> np.ndarray | None:
        return color_diagonal(sparse.csr_matrix(moved @ matrix), problem.inputs.shapes, below)

    colors = colored(sought.matrix, below)
    few = below if colors is None else _count(colors) / CLEAR_WIN
    rest = without_constant_part(sought, lambda matrix: _count(colored(matrix, math.inf)) < few)
    if rest is not None:
        sought, colors = rest, colored(rest.matrix, below)
    if colors is None or _count(colors) >= below:
        many = counted(_count(colors), "color") if colors is not None else "at least as many colors"
        return Impossible("colored", f"no gain: {many} instead of {pass_count(int(below))}", nnz=every)
    best = min(
        (_diagonal_by(sought, mode, colors, columns) for mode in _modes(columns, sought.possible)),
        key=lambda offer: offer.cost.seconds,
    )
    cells, same = problem.outputs.size * problem.inputs.size, sought.known
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


def _diagonal_by(sought: Sought, mode: str, colors: np.ndarray, columns: np.ndarray) -> Candidate:
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
