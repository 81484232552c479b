"""Program -> rows: for every element of an output, the elements of the inputs that it can depend on.

The linear program is followed equation by equation; a variable is a sparse pattern with a row for each of its elements.
Equations that move elements about move rows; windows, products and reductions unite them; of all others the ties are
known (`_rules`), and what is dense there is dense here. What no argument influences (index arrays, masks) is evaluated;
every other value is taken for any value at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from scipy import sparse

from .._linear import Program, as_program, inlined, is_variable, subprograms, transposed_equation
from ._axes import Structure, local_ties
from ._indices import Indices
from ._moves import MOVES, Known, landings
from ._rows import (
    FULL,
    Full,
    Rows,
    Shape,
    by_ties,
    checked,
    csr,
    merged,
    multiplied,
    shape_of,
    size_of,
    taken,
    unit,
    united,
)

# The rows of an equation's results; None for one that depends on nothing.
Results = list[Rows | None]


@dataclass
class Elements:
    """Follows a program.

    Attributes:
        columns: how many columns a row has.
        effort: how many nonzeros may still be written down; None: as many as it takes.
        known: what atoms hold.
        indices: the same, for the rules of ties.
        dense: the equations that made something depend on everything, in order.
    """

    columns: int
    known: Known
    indices: Indices
    effort: int | None = None
    dense: list[Any] = field(default_factory=list)

    def follow(self, program: Program, start: dict[Any, Rows]) -> dict[Any, Rows]:
        """The rows of every variable that depends on one of `start`."""
        found = dict(start)
        for equation in program.equations:
            operands = {k: found[v] for k, v in enumerate(equation.invars) if is_variable(v) and v in found}
            if not operands:
                continue
            if self.effort is not None and sum(map(size_of, equation.outvars)) > self.effort:
                results: Results = [FULL] * len(equation.outvars)  # arrays too large to be looked at one by one
            else:
                results = [self._spent(rows) for rows in self.through(equation, operands)]
            if any(r is FULL for r in results) and not any(r is FULL for r in operands.values()):
                self.dense.append(equation)
            found.update((v, r) for v, r in zip(equation.outvars, results, strict=True) if r is not None)
        return found

    def _spent(self, rows: Rows | None) -> Rows | None:
        """The same while effort lasts; what comes later is taken to depend on everything."""
        if self.effort is None or rows is None or isinstance(rows, Full):
            return rows
        self.effort -= rows.nnz
        return rows if self.effort >= 0 else FULL

    def through(self, equation: Any, operands: dict[int, Rows]) -> Results:
        """The rows of an equation's results."""
        name = equation.primitive.name
        if all(isinstance(rows, Full) for rows in operands.values()) and name not in _INNER:
            return [FULL] * len(equation.outvars)
        for rule in (_INNER.get(name), _RULES.get(name), _moved):
            results = rule(self, equation, operands) if rule is not None else None
            if results is not None:
                return results
        return self._by_ties(equation, operands)

    def _by_ties(self, equation: Any, operands: dict[int, Rows]) -> Results:
        results: Results = []
        for out, row in zip(equation.outvars, local_ties(equation, set(operands), self.indices), strict=True):
            parts = [
                by_ties(rows, row[k], _shape(out), _shape(equation.invars[k]))
                for k, rows in operands.items()
                if k in row
            ]
            results.append(united(parts) if parts else None)
        return results

    def inside(self, program: Program, operands: dict[int, Rows]) -> Results:
        """The outputs of a program by those of its inputs that are active."""
        program = inlined(program)
        indices = Indices(program)
        inner = Elements(self.columns, indices.constant, indices, self.effort)
        found = inner.follow(program, {program.inputs[k]: rows for k, rows in operands.items()})
        self.effort = inner.effort
        return [found.get(v) if is_variable(v) else None for v in program.outputs]


def _shape(atom: Any) -> Shape:
    return tuple(getattr(atom.aval, "shape", ()))


