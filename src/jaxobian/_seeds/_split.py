"""An array's axes cut into what one pass seeds as a whole, and what passes tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ._groups import Cell


@dataclass(frozen=True)
class Split:
    """A seeded array's axes without its batch, cut into cells, which one pass seeds as a whole, and the rest.

    Attributes:
        shape: the axes themselves.
        all: the pieces in order.
        free: the same with 1 in place of each cell: their product is the number of colors.
        places: where in `all` each cell stands.
        cells: the cells.
        axes: which axis each piece is of.
    """

    shape: tuple[int, ...]
    all: tuple[int, ...]
    free: tuple[int, ...]
    places: tuple[int, ...]
    cells: tuple[Cell, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def colors(self) -> int:
        return math.prod(self.free)

    @classmethod
    def of(cls, shape: tuple[int, ...], batch: int | None, cells: Sequence[Cell]) -> Split:
        """Cut the axes of `shape`, all but the one of the batch."""
        pieces: list[int] = []
        free: list[int] = []
        places: list[int] = []
        axes: list[int] = []
        for axis, size in enumerate(shape):
            if axis == batch:
                continue
            rest = size
            for cell in (c for c in cells if c.axis == axis):  # from the top digit down
                above = rest // (cell.stride * cell.base)
                pieces += [above, cell.base]
                free += [above, 1]
                places.append(len(pieces) - 1)
                rest = cell.stride
            pieces.append(rest)
            free.append(rest)
            axes += [axis - int(batch is not None and axis > batch)] * (len(pieces) - len(axes))
        own = tuple(n for axis, n in enumerate(shape) if axis != batch)
        return cls(own, tuple(pieces), tuple(free), tuple(places), tuple(cells), tuple(axes))
