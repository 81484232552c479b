"""Passes that are made one chunk after the other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """Passes first, ..., first + total - 1: those of some neighboring seeded arrays.

    Attributes:
        leaves: the seeded arrays.
        first: number of the first pass.
        total: how many passes there are.
        width: how many are made at once.
    """

    leaves: tuple[int, ...]
    first: int
    total: int
    width: int

    @property
    def chunks(self) -> int:
        return -(-self.total // self.width)


def even(total: int, width: int) -> int:
    """The least width that takes no more chunks than `width` does: the last chunk then overlaps as little as can be."""
    return -(-total // -(-total // width))
