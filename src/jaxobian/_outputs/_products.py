"""Sparse matrices multiplied: pairs of nonzeros that meet, which are known before the numbers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Nonzeros:
    """Those of a matrix, of all examples.

    Attributes:
        data: the numbers.
        example: of each the example.
        row: of each the row.
        met: of each the index along what is summed over.
    """

    data: Any
    example: np.ndarray
    row: np.ndarray
    met: np.ndarray

    def of(self, data: Any) -> Nonzeros:
        """Other numbers in the same places."""
        return replace(self, data=data)


def side_by_side(blocks: Sequence[Nonzeros], widths: Sequence[int]) -> Nonzeros:
    """One matrix, of blocks that are summed over one after the other."""
    if not blocks:
        return Nonzeros(jnp.zeros(0), *(np.zeros(0, int),) * 3)
    starts = np.cumsum([0, *widths])
    met = [block.met + start for block, start in zip(blocks, starts, strict=False)]
    numbers = (np.concatenate(part) for part in ([b.example for b in blocks], [b.row for b in blocks], met))
    return Nonzeros(jnp.concatenate([block.data for block in blocks]), *numbers)


def pair_count(matrices: Sequence[Nonzeros]) -> float:
    """How many pairs of nonzeros meet."""
    each = np.concatenate([np.zeros((2, 0), int), *(np.stack([one.example, one.met]) for one in matrices)], axis=1)
    _, counts = np.unique(each, axis=1, return_counts=True)
    return float(np.sum(counts.astype(float) ** 2))


def product(left: Nonzeros, right: Nonzeros, height: int, width: int) -> tuple[Any, np.ndarray]:
    """Sums of products of a row of the first and a row of the other.

    Args:
        left: whose rows are rows of the result.
        right: whose rows are its columns.
        height: rows of the result of an example.
        width: its columns.

    Returns:
        The sums that have a term, and their flat indices in (examples, height, width), sorted.
    """
    a, b = _pairs(left, right)
    where = (left.example[a] * height + left.row[a]) * width + right.row[b]
    by_sum = np.argsort(where, kind="stable")
    index, total = np.unique(where[by_sum], return_inverse=True)
    terms = left.data[a[by_sum]] * right.data[b[by_sum]]
    return jax.ops.segment_sum(terms, total, len(index), indices_are_sorted=True), index


def _pairs(left: Nonzeros, right: Nonzeros) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of nonzeros that meet."""
    size = 1 + max(left.met.max(initial=0), right.met.max(initial=0))
    ours, theirs = left.example * size + left.met, right.example * size + right.met
    order = np.argsort(theirs, kind="stable")
    first, last = (np.searchsorted(theirs[order], ours, side) for side in ("left", "right"))
    count = last - first
    among = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count - first, count)
    return np.repeat(np.arange(len(ours)), count), order[among]
