"""A mixed plan as a tree: local Jacobians by passes of one mode, products of them, sums over paths.

Each node knows the two sides of the Jacobian that it makes, the passes that it takes, and how to make it of what they
bring back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax

from ..._arrays import block_dtype
from ..._cost import Work
from ..._execute import LinearMap, Stage, Stored
from ..._outputs import OUTPUTS, Kept, Output, Reduction, Results
from ..._seeds import Seeds
from ..._trace import Side
from .._problem import Candidate, Problem
from .._sweeps import Chunking, PassCost
from ._matrix import ONE, Blocks, as_rows, dense, elements, multiplied

# The variables of the whole program that a node begins and ends at.
Span = tuple[tuple[Any, ...], tuple[Any, ...]]
# What the stages of each node brought back.
Made = Mapping["Node", Sequence[Results]]


class Node(Protocol):
    """What makes a Jacobian of what passes bring back.

    Attributes:
        problem: that it is a part of.
        left, right: the sides of the Jacobian.
        children: the nodes whose Jacobians it is made of.
        used_numbers: as in `Execution`.
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
    def used_numbers(self) -> frozenset[int]: ...
    @property
    def work(self) -> Work: ...
    @property
    def flops(self) -> float: ...
    @property
    def passing_bytes(self) -> int: ...

    def stages(self, made: Callable[[Sequence[Results]], Made]) -> tuple[Stage, ...]:
        """The passes that it makes, its children's apart.

        Args:
            made: what each node brought back, from what all stages so far did.
        """
        ...

    def blocks(self, made: Made) -> Blocks:
        """The blocks of the Jacobian."""
        ...


class NoPasses:
    """A node of which nothing but its children makes passes."""

    passing_bytes: int = 0

    @property
    def used_numbers(self) -> frozenset[int]:
        """There are none."""
        return frozenset()

    def stages(self, made: Callable[[Sequence[Results]], Made]) -> tuple[Stage, ...]:
        """None."""
        return ()


class Answer:
    """What solves a problem makes the Jacobian between its sides."""

    problem: Problem

    @property
    def used_numbers(self) -> frozenset[int]:
        return frozenset()

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
        span: the variables of the whole program that it begins and ends at.
    """

    problem: Problem
    candidate: Candidate
    span: Span

    @property
    def children(self) -> tuple[Node, ...]:
        return ()

    @property
    def used_numbers(self) -> frozenset[int]:
        return self.candidate.execution.used_numbers

    @property
    def work(self) -> Work:
        return self.candidate.cost.work

    @property
    def flops(self) -> float:
        return self.candidate.cost.flops

    @property
    def passing_bytes(self) -> int:
        return self.candidate.cost.peak_bytes - self.problem.output_bytes

    def stages(self, made: Callable[[Sequence[Results]], Made]) -> tuple[Stage, ...]:
        def reduction(stage: Stage, _: Output) -> Reduction:
            return stage.reduction(self.problem.output)  # whatever is wanted of the whole

        stages = self.candidate.execution.stages
        return tuple(replace(s, linear=_in_order(s.linear), reduction=partial(reduction, s)) for s in stages)

    def blocks(self, made: Made) -> Blocks:
        blocks = self.candidate.execution.wanted(made[self], self.problem.output)
        return _with_shortcuts(self.problem, blocks)


def _in_order(make: Callable[[Sequence[Any]], LinearMap]) -> Callable[[Sequence[Any]], LinearMap]:
    """The same linear map; else XLA turns its last product about, into an order that it multiplies slowly in."""

    def made(read: Sequence[Any]) -> LinearMap:
        linear = make(read)
        return lambda *seeds: lax.optimization_barrier(list(linear(*seeds)))

    return made


def _with_shortcuts(problem: Problem, blocks: Blocks) -> Blocks:
    """Blocks that are known to be zero or the identity as such."""
    program, relations = problem.program, problem.structure.relations

    def shortened(o: int, i: int, block: Any) -> Any:
        if program.linear.outputs[o] is program.tangents[i]:
            return ONE
        return block if i in relations[o] else None

    return [[shortened(o, i, block) for i, block in enumerate(row)] for o, row in enumerate(blocks)]


@dataclass(frozen=True, eq=False)
class Product(NoPasses):
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

    @property
    def work(self) -> Work:
        n, k, m = self.left.size, self.inner.left.size, self.right.size
        batch = self.problem.batch or 1
        return product_work(n, k, m, batch) + matrix_work(n, m, batch, _itemsize(self.left, self.right))

    @property
    def flops(self) -> float:
        return self.work.flops

    def blocks(self, made: Made) -> Blocks:
        outer, inner = self.outer.blocks(made), self.inner.blocks(made)
        return multiplied(outer, inner, self.left, self.inner.left, self.right, self.problem.ends.lead)


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
        pass_cost, chunking: what they take.
        span: the variables that the further segment begins and ends at.
    """

    problem: Problem
    segment: Problem
    given: Node
    passes: Seeds
    pass_cost: PassCost
    chunking: Chunking
    span: Span

    @property
    def children(self) -> tuple[Node, ...]:
        return (self.given,)

    @property
    def work(self) -> Work:
        return self.pass_cost.total(self.chunking, self.segment)

    @property
    def flops(self) -> float:
        return self.pass_cost.flops

    @property
    def passing_bytes(self) -> int:
        return self.pass_cost.peak(self.chunking)

    def stages(self, made: Callable[[Sequence[Results]], Made]) -> tuple[Stage, ...]:
        forward, stored = self.passes.forward, Stored(self.segment.program)

        def rows(read: Sequence[Any], results: Sequence[Results]) -> list[Any]:
            given = self.given.blocks(made(results))
            return as_rows(given, self.given.left, self.given.right, self.problem.ends.lead, forward=forward)

        linear = partial(stored.linear, forward=forward)
        return (Stage(self.passes, linear, lambda _: Kept(self.passes), rows),)

    def blocks(self, made: Made) -> Blocks:
        return OUTPUTS["dense"].of_passes(self.problem.ends, (self.passes,), made[self])


@dataclass(frozen=True, eq=False)
class Sum(NoPasses):
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

    flops: float = 0.0

    @property
    def work(self) -> Work:
        # The few elements of the first term are added to the product: its zeros are not written down.
        return self.problem.machine.result(float(self.direct.problem.output_bytes)) * -1.0

    def blocks(self, made: Made) -> Blocks:
        return self.direct.candidate.execution.added(made[self.direct], dense_blocks(self.product, made))


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it, in the order in which they are made."""
    for child in reversed(node.children):
        yield from walk(child)
    yield node


def dense_blocks(node: Node, made: Made) -> Blocks:
    """The blocks of a node's Jacobian with all their elements."""
    batch = node.problem.ends.lead
    return [
        [
            dense(block, node.left, o, node.right, i, batch).astype(block_dtype(out, inp))
            for (i, inp), block in zip(enumerate(node.right.avals), row, strict=True)
        ]
        for (o, out), row in zip(enumerate(node.left.avals), node.blocks(made), strict=True)
    ]


def matrix_bytes(node: Node) -> int:
    """Size of the Jacobian that a node makes."""
    if not node.problem.output.has_zeros:
        return node.problem.output_bytes
    return elements(node.left, node.right) * (node.problem.batch or 1) * _itemsize(node.left, node.right)


def _itemsize(left: Side, right: Side) -> int:
    sizes = [block_dtype(a, b).itemsize for a in left.avals for b in right.avals]
    return max(sizes, default=jnp.dtype(jnp.float32).itemsize)
