"""Slow, obviously right checks that several test files share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest

import jaxobian as jb
from jaxobian._analysis import Line, Relation, Structure, structure
from jaxobian._analysis.ties._axes import Dependence, Notes, _inside
from jaxobian._trace import inlined, program_of, trace

Shape = tuple[int, ...]


def assert_same(actual: Any, expected: Any, rtol: float = 1e-5, dtypes: bool = True) -> None:
    """Same tree, shapes and (unless not `dtypes`) dtypes, and values to `rtol` of the largest entry of each block."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        assert a.dtype == b.dtype or not dtypes, jax.tree_util.keystr(path)
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        a, b = np.asarray(a, wide), np.asarray(b, wide)
        scale = float(np.max(np.abs(b), where=np.isfinite(b), initial=0))
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path))


# What is made of J ------------------------------------------------------------------------------------------

Matrices = list[list[np.ndarray]]  # by output leaf, then by input leaf: (*lead, out, in)


def matrices_of(J: Any, outs: Sequence[Shape], ins: Sequence[Shape], lead: Shape = ()) -> Matrices:
    """The blocks of a J, whose leaves have examples (`lead`), then out.shape and in.shape, in double precision."""
    leaves = iter(map(np.asarray, jax.tree.leaves(J)))
    sizes = [[(math.prod(out), math.prod(inp)) for inp in ins] for out in outs]
    made = [[(next(leaves), size) for size in row] for row in sizes]
    wide = lambda x: x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)
    return [[wide(block).reshape(*lead, *size) for block, size in row] for row in made]


def norms_of(J: Matrices, over: str) -> list[np.ndarray]:
    """Sums of squares: for each output, or each input, (*lead, elements), or one (*lead)."""
    squares = [[np.abs(block) ** 2 for block in row] for row in J]
    if over == "in":
        return [np.asarray(sum(block.sum(-1) for block in row)) for row in squares]
    if over == "out":
        return [np.asarray(sum(block.sum(-2) for block in column)) for column in zip(*squares, strict=True)]
    return [np.asarray(sum(block.sum((-2, -1)) for row in squares for block in row))]


def gram_of(J: Matrices, side: str, weights: Sequence[np.ndarray] | None = None) -> Matrices:
    """J W J^H, or J^H W J, with weights (*lead, elements) of each array of the other side."""
    rows = J if side == "out" else [[np.swapaxes(b, -1, -2).conj() for b in column] for column in zip(*J, strict=True)]
    scaled = rows if weights is None else [[b * w[..., None, :] for b, w in zip(r, weights, strict=True)] for r in rows]

    def product(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
        return sum(a @ np.swapaxes(b, -1, -2).conj() for a, b in zip(left, right, strict=True))  # pyright: ignore

    return [[product(a, b) for b in rows] for a in scaled]


def diagonal_of(J: Matrices) -> list[np.ndarray]:
    """dy_k / dx_k, (*lead, elements), where y has x's leaves."""
    return [np.diagonal(row[k], axis1=-2, axis2=-1) for k, row in enumerate(J)]


def assert_near(actual: Any, expected: Sequence[np.ndarray], scales: Sequence[Any], rtol: float) -> None:
    """The leaves of `actual` are as expected, to `rtol` of the largest number that goes with each."""
    leaves = list(map(np.asarray, jax.tree.leaves(actual)))
    for a, b, scale in zip(leaves, expected, scales, strict=True):
        assert a.size == b.size
        most = float(np.max(np.abs(scale), where=np.isfinite(scale), initial=0))
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        np.testing.assert_allclose(a.astype(wide).reshape(b.shape), b, rtol=0, atol=rtol * most)


# ------------------------------------------------------------------------------------------------------------


def slow_after(fast: int, values: Iterable[Any], ids: Callable[[Any], str] | None = None) -> list[Any]:
    """Parameters of a test, all but the first of which are slow: those are left to `make test-all`."""
    marks = pytest.mark.slow
    return [
        pytest.param(value, marks=marks if k >= fast else (), id=ids(value) if ids else None)
        for k, value in enumerate(values)
    ]


def candidate(plan: jb.Plan, mode: str) -> jb.Candidate:
    """A plan's candidate in a mode, which is possible."""
    (found,) = [c for c in plan.candidates if c.mode == mode]
    assert isinstance(found, jb.Candidate)
    return found


def impossible(plan: jb.Plan, mode: str) -> jb.Impossible:
    """Why a mode is not possible."""
    (found,) = [c for c in plan.candidates if c.mode == mode]
    assert isinstance(found, jb.Impossible)
    return found


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


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The names of what XLA compiles meanwhile."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if "Finished XLA compilation" in message:
                found.append(message)

    logger, handler = logging.getLogger("jax"), Handler()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
