"""Whether the examples of a batch are proved not to mix; if not, what couples them, with a witness if there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._errors import BatchCouplingError
from .._trace import Ends, Linear, LinearProgram, at_line, pullback
from .ties._axes import Structure
from .ties._ties import Line, Relation

# Examples at either end of a batch that are given another's value in search of a witness.
_TRIED = 3
_INSTEAD = (
    "If f takes one example, use batch_jacobian(jax.vmap(f)). For the whole of J, blocks between examples included, "
    "use jacobian."
)


@dataclass(frozen=True)
class Names:
    """What the user calls the arrays on both sides."""

    inputs: Sequence[str]
    outputs: Sequence[str]


def check_examples(
    structure: Structure, ends: Ends, names: Names, values: tuple[Sequence[Any], Sequence[Any]] | None
) -> None:
    """Raise unless every output's example b depends on no other example of the inputs.

    Args:
        structure: the ties of the linear program, or those of the values of a function.
        ends: the differentiated arrays, or the function's, and the outputs, with their batch axes.
        names: what to call them.
        values: of the program's operands and inputs, where there are any: then a witness is looked for.

    Raises:
        BatchCouplingError: naming the primitive and the user's line.
    """
    for o, dependence in enumerate(structure.relations):
        for j, relation in sorted(dependence.items()):
            apart = _independent(
                relation, ends.outputs.avals[o].shape, ends.outputs.batch_axes[o], ends.inputs.batch_axes[j]
            )
            if ends.inputs.batch_axes[j] is not None and not apart:
                equation = culprit(structure, o, j, ends)
                witness = _witness(structure.program, values, ends, o, j) if values else None
                raise BatchCouplingError(_message(names, o, j, told(equation), witness))


def check_positions(structure: Structure, ends: Ends, names: Names) -> None:
    """Raise where example b of an output reads entry b of an array that is not said to have a batch axis.

    Raises:
        ValueError: naming the array.
    """
    for o, dependence in enumerate(structure.relations):
        axis = ends.outputs.batch_axes[o]
        for j, relation in sorted(dependence.items()):
            shape, size = ends.inputs.avals[j].shape, ends.outputs.avals[o].shape[axis or 0]
            own = any(Line(axis or 0, a, 1, 0) in relation for a, n in enumerate(shape) if n == size)
            if ends.inputs.batch_axes[j] is None and own:
                raise ValueError(
                    f"each example of the batch has its own entry of {names.inputs[j]}, and f is differentiated one "
                    "example at a time, by an argument whose in_axes is None: it would be given all entries. Pass "
                    "such an array, labels for instance, to f as a positional argument whose in_axes is 0."
                )


def _independent(relation: Relation, shape: tuple[int, ...], out_axis: int | None, in_axis: int | None) -> bool:
    return out_axis is None or shape[out_axis] <= 1 or Line(out_axis, in_axis or 0, 1, 0) in relation


def culprit(structure: Structure, o: int, j: int, ends: Ends) -> Any:
    """The equation on the way to output o whose operands keep the examples apart and whose result does not.

    None where the output is the input itself.
    """
    makers = {v: e for e in structure.program.linear.equations for v in e.outvars}
    axis, size = ends.inputs.batch_axes[j], ends.inputs.avals[j].shape[ends.inputs.batch_axes[j] or 0]
    variable = structure.program.linear.outputs[o]
    while True:
        equation = makers.get(variable)
        if equation is None:
            return None
        spoilt = [
            v for v in equation.invars if j in structure.of(v) and not _tells_apart(structure.of(v)[j], axis, size)
        ]
        if not spoilt:
            # Examples that a sum brings together were put on different axes by one of its operands.
            moved = [
                v
                for v in equation.invars
                if j in structure.of(v) and all(tie.out != ends.outputs.batch_axes[o] for tie in structure.of(v)[j])
            ]
            several = sum(j in structure.of(v) for v in equation.invars) > 1
            return makers.get(moved[0], equation) if several and moved else equation
        variable = spoilt[0]


def _tells_apart(relation: Relation, axis: int | None, size: int) -> bool:
    """Whether a variable's element knows by its own position which example it belongs to."""
    for tie in relation:
        if isinstance(tie, Line):
            if tie.inp == axis and (tie.sign, tie.offset) == (1, 0):
                return True
        elif tie.inp == axis and tie.in_stride == 1 and (tie.base == 0 or tie.base >= size):
            return True
    return False


