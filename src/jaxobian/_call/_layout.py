"""Blocks of J -> the user's trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from ._arguments import Arguments


@dataclass(frozen=True)
class Layout:
    """How blocks become the user's J: output tree outside, input tree inside."""

    arguments: Arguments
    bare: bool  # an int argnums gives a bare block, a tuple a tuple
    out_tree: Any

    def assemble(self, blocks: Sequence[Sequence[Any]], inert_block: Callable[[int, int], Any]) -> Any:
        """J in the user's layout.

        Args:
            blocks: `blocks[i][j]`, the block of output leaf i by differentiated leaf j.
            inert_block: makes the block of output leaf i by the integer leaf in a slot.

        Returns:
            The output tree, each leaf of it the tree of the differentiated argument (or a tuple of trees).
        """
        arguments = self.arguments
        rows = []
        for i, row in enumerate(blocks):
            leaves = [inert_block(i, k) if slot is None else row[slot] for k, slot in enumerate(arguments.slots)]
            trees = jax.tree.unflatten(arguments.tree, leaves)
            rows.append(trees[0] if self.bare else trees)
        return jax.tree.unflatten(self.out_tree, rows)
