"""Both sides of J: the arrays that its rows and columns belong to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Side:
    """The arrays on one side of a linear map, and the axis of each along which examples are independent."""

    avals: tuple[Any, ...]
    batch_axes: tuple[int | None, ...]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Each array's shape without its batch axis: what one pass tells apart."""
        return tuple(
            tuple(n for axis, n in enumerate(aval.shape) if axis != batch_axis)
            for aval, batch_axis in zip(self.avals, self.batch_axes, strict=True)
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
        return Side(tuple(self.avals[k] for k in numbers), tuple(self.batch_axes[k] for k in numbers))


@dataclass(frozen=True)
class Ends:
    """Both sides of J, with their batch axes."""

    inputs: Side
    outputs: Side

    @property
    def batch(self) -> int | None:
        """Examples along the batch axes."""
        pairs = zip(self.inputs.avals, self.inputs.batch_axes, strict=True)
        return next((aval.shape[batch_axis] for aval, batch_axis in pairs if batch_axis is not None), None)

    @property
    def lead(self) -> tuple[int, ...]:
        """The axis of examples that a block has first, if it has one."""
        return () if self.batch is None else (self.batch,)

    def sides(self, *, forward: bool) -> tuple[Side, Side]:
        """The side on which seeds are put, and the one on which results land."""
        return (self.inputs, self.outputs) if forward else (self.outputs, self.inputs)

    def shape(self, out: int, inp: int) -> tuple[int, ...]:
        """The shape of a block."""
        return (*self.lead, *self.outputs.shapes[out], *self.inputs.shapes[inp])
