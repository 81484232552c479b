"""Slow, obviously right checks that several test files share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxobian._analysis import Line, Relation, Structure, structure
from jaxobian._analysis.ties._axes import Dependence, Notes, _inside
from jaxobian._trace import inlined, program_of, trace


def structure_of(f: Callable[..., Any], *xs: Any) -> Structure:
    return structure(trace(lambda _, x: (jax.tree.leaves(f(*x)), []), xs))


def allowed(relation: Relation, i: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Which pairs of an output index i and an input index k (a row each) the ties let depend on each other."""
    result = np.ones(len(i), bool)
    for tie in relation:
        if isinstance(tie, Line):
            result &= i[:, tie.out] == tie.sign * k[:, tie.inp] + tie.offset
        else:
            left, right = i[:, tie.out] // tie.stride, k[:, tie.inp] // tie.in_stride
            result &= (left % tie.base == right % tie.base) if tie.base else left == right
    return result


def dependences_of(f: Callable[..., Any], x: Any) -> list[Dependence]:
    """The ties of f itself, linear or not: its equations as they stand."""
    program, _, _ = program_of(f, x)
    last = len(program.inputs) - 1  # constants come first
    rows = _inside(inlined(program), [last], Notes([], conditions=True))
    return [{j - last: relation for j, relation in row.items()} for row in rows]


def assert_sound(found: Structure, blocks: list[list[Any]]) -> None:
    """Every nonzero of J, as `blocks[out][in]`, is where the ties allow one."""
    assert_ties(found.relations, blocks, [len(aval.shape) for aval in found.program.out_avals])


def assert_ties(relations: Any, blocks: list[list[Any]], ranks: list[int]) -> None:
    for o, (row, rank) in enumerate(zip(blocks, ranks, strict=True)):
        for j, block in enumerate(row):
            block = np.asarray(block)
            places = np.argwhere(block != 0)
            relation = relations[o].get(j)
            if relation is None:
                assert len(places) == 0, f"output {o} depends on input {j} after all"
                continue
            wrong = ~allowed(relation, places[:, :rank], places[:, rank:])
            assert not wrong.any(), f"output {o}, input {j}, {sorted(relation)}: nonzero at {places[wrong][0]}"
