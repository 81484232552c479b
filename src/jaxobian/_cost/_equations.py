"""What one equation takes: a rule for each kind that is more than elementwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._primitives import row_of
from .._trace import Program, as_program, loop_of, subprograms
from ._machine import Work

# What an equation that is fused into others takes of a kernel's dispatch.
_FUSED = 0.03
# Sorting is slow to begin.
_SORT = 4.0
# What a step of a loop takes, an array that it reads a slice of, and one that it writes a slice of.
_STEP, _READ, _WRITTEN = 1.0, 0.5, 0.7
# Products of fewer flops are loops like any other.
_TINY = 600
# Updates next to each other are scattered together, up to so many.
_RUN = 7
# Output channels with which a grouped convolution keeps the vector units busy.
_FULL_WIDTH = 8.0
# What a convolution takes for each tap of its kernel at each place, and for each element that it gathers, in flops.
_TAP, _GATHERED = 90.0, 6.0
# A dynamic while loop runs an unknown number of steps; any guess is the same for both modes.
ASSUMED_STEPS = 10

_Count = Callable[[Program], Work]

# Operations that elementwise equations take for each element, like one of these; those like sin are not vectorized.
OPERATIONS: dict[str | None, float] = {"arithmetic": 1.0, "exp": 10.0, "sqrt": 30.0, "sin": 100.0}


def nbytes(aval: Any) -> int:
    """Bytes of an array; 0 for what is not one (keys, tokens)."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def size(atom: Any) -> int:
    """Elements of a variable or literal."""
    return math.prod(getattr(atom.aval, "shape", ()))


def reduced(equation: Any) -> float:
    """How many elements a reduction makes one of."""
    return size(equation.invars[0]) / max(1, size(equation.outvars[0]))


def moves(equation: Any) -> bool:
    """Whether an equation only moves elements; reductions of axes of size 1 do.

    The result is made of the operands without touching memory on the way: XLA fuses it.
    """
    cost = row_of(equation).cost
    return cost == "move" or (cost == "reduction" and reduced(equation) <= 1)


def is_elementwise(equation: Any) -> bool:
    """Whether each element of the result is a function of one of each operand, or one of them moved."""
    row = row_of(equation)
    if row.cost == "move":
        return True
    if row.cost == "reduction":
        return reduced(equation) <= 1
    if row.cost in COSTS or row.body in LOOPS:
        return False
    return (row.cost is not None and row.body is None) or not any(True for _ in subprograms(equation))


def operations(equation: Any) -> float:
    """Operations that an elementwise equation takes for each element; a transcendental counts as several."""
    return 0.0 if moves(equation) else OPERATIONS.get(row_of(equation).cost, 1.0)


def equation_work(equation: Any, count: _Count) -> Work:
    """What an equation takes, apart from writing its results.

    Args:
        equation: the equation.
        count: what a program inside it takes.
    """
    row = row_of(equation)
    if row.cost in COSTS and not moves(equation):
        return COSTS[row.cost](equation) + Work(equations=1.0)
    if row.body in LOOPS:
        return LOOPS[row.body](equation, count) + Work(equations=1.0)
    inner = [count(p) for p in subprograms(equation)]
    if inner:
        return sum(inner, Work())
    return Work(arithmetic=sum(map(size, equation.outvars)) * operations(equation), equations=_FUSED)


# Products and windows ---------------------------------------------------------------------------------------------


def _is_complex(atom: Any) -> bool:
    return np.issubdtype(atom.aval.dtype, np.complexfloating)


def _dot(equation: Any) -> Work:
    (contract, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[d] for d in contract)
    # A complex multiply-add is four real ones.
    factor = 8.0 if _is_complex(equation.invars[0]) else 2.0
    flops = factor * depth * size(equation.outvars[0])
    # So is one with a vector.
    loop = flops < _TINY or depth * size(equation.outvars[0]) <= max(map(size, equation.invars))
    return Work(dot=flops, library=0.0 if loop else 1.0)


def _convolution(equation: Any) -> Work:
    params, kernel = equation.params, equation.invars[1].aval
    spec = params["dimension_numbers"].rhs_spec  # output channels, input channels of a group, space
    depth = kernel.shape[spec[1]] * math.prod(kernel.shape[d] for d in spec[2:])
    # Between the elements of a dilated operand lie zeros, which are skipped.
    holes = math.prod(params["lhs_dilation"])
    flops = 2.0 * depth * size(equation.outvars[0]) / holes
    groups = params["feature_group_count"] * params["batch_group_count"]
    channels = max(1, kernel.shape[spec[0]])
    if groups > 1:
        return Work(conv=flops, idle=flops * max(0.0, _FULL_WIDTH * groups / channels - 1))
    # It gathers what the kernel reads, tap by tap, and multiplies that with the kernel: the fewer channels, the less
    # there is to do for each tap.
    gathered = size(equation.outvars[0]) / channels * depth / holes
    taps = gathered / max(1, kernel.shape[spec[1]])
    return Work(conv=flops, idle=_TAP * taps + _GATHERED * gathered)


def _window(equation: Any) -> Work:
    window = math.prod(equation.params.get("window_dimensions", (1,)))
    return Work(window=float(window * max(size(v) for v in equation.outvars)))


