"""Per-example gradients: where examples share x, each gets a copy of it, and one pass brings back the rows of all.

    y_b = f(x, data_b)      J[b, :] = df(x_b, data_b) / dx_b    at x_b = x

The rows of J are full, so that neither ties nor colors save a pass: a reverse pass for each output would pull zeros
through all other examples. With a copy of x for each example nothing is shared, and a cotangent for all examples at
once brings back the rows of all. The copies are made on the linear program, so that f need not be written for it: an
equation that brings x and the examples together, such as a product of data and weights, becomes one for each example.

Source: as in Goodfellow, Efficient per-example gradient computations (arXiv:1510.01799), for any program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .._analysis import Structure, has_line
from .._arrays import varying_axes
from .._cost import is_elementwise
from .._execute import Copied, Stored, Swept, of_copies
from .._primitives import row_of
from .._rewrite import convolved, has_patches, patches
from .._trace import Ends, Linear, Side, closed, inlined, is_checkpoint, is_variable, program_of
from . import reverse
from ._problem import Candidate, Impossible, Problem, Proposals
from ._sweeps import CLEAR_WIN

# With fewer examples than this there is nothing worth looking for.
_FEWEST = 4
# The axis of examples of a variable that each has a copy of, until they are told apart.
_COPY = -1

_Axes = dict[Any, int]


def propose(problem: Problem, earlier: Proposals) -> Candidate | Impossible:
    """What reverse mode proposes, or the same for copies of x, where that is predicted to win clearly.

    Args:
        problem: what is asked for.
        earlier: what forward and reverse propose for it.
    """
    plain = earlier["rev"]
    wanted = problem.batch is None and problem.output.has_zeros and problem.request.rewrite
    if not wanted or isinstance(plain, Impossible) or plain.passes < _FEWEST or problem.request.chunk_size is not None:
        return plain
    copied = _copied(problem)
    if copied is None:
        return plain
    offer = reverse.propose(copied)
    if isinstance(offer, Impossible) or offer.passes >= plain.passes:
        return plain
    swept = offer.execution
    if not isinstance(swept, Swept) or not isinstance(swept.build, Stored):
        return plain
    # The primal program is the same, but unknown to the one of copies.
    held_bytes = problem.residual_bytes
    work = offer.cost.work + problem.primal_work
    cost = replace(
        offer.cost, work=work, peak_bytes=offer.peak_bytes + held_bytes, seconds=problem.machine.call_time(work)
    )
    # Its passes are not what others are: fewer of them say nothing.
    rivals = [c.seconds for c in (earlier["fwd"], plain) if isinstance(c, Candidate)]
    if CLEAR_WIN * cost.seconds > min(rivals) or cost.peak_bytes > max(problem.budget, plain.peak_bytes):
        return plain
    note = f"per-example gradients: {copied.batch:,} examples share x, and one VJP brings back a row of J for each"
    return replace(offer, execution=Copied(problem.program, problem.ends, swept), cost=cost, note=note)


def _copied(problem: Problem) -> Problem | None:
    """The problem of copies; None where x and the examples are not brought together by equations that are known."""
    outputs = problem.program.linear.outputs
    if any(map(varying_axes, (*problem.inputs.avals, *problem.outputs.avals))):
        return None
    sizes = dict.fromkeys(n for v in outputs[:1] for n in v.aval.shape if n >= _FEWEST)
    problem = _without_checkpoints(problem) if sizes else problem
    outputs = problem.program.linear.outputs
    for size in sizes:
        for batch_axes in _places(outputs, size):
            axes = _axes(problem, batch_axes)
            if axes is not None:
                return _with_copies(problem, batch_axes, axes, size)
    return None


def _without_checkpoints(problem: Problem) -> Problem:
    """The same with what is checkpointed written out: equations in there bring x and the examples together, too."""
    program = problem.program
    if not any(map(is_checkpoint, program.linear.equations)):
        return problem
    linear = Linear(inlined(program.linear, checkpoints=True), program.n_in)
    return replace(problem, program=linear, structure=problem.structure.part(linear))


def _places(outputs: Sequence[Any], size: int) -> list[tuple[int, ...]]:
    """Where the outputs may have their examples: for each axis of the first one, the like of it in the others."""
    places = []
    for axis, n in enumerate(outputs[0].aval.shape):
        found = [axis if axis < len(v.aval.shape) and v.aval.shape[axis] == size else None for v in outputs]
        if n == size and None not in found:
            places.append(tuple(a for a in found if a is not None))
    return places


def _axes(problem: Problem, batch_axes: Sequence[int]) -> _Axes | None:
    """For each variable that matters, the axis of its examples, or _COPY.

    None where x itself has such an axis, and where nothing but elementwise work is left once copies are told apart:
    passes would save no more than zeros of that.
    """
    linear, worth = problem.program.linear, False
    axes: _Axes = {}
    for v, axis in zip(linear.outputs, batch_axes, strict=True):
        if is_variable(v) and problem.structure.of(v) and axes.setdefault(v, axis) != axis:
            return None
    for equation, local in reversed(problem.structure.steps):
        for out, row in zip(equation.outvars, local, strict=True):
            if out not in axes:
                continue
            for k, v in enumerate(equation.invars):
                if k not in row or not is_variable(v) or not problem.structure.of(v):
                    continue
                axis = _axis_before(row[k], axes[out], v.aval.shape, out.aval.shape)
                if axes.setdefault(v, axis) != axis:
                    return None
        if not _understood(equation, axes, problem.structure):
            return None
        apart = any(axes.get(v, _COPY) != _COPY for v in equation.invars if is_variable(v))
        worth = worth or (apart and not is_elementwise(equation))
    return axes if worth and all(axes.get(v, _COPY) == _COPY for v in problem.program.tangents) else None


def _axis_before(relation: Any, axis: int, shape: Sequence[int], made: Sequence[int]) -> int:
    """The axis of an operand that is tied to a result's axis of examples."""
    if axis == _COPY:
        return _COPY
    found = (a for a, n in enumerate(shape) if n == made[axis] and has_line(relation, axis, a))
    return next(found, _COPY)


