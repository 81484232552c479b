"""A mixed plan as a tree: local Jacobians by passes of one mode, products of them, sums over paths.

Each node knows the two sides of the Jacobian that it makes, what making it takes, and how to make it of the residuals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax

from .._cost import Work
from .._layout import block_dtype, zeros_like
from .._linear import pullback
from .._seeds import Seeds, Side
from . import colored, forward, reverse
from ._fill import added, filled
from ._free import Free
from ._matrix import ONE, Blocks, as_rows, dense, elements, multiplied
from ._problem import Candidate, Problem, Values
from ._sweeps import Chunking, Sweep

_SWEEPS = {"fwd": forward, "rev": reverse}

Ends = tuple[tuple[Any, ...], tuple[Any, ...]]


class Node(Protocol):
    """What makes a Jacobian of the residuals.

    Attributes:
        problem: that it is a part of.
        left, right: the sides of the Jacobian.
        children: the nodes whose Jacobians it is made of.
        seeds: the passes that it makes.
        work, flops: what making it takes, its children apart.
        passing_bytes: alive only while its passes run.
    """

    @property
    def problem(self) -> Problem: ...
    @property
    def left(self) -> Side: ...
    @property
    def right(self) -> Side: ...
    @property
    def children(self) -> tuple[Node, ...]: ...
    @property
    def seeds(self) -> tuple[Seeds, ...]: ...
    @property
    def work(self) -> Work: ...
    @property
    def flops(self) -> float: ...
    @property
    def passing_bytes(self) -> int: ...

    def blocks(self, residuals: Sequence[Any]) -> Blocks:
        """The blocks of the Jacobian."""
        ...


class Answer:
    """What solves a problem makes the Jacobian between its sides."""

    problem: Problem

    @property
    def left(self) -> Side:
        return self.problem.outputs

    @property
    def right(self) -> Side:
        return self.problem.inputs


@dataclass(frozen=True, eq=False)
class Part(Answer):
    """The Jacobian of a segment, by passes of one mode.

    Attributes:
        problem: of the segment.
        candidate: how it is solved.
        ends: the variables of the whole program that it begins and ends at.
    """

    problem: Problem
    candidate: Candidate
    ends: Ends

    @property
    def children(self) -> tuple[Node, ...]:
        return ()

    @property
    def seeds(self) -> tuple[Seeds, ...]:
        return self.candidate.seeds

    @property
    def work(self) -> Work:
        return self.candidate.cost.work

    @property
    def flops(self) -> float:
        return self.candidate.cost.flops

    @property
    def passing_bytes(self) -> int:
        return self.candidate.cost.peak_bytes - self.problem.jacobian_bytes

    def blocks(self, residuals: Sequence[Any]) -> Blocks:
        if self.candidate.mode == "colored":
            return colored.blocks(self.problem, self.candidate, residuals, "dense")
        results = self.swept(residuals)
        return _with_shortcuts(self.problem, filled(self.problem, self.candidate.groups, results))

    def added_to(self, blocks: Blocks, residuals: Sequence[Any]) -> Blocks:
        """Other blocks of the same sides, with these added."""
        if self.candidate.mode == "colored":
            return colored.added(self.problem, self.candidate, residuals, blocks)
        return added(self.problem, self.candidate.groups, self.swept(residuals), blocks)

    def swept(self, residuals: Sequence[Any]) -> list[Any]:
        """What the passes of each group bring back."""
        problem, candidate = self.problem, self.candidate
        strategy = _SWEEPS[candidate.mode]
        held = strategy.prepare(problem, candidate, Values((), (), residuals))
        one = strategy.linear(problem, candidate, held)

        def linear(*seeds: Any) -> Any:
            # Else XLA turns the last product of the passes about, into an order that it multiplies slowly in.
            return lax.optimization_barrier(list(one(*seeds)))

        seeded, _ = problem.sides(forward=candidate.mode == "fwd")
        like = [held[1]] if isinstance(candidate.variant, Free) else [zeros_like(aval) for aval in seeded.avals]
        return [seeds.sweep(linear, like) for seeds in candidate.groups]


def _with_shortcuts(problem: Problem, blocks: Blocks) -> Blocks:
    """Blocks that are known to be zero or the identity as such."""
    program, relations = problem.program, problem.structure.relations

    def shortened(o: int, i: int, block: Any) -> Any:
        if program.linear.outputs[o] is program.tangents[i]:
            return ONE
        return block if i in relations[o] else None

    return [[shortened(o, i, block) for i, block in enumerate(row)] for o, row in enumerate(blocks)]


@dataclass(frozen=True, eq=False)
class Product:
    """The Jacobian of what comes later, times that of what comes before."""

    problem: Problem
    outer: Node
    inner: Node

    @property
    def left(self) -> Side:
        return self.outer.left

    @property
    def right(self) -> Side:
        return self.inner.right

    @property
    def children(self) -> tuple[Node, ...]:
        return self.outer, self.inner

    seeds: tuple[Seeds, ...] = ()
    passing_bytes: int = 0

    @property
    def work(self) -> Work:
        n, k, m = self.left.size, self.inner.left.size, self.right.size
        batch = self.problem.batch or 1
        return product_work(n, k, m, batch) + matrix_work(n, m, batch, _itemsize(self.left, self.right))

    @property
    def flops(self) -> float:
        return self.work.flops

    def blocks(self, residuals: Sequence[Any]) -> Blocks:
        outer, inner = self.outer.blocks(residuals), self.inner.blocks(residuals)
        return multiplied(outer, inner, self.left, self.inner.left, self.right, _batch(self.problem))


def product_work(n: int, k: int, m: int, batch: int) -> Work:
    """Of multiplying n x k with k x m matrices, the writing down of the result apart."""
    return Work(dot=2.0 * batch * n * k * m, library=3.0)


def matrix_work(n: int, m: int, batch: int, itemsize: int) -> Work:
    """Of writing n x m matrices down and reading them again, in an order that may be another."""
    return Work(bytes=2.0 * batch * n * m * itemsize, library=10.0)


@dataclass(frozen=True, eq=False)
class Through(Answer):
    """A Jacobian at hand, its columns pushed on (or its rows pulled back) through a further segment.

    Attributes:
        problem: the whole, whose sides those of the result are.
        segment: what the columns or rows go through.
        given: the Jacobian at hand.
        passes: one for each column or row.
        sweep, chunking: what they take.
        ends: the variables that the further segment begins and ends at.
    """

    problem: Problem
    segment: Problem
    given: Node
    passes: Seeds
    sweep: Sweep
    chunking: Chunking
    ends: Ends

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.given,)

    @property
    def seeds(self) -> tuple[Seeds, ...]:
        return (self.passes,)

    @property
    def work(self) -> Work:
        return self.sweep.total(self.chunking, self.segment)

    @property
    def flops(self) -> float:
        return self.sweep.flops

    @property
    def passing_bytes(self) -> int:
        return self.sweep.peak(self.chunking)

    def blocks(self, residuals: Sequence[Any]) -> Blocks:
        forward, batch = self.passes.forward, _batch(self.problem)
        rows = as_rows(self.given.blocks(residuals), self.given.left, self.given.right, batch, forward=forward)

        def push(*tangents: Any) -> list[Any]:
            return self.segment.program.push(residuals, tangents)

        linear = push if forward else pullback(push, self.segment.program.in_avals)
        return filled(self.problem, (self.passes,), [self.passes.sweep(linear, rows)])


@dataclass(frozen=True, eq=False)
class Sum:
    """Paths that avoid the cut, and paths through it."""

    problem: Problem
    direct: Part
    product: Node

    @property
    def left(self) -> Side:
        return self.direct.left

    @property
    def right(self) -> Side:
        return self.direct.right

    @property
    def children(self) -> tuple[Node, ...]:
        return self.direct, self.product

    seeds: tuple[Seeds, ...] = ()
    passing_bytes: int = 0
    flops: float = 0.0

    @property
    def work(self) -> Work:
        # The few elements of the first term are added to the product: its zeros are not written down.
        return self.problem.machine.result(float(self.direct.problem.jacobian_bytes)) * -1.0

    def blocks(self, residuals: Sequence[Any]) -> Blocks:
        return self.direct.added_to(dense_blocks(self.product, residuals), residuals)


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, in the order in which they are made."""
    for child in reversed(node.children):
        yield from walk(child)
    yield node


def dense_blocks(node: Node, residuals: Sequence[Any]) -> Blocks:
    """The blocks of a node's Jacobian with all their elements."""
    batch = _batch(node.problem)
    return [
        [
            dense(block, node.left, o, node.right, i, batch).astype(block_dtype(out, inp))
            for (i, inp), block in zip(enumerate(node.right.avals), row, strict=True)
        ]
        for (o, out), row in zip(enumerate(node.left.avals), node.blocks(residuals), strict=True)
    ]


def matrix_bytes(node: Node) -> int:
    """Size of the Jacobian that a node makes."""
    if node.problem.format == "compressed":
        return node.problem.jacobian_bytes
    return elements(node.left, node.right) * (node.problem.batch or 1) * _itemsize(node.left, node.right)


def _itemsize(left: Side, right: Side) -> int:
    sizes = [block_dtype(a, b).itemsize for a in left.avals for b in right.avals]
    return max(sizes, default=jnp.dtype(jnp.float32).itemsize)


def _batch(problem: Problem) -> tuple[int, ...]:
    return () if problem.batch is None else (problem.batch,)
