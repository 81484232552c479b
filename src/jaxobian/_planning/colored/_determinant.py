"""Determinants by colors: passes bring back the diagonal blocks of J's triangular form, each element undisturbed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..._coloring import Coloring, Triangular, block_triangular, color_diagonal, nonzeros
from ..._lazy import sparse
from ..._words import counted
from .._sweeps import CLEAR_WIN
from ._sought import Sought, without_constant_part


@dataclass(frozen=True)
class Blocks:
    """The diagonal blocks, and what is sought of them.

    Attributes:
        triangular: the blocks; None where the determinant is zero.
        sought: the elements in them.
        pattern: of all that passes go through.
    """

    triangular: Triangular | None
    sought: Sought
    pattern: sparse.csr_matrix

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """How many blocks there are, and of which size."""
        return [] if self.triangular is None else self.triangular.sizes

    def coloring(self, *, forward: bool, below: float = math.inf) -> Coloring | None:
        """Passes that bring back the elements in the blocks.

        Args:
            forward: whether columns are pushed, or rows pulled.
            below: give up where it is plain that not fewer colors than that will do.
        """
        matrix, problem = self.sought.matrix, self.sought.problem
        needed, every = (matrix, self.pattern) if forward else (matrix.T, self.pattern.T)
        shapes = (problem.inputs if forward else problem.outputs).shapes
        colors = color_diagonal(sparse.csr_matrix(needed.T @ every), shapes, below)
        if colors is None:
            return None
        i, j = nonzeros(matrix)
        count, none = (
            int(colors.max(initial=-1)) + 1,
            np.full(len(matrix.indptr) - 1 if forward else problem.inputs.size, -1),
        )
        pulled = np.full(len(i), not forward)
        if forward:
            return Coloring(colors, none, count, 0, pulled, colors[j], i)
        return Coloring(none, colors, 0, count, pulled, colors[i], j)

    def note(self, coloring: Coloring, nnz: int) -> str:
        """What there is to know about it."""
        if self.triangular is None:
            return "zero, whatever the nonzeros of J are: their pattern has no full diagonal"
        same = self.sought.known
        colors = counted(coloring.passes, "color")
        if [size for _, size in self.sizes] == [1]:
            return f"triangular after a permutation{same}: the product of its diagonal, which takes {colors}"
        told = ", ".join(f"{count:,} of {size:,} x {size:,}" for count, size in self.sizes[::-1][:3])
        more = ", ..." if len(self.sizes) > 3 else ""
        return f"block-triangular after a permutation{same}: blocks ({told}{more}) in {colors}"


def blocks_of(sought: Sought) -> Blocks | None:
    """What there is in the diagonal blocks; None where J is one block."""
    triangular = block_triangular(sought.matrix)
    if triangular is not None and triangular.sizes[-1:] == [(1, sought.problem.inputs.size)]:
        return None

    def inside(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        if triangular is None:
            return sparse.csr_matrix(matrix.shape, dtype=bool)
        return triangular.needed(matrix)

    def among(sought: Sought) -> Blocks:
        needed = inside(sought.matrix)
        constant = sparse.csr_matrix(sought.constant.multiply(inside(sparse.csr_matrix(sought.constant != 0))))
        return Blocks(triangular, replace(sought, matrix=needed, constant=constant, symmetric=False), sought.matrix)

    every = among(sought)
    fewer = every.coloring(forward=True)
    most = math.inf if fewer is None else fewer.passes / CLEAR_WIN

    def few(matrix: sparse.csr_matrix) -> bool:
        found = among(replace(sought, matrix=matrix)).coloring(forward=True)
        return found is not None and found.passes <= most

    rest = without_constant_part(sought, few) if most else None
    return every if rest is None else among(rest)


def of_blocks(blocks: Blocks, prices: dict[str, float]) -> Coloring:
    """The coloring that takes the least time, by the price of a pass in each mode."""
    best: Coloring | None = None
    for mode, price in sorted(prices.items(), key=lambda item: item[1]):
        below = math.inf if best is None else best.passes * min(prices.values()) / price
        found = blocks.coloring(forward=mode == "fwd", below=below)
        if found is not None and (best is None or found.passes < below):
            best = found
    assert best is not None
    return best
