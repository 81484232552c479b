"""Products of a few rows with a large constant: the constant comes first.

t W^T  =  (W t^T)^T

The kernels of matrix products on CPUs put the second operand in the order in which they read it, which for a few rows
takes longer than the product. With the constant in front it is the rows that are put in order, and their number is
rounded up to what a kernel takes at once. Only passes made together have rows: this looks at the program that vmap
makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from .._arrays import abstract, varying_axes
from .._trace import Program, active_variables, inlined, is_variable, program_of
from ._rewrite import Rewrite, rewritten

# Measured on CPU: below so many elements a constant is put in order in no time, and with more than a quarter as many
# rows as products are summed the product itself takes longer.
_LARGE, _FEW = 2**15, 4
# Rows that a kernel takes at once.
_TILE = 8


def weights_first(passes: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
    """Passes made together, with products of few rows in the faster order."""

    def run(*seeds: Any) -> Sequence[Any]:
        program, constants, _ = program_of(lambda *many: passes(*many), *map(abstract, seeds))
        program = inlined(program)  # chunks that are written out share a jit
        taken = skinny_matmuls(program, program.inputs[len(constants) :])
        return rewritten(program, taken)(*constants, *seeds) if taken else passes(*seeds)

    return run


def skinny_matmuls(program: Program, seeds: Sequence[Any]) -> dict[int, Rewrite]:
    """Offers for the products of few rows in a program whose `seeds` carry several passes, by place."""
    active = active_variables(program, seeds)
    found = {}
    for place, equation in enumerate(program.equations):
        if equation.primitive.name == "dot_general" and _fits(equation, active):
            found[place] = Rewrite(
                _constant_first(equation), "skinny matmul", "weights first",
                tuple(equation.invars),
            )  # fmt: skip
    return found


def _fits(equation: Any, active: set[Any]) -> bool:
    rows, constant = equation.invars
    if not is_variable(rows) or rows not in active or (is_variable(constant) and constant in active):
        return False
    params, avals = equation.params, (rows.aval, constant.aval, equation.outvars[0].aval)
    (ours, theirs), (batch, _) = params["dimension_numbers"]
    rank = len(constant.aval.shape)
    plain = not batch and params.get("out_sharding") is None and all(aval.dtype == np.float32 for aval in avals)
    if not plain or not theirs or varying_axes(rows.aval):
        return False
    depth = math.prod(rows.aval.shape[a] for a in ours)
    number = math.prod(rows.aval.shape) // max(1, depth)
    trailing = tuple(theirs) == tuple(range(rank - len(theirs), rank))
    return trailing and number > 1 and _FEW * number <= depth and math.prod(constant.aval.shape) >= _LARGE


def _constant_first(equation: Any) -> Callable[[Array, Array], list[Array]]:
    (ours, theirs), _ = equation.params["dimension_numbers"]
    shape = equation.outvars[0].aval.shape
    chosen = {key: equation.params[key] for key in ("precision", "preferred_element_type")}

    def run(rows: Array, constant: Array) -> list[Array]:
        depth = math.prod(constant.shape[a] for a in theirs)
        free = [a for a in range(rows.ndim) if a not in ours]
        flat = rows.transpose(*free, *ours).reshape(-1, depth)
        number = len(flat)
        flat = jnp.pad(flat, ((0, _rounded(number) - number), (0, 0)))
        made = lax.dot_general(constant.reshape(-1, depth), flat, (((1,), (1,)), ((), ())), **chosen)
        # XLA would see that a product and its transposition are one product, the slow one.
        return [lax.optimization_barrier(made)[:, :number].T.reshape(shape)]

    return run


def _rounded(rows: int) -> int:
    """A tile can also be half full, or a quarter."""
    return rows if rows in (2, 4) else -(-rows // _TILE) * _TILE
