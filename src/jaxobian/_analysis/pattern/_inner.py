"""Equations with programs inside -> rows of their results: calls, branches, loops and custom rules.

A step of a loop is a matrix of its outputs by its inputs; any number of steps is that matrix's closure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._lazy import sparse
from ..._trace import Loop, Program, differentiable, inlined, loop_of, pullbacks, subprograms
from ._rows import (
    FULL,
    Full,
    Results,
    Rows,
    checked,
    merged,
    multiplied,
    shape_of,
    size_of,
    stacked,
    taken,
    unit,
    united,
)

if TYPE_CHECKING:
    from ._elements import Elements


def _call(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    programs = list(subprograms(equation))
    if len(programs) != 1 or len(programs[0].inputs) != len(equation.invars):
        return None
    return elements.inside(programs[0], operands)


def _cond(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Any of the branches may run."""
    if 0 in operands:
        return None
    each = [elements.inside(p, {k - 1: rows for k, rows in operands.items()}) for p in subprograms(equation)]
    united_rows = [[r for r in rows if r is not None] for rows in zip(*each, strict=True)]
    return [united(parts) if parts else None for parts in united_rows]


@dataclass(frozen=True)
class _Step:
    """One step of a loop: its outputs by its inputs, as matrices.

    Attributes:
        matrix: a row for each element of the body's outputs, a column for each of its inputs.
        outs, ins: where the elements of each output and input begin, and the total.
    """

    matrix: sparse.csr_matrix
    outs: list[int]
    ins: list[int]

    @classmethod
    def of(cls, elements: Elements, body: Program, active: set[int]) -> _Step | None:
        """None where a step is dense."""
        ins = [0, *accumulate(map(size_of, body.inputs))]
        outs = [0, *accumulate(size_of(v) for v in body.outputs)]
        if ins[-1] > elements.room:
            return None
        inner = elements.anew(body, ins[-1])
        start: dict[int, Rows] = {k: unit(size_of(body.inputs[k]), ins[k], ins[-1]) for k in active}
        parts = []
        for v, rows in zip(body.outputs, inner.inside(body, start), strict=True):
            if isinstance(rows, Full):
                return None
            parts.append(sparse.csr_matrix((size_of(v), ins[-1]), dtype=bool) if rows is None else rows)
        return cls(sparse.csr_matrix(sparse.vstack(parts, format="csr")), outs, ins)

    def block(self, out: tuple[int, int], inp: tuple[int, int]) -> sparse.csr_matrix:
        """Outputs out[0] to out[1] by inputs inp[0] to inp[1]."""
        rows = self.matrix[self.outs[out[0]] : self.outs[out[1]]]
        return sparse.csr_matrix(rows[:, self.ins[inp[0]] : self.ins[inp[1]]])


def _closure(step: sparse.csr_matrix, steps: float) -> Rows:
    """Any number of steps up to `steps`: by doubling, until nothing is added."""
    total: Rows = united([unit(shape_of(step)[0], 0, shape_of(step)[1]), step])
    done = 1.0
    while done < steps and not isinstance(total, Full):
        more = multiplied(total, total)
        if isinstance(more, Full) or more.nnz == total.nnz:
            return more
        total, done = more, 2 * done
    return total


def _stacked(parts: Sequence[tuple[Rows | None, int]], columns: int) -> Rows:
    """Rows of several variables, one after the other; `None` depends on nothing."""
    filled = [sparse.csr_matrix((size, columns), dtype=bool) if rows is None else rows for rows, size in parts]
    return stacked(filled) if filled else FULL


