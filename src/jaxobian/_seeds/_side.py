"""One side of J: the arrays that its rows or columns belong to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """The arrays on one side of a linear map, and the axis of each that is tied to the other side's."""

    avals: tuple[Any, ...]
    tied: tuple[int | None, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Each array's shape without its tied axis: what one pass tells apart."""
        return tuple(
            tuple(n for axis, n in enumerate(aval.shape) if axis != tied)
            for aval, tied in zip(self.avals, self.tied, strict=True)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Elements that one pass tells apart."""
        return sum(self.sizes)

    def only(self, numbers: Sequence[int]) -> Side:
        """Some of the arrays."""
        return Side(tuple(self.avals[k] for k in numbers), tuple(self.tied[k] for k in numbers))