def _understood(equation: Any, axes: _Axes, structure: Structure) -> bool:
    """Whether an equation can be run on copies."""
    made = {axes[v] for v in equation.outvars if v in axes}
    read = {axes[v] for v in equation.invars if is_variable(v) and v in axes and structure.of(v)}
    if not made:
        return True
    if _COPY in read and _COPY not in made:
        if row_of(equation).kind == "elementwise":  # axes of size 1, or none, stand for any size
            return all(_is_one(v.aval.shape, axes[equation.outvars[0]]) for v in _copies(equation, axes))
        return len(equation.outvars) == len(read) == 1 and _data_axis(equation, axes, made.pop()) is not None
    return (_COPY in made) == (_COPY in read) and (len(read | made) == 1 or _COPY not in read | made)


def _copies(equation: Any, axes: _Axes) -> list[Any]:
    """The operands of which each example has a copy."""
    return [v for v in equation.invars if is_variable(v) and axes.get(v) == _COPY]


def _is_one(shape: Sequence[int], axis: int) -> bool:
    """Whether an operand has nothing along the axis of examples, so that it is the same for all of them."""
    return not shape or shape[axis] == 1


def _data_axis(equation: Any, axes: _Axes, axis: int) -> tuple[int, int] | None:
    """The operand that brings the examples to x, and its axis of them; (-1, 0) where nothing but a shape does."""
    name, params = equation.primitive.name, equation.params
    if name == "broadcast_in_dim":
        return (-1, 0)
    copies = [k for k, v in enumerate(equation.invars) if is_variable(v) and axes.get(v) == _COPY]
    if len(copies) != 1 or axis == _COPY:
        return None
    if name == "dot_general":
        data = 1 - copies[0]
        contract, batch = params["dimension_numbers"]
        rank = len(equation.invars[data].aval.shape)
        free = [a for a in range(rank) if a not in contract[data] and a not in batch[data]]
        first = len(batch[0])
        if data == 1:
            first += len(equation.invars[0].aval.shape) - len(contract[0]) - len(batch[0])
        return (data, free[axis - first]) if 0 <= axis - first < len(free) else None
    if name == "conv_general_dilated" and copies == [1]:
        spec = params["dimension_numbers"]
        return (0, spec.lhs_spec[0]) if axis == spec.out_spec[0] and params["batch_group_count"] == 1 else None
    if name == "gather" and copies == [0]:
        dims, rank = params["dimension_numbers"], len(equation.outvars[0].aval.shape)
        looked_up = [a for a in range(rank) if a not in dims.offset_dims]
        return (1, looked_up.index(axis)) if axis in looked_up and not dims.start_indices_batching_dims else None
    return None


