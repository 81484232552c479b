"""Ties -> which elements share a pass, and which of them a result belongs to.

A *cell* is a digit of an axis of a seeded array. Where every result array that depends on the array ties the cell to a
digit of its own, all values of the cell are seeded in one pass: a result element knows by its own position which of
them it can depend on. Elements that differ in no cell but in the rest are told apart by their *color*, one a pass.

    J[i, k] = result[i, color of k]   where the cells of k are those of i, and 0 elsewhere

Landed arrays that lack a tie would spoil it for the others; they form a group of their own, with passes of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._analysis import Line, Relation, transposed
from .._trace._ends import Side


class Cell(NamedTuple):
    """The digit floor(k / stride) mod base of a seeded array's axis."""

    axis: int
    stride: int
    base: int


class Landing(NamedTuple):
    """The same digit, read off a result array's axis: floor(d / part) mod values, with d a digit of sign i + shift."""

    axis: int
    sign: int
    shift: int
    stride: int
    base: int
    part: int
    values: int

    def digits(self, size: int) -> np.ndarray:
        """The digit for each position along the axis."""
        value = (self.sign * np.arange(size) + self.shift) // self.stride
        value = value % self.base if self.base else value
        return value // self.part % self.values


@dataclass(frozen=True)
class Group:
    """Landed arrays that share their passes.

    Attributes:
        results: their numbers.
        seeded: numbers of the seeded arrays that any of them depends on.
        cells: for each seeded array, the digits of its axes that one pass seeds at once.
        landings: `landings[s][r]`, for seeded array s and the r-th of `results`: where to read each cell.
    """

    results: tuple[int, ...]
    seeded: frozenset[int]
    cells: tuple[tuple[Cell, ...], ...]
    landings: tuple[tuple[tuple[Landing, ...], ...], ...]


def plain(n_seeded: int, n_landed: int) -> Group:
    """The standard basis: every element is a color of its own."""
    return Group(tuple(range(n_landed)), frozenset(range(n_seeded)), ((),) * n_seeded, (((),) * n_landed,) * n_seeded)


def groups(relations: Sequence[dict[int, Relation]], seeded: Side, result: Side, *, forward: bool) -> list[Group]:
    """The groups of result arrays that take the fewest passes.

    Args:
        relations: for each output, its ties to the inputs that it depends on.
        seeded: the side on which seeds are put; its batch axes are left aside, every pass seeds them as a whole.
        result: the side on which results arrive.
        forward: whether the seeded side is the input.
    """
    table = [_offers(relations, seeded, r, forward=forward) for r in range(len(result.avals))]
    alike: dict[tuple[frozenset[Cell] | None, ...], list[int]] = {}
    for r, offers in enumerate(table):
        signature = tuple(None if offer is None else frozenset(cell for cell, _ in offer) for offer in offers)
        alike.setdefault(signature, []).append(r)
    parts = list(alike.values()) or [[]]
    cost = {tuple(part): _passes(table, part, seeded) for part in parts}
    while len(parts) > 1:
        # Merge the two that save most, or cost nothing, as long as there are such.
        merges = []
        for p, q in itertools.combinations(parts, 2):
            both = tuple(sorted(p + q))
            cost[both] = cost.get(both) or _passes(table, both, seeded)
            merges.append((cost[both] - cost[tuple(p)] - cost[tuple(q)], p, q))
        saved, p, q = min(merges, key=lambda merge: merge[0])
        if saved > 0:
            break
        parts = [part for part in parts if part not in (p, q)] + [sorted(p + q)]
    return [_group(table, part, seeded) for part in sorted(parts)]


Offers = list[tuple[Cell, Landing]]


