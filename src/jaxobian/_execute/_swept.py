"""J by passes of one mode, each of which brings back a row or a column of it, or several that do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from .._lazy import sparse
from .._outputs import OUTPUTS, DenseBlock, Output, Reduction, Results, Rows, placed
from .._seeds import Seeds
from .._trace import Ends, Linear, LinearProgram, pullback
from ._entries import known_entries
from ._execution import Blocks, Residuals, Stage
from ._passes import LinearMap


class Build(Protocol):
    """How a pass is made.

    Attributes:
        recomputes: whether passes read the arguments, and compute residuals anew.
        rows: what passes read -> the rows that they begin with; None where they begin with the standard basis.
    """

    @property
    def recomputes(self) -> bool: ...
    @property
    def rows(self) -> Callable[[Sequence[Any]], Any] | None: ...

    def linear(self, read: Sequence[Any], *, forward: bool) -> LinearMap:
        """One pass: a tangent of x to the tangents of y, or a cotangent of y to the cotangents of x."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """Passes through the linear program, which read residuals that the primal program stored."""

    program: Linear
    recomputes: bool = False
    rows: None = None

    @property
    def read_avals(self) -> tuple[Any, ...]:
        """What passes read."""
        return self.program.residual_avals

    def linear(self, read: Sequence[Any], *, forward: bool) -> LinearMap:
        """Pushed through, or pulled back."""

        def push(*tangents: Any) -> list[Any]:
            return self.program.push(read, tangents)

        return push if forward else pullback(push, self.program.in_avals)


@dataclass(frozen=True, eq=False)
class Recomputed:
    """Forward passes through `jax.jvp` of f itself, which store no residuals."""

    program: LinearProgram
    recomputes: bool = True
    rows: None = None

    @property
    def read_avals(self) -> tuple[Any, ...]:
        """What passes read."""
        return self.program.function.in_avals

    def linear(self, read: Sequence[Any], *, forward: bool) -> LinearMap:
        """Pushed through."""
        assert forward, "residuals are computed anew in forward mode alone"
        program, n_operands = self.program, len(self.program.operands)

        def f(*xs: Any) -> list[Any]:
            return program.function(*read[:n_operands], *xs)[: program.n_out]

        return lambda *tangents: jax.jvp(f, tuple(read[n_operands:]), tangents)[1]


@dataclass(frozen=True, eq=False)
class Swept:
    """Passes in one mode.

    Attributes:
        program: what passes go through, and whose primal program is evaluated.
        ends: both sides of J.
        seeds: the passes, a group after the other.
        build: how one of them is made.
        used_numbers: as in `Execution`.
        constant: numbers of J, the same for every x, that passes do not bring back.
    """

    program: Linear
    ends: Ends
    seeds: tuple[Seeds, ...]
    build: Build
    used_numbers: frozenset[int] = frozenset()
    constant: sparse.csr_matrix | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """A stage for each group."""
        linear, first = self.build.linear, self._first()
        return tuple(
            Stage(seeds, partial(linear, forward=seeds.forward), partial(self._reduction, seeds), first)
            for seeds in self.seeds
        )

    def _reduction(self, seeds: Seeds, output: Output) -> Reduction:
        return output.reduction(self.ends, seeds)

    def _first(self) -> Callable[..., Sequence[Any]] | None:
        rows = self.build.rows
        return None if rows is None else lambda read, _: [rows(read)]

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """Residuals, or operands and x."""
        return Residuals([*operands, *xs] if self.build.recomputes else residuals, xs, ys)

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """As the output, which is linear in J where some of it is known, makes it of what passes left."""
        made = output.of_passes(self.ends, self.seeds, results)
        if self.constant is None:
            return made
        known = output.of_blocks(self.ends, known_entries(self.ends, self.constant))
        return [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(made, known, strict=True)]

    def added(self, results: Sequence[Results], others: Blocks) -> Blocks:
        """Other blocks, with each result added where it belongs."""
        total = [list(row) for row in others]
        for seeds, brought in zip(self.seeds, results, strict=True):
            for out, inp, place in placed(self.ends, seeds, brought):
                total[out][inp] = place.added_to(total[out][inp])
        return total

    def in_place(self, output: Output) -> bool:
        """What is spread out, or collected into an index, has another shape than what it is made of."""
        return output.whole and output.has_zeros and not any(map(output.keeps, self.seeds))


def of_copies(output: Output) -> Output:
    """What is wanted of the J of copies, which has the rows of all examples."""
    return output if output.by_example else OUTPUTS["dense"]


@dataclass(frozen=True, eq=False)
class Copied:
    """Reverse passes for copies of x, one for each example: what they bring back are the rows of all examples.

    Attributes:
        program: whose primal program is evaluated.
        ends: both sides of J.
        swept: the passes of the function of copies, a batch.
    """

    program: Linear
    ends: Ends
    swept: Swept
    used_numbers: frozenset[int] = frozenset()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of the function of copies."""

        def reduction(stage: Stage, output: Output) -> Reduction:
            return stage.reduction(of_copies(output))

        return tuple(replace(stage, reduction=partial(reduction, stage)) for stage in self.swept.stages)

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """Residuals; the copies read the same."""
        return self.swept.residuals(operands, xs, ys, residuals)

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """Of what is known of the batch, or of its blocks, examples where y has them."""
        batched = self.swept.wanted(results, of_copies(output))
        batch_axes = self.swept.ends.outputs.batch_axes
        if output.by_example:
            return output.of_examples(batch_axes, batched)
        pairs = zip(batch_axes, batched, strict=True)
        return output.of_blocks(self.ends, [[DenseBlock(jnp.moveaxis(b, 0, a or 0)) for b in row] for a, row in pairs])

    def added(self, results: Sequence[Results], others: Blocks) -> Blocks:
        """Rows are full: nothing is to be won by adding them in their places."""
        raise NotImplementedError("copies of x are made for the whole of J alone")

    def in_place(self, output: Output) -> bool:
        """The axis of examples moves."""
        return False
