"""The part of J that is the same for every x: J(x) = F + R(x), F known, R with fewer nonzeros.

A variable of the linear program is the sum of what reaches it through equations with known factors alone, and of the
rest. The first is a sparse matrix of numbers, followed as patterns are; the second is a program of its own.

    y = a + b      F_y = F_a + F_b      R_y = R_a + R_b
    y = c a        F_y = c F_a          R_y = c R_a           c known: a number, a mask, the weights of a stencil
    y = r a        F_y = 0              R_y = r a             r computed from x
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from ..._primitives import row_of
from ..._trace import Linear, Program, is_variable, zero_literal
from ..ties._axes import Structure
from ._matrices import conv_matrix, dot_matrix, window_matrix
from ._moves import MOVES, Known, landings
from ._rows import Full, Shape, csr, dims_of, merged, shape_of, size_of, taken

# Products with more multiply-adds than this are not made here.
_LARGEST = 4_000_000

# Operand -> its matrix of numbers, a row for each element.
_Numbers = dict[int, sparse.csr_matrix]
# The matrices of an equation's results, FULL where they would be too large; None where it is not known to have such.
_Results = list[Any] | None


def constant_part(
    structure: Structure, columns: Sequence[np.ndarray], total: int, most: int
) -> tuple[list[sparse.csr_matrix], Linear] | None:
    """Take the constant part of a linear program out of it.

    Args:
        structure: the program, with what is known of the values that no argument influences.
        columns: for each tangent, the column that each of its elements stands for.
        total: how many columns there are.
        most: nonzeros that a variable's part may have.

    Returns:
        F, a matrix for each output; and the program of R, with the same inputs. None where F is zero.
    """
    program, known = structure.program.linear, structure.known
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
        given = {k: parts[equation.invars[k]] for k in ours if equation.invars[k] in parts}
        made = _followed(equation, ours, given, known, most) if given else None
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
    return found, replace(structure.program, linear=without)


def _followed(equation: Any, ours: set[int], given: _Numbers, known: Known, most: int) -> _Results:
    """The constant parts of an equation's results, where all but the tangents is known in it."""
    kind = row_of(equation).of_elements
    rule = _RULES.get(kind, _moved if kind in MOVES else None)
    if rule is None or not all(map(_is_real, equation.outvars)):
        return None
    if any(known(v) is None for k, v in enumerate(equation.invars) if k not in ours):
        return None
    results = rule(equation, given, known)
    if results is None or any(isinstance(m, Full) or m.nnz > most or not np.isfinite(m.data).all() for m in results):
        return None
    return results


def _is_real(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.floating)


# Rules --------------------------------------------------------------------------------------------------------------


def _moved(equation: Any, given: _Numbers, known: Known) -> _Results:
    moved = MOVES[row_of(equation).of_elements](equation, known)
    if moved is None:
        return None
    each = moved if isinstance(moved, list) else [moved]
    return [
        _sum([taken(m, places[k]) for k, m in given.items() if k in places], out, given)
        for out, places in zip(equation.outvars, each, strict=True)
    ]


def _sum(parts: Sequence[Any], out: Any, given: _Numbers) -> Any:
    if any(isinstance(part, Full) for part in parts):
        return next(part for part in parts if isinstance(part, Full))
    _, width = shape_of(next(iter(given.values())))
    return sum(parts, start=sparse.csr_matrix((size_of(out), width)))


def _broadcast(matrix: Any, shape: Shape, out: Shape) -> Any:
    if shape == out:
        return matrix
    places = np.arange(math.prod(shape)).reshape((1,) * (len(out) - len(shape)) + shape)
    return taken(matrix, np.broadcast_to(places, out))


def _scaled(factor: Callable[[Any, int, Known], Any]) -> Callable[..., _Results]:
    """y = the sum of each operand times its factor, elementwise."""

    def rule(equation: Any, given: _Numbers, known: Known) -> _Results:
        (result,) = equation.outvars
        out, parts = dims_of(result), []
        for k, matrix in given.items():
            scale = factor(equation, k, known)
            matrix = _broadcast(matrix, dims_of(equation.invars[k]), out)
            if not isinstance(matrix, Full) and scale is not None:
                each = np.broadcast_to(np.asarray(scale, np.float64), out).reshape(-1).repeat(np.diff(matrix.indptr))
                matrix = csr(matrix.indptr, matrix.indices, shape_of(matrix), matrix.data * each)
            parts.append(matrix)
        return [_sum(parts, result, given)]

    return rule


def _divisor(equation: Any, k: int, known: Known) -> Any:
    divisor = known(equation.invars[1])
    assert divisor is not None
    with np.errstate(divide="ignore"):
        return 1 / np.asarray(divisor, np.float64)


def _reduced(equation: Any, given: _Numbers, known: Known) -> _Results:
    """Sums along axes."""
    shape, (out,) = dims_of(equation.invars[0]), equation.outvars
    kept = [1 if a in equation.params["axes"] else n for a, n in enumerate(shape)]
    key = np.broadcast_to(np.arange(size_of(out)).reshape(kept), shape).reshape(-1)
    return [merged(given[0], key, size_of(out))]


def _dot(equation: Any, given: _Numbers, known: Known) -> _Results:
    ((k, matrix),) = given.items()
    factor = known(equation.invars[1 - k])
    assert factor is not None
    product = dot_matrix(equation, k, factor, _LARGEST)
    return None if product is None else [product @ matrix]


def _windows(equation: Any, given: _Numbers, known: Known) -> _Results:
    params, (operand,), (out,) = equation.params, equation.invars, equation.outvars
    window = window_matrix(
        dims_of(out), dims_of(operand), params["window_dimensions"], params["window_strides"], params["padding"],
        params["base_dilation"], params["window_dilation"],
    )  # fmt: skip
    return [window.astype(np.float64) @ given[0]]


def _convolution(equation: Any, given: _Numbers, known: Known) -> _Results:
    kernel = known(equation.invars[1])
    matrix = conv_matrix(equation, kernel, _LARGEST) if kernel is not None and set(given) == {0} else None
    return None if matrix is None else [matrix @ given[0]]


def _scatter_add(equation: Any, given: _Numbers, known: Known) -> _Results:
    landed, (out,) = landings(equation, known), equation.outvars
    if landed is None:
        return None
    parts: list[Any] = [given[0]] if 0 in given else []
    if 2 in given:
        arrived = merged(given[2], landed, size_of(out))
        subtracted = row_of(equation).of_elements == "subtracted"
        parts.append(arrived if isinstance(arrived, Full) or not subtracted else -arrived)
    return [_sum(parts, out, given)]


_RULES: dict[str | None, Callable[..., _Results]] = {
    **dict.fromkeys(["sum", "identity", "conversion"], _scaled(lambda e, k, known: None)),
    "difference": _scaled(lambda e, k, known: 1 - 2 * k),
    "negation": _scaled(lambda e, k, known: -1),
    "product": _scaled(lambda e, k, known: known(e.invars[1 - k])),
    "quotient": _scaled(_divisor),
    "reduce_sum": _reduced,
    "window_sum": _windows,
    "dot": _dot,
    "convolution": _convolution,
    **dict.fromkeys(["added", "subtracted"], _scatter_add),
}
