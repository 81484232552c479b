"""Whether a function of a batch keeps its examples apart, integers among them: seen by the values that it computes.

What has no derivative, such as tokens, labels and random keys, couples examples all the same. So does a mean that no
derivative goes through. Both are seen in the trace of the function itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np

from ._analysis import Names, check_examples, check_positions, check_sizes, influence
from ._arrays import abstract, describe, is_concrete, is_inexact
from ._cache import remembered
from ._call import Returned
from ._call._batch import axis_of, output_axes
from ._trace import Ends, Program, Side, has_rules, index_arrays, program_key, program_of, resized, values_key

ONE_AT_A_TIME = (
    "Where in_axes is None for a differentiated argument, f is called with one example at a time: it must take a batch "
    "of any size, and what has an entry for each example, such as labels, must be a positional argument whose in_axes "
    "is 0."
)


class ByIdentity:
    """An object as a key, for as long as it is there: it is not kept alive."""

    def __init__(self, value: Any):
        self._hash, self._value = id(value), weakref.ref(value)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, ByIdentity) and self._value() is other._value() and self._value() is not None
        )


@dataclass(frozen=True)
class Given:
    """An array that f takes: its batch axis, if it has one, and what to call it."""

    array: Any
    axis: int | None
    name: str


@dataclass(frozen=True, eq=False)
class Values:
    """A function of a batch, traced.

    Attributes:
        program: the trace.
        arrays: what its inputs hold; the last ones are looked at.
        indices: what those inputs hold that are index arrays without a batch axis; None for the others.
        inputs: the last inputs with their batch axes: the examples, and before them what has none, but as many
            entries as there are examples.
        outputs: the outputs with theirs.
        names: what to call both.
        trace: f's trace for a batch of some size, or that of its derivative, before the inputs are put in order; and
            what the first of them hold.
        derivative: of f, for the trace.
    """

    program: Program
    arrays: list[Any]
    indices: tuple[np.ndarray | None, ...]
    ends: Ends
    names: Names
    trace: Callable[..., tuple[Program, Sequence[Any]]]
    derivative: Callable[..., Any]

    @classmethod
    def of(
        cls,
        f: Callable[..., Any],
        given: Sequence[Given],
        out_axes: Any,
        *,
        has_aux: bool,
        keywords: Sequence[tuple[str, Any]],
    ) -> Values:
        """Trace f, which takes the arrays of `given`; those of `keywords`, each after its name, it has already.

        Raises:
            ValueError: an array or an output has no such batch axis, or batch sizes differ.
        """
        given = [g if g.axis is None else replace(g, axis=axis_of(g.axis, g.array, g.name, "in_axes")) for g in given]
        size = _batch_size([g for g in given if g.axis is not None])
        returned: list[Returned] = []

        def flat(*arrays: Any) -> list[Any]:
            described, ys, _ = Returned.of(f(*arrays), has_aux)
            returned.append(described)
            return ys

        def derivative(*arrays: Any) -> Any:
            real = [k for k, x in enumerate(arrays) if is_inexact(x)]
            xs = [arrays[k] for k in real]

            def partial(*xs: Any) -> list[Any]:
                filled = dict(zip(real, xs, strict=True))
                return flat(*(filled.get(k, x) for k, x in enumerate(arrays)))

            try:
                ys, pull = jax.vjp(partial, *xs)
                return pull(ys)
            except (TypeError, ValueError):  # what has no reverse mode
                return jax.jvp(partial, xs, xs)[1]

        @cache
        def trace(size: int, of: Callable[..., Any] = flat) -> tuple[Program, Sequence[Any]]:
            types = [(abstract(g.array), g.axis) for g in given]
            return program_of(of, *(t if axis is None else resized(t, axis, size) for t, axis in types))[:2]

        program, constants = trace(size)
        tree, paths = returned[-1].tree, returned[-1].paths
        outputs = Side(program.out_avals, output_axes(tree, program.out_avals, paths, out_axes, size))
        every = [*(Given(x, None, _name(x, keywords)) for x in constants), *given]
        ranks = [2 if g.axis is not None else int(size > 1 and size in g.array.shape) for g in every]
        order = sorted(range(len(every)), key=ranks.__getitem__)
        program = replace(program, inputs=tuple(program.inputs[k] for k in order))
        every, first = [every[k] for k in order], ranks.count(0)
        looked_at = every[first:]
        return cls(
            program,
            [g.array for g in every],
            index_arrays([g.array if g.axis is None else None for g in every]),
            Ends(Side(program.in_avals[first:], tuple(g.axis for g in looked_at)), outputs),
            Names([g.name for g in looked_at], paths),
            trace,
            derivative,
        )

    def check(self, f: ByIdentity) -> None:
        """Raise unless it is proved that each example of an output is what a batch of that example alone gives.

        Args:
            f: stands for the function in what is remembered: two that are the same for this batch size may not be so
                for another.

        Raises:
            BatchCouplingError: naming what couples the examples.
            ValueError: an array that has no batch axis has an entry for each example, or f makes one; or the batch's
                size matters.
        """
        axes = self.ends.inputs.batch_axes, self.ends.outputs.batch_axes
        # The program is that of f, on the types that it is called with: nothing of ours is set around it.
        key = program_key(self.program), values_key(self.indices), axes
        remembered(key, self._proved)
        remembered((key, f), self._proved_for_any_size)

    def _proved_for_any_size(self) -> bool:
        size = self.ends.batch or 0
        if size < 2:
            return True
        # Not of one example, for which jax.numpy makes another program: axes of size 1 are broadcast.
        sizes = size, 2 if size > 2 else 3
        try:
            self.trace(sizes[1])
        except (TypeError, ValueError) as error:
            error.add_note(f"f was called with a batch of {sizes[1]}. {ONE_AT_A_TIME}")
            raise
        check_sizes([self.trace(n) for n in sizes], sizes)
        if has_rules(self.program):  # derivatives of the user's own making may depend on the size
            check_sizes([self.trace(n, self.derivative) for n in sizes], sizes, sums=True)
        return True

    def _proved(self) -> bool:
        count = len(self.ends.inputs.avals)
        ties, first = influence(self.program, count, self.indices), len(self.arrays) - count
        check_positions(ties, self.ends, self.names)
        known = all(isinstance(x, jax.Array | np.ndarray) and is_concrete(x) for x in self.arrays)
        values = (self.arrays[:first], self.arrays[first:]) if known else None
        check_examples(ties, self.ends, self.names, values)
        return True


def _name(array: Any, keywords: Sequence[tuple[str, Any]]) -> str:
    """What to call an array that f did not get by its position."""
    own = (name for name, x in keywords if array is x or (_is_numpy(array, x) and np.may_share_memory(array, x)))
    return next(own, f"an array {describe(array)} that f closes over")


def _is_numpy(*arrays: Any) -> bool:
    return all(isinstance(x, np.ndarray) for x in arrays)


def _batch_size(examples: Sequence[Given]) -> int:
    sizes = [g.array.shape[g.axis or 0] for g in examples]
    if len(set(sizes)) > 1:
        shown = ", ".join(f"{g.name} {describe(g.array)} along axis {g.axis}" for g in examples)
        raise ValueError(f"batch sizes differ: {shown}. in_axes must say where each argument has its examples.")
    return sizes[0] if sizes else 0