def _loop(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Carries after any number of steps; a step's own slices of xs go to its own slice of ys.

    What a condition reads has no derivative.
    """
    loop = loop_of(equation)
    if loop is None or any(k < loop.skipped for k in operands):
        return None
    operands = {k - loop.skipped: rows for k, rows in operands.items()}
    body, first, last = loop.body, loop.carries.start, loop.carries.stop
    # What a step may see of xs, whichever step it is.
    anywhere = {
        k: merged(operands[k], _every(loop, body.inputs[k]), size_of(body.inputs[k]))
        for k in loop.sliced
        if k in operands
    }
    found = _carries(elements, loop, operands, anywhere)
    if found is None:
        return None
    carries, step = found
    results = _parted(carries, body.inputs[first:last])
    given = [(operands.get(k), size_of(body.inputs[k])) for k in range(first)]
    constants = _stacked(given, elements.columns) if loop.stacked else FULL
    for o in loop.stacked:
        every = _every(loop, body.outputs[o])
        parts = []
        if loop.carries:
            parts.append(taken(multiplied(step.block((o, o + 1), (first, last)), carries), every))
        if first:
            parts.append(taken(multiplied(step.block((o, o + 1), (0, first)), constants), every))
        for k in anywhere:
            each = sparse.kron(unit(int(loop.length), 0, int(loop.length)), step.block((o, o + 1), (k, k + 1)), "csr")
            parts.append(multiplied(sparse.csr_matrix(each), operands[k]))
        results.append(united(parts) if parts else None)
    return results


def _every(loop: Loop, atom: Any) -> np.ndarray:
    """For each element of what slices are stacked to, which one of its slice it is."""
    return np.tile(np.arange(size_of(atom)), int(loop.length))


def _carries(
    elements: Elements, loop: Loop, operands: dict[int, Rows], slices: dict[int, Rows]
) -> tuple[Rows, _Step] | None:
    """Carries after any number of steps, one below the other; and one step."""
    body, first, last = loop.body, loop.carries.start, loop.carries.stop
    step = _Step.of(elements, body, {*operands, *loop.carries})
    if step is None or not loop.carries:
        return None if step is None else (FULL, step)
    n_carry = last - first
    size = step.outs[n_carry]
    given = [(operands.get(k), size_of(body.inputs[k])) for k in range(first, last)]
    inflow = [_stacked(given, elements.columns)]
    for k in (*range(first), *slices):
        rows = slices.get(k, operands.get(k))
        if rows is not None:
            inflow.append(multiplied(step.block((0, n_carry), (k, k + 1)), rows))
    closure = _closure(step.block((0, n_carry), (first, last)), loop.length)
    if isinstance(closure, Full):
        # Everything that flows in can reach everything.
        return _merged_all(united(inflow), size), step
    return multiplied(closure, united(inflow)), step


def _merged_all(rows: Rows, size: int) -> Rows:
    """Every row the union of all rows."""
    if isinstance(rows, Full):
        return FULL
    return taken(merged(rows, np.zeros(shape_of(rows)[0], np.int64), 1), np.zeros(size, np.int64))


def _parted(rows: Rows, variables: Sequence[Any]) -> Results:
    """The rows of variables that stand one below the other."""
    ends = [0, *accumulate(map(size_of, variables))]
    if isinstance(rows, Full):
        return [FULL] * len(variables)
    return [checked(sparse.csr_matrix(rows[a:b])) for a, b in pairwise(ends)]


def _custom_lin(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Can only be pulled back: the program that does so, read from its results to its seeds."""
    count = equation.params["num_res"]
    if any(k < count for k in operands):
        return None
    results: Results = [FULL if k in differentiable(equation) else None for k in range(len(equation.outvars))]
    for places, pulled, _ in pullbacks(equation, count):
        pulled = inlined(pulled)
        first = len(pulled.inputs) - len(places)
        step = _Step.of(elements, pulled, set(range(first, len(pulled.inputs))))
        if step is None:
            return None
        for o, place in enumerate(places):
            parts = []
            for k, rows in operands.items():
                back = step.block((k - count, k - count + 1), (first + o, first + o + 1))
                parts.append(multiplied(sparse.csr_matrix(back.T), rows))
            results[place] = united(parts) if parts else None
    return results


# The rows of an equation's results by those of its operands; None where another rule must say.
BODIES: dict[str | None, Callable[[Elements, Any, dict[int, Rows]], Results | None]] = {
    "call": _call,
    "custom_rule": _call,
    "block": _call,
    "cond": _cond,
    "loop": _loop,
    "pullback": _custom_lin,
}
