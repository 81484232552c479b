"""A pattern that the user passes as `sparsity`: of the right size, and right, as far as one random product can tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._analysis import Names, Pattern
from .._errors import ModeError, SparsityError
from .._lazy import jax_sparse, sparse
from .._trace import Ends, Side

Product = Callable[[np.ndarray], np.ndarray]


def as_pattern(sparsity: Any) -> Pattern | None:
    """What a user passes as `sparsity`.

    Raises:
        TypeError, ValueError: it is no matrix.
    """
    if sparsity is None or isinstance(sparsity, Pattern):
        return sparsity
    if isinstance(sparsity, jax_sparse.BCOO):
        if sparsity.ndim != 2 or sparsity.n_batch or sparsity.n_dense:
            raise ValueError(
                "sparsity must be a matrix, elements of the outputs by elements of the inputs, without batch or dense "
                f"dimensions; got a BCOO of shape {sparsity.shape}. What may help: sparsity.reshape(m, n)."
            )
        i, j = np.asarray(sparsity.indices).T
        inside = (i < sparsity.shape[0]) & (j < sparsity.shape[1])  # what pads it is not
        stored = np.ones(int(inside.sum()), bool)
        return Pattern.from_scipy(sparse.coo_matrix((stored, (i[inside], j[inside])), shape=sparsity.shape))
    if sparse.issparse(sparsity) or isinstance(sparsity, np.ndarray):
        return Pattern.from_scipy(sparsity)
    raise TypeError(
        "sparsity must be a Pattern, a BCOO, or a sparse matrix of SciPy's, of shape (elements of the outputs, "
        f"elements of the inputs); got {type(sparsity).__name__}."
    )


def check_shape(pattern: Pattern, ends: Ends) -> None:
    """Raise where a pattern is not of the shape of J.

    Raises:
        ValueError: with both shapes.
    """
    expected = ends.outputs.size, ends.inputs.size
    if pattern.shape != expected:
        of = " of one example" if ends.lead else ""
        raise ValueError(
            f"sparsity is {pattern.shape[0]:,} x {pattern.shape[1]:,}, and J{of} is {expected[0]:,} x {expected[1]:,}: "
            "elements of f's output by those of the differentiated arguments."
        )


def check_products(push: Product, pull: Product, J: sparse.csr_array, ends: Ends, names: Names) -> None:
    """Raise where J, made by a pattern, is not what a product with J is.

    Args:
        push: v -> J v, of flat vectors; raises `ModeError` where there is no forward mode.
        pull: u -> u J, or a `ModeError` likewise.
        J: as the pattern has it; of a batch, with zeros between examples.
        ends: both sides of J.
        names: of the arrays on them.

    Raises:
        SparsityError: naming an element that is nonzero and not in the pattern.
    """
    sides = (*ends.outputs.avals, *ends.inputs.avals)
    tolerance = math.sqrt(max(float(jnp.finfo(aval.dtype).eps) for aval in sides))
    try:
        found = _outside(push, J, tolerance)
    except ModeError:
        turned = _outside(pull, sparse.csr_array(J.T), tolerance)
        found = None if turned is None else (turned[1], turned[0], turned[2])
    if found is None:
        return
    i, j, value = found
    row, column = _told(ends.outputs, names.outputs, i), _told(ends.inputs, names.inputs, j)
    raise SparsityError(
        f"J has a nonzero outside of the sparsity that was passed: f's output{row} changes with {column}, "
        f"dy/dx = {value:.3g}. A pattern must hold all elements that are nonzero for some x; jaxobian.sparsity(f, x) "
        "finds one that does."
    )


def _outside(product: Product, J: Any, tolerance: float) -> tuple[int, int, Any] | None:
    """A row, a column and the value of an element that J should have, and has not; None where there is none.

    Where a random product differs, the columns that are not in the pattern are halved until one is left. What rounding
    alone makes differ has none.
    """
    width = J.shape[1]
    v = np.random.default_rng(0).standard_normal(width)
    expected, sizes = J @ v, abs(J) @ abs(v)
    with np.errstate(invalid="ignore"):
        wrong = abs(product(v) - expected) / (tolerance * (sizes + abs(expected)) + np.finfo(np.float32).tiny)
    rows = np.argsort(-np.nan_to_num(wrong, nan=0.0, posinf=0.0))  # a row may be wrong by what another one lacks
    for i in rows[wrong[rows] > 1]:
        columns = np.setdiff1d(np.arange(width), J.indices[J.indptr[i] : J.indptr[i + 1]])
        found = _only(product, columns, width, i)
        if found is not None and abs(found[1]) > tolerance**2 * sizes[i]:
            return int(i), *found
    return None


def _only(product: Product, columns: np.ndarray, width: int, row: int) -> tuple[int, Any] | None:
    """One of the columns that a row is nonzero in, and its value."""

    def of(some: np.ndarray) -> Any:
        v = np.zeros(width)
        v[some] = np.random.default_rng(1).uniform(1, 2, len(some)) if len(some) > 1 else 1
        return product(v)[row]

    if not len(columns) or not abs(of(columns)) > 0:
        return None
    while len(columns) > 1:
        columns = max(np.array_split(columns, 2), key=lambda half: abs(of(half)))
    return int(columns[0]), of(columns)


def _told(side: Side, names: Any, number: int) -> str:
    """An element by the name of its array and its index there."""
    for aval, name in zip(side.avals, names, strict=True):
        size = math.prod(aval.shape)
        if number < size:
            index = ", ".join(str(int(k)) for k in np.unravel_index(number, aval.shape))
            return f"{name}[{index}]" if aval.shape else name
        number -= size
    raise AssertionError("unreachable")
