"""J as JAX's sparse arrays: the elements that can be nonzero, each with its index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._analysis import Relation
from .._arrays import block_dtype
from .._lazy import jax_sparse
from .._trace import Ends
from ._output import Block, compressed_size
from ._placed import Whole

INDEX_BYTES = 4


@dataclass(frozen=True)
class Bcoo(Whole):
    """`jax.experimental.sparse.BCOO` of shape (batch, out, in), indices sorted and unique."""

    name: str = "bcoo"
    has_zeros: bool = False

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """Bytes of the elements that ties leave, with an index along each axis."""
        return compressed_size(ends, relations, INDEX_BYTES)

    def entries_size(self, ends: Ends, entries: int) -> int:
        """Bytes of so many elements, with an index along each axis."""
        pairs = [(a, b) for a in ends.outputs.avals for b in ends.inputs.avals]
        return entries * max(block_dtype(a, b).itemsize + INDEX_BYTES * (len(a.shape) + len(b.shape)) for a, b in pairs)

    def block(self, block: Block) -> Any:
        """A sparse array."""
        return bcoo(*block.entries(), block.shape)


def bcoo(data: Any, index: np.ndarray, shape: tuple[int, ...]) -> Any:
    """A sparse array of elements at sorted flat indices."""
    places = np.unravel_index(index, shape) if shape else ()
    indices = np.stack(places, -1).astype(np.int32) if shape else np.zeros((len(index), 0), np.int32)
    return jax_sparse.BCOO((data, jnp.asarray(indices)), shape=shape, indices_sorted=True, unique_indices=True)