def told(equation: Any) -> str:
    """An equation in the user's words: the primitive, the line, and the Flax module where there is one."""
    if equation is None:
        return "the batch axis of the output, which is not that of the input"
    stack = re.sub(r"\b(jvp|vmap|transpose|linearize|jit)\(|\)", "", str(equation.source_info.name_stack)).strip("/")
    module = f", in {stack}" if stack else ""
    return f"{equation.primitive.name}{at_line(equation)}{module}"


def _message(names: Names, o: int, j: int, where: str, witness: tuple[int, int] | None) -> str:
    output = f"the output {names.outputs[o]}" if names.outputs[o] else "the output"
    if witness:
        there, here = witness
        # A mean over the batch; no other primitive is one.
        normalized = "(Batch normalization must be in evaluation mode.) " if where.startswith("reduce_sum") else ""
        return (
            f"the examples of the batch are coupled by {where}: example {there} of {output} changes with example "
            f"{here} of {names.inputs[j]}. {normalized}{_INSTEAD}"
        )
    return (
        f"it could not be proved that the examples of the batch do not mix: how {output} depends on {names.inputs[j]} "
        f"is not understood from {where} on. If you know that they do not, pass independent=True. {_INSTEAD}"
    )


def _witness(
    program: Linear,
    values: tuple[Sequence[Any], Sequence[Any]],
    ends: Ends,
    o: int,
    j: int,
) -> tuple[int, int] | None:
    """An example of output o, and another of input j on which it depends."""
    in_axis, out_axis = ends.inputs.batch_axes[j] or 0, ends.outputs.batch_axes[o] or 0
    size = ends.inputs.avals[j].shape[in_axis]
    if isinstance(program, LinearProgram):
        _, _, residuals = program.evaluate(*values)
        pairs = (_by_a_pass(program, residuals, ends, o, j, b) for b in range(min(2, size)))
    else:
        pairs = _by_another_value(program, values, (j, in_axis), (o, out_axis))
    return next((pair for pair in pairs if pair), None)


def _by_a_pass(
    program: LinearProgram, residuals: Sequence[Any], ends: Ends, o: int, j: int, b: int
) -> tuple[int, int] | None:
    """A witness by a pass of example b, from either end."""
    rng = np.random.default_rng(0)
    in_axis, out_axis = ends.inputs.batch_axes[j] or 0, ends.outputs.batch_axes[o] or 0

    def only(aval: Any, axis: int) -> Any:
        noise = np.zeros(aval.shape, aval.dtype)
        index = (slice(None),) * axis + (b,)
        noise[index] = rng.standard_normal(noise[index].shape)
        return jnp.asarray(noise)

    def touched(array: Any, axis: int) -> int | None:
        return _another(np.nan_to_num(np.asarray(array), nan=0.0) != 0, axis, b)

    try:
        tangents = [jnp.zeros(a.shape, a.dtype) for a in ends.inputs.avals]
        tangents[j] = only(ends.inputs.avals[j], in_axis)
        hit = touched(program.push(residuals, tangents)[o], out_axis)
        return None if hit is None else (hit, b)
    except Exception:
        cotangents = [jnp.zeros(a.shape, a.dtype) for a in ends.outputs.avals]
        cotangents[o] = only(ends.outputs.avals[o], out_axis)
        pull = pullback(lambda *t: program.push(residuals, t), ends.inputs.avals)
        hit = touched(pull(*cotangents)[j], in_axis)
        return None if hit is None else (b, hit)


def _by_another_value(
    program: Linear, values: tuple[Sequence[Any], Sequence[Any]], inp: tuple[int, int], out: tuple[int, int]
) -> Iterator[tuple[int, int] | None]:
    """Witnesses by what changes where an example of an input holds what another one does."""
    (j, in_axis), (o, out_axis) = inp, out
    operands, xs = values
    run = jax.jit(lambda x: program.linear(*operands, *xs[:j], x, *xs[j + 1 :])[o])
    before, size = np.asarray(run(xs[j])), np.shape(xs[j])[in_axis]
    tried = [k for k in range(size) if k < _TRIED or k >= size - _TRIED]
    for b, other in permutations(tried, 2):
        places = np.where(np.arange(size) == b, other, np.arange(size))
        after = np.asarray(run(jnp.take(jnp.asarray(xs[j]), places, in_axis)))
        hit = _another(~np.isclose(before, after, rtol=1e-5, atol=1e-7, equal_nan=True), out_axis, b)
        yield None if hit is None else (hit, b)


def _another(changed: np.ndarray, axis: int, b: int) -> int | None:
    """An example other than b where something changed."""
    others = np.moveaxis(changed, axis, 0)
    return next((k for k in range(len(others)) if k != b and others[k].any()), None)
