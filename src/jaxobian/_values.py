"""Whether a function of a batch keeps its examples apart, integers among them: seen by the values that it computes.

What has no derivative, such as tokens, labels and random keys, couples examples all the same. So does a mean that no
derivative goes through. Both are seen in the trace of the function itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from ._analysis import Names, check_examples, check_positions, influence
from ._arrays import abstract, describe, is_concrete
from ._cache import remembered
from ._call import Returned
from ._call._batch import axis_of, output_axes
from ._trace import Ends, Program, Side, index_arrays, program_key, program_of, values_key


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
    """

    program: Program
    arrays: list[Any]
    indices: tuple[np.ndarray | None, ...]
    ends: Ends
    names: Names

    @classmethod
    def of(cls, f: Callable[..., Any], given: Sequence[Given], out_axes: Any, *, has_aux: bool) -> Values:
        """Trace f, which takes the arrays of `given`.

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

        program, constants, _ = program_of(flat, *(abstract(g.array) for g in given))
        tree, paths = returned[-1].tree, returned[-1].paths
        outputs = Side(program.out_avals, output_axes(tree, program.out_avals, paths, out_axes, size))
        every = [*(Given(x, None, f"an array {describe(x)} that f closes over") for x in constants), *given]
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
        )

    def check(self) -> None:
        """Raise unless it is proved that no example of an output depends on another example.

        Raises:
            BatchCouplingError: naming what couples them.
            ValueError: an array that has no batch axis has an entry for each example.
        """
        axes = self.ends.inputs.batch_axes, self.ends.outputs.batch_axes
        # The program is that of f, on the types that it is called with: nothing of ours is set around it.
        remembered((program_key(self.program), values_key(self.indices), axes), self._proved)

    def _proved(self) -> bool:
        count = len(self.ends.inputs.avals)
        ties, first = influence(self.program, count, self.indices), len(self.arrays) - count
        check_positions(ties, self.ends, self.names)
        known = all(isinstance(x, jax.Array | np.ndarray) and is_concrete(x) for x in self.arrays)
        values = (self.arrays[:first], self.arrays[first:]) if known else None
        check_examples(ties, self.ends, self.names, values)
        return True


def _batch_size(examples: Sequence[Given]) -> int:
    sizes = [g.array.shape[g.axis or 0] for g in examples]
    if len(set(sizes)) > 1:
        shown = ", ".join(f"{g.name} {describe(g.array)} along axis {g.axis}" for g in examples)
        raise ValueError(f"batch sizes differ: {shown}. in_axes must say where each argument has its examples.")
    return sizes[0] if sizes else 0