def _sparse_dot(equation: Any) -> Work:
    """A product with a BCOO matrix: each of its entries is looked up, multiplied and added in its place."""
    data, indices, dense = equation.invars
    (_, contract), (batch, _) = equation.params["dimension_numbers"]
    entries = indices.aval.shape[-2]
    several = math.prod(equation.params["lhs_spinfo"].shape[a] for a in batch)
    rows = max(1.0, size(data) / max(1, entries * several))
    columns = size(dense) / max(1, math.prod(dense.aval.shape[a] for a in contract))
    products = entries * rows * columns
    return Work(gather=products, scatter=products / min(_RUN, max(1.0, columns)), equations=1.0)


# Solves and transforms --------------------------------------------------------------------------------------------


def _factor(flops: float) -> Callable[[Any], Work]:
    """A factorization that takes so many times n^3 for a matrix of order n."""

    def work(equation: Any) -> Work:
        *many, rows, columns = equation.invars[0].aval.shape
        number = math.prod(many)
        return Work(solve=flops * number * rows * columns * min(rows, columns), library=1.0, matrices=number)

    return work


def _triangular_solve(equation: Any) -> Work:
    *many, order, _ = equation.invars[0].aval.shape
    return Work(solve=1.0 * order * size(equation.invars[1]), library=1.0, matrices=math.prod(many))


def _tridiagonal_solve(equation: Any) -> Work:
    return Work(solve=10.0 * size(equation.outvars[0]), library=1.0)


def _fft(equation: Any) -> Work:
    """n log n for complex numbers, hardly less for real ones."""
    (x,), (y,) = equation.invars, equation.outvars
    length = max(2, math.prod(equation.params["fft_lengths"]))
    share = 1.0 if _is_complex(x) else 0.8
    return Work(solve=share * max(size(x), size(y)) * math.log2(length), library=1.0)


# Places -----------------------------------------------------------------------------------------------------------


def _scatter(equation: Any) -> Work:
    """One update after the other; those that lie next to each other are made together."""
    updates, windows = equation.invars[2], equation.params["dimension_numbers"].update_window_dims
    run = 1
    for axis, n in reversed(list(enumerate(updates.aval.shape))):
        if axis not in windows:
            break
        run *= n
    return Work(scatter=size(updates) / max(1, min(run, _RUN)), equations=_STEP)


def _sort(equation: Any) -> Work:
    length = equation.invars[0].aval.shape[equation.params.get("dimension", -1)]
    return Work(scatter=2.5 * size(equation.invars[0]) * math.log2(max(2, length)), library=_SORT)


# Loops and branches -----------------------------------------------------------------------------------------------


def _loop(equation: Any, count: _Count) -> Work:
    """Its steps, each of which cuts its part out of some arrays, and puts what it makes into others."""
    loop = loop_of(equation)
    assert loop is not None
    step = sum((count(p) for p in subprograms(equation)), Work(equations=_STEP))
    sliced = Work(equations=_READ * len(loop.sliced) + _WRITTEN * len(loop.stacked))
    return (step + sliced) * (ASSUMED_STEPS if loop.condition else loop.length)


def _cond(equation: Any, count: _Count) -> Work:
    worst = Work()
    for branch in subprograms(equation):
        worst = worst.larger(count(branch))
    return worst


def _linear_solve(equation: Any, count: _Count) -> Work:
    """Its own solver, which it runs once; in what else it holds it is taken apart and put together again."""
    return count(as_program(equation.params["jaxprs"].solve))


# Programs inside -> what they take, as often as they run.
LOOPS: dict[str | None, Callable[[Any, _Count], Work]] = {
    "loop": _loop,
    "cond": _cond,
    "solve": _linear_solve,
}

# Kinds that are more than some operations for each element -> what an equation takes.
COSTS: dict[str | None, Callable[[Any], Work]] = {
    "dot": _dot,
    "convolution": _convolution,
    "sparse_dot": _sparse_dot,
    "fft": _fft,
    "sort": _sort,
    "gather": lambda e: Work(gather=float(size(e.outvars[0]))),
    "update": lambda e: Work(arithmetic=float(size(e.invars[1]))),
    "scatter": _scatter,
    "window": _window,
    "scattered_window": lambda e: _window(e) + Work(scatter=float(size(e.invars[0]))),
    "reduction": lambda e: Work(reduce=float(size(e.invars[0]))),
    "cumulative": lambda e: Work(reduce=20.0 * size(e.invars[0])),
    "cholesky": _factor(1 / 3),
    "lu": _factor(2 / 3),
    "qr": _factor(2.0),
    "hessenberg": _factor(3.0),
    "eigh": _factor(4.0),
    "svd": _factor(8.0),
    "triangular_solve": _triangular_solve,
    "tridiagonal_solve": _tridiagonal_solve,
    "pivots": lambda e: Work(scatter=float(size(e.outvars[0]))),
}


def not_understood(equations: Sequence[Any]) -> list[str]:
    """Names of primitives whose cost is a guess, in order of appearance."""
    guessed = (e for e in equations if row_of(e).cost is None and not any(True for _ in subprograms(e)))
    return list(dict.fromkeys(e.primitive.name for e in guessed))
