"""J as arrays, with all of its elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._analysis import Relation
from .._arrays import block_dtype
from .._trace import Ends
from ._output import Block
from ._placed import Whole


@dataclass(frozen=True)
class Dense(Whole):
    """Arrays of shape (batch, out, in)."""

    name: str = "dense"
    has_zeros: bool = True

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of all elements."""
        total = 0
        for out, out_size in zip(ends.outputs.avals, ends.outputs.sizes, strict=True):
            for inp, in_size in zip(ends.inputs.avals, ends.inputs.sizes, strict=True):
                total += out_size * in_size * block_dtype(out, inp).itemsize
        return total * (ends.batch or 1)

    def entries_size(self, ends: Ends, entries: int) -> int:
        """The same, however few can be nonzero."""
        return self.size(ends, ())

    def block(self, block: Block) -> Any:
        """An array."""
        return block.dense()