def _with_copies(problem: Problem, batch_axes: tuple[int, ...], axes: _Axes, size: int) -> Problem | None:
    """The problem of copies, for variables with their examples along these axes."""
    program, avals = problem.program, [_with_axis(aval, size) for aval in problem.program.in_avals]

    def push(residuals: Sequence[Any], copies: Sequence[Any]) -> list[Any]:
        values = dict(zip(program.linear.inputs, (*residuals, *copies), strict=True))

        def read(atom: Any) -> Any:
            if not is_variable(atom):
                return atom.val
            return values[atom] if atom in values else _zeros(atom)  # of what nothing depends on

        for equation in program.linear.equations:
            active = any(is_variable(v) and problem.structure.of(v) for v in equation.invars)
            if not active or any(v in axes for v in equation.outvars):
                results = _run(equation, axes, list(map(read, equation.invars)))
                # Results beside those that matter are zero, and have the shape that they had.
                pairs = zip(equation.outvars, results, strict=True)
                values.update((v, x) for v, x in pairs if v in axes or not active)
        return [values[v] if is_variable(v) and v in axes else _zeros(v) for v in program.linear.outputs]

    try:
        traced, constants, _ = program_of(push, list(program.residual_avals), avals)
    except Exception:  # a derivative of the user's own that cannot be run for several at once
        return None
    linear = Linear(closed(traced, constants), program.n_in)
    found = problem.structure.part(linear)
    ends = Ends(Side(tuple(avals), (0,) * len(avals)), Side(problem.outputs.avals, batch_axes))
    for axis, dependence in zip(batch_axes, found.relations, strict=True):
        if not all(has_line(relation, axis, 0) for relation in dependence.values()):
            return None
    return replace(problem, program=linear, structure=found, ends=ends, output=of_copies(problem.output))


def _zeros(atom: Any) -> Any:
    return jnp.zeros(atom.aval.shape, atom.aval.dtype)


def _with_axis(aval: Any, size: int) -> Any:
    return jax.ShapeDtypeStruct((size, *aval.shape), aval.dtype)


def _placed(copies: Any, axis: int, rank: int) -> Any:
    """Copies of what has nothing along the axis of examples, with the examples there."""
    if copies.ndim == 1:
        return copies.reshape([-1 if a == axis else 1 for a in range(rank)])
    return jnp.moveaxis(jnp.squeeze(copies, axis + 1), 0, axis)


def _run(equation: Any, axes: _Axes, operands: list[Any]) -> list[Any]:
    """An equation, on operands of which some are copies."""

    def alone(params: dict[str, Any], *operands: Any) -> list[Any]:
        results = equation.primitive.bind(*operands, **params)
        return list(results) if equation.primitive.multiple_results else [results]

    copies = [0 if is_variable(v) and axes.get(v) == _COPY else None for v in equation.invars]
    if 0 not in copies:
        return alone(equation.params, *operands)
    axis = next(axes[v] for v in equation.outvars if v in axes)
    if axis == _COPY:
        return jax.vmap(lambda *xs: alone(equation.params, *xs), copies)(*operands)
    if row_of(equation).kind == "elementwise":
        rank = len(equation.outvars[0].aval.shape)
        pairs = zip(operands, copies, strict=True)
        return alone(equation.params, *(x if c is None else _placed(x, axis, rank) for x, c in pairs))
    if has_patches(equation):
        # A convolution of each example with a kernel of its own is transposed to one in groups, which XLA's CPU backend
        # does without vector units.
        return [convolved(equation, patches(equation)[0](operands[0]), operands[1])]
    params, (data, along) = equation.params, _data_axis(equation, axes, axis) or (-1, 0)
    if data < 0:
        shape = list(params["shape"])
        shape[axis] = 1
        params = params | {"shape": tuple(shape)}
    else:
        copies[data] = along

    def one(*xs: Any) -> list[Any]:
        """One example, whose axis is left to it with size 1."""
        kept = [jnp.expand_dims(x, along) if k == data else x for k, x in enumerate(xs)]
        return [jnp.squeeze(y, axis) for y in alone(params, *kept)]

    return jax.vmap(one, copies, axis)(*operands)
