"""Gradients of a matrix that a single row multiplies: an outer product, written as what it is.

y_j = sum_k h_k W_kj        dW_kj = h_k c_j

JAX transposes the product with W into a product over an axis of size 1, or none, and then turns the result; XLA may
compute all of it before it turns it. Written as a multiplication, the outer product is made in its place.
"""

from __future__ import annotations

import math
from typing import Any

from jax import Array, lax

from ._rewrite import Around, Rewrite


def outer(equation: Any, active: set[int], mode: str, around: Around) -> list[Rewrite]:
    """A multiplication and a sum, whose transpose is a multiplication."""
    if mode != "rev" or len(active) != 1 or equation.params.get("out_sharding") is not None:
        return []
    (mine,) = active
    theirs = 1 - mine
    contract, _ = equation.params["dimension_numbers"]
    matrix, row, made = equation.invars[mine].aval, equation.invars[theirs].aval, equation.outvars[0].aval
    several = _free_size(equation, theirs) != 1
    if not contract[mine] or several or len({row.dtype, matrix.dtype, made.dtype}) > 1:
        return []
    return [product_and_sum(equation, mine)]


def has_all_axes(equation: Any) -> int | None:
    """The operand of a contraction that has all axes of the other one, if either has; the larger where both do."""
    either = [k for k in (0, 1) if _free_size(equation, 1 - k) == 1]
    return max(either, key=lambda k: len(equation.invars[k].aval.shape), default=None)


def product_and_sum(equation: Any, whole: int) -> Rewrite:
    """A contraction, one operand of which has all axes of the other, as an elementwise product and a sum of it."""
    other = 1 - whole
    contract, batch = equation.params["dimension_numbers"]
    matrix, row, made = equation.invars[whole].aval, equation.invars[other].aval, equation.outvars[0].aval
    # The axis of the whole one that goes with each of the other's; all others have size 1.
    goes_with = {b: a for axes in (contract, batch) for a, b in zip(axes[whole], axes[other], strict=True)}
    free = [b for b in range(len(row.shape)) if b not in goes_with]
    kept = [a for a in range(len(matrix.shape)) if a not in contract[whole]]
    wanted = [*batch[whole], *(a for a in kept if a not in batch[whole])]

    def run(*operands: Array) -> list[Array]:
        order = sorted(goes_with, key=goes_with.__getitem__)
        h = operands[other].transpose(*order, *free).reshape([row.shape[b] for b in order])
        h = lax.broadcast_in_dim(h, matrix.shape, [goes_with[b] for b in order])
        y = lax.reduce_sum(h * operands[whole], axes=sorted(contract[whole]))
        return [y.transpose([kept.index(a) for a in wanted]).reshape(made.shape)]

    return Rewrite(run, "weight gradient", "elementwise outer product", tuple(equation.invars))


def _free_size(equation: Any, k: int) -> int:
    """Elements of an operand along the axes that the other one does not have."""
    contract, batch = equation.params["dimension_numbers"]
    shape = equation.invars[k].aval.shape
    return math.prod(n for axis, n in enumerate(shape) if axis not in (*contract[k], *batch[k]))
