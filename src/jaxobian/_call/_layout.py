"""Blocks of J, or what of it is wanted -> the user's trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import as_array
from .._outputs import Rows, SideName
from .._trace import Ends
from ._arguments import Arguments


@dataclass(frozen=True)
class Layout:
    """How arrays become the user's trees: of J, output tree outside, input tree inside."""

    arguments: Arguments
    bare: bool  # an int argnums gives a bare block, a tuple a tuple
    out_tree: Any

    @property
    def in_tree(self) -> Any:
        """The tree of what is differentiated, of one argument or of several."""
        return self.arguments.tree.children()[0] if self.bare else self.arguments.tree

    def assemble(
        self, rows: Rows, sides: Sequence[SideName], inert: Callable[[Sequence[tuple[SideName, int]]], Any]
    ) -> Any:
        """Arrays in the user's layout: the tree of the first side outside, that of the second inside.

        Args:
            rows: `rows[i][j]` belongs to array i of the first side and array j of the second.
            sides: which they are: of J "out" and "in"; none where there is but a number.
            inert: makes what belongs to an integer leaf, whose side has its slot.
        """
        if not sides:
            numbers = [number for (number,) in rows]
            return numbers[0] if len(numbers) == 1 else numbers
        first, *others = sides
        made: list[Any] = []
        for i, slot in enumerate(self._slots(first, len(rows))):
            here = (first, i)
            if not others:
                made.append(inert([here]) if slot is None else rows[slot][0])
                continue
            (second,) = others
            columns = enumerate(self._slots(second, max(map(len, rows), default=0)))
            leaves = [
                inert([here, (second, j)]) if slot is None or column is None else rows[slot][column]
                for j, column in columns
            ]
            made.append(self._tree(second, leaves))
        return self._tree(first, made)

    def _slots(self, side: SideName, number: int) -> Sequence[int | None]:
        """For each leaf of a side which array it is; None for integer leaves."""
        return range(number) if side == "out" else self.arguments.slots

    def _tree(self, side: SideName, leaves: Sequence[Any]) -> Any:
        if side == "out":
            return jax.tree.unflatten(self.out_tree, leaves)
        trees = jax.tree.unflatten(self.arguments.tree, leaves)
        return trees[0] if self.bare else trees


def inert(arguments: Arguments, ends: Ends, axes: dict[int, int], places: Sequence[tuple[SideName, int]]) -> Any:
    """Zeros for what belongs to an integer leaf, as `jax.jacrev` gives its block: of the leaf's own dtype.

    Args:
        arguments: of the call.
        ends: both sides of J.
        axes: the batch axes of integer leaves, by their slots.
        places: for each side of the result, "out" and an output's number, or "in" and a slot.
    """
    dtype: Any = None
    shape = ends.lead
    for side, number in places:
        slot = arguments.slots[number] if side == "in" else number
        if slot is not None:
            shape += (ends.outputs if side == "out" else ends.inputs).shapes[slot]
            continue
        array = as_array(arguments.inert[number])
        batched, dtype = axes.get(number), array.dtype
        shape += tuple(n for axis, n in enumerate(array.shape) if axis != batched)
    if jnp.issubdtype(dtype, jax.dtypes.extended):  # a random key
        return np.zeros(shape, jax.dtypes.float0)
    return jnp.zeros(shape, dtype)
