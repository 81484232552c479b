"""What each kind of primitive does to axes.

A rule says, for each output of an equation and each operand, which ties there are between their axes: of values, and so
of derivatives. What it leaves out is dense; a primitive without a kind is dense in all its operands, and the plan says
so by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from ..._trace import reshape_order
from .._indices import Indices
from ._kinds import (
    Local,
    aligned,
    each_pair,
    elementwise,
    except_axes,
    keys,
    leading_axes,
    passed_on,
    reduction,
    same_axes,
    shape_of,
    tied,
)
from ._ties import DENSE, Relation, Tie, digit, line, transposed

# Equations that put elements elsewhere, and those that sum them up ------------------------------------------------


def broadcast_in_dim(equation: Any, indices: Indices) -> Local:
    """y[.., i, ..] = x[i]: (3,) -> (2, 3) along axis 1, y[1, 2] = x[2]."""
    out, operand = shape_of(equation.outvars[0]), shape_of(equation.invars[0])
    return [{0: aligned(out, operand, [(int(o), k) for k, o in enumerate(equation.params["broadcast_dimensions"])])}]


def transpose(equation: Any, indices: Indices) -> Local:
    """y[i_p0, i_p1, ...] = x[i_0, i_1, ...]: (2, 3) -> (3, 2), y[2, 1] = x[1, 2]."""
    out, operand = shape_of(equation.outvars[0]), shape_of(equation.invars[0])
    return [{0: aligned(out, operand, [(o, int(i)) for o, i in enumerate(equation.params["permutation"])])}]


def reshape(equation: Any, indices: Indices) -> Local:
    """Axes kept, merged or split, digits of the position in row-major order: (2, 3) -> (6,), y[5] = x[1, 2]."""
    out, operand = shape_of(equation.outvars[0]), shape_of(equation.invars[0])
    order = reshape_order(equation)
    return [{0: frozenset(t._replace(inp=order[t.inp]) for t in reshaped(out, [operand[a] for a in order]))}]


def reshaped(out: Sequence[int], operand: Sequence[int]) -> Relation:
    """Digits that axes of both shapes have in common."""
    strides = [[math.prod(shape[a + 1 :]) for a in range(len(shape))] for shape in (out, operand)]
    found = []
    for o, (m, q) in enumerate(zip(out, strides[0], strict=True)):
        for i, (n, s) in enumerate(zip(operand, strides[1], strict=True)):
            if min(m, n) <= 1:
                continue
            low, high = max(q, s), min(q * m, s * n)
            if low >= high or low % q or low % s or high % low or (q * m) % high or (s * n) % high:
                continue
            # The digit on top of both axes needs no mod.
            base = 0 if high == q * m == s * n else high // low
            found.append(digit(o, low // q, i, low // s, base))
    return tied(found)


def dot_general(equation: Any, indices: Indices) -> Local:
    """y[b, i, j] = sum_k l[b, i, k] r[b, k, j]: y[1, 0, 2] by l[1, 0, :] and r[1, :, 2]."""
    contract, batch = equation.params["dimension_numbers"]
    out, row, free_before = shape_of(equation.outvars[0]), {}, len(batch[0])
    for k in (0, 1):
        operand = shape_of(equation.invars[k])
        free = [a for a in range(len(operand)) if a not in contract[k] and a not in batch[k]]
        pairs = [(o, int(a)) for o, a in enumerate(batch[k])] + [(free_before + o, a) for o, a in enumerate(free)]
        row[k] = aligned(out, operand, pairs)
        free_before += len(free)
    return [row]


def convolution(equation: Any, indices: Indices) -> Local:
    """Batch; output channels of the kernel; groups; space where a window looks at a single place.

    Images (8, 3, 9, 9), a kernel (4, 3, 3, 3): y[n, c] by x[n] and k[c]; of a kernel (4, 3, 1, 1) y[n, c, h, w] by
    x[n, :, h, w].
    """
    params, out = equation.params, shape_of(equation.outvars[0])
    lhs, rhs = (shape_of(v) for v in equation.invars)
    (lhs_batch, lhs_feature, *lhs_space), (rhs_out, _, *rhs_space), (out_batch, out_feature, *out_space) = (
        params["dimension_numbers"].lhs_spec,
        params["dimension_numbers"].rhs_spec,
        params["dimension_numbers"].out_spec,
    )
    groups, batches = params["feature_group_count"], params["batch_group_count"]
    left: list[Tie | None] = []
    if batches == 1:
        left += aligned(out, lhs, [(out_batch, lhs_batch)])
    else:
        each = lhs[lhs_batch] // batches
        left.append(digit(out_batch, 1, lhs_batch, 1, each))
        left.append(digit(out_feature, out[out_feature] // batches, lhs_batch, each, 0))
    if groups > 1:
        left.append(digit(out_feature, out[out_feature] // groups, lhs_feature, lhs[lhs_feature] // groups, 0))
    for axis, (o, i, w) in enumerate(zip(out_space, lhs_space, rhs_space, strict=True)):
        alone = rhs[w] == params["window_strides"][axis] == params["lhs_dilation"][axis] == 1
        if alone and tuple(params["padding"][axis]) == (0, 0):
            left += aligned(out, lhs, [(o, i)])
    return [{0: tied(left), 1: aligned(out, rhs, [(out_feature, rhs_out)])}]


def windows(dilations: Sequence[str] = ("base_dilation", "window_dilation")) -> Callable[[Any, Indices], Local]:
    """Axes along which a window looks at a single place: windows (1, 2, 2) of (8, 6, 6), y[n] by x[n]."""

    def rule(equation: Any, indices: Indices) -> Local:
        params = equation.params
        rank = len(shape_of(equation.outvars[0]))
        ones = (1,) * rank
        sizes, strides = params["window_dimensions"], params["window_strides"]
        free = [
            a
            for a in range(rank)
            if sizes[a] == strides[a] == 1
            and tuple(params["padding"][a]) == (0, 0)
            and all(params.get(name, ones)[a] == 1 for name in dilations)
        ]
        pairs = [(a, a) for a in free]
        return each_pair(equation, lambda out, operand: aligned(out, operand, pairs) if len(operand) == rank else DENSE)

    return rule


def taken(out_axis: int, in_axis: int, start: int, stride: int) -> Tie | None:
    """y[i] = x[start + stride i] along an axis."""
    if stride == 1:
        return line(out_axis, in_axis, -start)
    skipped = start // stride  # floor(k / stride) = i + skipped
    return digit(out_axis, 1, in_axis, stride, skipped)


def _slice(equation: Any, indices: Indices) -> Local:
    """y[i] = x[start + stride i]: x[3:9:2], y[1] = x[5]."""
    starts, strides = equation.params["start_indices"], equation.params["strides"]
    operand = shape_of(equation.invars[0])
    steps = strides or (1,) * len(operand)
    return [{0: tied([taken(a, a, starts[a], steps[a]) for a, n in enumerate(operand) if n > 1])}]


def pad(equation: Any, indices: Indices) -> Local:
    """y[low + (interior + 1) k] = x[k], a slice from its result to its operand: 2 before, 1 between, y[4] = x[1]."""
    operand, found = shape_of(equation.invars[0]), []
    for a, (low, _, interior) in enumerate(equation.params["padding_config"]):
        if operand[a] > 1 and (low >= 0 or interior == 0):
            found.append(taken(a, a, low, interior + 1))
    return [{0: transposed(tied(found))}]


def concatenate(equation: Any, indices: Indices) -> Local:
    """y[offset + k] = x[k] along one axis, the others kept: (2,) and (3,) -> (5,), y[3] is the second one's [1]."""
    out, axis = shape_of(equation.outvars[0]), equation.params["dimension"]
    sizes = [shape_of(v)[axis] for v in equation.invars]
    row = {}
    for k, (v, offset) in enumerate(zip(equation.invars, accumulate([0, *sizes[:-1]]), strict=True)):
        others = aligned(out, shape_of(v), [(a, a) for a in range(len(out)) if a != axis])
        row[k] = others | {line(axis, axis, offset)}
    return [row]


