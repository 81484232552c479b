"""Pattern -> Coloring: which columns can share a tangent, which rows a cotangent. NumPy and SciPy alone.

    columns        no two of a color have a nonzero in the same row: J's nonzeros are read off the pushed sums
    rows           the same of the transpose
    both           the few dense rows are pulled, all else is pushed (or the few dense columns pushed, all else pulled)
    star           of a symmetric J: an element may be read off its mirror image, too

Greedy coloring in several orders, then iterated greedy: coloring again, class by class, never takes more colors and
often fewer (Culberson, 1992). Of arrays, lattices are tried first: colors that repeat along each axis, as those of
stencils do. See Gebremedhin, Manne and Pothen, What color is your Jacobian? (SIAM Review 47, 2005).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._lazy import sparse

# Work that improving a coloring may take, in nonzeros looked at and in turns: the same on every machine.
_EFFORT, _TURNS = 1_000_000, 40
# Turns that take no color away, after which no more are taken; so few where a single color is left to be taken.
_PATIENCE, _LAST = 10, 4
# With more nonzeros, a lattice of one color more than the least is good enough.
_LARGE = 200_000
# Lattices tried, and rows that a lattice is first tried on, each of as many nonzeros.
_LATTICES, _SAMPLE = 2_000, 64
# Orders in which a symmetric pattern is colored again: iterated greedy promises nothing there, and often helps.
_STARS = 8
# Splits into dense and other rows that are looked at.
_SPLITS = 12


@dataclass(frozen=True, eq=False)
class Coloring:
    """Passes that bring back every nonzero of a pattern, and where each is read off.

    Attributes:
        columns: the color of each column; -1 where it is not pushed.
        rows: the color of each row; -1 where it is not pulled.
        n_columns, n_rows: how many colors of each there are.
        pulled: for each nonzero in the order of the pattern, whether a pulled row brings it back.
        color: the pass that does.
        landing: the element of that pass's result: a row of a pushed pass, a column of a pulled one.
    """

    columns: np.ndarray
    rows: np.ndarray
    n_columns: int
    n_rows: int
    pulled: np.ndarray
    color: np.ndarray
    landing: np.ndarray

    @property
    def passes(self) -> int:
        return self.n_columns + self.n_rows


Shapes = Sequence[tuple[int, ...]]


def color_columns(matrix: sparse.csr_matrix, shapes: Shapes = (), below: float = math.inf) -> Coloring | None:
    """Push all columns.

    Args:
        matrix: the pattern.
        shapes: of the arrays whose elements the columns are.
        below: give up where it is plain that not fewer colors than that will do.
    """
    colors = distance_two(matrix, shapes, below)
    if colors is None:
        return None
    height, _ = _shape(matrix)
    i, j = _nonzeros(matrix)
    none = np.zeros(len(i), bool)
    return Coloring(colors, np.full(height, -1), _count(colors), 0, none, colors[j], i)


def color_rows(matrix: sparse.csr_matrix, shapes: Shapes = (), below: float = math.inf) -> Coloring | None:
    """Pull all rows."""
    colors = distance_two(sparse.csr_matrix(matrix.T), shapes, below)
    if colors is None:
        return None
    _, width = _shape(matrix)
    i, j = _nonzeros(matrix)
    return Coloring(np.full(width, -1), colors, 0, _count(colors), np.ones(len(i), bool), colors[i], j)


def bicolored(
    matrix: sparse.csr_matrix,
    columns: Shapes = (),
    rows: Shapes = (),
    price: Callable[[int, int], float] = lambda pushed, pulled: pushed + pulled,
    below: float = math.inf,
) -> Coloring | None:
    """Pull the dense rows and push the rest, or push the dense columns and pull the rest.

    Args:
        matrix: the pattern.
        columns: shapes of the arrays whose elements the columns are.
        rows: the same of the rows.
        price: what so many pushes and pulls take.
        below: give up where it is plain that it will take no less.
    """
    found = [_split(matrix, columns, price, below)]
    mirrored = _split(sparse.csr_matrix(matrix.T), rows, lambda pushed, pulled: price(pulled, pushed), below)
    if mirrored is not None:
        found.append(_mirrored(mirrored, matrix))
    possible = [c for c in found if c is not None]
    return min(possible, key=lambda c: price(c.n_columns, c.n_rows), default=None)


def star(matrix: sparse.csr_matrix) -> Coloring | None:
    """Push the columns of a symmetric pattern; None where it is not symmetric, or too dense to be worth it.

    Source: Gebremedhin, Tarafdar, Manne and Pothen, New acyclic and star coloring algorithms with application to
    computing Hessians (SIAM Journal on Scientific Computing 29, 2007), algorithm 4.1.
    """
    width = _shape(matrix)[1]
    if not width or _shape(matrix)[0] != width or (matrix != matrix.T).nnz:
        return None
    degree = np.diff(matrix.indptr).astype(np.int64)
    effort = int((degree**2).sum())
    if effort > 4 * _EFFORT:
        return None
    colors = _star_colors(matrix, range(width))
    random, order = np.random.default_rng(0), np.argsort(-degree, kind="stable").tolist()
    for turn in range(min(_STARS, _EFFORT // (4 * effort + 1))):
        if _count(colors) <= 3:
            break
        now = _star_colors(matrix, order)
        colors = now if _count(now) <= _count(colors) else colors
        order = _classes(colors, np.arange(width), turn, random)
    i, j = _nonzeros(matrix)
    count = _count(colors)
    # How many columns of a color have a nonzero in a row: where one alone has, it is read off there.
    seen = np.bincount(i * count + colors[j], minlength=width * count)
    direct = seen[i * count + colors[j]] == 1
    if not (direct | (seen[j * count + colors[i]] == 1)).all():
        return None
    color, landing = np.where(direct, colors[j], colors[i]), np.where(direct, i, j)
    return Coloring(colors, np.full(width, -1), count, 0, np.zeros(len(i), bool), color, landing)


def lower_bounds(matrix: sparse.csr_matrix) -> tuple[int, int]:
    """The least colors that the columns and the rows can take."""
    return _least(matrix), _least(sparse.csr_matrix(matrix.T))


# Columns that share no row ------------------------------------------------------------------------------------------


def distance_two(matrix: sparse.csr_matrix, shapes: Shapes = (), below: float = math.inf) -> np.ndarray | None:
    """A color for each column, such that no two of a color have a nonzero in the same row; -1 for empty ones."""
    least = _least(matrix)
    if least >= below:
        return None
    regular = _lattice(matrix, shapes, range(least, least + 2))
    if regular is not None and (_count(regular) == least or matrix.nnz > _LARGE):
        return regular
    transposed = sparse.csc_matrix(matrix)
    pointers: Any = transposed.indptr.tolist()
    rows: Any = transposed.indices.tolist()
    full = np.flatnonzero(np.diff(transposed.indptr))
    best = _greedy(full.tolist(), pointers, rows, _shape(matrix))
    if regular is None:
        regular = _lattice(matrix, shapes, range(least + 2, _count(best)))
    if regular is not None and _count(regular) < _count(best):
        best = regular
    random, now = np.random.default_rng(0), best
    turns, better = max(1, min(_TURNS, _EFFORT // (matrix.nnz + len(full) + 1))), 0
    for turn in range(turns):
        if _count(best) <= least or turn - better > (_LAST if _count(best) == least + 1 else _PATIENCE):
            break
        if turn == 0:
            order = full[np.argsort(-np.diff(transposed.indptr)[full], kind="stable")].tolist()
        else:
            order = _classes(now, full, turn, random)
        now = _greedy(order, pointers, rows, _shape(matrix))
        if _count(now) < _count(best):
            best, better = now, turn
        now = now if _count(now) == _count(best) else best
    return best


def _least(matrix: sparse.csr_matrix) -> int:
    """The least colors that the columns can take, by the fullest row and by how many pairs of columns share a row.

    A graph of n vertices and m edges takes at least n^2 / (n^2 - 2m) colors. Source: Turán's theorem (1941).
    """
    lengths = np.diff(matrix.indptr).astype(np.int64)
    least = int(lengths.max(initial=0))
    pairs, n = int((lengths * (lengths - 1)).sum()), np.count_nonzero(np.bincount(matrix.indices))
    if least == 0 or pairs > 4 * _EFFORT or pairs * least <= n * n * (least - 1):
        return least
    ones = matrix.astype(np.int32)
    edges = int(sparse.csr_matrix(ones.T @ ones).nnz) - n  # each twice
    return max(least, math.ceil(n * n / (n * n - edges)))


def _greedy(order: Sequence[int], pointers: list[int], rows: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The least color for each column in turn that no row of it has seen."""
    taken = [0] * shape[0]  # for each row, the colors of its columns, as bits
    colors = np.full(shape[1], -1)
    for column in order:
        mine = rows[pointers[column] : pointers[column + 1]]
        seen = 0
        for row in mine:
            seen |= taken[row]
        bit = ~seen & (seen + 1)
        for row in mine:
            taken[row] |= bit
        colors[column] = bit.bit_length() - 1
    return colors


