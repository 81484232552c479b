"""Blocks of J, or what of it is wanted -> the user's trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from .._outputs import Rows, SideName
from ._arguments import Arguments


@dataclass(frozen=True)
class Layout:
    """How arrays become the user's trees: of J, output tree outside, input tree inside."""

    arguments: Arguments
    bare: bool  # an int argnums gives a bare block, a tuple a tuple
    out_tree: Any

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