def stack(equation: Any, indices: Indices) -> Local:
    """y[.., k, ..] = x_k[..], an axis more: two (3,) -> (2, 3), y[1, 2] is the second one's [2]."""
    new = equation.params["axis"]
    return each_pair(equation, lambda out, x: aligned(out, x, [(a + int(a >= new), a) for a in range(len(x))]))


def unstack(equation: Any, indices: Indices) -> Local:
    """y_k[..] = x[.., k, ..], an axis less: (2, 3) -> two (3,), the second one's [2] is x[1, 2]."""
    gone = equation.params["axis"]
    return each_pair(equation, lambda out, x: aligned(out, x, [(a, a + int(a >= gone)) for a in range(len(out))]))


def tile(equation: Any, indices: Indices) -> Local:
    """y[i] = x[i mod n] along every axis: (3,) -> (6,), y[4] = x[1]."""
    operand, times = shape_of(equation.invars[0]), equation.params["reps"]
    return [{0: tied([line(a, a) if times[a] == 1 else digit(a, 1, a, 1, n) for a, n in enumerate(operand) if n > 1])}]


def split(equation: Any, indices: Indices) -> Local:
    """y_j[i] = x[offset_j + i] along one axis: (5,) -> (2,) and (3,), the second one's [1] is x[3]."""
    operand, axis = shape_of(equation.invars[0]), equation.params["axis"]
    sizes = [shape_of(v)[axis] for v in equation.outvars]
    local = []
    for out, offset in zip(equation.outvars, accumulate([0, *sizes[:-1]]), strict=True):
        others = aligned(shape_of(out), operand, [(a, a) for a in range(len(operand)) if a != axis])
        local.append({0: others | {line(axis, axis, -offset)}})
    return local