# Equations that move, unite and mask rows ---------------------------------------------------------------------------


def _moved(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    rule = MOVES.get(equation.primitive.name)
    moved = rule(equation, elements.known) if rule is not None else None
    if moved is None:
        return None
    each = moved if isinstance(moved, list) else [moved]
    results: Results = []
    for places in each:
        parts = [taken(rows, places[k]) for k, rows in operands.items() if k in places]
        results.append(united(parts) if parts else None)
    return results


def _elementwise(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results:
    out = _shape(equation.outvars[0])
    made: Rows | None = united([_broadcast(rows, _shape(equation.invars[k]), out) for k, rows in operands.items()])
    return [made] * len(equation.outvars)


def _broadcast(rows: Rows, shape: Shape, out: Shape) -> Rows:
    """The rows of an operand whose axes of size 1, or missing ones, are broadcast silently."""
    if shape == out:
        return rows
    places = np.arange(math.prod(shape)).reshape((1,) * (len(out) - len(shape)) + shape)
    return taken(rows, np.broadcast_to(places, out))


def _product(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Elementwise; where the other factor is known to be zero, nothing is left."""
    if len(operands) != 1:
        return None
    ((k, rows),) = operands.items()
    factor = elements.known(equation.invars[1 - k])
    out = _shape(equation.outvars[0])
    if factor is None or factor.size <= 1 or np.all(factor):
        return None
    here = np.where(np.broadcast_to(factor, out) != 0, np.arange(math.prod(out)).reshape(out), -1)
    return [taken(_broadcast(rows, _shape(equation.invars[k]), out), here)]


def _dot(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """A product with a matrix that is known, and mostly zeros."""
    ((k, rows), *others) = operands.items()
    matrix = elements.known(equation.invars[1 - k]) if not others else None
    if matrix is None or matrix.size == 0 or np.count_nonzero(matrix) > 0.5 * matrix.size:
        return None
    contract, batch = equation.params["dimension_numbers"]
    ours, theirs = _shape(equation.invars[k]), matrix.shape
    free = [a for a in range(len(ours)) if a not in contract[k] and a not in batch[k]]
    other = [a for a in range(len(theirs)) if a not in contract[1 - k] and a not in batch[1 - k]]
    # As (batch, contracted, other) and (batch, free, contracted).
    flat = matrix.transpose([*batch[1 - k], *contract[1 - k], *other])
    batches, depth = math.prod(ours[a] for a in batch[k]), math.prod(ours[a] for a in contract[k])
    flat = flat.reshape(batches, depth, -1)
    width, height = flat.shape[2], math.prod(ours[a] for a in free)
    places = np.arange(math.prod(ours)).reshape(ours).transpose([*batch[k], *free, *contract[k]])
    places = places.reshape(batches, height, depth)
    b, d, w = np.nonzero(flat)
    source = places[b, :, d]  # (nonzeros, height)
    if source.size > (40_000_000 if elements.effort is None else elements.effort):
        return None
    target = (b[:, None] * height + np.arange(height)) * width + w[:, None]
    shape = (batches * height * width, math.prod(ours))
    product = sparse.csr_matrix((np.ones(source.size, bool), (target.reshape(-1), source.reshape(-1))), shape=shape)
    made = multiplied(product, rows)  # (batch, free, other)
    if k == 0:
        return [made]
    order = np.arange(shape[0]).reshape(batches, height, width).transpose(0, 2, 1)
    return [taken(made, order)]


def _windows(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Pooling: a window's result depends on all of it."""
    params, out = equation.params, _shape(equation.outvars[0])
    if any(_shape(equation.invars[k]) != _shape(equation.invars[0]) for k in operands):
        return None
    operand, rank = _shape(equation.invars[0]), len(out)
    window = _window_matrix(
        out, operand, params["window_dimensions"], params["window_strides"], params["padding"],
        params.get("base_dilation", (1,) * rank), params.get("window_dilation", (1,) * rank),
    )  # fmt: skip
    made = united([multiplied(window, rows) for rows in operands.values()])
    return [made for _ in equation.outvars]


def _scattered_windows(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """The transpose of that: each element depends on the windows that it is in."""
    if set(operands) != {0}:
        return None
    params, source, out = equation.params, _shape(equation.invars[0]), _shape(equation.outvars[0])
    ones = (1,) * len(out)
    window = _window_matrix(
        source, out, params["window_dimensions"], params["window_strides"], params["padding"], ones, ones
    )
    return [multiplied(sparse.csr_matrix(window.T), operands[0])]


def _window_matrix(
    out: Shape, operand: Shape, sizes: Any, strides: Any, padding: Any, spread: Any, holes: Any
) -> sparse.csr_matrix:
    """The elements of an operand that each window looks at."""
    total, valid = np.zeros((1, 1), np.int64), np.ones((1, 1), bool)
    for axis in range(len(out)):
        low = int(padding[axis][0])
        at = (np.arange(out[axis]) * strides[axis] - low)[:, None] + np.arange(sizes[axis]) * holes[axis]
        inside = (at >= 0) & (at % spread[axis] == 0) & (at // spread[axis] < operand[axis])
        at = np.where(inside, at // spread[axis], 0)
        total = total[:, None, :, None] * operand[axis] + at[None, :, None, :]
        valid = valid[:, None, :, None] & inside[None, :, None, :]
        shape = (total.shape[0] * total.shape[1], total.shape[2] * total.shape[3])
        total, valid = total.reshape(shape), valid.reshape(shape)
    indptr = np.concatenate([[0], np.cumsum(valid.sum(1))])
    return csr(indptr, total[valid], (math.prod(out), math.prod(operand)))


def _convolution(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each place depends on a window of space and on all channels of its group."""
    params = equation.params
    if set(operands) != {0} or params["batch_group_count"] != 1:
        return None
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    lhs, kernel, out = (_shape(v) for v in (*equation.invars, equation.outvars[0]))
    batch, channels, *space = (lhs[a] for a in numbers.lhs_spec)
    made_channels, *made = (out[a] for a in numbers.out_spec[1:])
    if 0 in (*lhs, *kernel, *out):
        return None
    # A key for each (example, group, place): channels of a group are united first.
    key = np.arange(batch * groups * math.prod(space)).reshape(batch, groups, 1, *space)
    key = np.broadcast_to(key, (batch, groups, channels // groups, *space)).reshape(batch, channels, *space)
    key = key.transpose(np.argsort(numbers.lhs_spec)).reshape(-1)
    rows = merged(operands[0], key, batch * groups * math.prod(space))
    window = _window_matrix(
        (batch * groups, *made), (batch * groups, *space),
        (1, *(kernel[a] for a in numbers.rhs_spec[2:])), (1, *params["window_strides"]),
        ((0, 0), *params["padding"]), (1, *params["lhs_dilation"]), (1, *params["rhs_dilation"]),
    )  # fmt: skip
    rows = multiplied(window, rows)
    place = np.arange(batch * groups * math.prod(made)).reshape(batch, groups, 1, *made)
    place = np.broadcast_to(place, (batch, groups, made_channels // groups, *made))
    place = place.reshape(batch, made_channels, *made).transpose(np.argsort(numbers.out_spec))
    return [taken(rows, place)]


def _cumulative(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Each element depends on those before it."""
    ((k, rows),) = operands.items()
    shape, axis = _shape(equation.invars[k]), equation.params["axis"]
    size = shape[axis]
    if math.prod(shape) * size > (40_000_000 if elements.effort is None else elements.effort):
        return None
    places = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), axis, -1).reshape(-1, size)
    before = np.tril(np.ones((size, size), bool))
    before = before.T if equation.params.get("reverse") else before
    i, j = np.nonzero(before)
    target, source = places[:, i].reshape(-1), places[:, j].reshape(-1)
    matrix = sparse.csr_matrix((np.ones(len(target), bool), (target, source)), shape=(math.prod(shape),) * 2)
    return [multiplied(matrix, rows)]


def _scatter_add(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """What is scattered into keeps its place; what is added arrives where the index says, if that is known."""
    if not set(operands) <= {0, 2}:
        return None
    parts = [operands[0]] if 0 in operands else []
    if 2 in operands:
        landed = landings(equation, elements.known)
        if landed is None:
            return None
        parts.append(merged(operands[2], landed, size_of(equation.outvars[0])))
    return [united(parts)]


# Equations with programs inside ------------------------------------------------------------------------------------


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
    def of(cls, body: Program, active: set[int], effort: int | None) -> _Step | None:
        """None where a step is dense."""
        ins = [0, *accumulate(map(size_of, body.inputs))]
        outs = [0, *accumulate(size_of(v) for v in body.outputs)]
        indices = Indices(body)
        if effort is not None and ins[-1] > effort:
            return None
        inner = Elements(ins[-1], indices.constant, indices, effort)
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
    filled = []
    for rows, size in parts:
        if isinstance(rows, Full):
            return FULL
        filled.append(sparse.csr_matrix((size, columns), dtype=bool) if rows is None else rows)
    return sparse.csr_matrix(sparse.vstack(filled, format="csr")) if filled else FULL


def _while(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Carries after any number of steps; the condition has no derivative."""
    params = equation.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    body = inlined(as_program(params["body_jaxpr"]))
    if len(body.inputs) != n_body + len(body.outputs) or any(k < n_cond for k in operands):
        return None
    given = {k - n_cond: rows for k, rows in operands.items()}
    carries = _carries(elements, body, given, (n_body, len(body.inputs)), {}, math.inf)
    return None if carries is None else _parted(carries[0], body.inputs[n_body:])


def _scan(elements: Elements, equation: Any, operands: dict[int, Rows]) -> Results | None:
    """Carries after any number of steps; a step's own slices of xs go to its own slice of ys."""
    (body,) = subprograms(equation)
    body = inlined(body)
    ranks = [len(_shape(v)) for v in equation.invars]
    if len(body.inputs) != len(ranks) or len(body.outputs) != len(equation.outvars):
        return None
    sliced = [k for k, v in enumerate(body.inputs) if len(_shape(v)) + 1 == ranks[k]]
    stacked = [o for o, v in enumerate(body.outputs) if len(_shape(v)) + 1 == len(_shape(equation.outvars[o]))]
    n_carry, length = len(body.outputs) - len(stacked), equation.params["length"]
    first_carry = len(body.inputs) - len(sliced) - n_carry
    last_carry = first_carry + n_carry
    # What a step may see of xs, whichever step it is.
    anywhere = {
        k: merged(operands[k], np.tile(np.arange(size_of(body.inputs[k])), length), size_of(body.inputs[k]))
        for k in sliced
        if k in operands
    }
    found = _carries(elements, body, operands, (first_carry, last_carry), anywhere, length)
    if found is None:
        return None
    carries, step = found
    results = _parted(carries, body.inputs[first_carry:last_carry])
    constants = _stacked([(operands.get(k), size_of(body.inputs[k])) for k in range(first_carry)], elements.columns)
    for o in stacked:
        every = np.tile(np.arange(size_of(body.outputs[o])), length)
        parts = []
        if n_carry:
            parts.append(taken(multiplied(step.block((o, o + 1), (first_carry, last_carry)), carries), every))
        if first_carry:
            parts.append(taken(multiplied(step.block((o, o + 1), (0, first_carry)), constants), every))
        for k in anywhere:
            each = sparse.kron(unit(length, 0, length), step.block((o, o + 1), (k, k + 1)), "csr")
            parts.append(multiplied(sparse.csr_matrix(each), operands[k]))
        results.append(united(parts) if parts else None)
    return results


def _carries(
    elements: Elements,
    body: Program,
    operands: dict[int, Rows],
    carry: tuple[int, int],
    slices: dict[int, Rows],
    steps: float,
) -> tuple[Rows, _Step] | None:
    """Carries after any number of steps up to `steps`, one below the other; and one step."""
    first, last = carry
    step = _Step.of(body, {*operands, *range(first, last)}, elements.effort)
    if step is None or not last > first:
        return None if step is None else (FULL, step)
    n_carry = last - first
    size = step.outs[n_carry]
    given = [(operands.get(k), size_of(body.inputs[k])) for k in range(first, last)]
    inflow = [_stacked(given, elements.columns)]
    for k in (*range(first), *slices):
        rows = slices.get(k, operands.get(k))
        if rows is not None:
            inflow.append(multiplied(step.block((0, n_carry), (k, k + 1)), rows))
    closure = _closure(step.block((0, n_carry), (first, last)), steps)
    if isinstance(closure, Full):
        # Everything that flows in can reach everything.
        return merged_all(united(inflow), size), step
    return multiplied(closure, united(inflow)), step


def merged_all(rows: Rows, size: int) -> Rows:
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
    pulled, _ = transposed_equation(equation, count)
    pulled = inlined(pulled)
    first = len(pulled.inputs) - len(equation.outvars)
    step = _Step.of(pulled, set(range(first, len(pulled.inputs))), elements.effort)
    if step is None:
        return None
    results: Results = []
    for o in range(len(equation.outvars)):
        parts = []
        for k, rows in operands.items():
            back = step.block((k - count, k - count + 1), (first + o, first + o + 1))
            parts.append(multiplied(sparse.csr_matrix(back.T), rows))
        results.append(united(parts) if parts else None)
    return results


_Rule = Callable[[Elements, Any, dict[int, Rows]], Results | None]

_INNER: dict[str, _Rule] = {
    **dict.fromkeys(["jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2"], _call),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call"], _call),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "custom_lin": _custom_lin,
}

_SAME = (
    "add add_any sub neg convert_element_type copy copy_p real imag complex conj reduce_precision stop_gradient pvary "
    "pcast sharding_constraint name integer_pow tanh exp log sin cos sqrt rsqrt logistic log1p expm1 abs sign max min "
    "pow square div mul"
).split()

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_SAME, _elementwise),
    "mul": lambda elements, e, operands: _product(elements, e, operands) or _elementwise(elements, e, operands),
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(
        ["reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add"], _windows
    ),
    "select_and_scatter_add": _scattered_windows,
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], _cumulative),
    **dict.fromkeys(["scatter-add", "scatter_add"], _scatter_add),
}


# Structure -> rows -------------------------------------------------------------------------------------------------


def elements(
    structure: Structure, columns: Sequence[np.ndarray], total: int, effort: int | None = None
) -> tuple[list[Rows | None], list[Any]]:
    """The rows of every output of a linear program.

    Args:
        structure: the program, with what is known of its index arrays.
        columns: for each tangent, the column that each of its elements stands for.
        total: how many columns there are.
        effort: how many nonzeros of all variables may be written down before it is given up.

    Returns:
        The rows of each output, None where it depends on nothing; and the equations that are to blame where one
        depends on everything.
    """
    program = structure.program
    follower = Elements(total, structure.known, structure.indices, effort)
    start: dict[Any, Rows] = {
        v: csr(np.arange(c.size + 1, dtype=np.int32), c.reshape(-1).astype(np.int32), (c.size, total))
        for v, c in zip(program.tangents, columns, strict=True)
    }
    found = follower.follow(program.linear, start)
    return [found.get(v) if is_variable(v) else None for v in program.linear.outputs], follower.dense