def _classes(colors: np.ndarray, full: np.ndarray, turn: int, random: np.random.Generator) -> list[int]:
    """The columns class by class: the classes turned about, the largest first, or in any order."""
    count = _count(colors)
    if turn % 3 == 0:
        rank = np.arange(count)[::-1]
    elif turn % 3 == 1:
        rank = np.argsort(np.argsort(-np.bincount(colors[full], minlength=count), kind="stable"))
    else:
        rank = random.permutation(count)
    return full[np.argsort(rank[colors[full]], kind="stable")].tolist()


def _lattice(matrix: sparse.csr_matrix, shapes: Shapes, counts: range) -> np.ndarray | None:
    """Colors that are a sum of multiples of the indices, modulo their number; None where none is found."""
    if not shapes or sum(map(math.prod, shapes)) != _shape(matrix)[1] or not counts or not counts[0]:
        return None
    i, j = _nonzeros(matrix)
    filled = np.flatnonzero(np.diff(matrix.indptr))
    # Rows from anywhere, more of them the fewer nonzeros each has; and the first and last ones, where a lattice may not
    # close.
    number = max(_SAMPLE, _SAMPLE**2 * len(filled) // max(1, matrix.nnz))
    sample = np.random.default_rng(0).permutation(filled)[:number]
    sample = np.unique(np.concatenate([sample, filled[: _SAMPLE // 4], filled[-_SAMPLE // 4 :]]))
    some_i, some_j = _nonzeros(sparse.csr_matrix(matrix[sample]))
    axes = _axes(shapes)
    if not len(axes):
        return None
    # Most lattices fail at the fullest row already, where many are looked at together.
    fullest = axes[:, j[i == np.argmax(np.diff(matrix.indptr))]]
    left = min(_LATTICES, max(1, 20 * _EFFORT // fullest.shape[1]))
    for count in counts:
        weights = _weights(len(axes), count, left)
        left -= len(weights)
        for some in _distinct(weights, fullest, count):
            if not _apart(some_i, (some @ axes[:, some_j]) % count, count):
                continue
            colors = (some @ axes) % count
            if _apart(i, colors[j], count):
                empty = np.bincount(j, minlength=len(colors)) == 0
                return np.where(empty, -1, colors)
        if left <= 0:
            return None
    return None


def _distinct(weights: np.ndarray, indices: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The weights that give every one of some elements a color of its own."""
    block = max(1, _EFFORT // indices.shape[1])
    for first in range(0, len(weights), block):
        some = weights[first : first + block]
        colors = np.sort((some @ indices) % count, axis=1)
        yield from some[(np.diff(colors) != 0).all(axis=1)]


def _axes(shapes: Shapes) -> np.ndarray:
    """The index of each element along every axis that some array has, then the number of its array."""
    rank = max(len(shape) for shape in shapes)
    columns = []
    for number, shape in enumerate(shapes):
        index = np.indices(shape).reshape(len(shape), math.prod(shape))
        missing = np.zeros((rank - len(shape), index.shape[1]), np.int64)
        columns.append(np.concatenate([missing, index, np.full((1, index.shape[1]), number)]))
    joined = np.concatenate(columns, axis=1)
    return joined[np.flatnonzero(joined.max(axis=1, initial=0))]


def _weights(axes: int, count: int, most: int) -> np.ndarray:
    """Multiples for each axis, at most so many; the last one's may be 1 without loss where it divides nothing."""
    number = min(most, count ** (axes - 1))
    rest = np.ones((number, axes), np.int64)
    left = np.arange(number)
    for axis in reversed(range(axes - 1)):
        left, rest[:, axis] = left // count, left % count
    return rest


def _apart(rows: np.ndarray, colors: np.ndarray, count: int) -> bool:
    """Whether no row has a color twice."""
    keys = rows * count + colors
    return bool(np.bincount(keys - keys.min(initial=0)).max(initial=0) <= 1)


# Both sides ---------------------------------------------------------------------------------------------------------


def _split(
    matrix: sparse.csr_matrix, shapes: Shapes, price: Callable[[int, int], float], below: float
) -> Coloring | None:
    """Pull the rows with the most nonzeros, and push what is left; as many as seems best."""
    height = _shape(matrix)[0]
    lengths = np.diff(matrix.indptr)
    limits = np.unique(lengths)[::-1][1 : _SPLITS + 1]
    guesses = {int(t): price(int(t), int((lengths > t).sum())) for t in limits}
    if not guesses:
        return None
    limit = min(guesses, key=guesses.__getitem__)
    if guesses[limit] >= below:
        return None
    dense = np.flatnonzero(lengths > limit)
    left = np.where(lengths <= limit, lengths, 0)
    sparser = sparse.csr_matrix(
        (matrix.data[np.repeat(lengths <= limit, lengths)], matrix.indices[np.repeat(lengths <= limit, lengths)],
         np.concatenate([[0], np.cumsum(left)])), shape=_shape(matrix),
    )  # fmt: skip
    columns = distance_two(sparser, shapes)
    few = distance_two(sparse.csr_matrix(matrix[dense].T))
    if columns is None or few is None:
        return None
    rows = np.full(height, -1)
    rows[dense] = few
    i, j = _nonzeros(matrix)
    pulled = lengths[i] > limit
    return Coloring(
        columns, rows, _count(columns), _count(few), pulled, np.where(pulled, rows[i], columns[j]),
        np.where(pulled, j, i),
    )  # fmt: skip


def _mirrored(coloring: Coloring, matrix: sparse.csr_matrix) -> Coloring:
    """A coloring of the transpose as one of the matrix itself."""
    i, j = _nonzeros(sparse.csr_matrix(matrix.T))
    order = np.lexsort((i, j))  # the transpose's nonzeros in the order of the matrix's
    return Coloring(
        coloring.rows, coloring.columns, coloring.n_rows, coloring.n_columns, ~coloring.pulled[order],
        coloring.color[order], coloring.landing[order],
    )  # fmt: skip


# Symmetric ----------------------------------------------------------------------------------------------------------


def _star_colors(matrix: sparse.csr_matrix, order: Sequence[int]) -> np.ndarray:
    """Vertices colored in turn: neighbors differ, and no path of four has two colors alone."""
    pointers: Any = matrix.indptr.tolist()
    indices: Any = matrix.indices.tolist()
    width = _shape(matrix)[1]
    near = [[k for k in indices[pointers[v] : pointers[v + 1]] if k != v] for v in range(width)]
    colors = [-1] * width
    for v in order:
        forbidden = set()
        for w in near[v]:
            if colors[w] >= 0:
                forbidden.add(colors[w])
            for x in near[w]:
                if x == v or colors[x] < 0:
                    continue
                if colors[w] < 0 or any(y != w and colors[y] == colors[w] for y in near[x]):
                    forbidden.add(colors[x])
        colors[v] = next(c for c in itertools.count() if c not in forbidden)
    return np.array(colors)


# Small things -------------------------------------------------------------------------------------------------------


def _count(colors: np.ndarray) -> int:
    return int(colors.max(initial=-1)) + 1


def _shape(matrix: Any) -> tuple[int, int]:
    return matrix.shape


def _nonzeros(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each nonzero, in the order of the matrix."""
    return np.repeat(np.arange(_shape(matrix)[0]), np.diff(matrix.indptr)), matrix.indices.astype(np.int64)