def _offers(relations: Sequence[dict[int, Relation]], seeded: Side, r: int, *, forward: bool) -> list[Offers | None]:
    """For each seeded array, the cells that result array r can tell apart; None where it does not depend on it."""
    found: list[Offers | None] = []
    for s, (aval, batch) in enumerate(zip(seeded.avals, seeded.batch_axes, strict=True)):
        relation = relations[r].get(s) if forward else relations[s].get(r)
        if relation is None:
            found.append(None)
            continue
        oriented = relation if forward else transposed(relation)
        offers = []
        for tie in sorted(oriented):
            if tie.inp == batch:
                continue
            if isinstance(tie, Line):
                axis, stride, base = tie.inp, 1, 0
                landing = (tie.out, tie.sign, -tie.sign * tie.offset, 1, 0)
            else:
                axis, stride, base = tie.inp, tie.in_stride, tie.base
                landing = (tie.out, 1, 0, tie.stride, tie.base)
            cell = _cell(axis, stride, base, aval.shape[axis])
            if cell is not None:
                offers.append((cell, Landing(*landing, 1, cell.base)))
        found.append(offers)
    return found


def _cell(axis: int, stride: int, base: int, size: int) -> Cell | None:
    """A digit of an axis of that size, if the axis splits evenly into the digits above, this one, and those below."""
    if base == 0 or stride * base >= size:
        base = size // stride
    if base <= 1 or size % (stride * base):
        return None
    return Cell(axis, stride, base)


def _common(table: Sequence[Sequence[Offers | None]], part: Sequence[int], s: int) -> list[Cell] | None:
    """The cells of seeded array s that every dependent array of `part` can tell apart; None if none depends on s."""
    shared: set[Cell] | None = None
    for r in part:
        offers = table[r][s]
        if offers is None:
            continue
        mine = {cell for cell, _ in offers}
        shared = mine if shared is None else {c for a in shared for b in mine for c in (_overlap(a, b),) if c}
    if shared is None:
        return None
    chosen: list[Cell] = []
    for cell in sorted(shared, key=lambda cell: (-cell.base, cell)):
        if all(cell.axis != other.axis or not _intersect(cell, other) for other in chosen):
            chosen.append(cell)
    return sorted(chosen, key=lambda cell: (cell.axis, -cell.stride))


def _overlap(a: Cell, b: Cell) -> Cell | None:
    """The digit that two cells have in common."""
    low, high = max(a.stride, b.stride), min(a.stride * a.base, b.stride * b.base)
    if a.axis != b.axis or low >= high:
        return None
    inside = all(low % c.stride == 0 and (c.stride * c.base) % high == 0 for c in (a, b))
    return Cell(a.axis, low, high // low) if inside and high % low == 0 else None


def _intersect(a: Cell, b: Cell) -> bool:
    return max(a.stride, b.stride) < min(a.stride * a.base, b.stride * b.base)


def _passes(table: Sequence[Sequence[Offers | None]], part: Sequence[int], seeded: Side) -> int:
    total = 0
    for s, size in enumerate(seeded.sizes):
        cells = _common(table, part, s)
        if cells is not None:
            total += size // math.prod(cell.base for cell in cells) if size else 0
    return total


def _group(table: Sequence[Sequence[Offers | None]], part: Sequence[int], seeded: Side) -> Group:
    cells, landings, alive = [], [], set()
    for s in range(len(seeded.avals)):
        common = _common(table, part, s)
        cells.append(tuple(common or ()))
        if common is not None:
            alive.add(s)
        landings.append(tuple(_landings(table[r][s], common or ()) for r in part))
    return Group(tuple(part), frozenset(alive), tuple(cells), tuple(landings))


def _landings(offers: Offers | None, cells: Sequence[Cell]) -> tuple[Landing, ...]:
    """Where each cell is read; nothing needs to be where there is no dependence, and results are zero."""
    if offers is None:
        return ()
    found = []
    for cell in cells:
        whole, landing = next(offer for offer in offers if _overlap(offer[0], cell) == cell)
        found.append(landing._replace(part=cell.stride // whole.stride, values=cell.base))
    return tuple(found)