def rev(equation: Any, indices: Indices) -> Local:
    """y[i] = x[n - 1 - i] along some axes: (5,), y[1] = x[3]."""
    operand, reversed_axes = shape_of(equation.invars[0]), equation.params["dimensions"]
    ties = [line(a, a, n - 1, -1) if a in reversed_axes else line(a, a) for a, n in enumerate(operand) if n > 1]
    return [{0: tied(ties)}]


def gather(equation: Any, indices: Indices) -> Local:
    """Axes that are taken whole, batching axes, and axes whose index is the position itself.

    x[index] of (9, 4) by index (5,): y[i, j] by x[:, j] and index[i]; and by x[i, j] alone, where index[i] = i.
    """
    numbers = equation.params["dimension_numbers"]
    sizes = equation.params["slice_sizes"]
    out, operand = shape_of(equation.outvars[0]), shape_of(equation.invars[0])
    hidden = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    pairs = _windowed(numbers.offset_dims, hidden, len(operand))
    whole = [(o, i) for o, i in pairs if sizes[i] == operand[i]]
    batch = [a for a in range(len(out)) if a not in numbers.offset_dims]
    ties = [*aligned(out, operand, whole)]
    ties += [
        line(batch[b], int(i))
        for i, b in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
        if operand[i] > 1
    ]
    for column, i in enumerate(numbers.start_index_map):
        axis = indices.own_position(equation.invars[1], column) if sizes[i] == 1 else None
        if axis is not None and i in numbers.collapsed_slice_dims and operand[i] >= out[batch[axis]] > 1:
            ties.append(line(batch[axis], int(i)))
    # An index vector is read where it stands.
    return [{0: tied(ties), 1: aligned(out, shape_of(equation.invars[1]), [(o, b) for b, o in enumerate(batch)])}]


def scatter(equation: Any, indices: Indices) -> Local:
    """What is scattered into keeps its place; updates, each with its index, go to axes as in the transposed gather.

    x.at[index].add(u) of (9, 4) by index (5,): y[i, j] by x[i, j] and u[:, j]; and by u[i, j], where index[i] = i.
    """
    numbers = equation.params["dimension_numbers"]
    out, updates = shape_of(equation.outvars[0]), shape_of(equation.invars[2])
    hidden = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    whole = [(o, u) for u, o in _windowed(numbers.update_window_dims, hidden, len(out)) if updates[u] == out[o]]
    batch = [a for a in range(len(updates)) if a not in numbers.update_window_dims]
    landing = [
        line(int(o), b)
        for o, b in zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
        if out[o] > 1
    ]
    for column, o in enumerate(numbers.scatter_dims_to_operand_dims):
        axis = indices.own_position(equation.invars[1], column) if o in numbers.inserted_window_dims else None
        if axis is not None and out[o] >= updates[batch[axis]] > 1:
            landing.append(line(int(o), axis))
    arriving = aligned(out, updates, whole) | {tie._replace(inp=batch[tie.inp]) for tie in landing}
    return [{0: same_axes(out, shape_of(equation.invars[0])), 1: tied(landing), 2: arriving}]


