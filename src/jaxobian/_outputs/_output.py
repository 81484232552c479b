"""The question that an output answers for the planner, and for what runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .._analysis import Relation
from .._arrays import block_dtype
from .._seeds import Seeds, groups
from .._trace import Ends


class Block(Protocol):
    """A block of J as it is known after the passes.

    Attributes:
        shape: (batch, out, in).
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def dense(self) -> Any:
        """All elements."""
        ...

    def entries(self) -> tuple[Any, np.ndarray]:
        """The elements that can be nonzero, and their sorted flat indices."""
        ...


class Output(Protocol):
    """What is wanted of J.

    Attributes:
        name: as the user says it.
        has_zeros: whether all elements are written down, those too that are known to be zero.
    """

    @property
    def name(self) -> str: ...
    @property
    def has_zeros(self) -> bool: ...

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of J, where passes bring back what its ties leave."""
        ...

    def entries_size(self, ends: Ends, entries: int) -> int:
        """Bytes of J, where so many elements of it can be nonzero."""
        ...

    def block(self, block: Block) -> Any:
        """A block as the user gets it."""
        ...


def compressed_size(ends: Ends, relations: Sequence[dict[int, Relation]], index_bytes: int) -> int:
    """Bytes of what passes bring back, in the direction in which that is less.

    Args:
        ends: both sides of J.
        relations: the ties of each output.
        index_bytes: of an index along one axis, where each element has one.
    """
    sizes = []
    for forward in (True, False):
        seeded, result = ends.sides(forward=forward)
        total = 0
        for group in groups(relations, seeded, result, forward=forward):
            colors = Seeds(seeded, result, forward, 1, group=group).colors
            for passes, a in zip(colors, seeded.avals, strict=True):
                for number in group.results:
                    b = result.avals[number]
                    entry = block_dtype(a, b).itemsize + index_bytes * (len(a.shape) + len(b.shape))
                    total += passes * math.prod(b.shape) * entry
        sizes.append(total)
    return min(sizes)
