"""The part of J that is the same for every x: J(x) = F + R(x), F known, R with fewer nonzeros.

A variable of the linear program is the sum of what reaches it through equations with known factors alone, and of the
rest. The first is a sparse matrix of numbers, followed as patterns are; the second is a program of its own.

    y = a + b      F_y = F_a + F_b      R_y = R_a + R_b
    y = c a        F_y = c F_a          R_y = c R_a           c known: a number, a mask, the weights of a stencil
    y = r a        F_y = 0              R_y = r a             r computed from x
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from ..._lazy import sparse
from ..._trace import Linear, Program, is_variable, zero_literal
from ..ties._axes import Structure
from ._moves import Known
from ._rows import Full, Rows, Shape, csr, shape_of, size_of
from ._unions import followed


def constant_part(
    structure: Structure, columns: Sequence[np.ndarray], total: int, most: int
) -> tuple[list[sparse.csr_matrix], Linear, frozenset[int]] | None:
    """Take the constant part of a linear program out of it.

    Args:
        structure: the program, with what is known of the values that no argument influences.
        columns: for each tangent, the column that each of its elements stands for.
        total: how many columns there are.
        most: nonzeros that a variable's part may have.

    Returns:
        F, a matrix for each output; the program of R, with the same inputs; and the operands whose numbers they are
        known by. None where F is zero.
    """
    program, lookup = structure.program.linear, structure.lookup()
    numbers = _Numbers(lookup, most)
    parts: dict[Any, sparse.csr_matrix] = {
        v: csr(np.arange(c.size + 1), c.reshape(-1), (c.size, total), np.ones(c.size))
        for v, c in zip(structure.program.tangents, columns, strict=True)
        if _is_real(v)
    }
    active = {*structure.program.tangents}
    # What is left of a variable that has a constant part; zero where there is nothing else in it.
    left: dict[Any, Any] = {v: zero_literal(v.aval) for v in parts}

    def rest(atom: Any) -> Any:
        return left.get(atom, atom) if is_variable(atom) else atom

    equations = []
    for equation in program.equations:
        equations.append(equation)
        ours = {k for k, v in enumerate(equation.invars) if is_variable(v) and v in active}
        if not ours:
            continue
        active.update(equation.outvars)
        given: dict[int, Rows] = {k: parts[equation.invars[k]] for k in ours if equation.invars[k] in parts}
        made = numbers.through(equation, ours, given) if given else None
        if made is None:
            continue
        parts.update(zip(equation.outvars, made, strict=True))
        operands = [rest(v) for v in equation.invars]
        if any(is_variable(operands[k]) for k in ours):
            left.update((v, jex.Var(v.aval)) for v in equation.outvars)
            equations.append(equation.replace(invars=operands, outvars=[left[v] for v in equation.outvars]))
        else:
            left.update((v, zero_literal(v.aval)) for v in equation.outvars)
    outputs = [v if is_variable(v) else None for v in program.outputs]
    if not any(v in parts and parts[v].nnz for v in outputs):
        return None
    found = [
        parts[v] if v in parts else sparse.csr_matrix((size_of(own), total))
        for v, own in zip(outputs, program.outputs, strict=True)
    ]
    without = Program(program.inputs, tuple(map(rest, program.outputs)), tuple(equations)).pruned()
    return found, replace(structure.program, linear=without), lookup.used


@dataclass
class _Numbers:
    """Follows what an element is a multiple of.

    Attributes:
        known: what atoms hold.
        most: nonzeros that a variable's part may have.
    """

    known: Known
    most: int
    room: int = 4_000_000  # products with more multiply-adds are not made here
    exact: ClassVar[bool] = True

    def through(self, equation: Any, ours: set[int], given: dict[int, Rows]) -> list[Any] | None:
        """The constant parts of an equation's results, where all but its operands `ours` is known in it."""
        if not all(map(_is_real, equation.outvars)):
            return None
        if any(self.known(v) is None for k, v in enumerate(equation.invars) if k not in ours):
            return None
        results = followed(self, equation, given)
        return None if results is None or not all(map(self._is_kept, results)) else results

    def _is_kept(self, rows: Rows | None) -> bool:
        if rows is None or isinstance(rows, Full):
            return False
        return rows.nnz <= self.most and bool(np.isfinite(rows.data).all())

    def scaled(self, rows: Rows, factor: np.ndarray, shape: Shape) -> Rows:
        """Each row times its own number."""
        if isinstance(rows, Full):
            return rows
        each = np.broadcast_to(np.asarray(factor, np.float64), shape).reshape(-1).repeat(np.diff(rows.indptr))
        return csr(rows.indptr, rows.indices, shape_of(rows), rows.data * each)

    def matrix(self, numbers: sparse.csr_matrix) -> sparse.csr_matrix:
        """The numbers themselves; ones for booleans."""
        return sparse.csr_matrix(numbers, dtype=np.float64)


def _is_real(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)