def _windowed(shown: Sequence[int], hidden: Sequence[int], rank: int) -> list[tuple[int, int]]:
    """Pairs of an axis that shows a window and the axis that it is a window of."""
    return [(int(s), a) for s, a in zip(shown, [a for a in range(rank) if a not in hidden], strict=True)]


def dynamic_slice(equation: Any, indices: Indices) -> Local:
    """Axes that are taken whole start at 0, for JAX clamps: rows of (9, 4) -> (2, 4), y[i, j] by x[:, j]."""
    out, operand = shape_of(equation.outvars[0]), shape_of(equation.invars[0])
    return [{0: same_axes(out, operand)}]


def dynamic_update_slice(equation: Any, indices: Indices) -> Local:
    """What is written into keeps its place, an update its whole axes: (2, 4) into (9, 4), y[i, j] by u[:, j]."""
    out = shape_of(equation.outvars[0])
    return [{0: same_axes(out, out), 1: same_axes(out, shape_of(equation.invars[1]))}]


def triangular_solve(equation: Any, indices: Indices) -> Local:
    """Batch axes; and each right-hand side for itself: A (8, 3, 3), b (8, 3, 5), y[n, :, j] by A[n] and b[n, :, j]."""
    out, left_side = shape_of(equation.outvars[0]), equation.params["left_side"]
    rank = len(out)
    batch = [(a, a) for a in range(rank - 2)]
    free = rank - 1 if left_side else rank - 2
    return [{0: aligned(out, shape_of(equation.invars[0]), batch), 1: aligned(out, out, [*batch, (free, free)])}]


def tridiagonal_solve(equation: Any, indices: Indices) -> Local:
    """Batch axes; and each right-hand side for itself: diagonals (8, 3), b (8, 3, 5), y[n, :, j] by b[n, :, j]."""
    out = shape_of(equation.outvars[0])
    rank = len(out)
    batch = [(a, a) for a in range(rank - 2)]
    row = {k: aligned(out, shape_of(equation.invars[k]), batch) for k in range(3)}
    return [row | {3: aligned(out, out, [*batch, (rank - 1, rank - 1)])}]


# The table --------------------------------------------------------------------------------------------------------


def _fft_axes(equation: Any) -> Sequence[int]:
    rank = len(shape_of(equation.invars[0]))
    return range(rank - len(equation.params["fft_lengths"]), rank)


TIES: dict[str, Callable[[Any, Indices], Local]] = {
    "elementwise": elementwise,
    "passed_on": passed_on,
    "reduction": reduction,
    "cumulative": except_axes(lambda e: [e.params["axis"]]),
    "sort": except_axes(lambda e: [e.params["dimension"]]),
    "top_k": except_axes(lambda e: [e.params.get("axis", -1) % len(shape_of(e.invars[0]))]),
    "approx_top_k": except_axes(lambda e: [e.params["reduction_dimension"] % len(shape_of(e.invars[0]))]),
    "fft": except_axes(_fft_axes),
    "factorization": leading_axes(2),
    "pivots": leading_axes(1),
    "key": keys,
    "broadcast": broadcast_in_dim,
    "transpose": transpose,
    "reshape": reshape,
    "slice": _slice,
    "pad": pad,
    "concatenate": concatenate,
    "split": split,
    "stack": stack,
    "unstack": unstack,
    "tile": tile,
    "rev": rev,
    "gather": gather,
    "scatter": scatter,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    "dot": dot_general,
    "convolution": convolution,
    "windows": windows(),
    "scattered_windows": windows(()),
    "triangular_solve": triangular_solve,
    "tridiagonal_solve": tridiagonal_solve,
}
