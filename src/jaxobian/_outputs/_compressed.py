"""J as passes bring it back: what is assembled from it never writes its zeros."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._analysis import Relation
from .._trace import Ends
from ._output import Block, compressed_size
from ._placed import Whole


@dataclass(frozen=True)
class Compressed(Whole):
    """The rows or columns of the passes, for the use of other nodes alone: there are no blocks of it."""

    name: str = "compressed"
    has_zeros: bool = False

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of what passes bring back."""
        return compressed_size(ends, relations, 0)

    def entries_size(self, ends: Ends, entries: int) -> int:
        """The same: no colors are looked for."""
        raise NotImplementedError("what is compressed by colors is not a part of anything")

    def block(self, block: Block) -> Any:
        """There is none."""
        raise NotImplementedError("results of passes are used as they are")
