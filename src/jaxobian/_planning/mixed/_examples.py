"""Examples side by side: where a function keeps them apart, its Jacobian is that of each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..._analysis import has_line
from ..._outputs import OUTPUTS
from ..._trace import Ends, Side
from .._problem import Problem


def per_example(problem: Problem) -> Problem:
    """The problem itself; for a function that keeps examples apart, that of all its examples side by side."""
    if problem.batch is not None:
        return problem
    shapes = [aval.shape for aval in problem.inputs.avals]
    offers: list[tuple[int, Problem]] = []
    for axis, size in enumerate(shapes[0] if shapes else ()):
        tied_in: list[int | None] = [axis] + [None] * (len(shapes) - 1)
        tied_out: list[int | None] = []
        for aval, dependence in zip(problem.outputs.avals, problem.structure.relations, strict=True):
            tied_out.append(_shared_axis(aval.shape, dependence, shapes, tied_in, size))
        if size > 1 and None not in tied_in and None not in tied_out:
            inputs, outputs = Side(problem.inputs.avals, tuple(tied_in)), Side(problem.outputs.avals, tuple(tied_out))
            offers.append((size, replace(problem, ends=Ends(inputs, outputs), output=OUTPUTS["dense"])))
    return max(offers, key=lambda offer: offer[0])[1] if offers else problem


def _shared_axis(
    shape: Sequence[int], dependence: dict[int, Any], shapes: Sequence[Any], tied_in: list[int | None], size: int
) -> int | None:
    """An output's axis that is tied to the example axes of all inputs; those still unknown are found on the way."""
    for out, n in enumerate(shape):
        if n != size:
            continue
        found = dict(enumerate(tied_in))
        for j, relation in dependence.items():
            axes = range(len(shapes[j])) if found[j] is None else (found[j],)
            found[j] = next((a for a in axes if has_line(relation, out, a) and shapes[j][a] == size), -1)
        if -1 not in found.values():
            tied_in[:] = [found[j] for j in range(len(tied_in))]
            return out
    return None


def example_axis(problem: Problem, dependence: dict[int, Any], shape: Sequence[int]) -> int | None:
    """The axis along which a variable keeps examples apart."""
    for axis, size in enumerate(shape):
        if size == problem.batch and all(
            has_line(relation, axis, problem.inputs.batch_axes[j]) for j, relation in dependence.items()
        ):
            return axis
    return None


def spread(example: Problem, o: int, i: int, block: Any) -> Any:
    """The blocks of all examples on the diagonal of a dense Jacobian."""
    numpy: Any = np if isinstance(block, np.ndarray) else jnp
    left, right, n = example.outputs, example.inputs, example.batch or 1
    out, inp = left.shapes[o], right.shapes[i]
    mask = np.eye(n, dtype=bool).reshape(n, *(1,) * len(out), n, *(1,) * len(inp))
    whole = numpy.where(mask, block.reshape(n, *out, 1, *inp), numpy.zeros((), block.dtype))
    whole = numpy.moveaxis(whole, 0, left.batch_axes[o] or 0)
    first = len(out) + 1
    return numpy.moveaxis(whole, first, first + (right.batch_axes[i] or 0))
