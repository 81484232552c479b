"""Determinants by cuts: a product where all of J meets, and the matrix determinant lemma where it is narrow.

    det J = det(dy/dz) det(dz/dx)                       where every path goes through z, as wide as x and y
    det(D + U V) = det D det(1 + V D^-1 U)              where paths around a narrow z keep elements apart

A flow of many layers is the product of what each layer is: triangular, a diagonal, or one that differs from a diagonal
by little.

Source: Rezende and Mohamed, Variational inference with normalizing flows (arXiv:1505.05770), for the lemma.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._analysis import Cut, narrowest, path_splits
from ..._arrays import is_complex, varying_axes
from ..._coloring import permutation_sign
from ..._cost import Work
from ..._execute import Blocks, Residuals, Stage
from ..._outputs import OUTPUTS, Block, Output, Results, Rows, Slogdet, nonzeros
from ..._primitives import is_product
from ..._trace import Ends, Linear
from ..._words import WORDS, first_few, pass_count
from .. import colored, forward, reverse
from .._patterns import example_pattern
from .._problem import NOTHING, Candidate, Impossible, Problem, Proposals
from .._sweeps import cost_with
from ._nodes import Made, Node, Part, Sum, dense_blocks, matrix_bytes, walk
from ._order import split
from ._propose import weigher, where
from ._segments import Links, NoCutError

# The product is so many times narrower than the diagonal.
_NARROW = 4
# A diagonal with an element that is so many times smaller than what is added to it is not divided by.
_SMALL = 1e-3


class _NoJacobian:
    """An execution that makes a determinant, and no J."""

    used_numbers: frozenset[int] = frozenset()

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """Residuals."""
        return Residuals(residuals)

    def added(self, results: Sequence[Results], others: Blocks) -> Blocks:
        """It is no Jacobian."""
        raise NotImplementedError("a determinant is not added to J")

    def in_place(self, output: Output) -> bool:
        """Results are multiplied."""
        return False


@dataclass(frozen=True, eq=False)
class Multiplied(_NoJacobian):
    """The determinants of segments, one after the other, multiplied.

    Attributes:
        program: of the whole.
        parts: the segments, the first one last.
    """

    program: Linear
    parts: tuple[Part, ...]

    @property
    def used_numbers(self) -> frozenset[int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of all segments."""
        return frozenset[int]().union(*(part.used_numbers for part in self.parts))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of all segments."""
        return tuple(stage for part in self.parts for stage in part.stages(lambda _: {}))

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """Signs multiplied, logarithms added."""
        left, sign, logabsdet = list(results), 1, 0
        for part in self.parts:
            number = len(part.candidate.execution.stages)
            own, left = left[:number], left[number:]
            (s,), (log,) = part.candidate.execution.wanted(own, part.problem.output, read)
            sign, logabsdet = sign * s, logabsdet + log
        return [[sign], [logabsdet]]


@dataclass(frozen=True, eq=False)
class LowRank(_NoJacobian):
    """The determinant of a diagonal, its rows in any order, and of a product that is narrow in the middle.

    Attributes:
        problem: the question.
        sum: the diagonal, and the product.
    """

    problem: Problem
    sum: Sum

    @property
    def program(self) -> Linear:
        """The question's."""
        return self.problem.program

    @property
    def used_numbers(self) -> frozenset[int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of all its parts."""
        return frozenset[int]().union(*(node.used_numbers for node in walk(self.sum)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of the product, then that of the diagonal."""
        return tuple(stage for node in walk(self.sum) for stage in node.stages(lambda _: {}))

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """By the lemma; where the diagonal is too small to be divided by, of all of J."""
        made, left = dict[Node, Sequence[Results]](), list(results)
        for node in walk(self.sum):
            number = len(node.stages(lambda _: {}))
            made[node], left = left[:number], left[number:]
        outer, inner = self.sum.product.children
        U, V = (_matrix(node, made) for node in (outer, inner))
        ((found,),) = self.sum.direct.candidate.execution.wanted(made[self.sum.direct], _Nonzeros(), read)
        D, pattern = found
        rows, columns = pattern.nonzero()
        D = D[..., np.asarray(pattern[rows, columns]).reshape(-1) - 1].astype(U.dtype)

        def dense() -> tuple[Any, ...]:
            return tuple(jnp.linalg.slogdet((U @ V).at[..., rows, columns].add(D)))

        def lemma() -> tuple[Any, ...]:
            small = jnp.eye(U.shape[-1], dtype=U.dtype) + (V[..., columns] / D[..., None, :]) @ U[..., rows, :]
            sign, logabsdet = jnp.linalg.slogdet(small)
            order = np.empty(len(rows), np.int64)
            order[columns] = rows
            sign = sign * permutation_sign(order) * jnp.prod(jnp.sign(D), -1)
            return sign, logabsdet + jnp.sum(jnp.log(jnp.abs(D)), -1)

        if len(rows) != U.shape[-2]:  # arrays of which each brings zeros along
            sign, logabsdet = dense()
            return [[sign], [logabsdet]]
        most = jnp.max(jnp.abs(U), (-1, -2)) * jnp.max(jnp.abs(V), (-1, -2))
        safe = jnp.all(jnp.min(jnp.abs(D), -1) > _SMALL * most)
        sign, logabsdet = lax.cond(safe, lemma, dense)
        return [[sign], [logabsdet]]


@dataclass(frozen=True)
class _Nonzeros(Slogdet):
    """The elements of J that can be nonzero, and where they are."""

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """As they are."""
        return [[nonzeros(ends, blocks, self.dtype(ends))]]


def _matrix(node: Node, made: Made) -> Any:
    """The Jacobian of a node with one axis of rows and one of columns, examples first, as it is factored."""
    lead, left, right = node.problem.ends.lead, node.left.sizes, node.right.sizes
    blocks = zip(left, dense_blocks(node, made), strict=True)
    rows = [[b.reshape(*lead, m, n) for b, n in zip(row, right, strict=True)] for m, row in blocks]
    whole = jnp.concatenate([jnp.concatenate(row, -1) for row in rows], -2)
    return whole.astype(jnp.promote_types(whole.dtype, jnp.float32))


# The candidate ------------------------------------------------------------------------------------------------------


def answers(problem: Problem) -> bool:
    """Whether a determinant is asked for."""
    return isinstance(problem.output, Slogdet)


def determinant(problem: Problem, earlier: Proposals) -> Candidate | Impossible:
    """The best of a product of determinants, the lemma, and what mixed mode proposes for J; or why there is none.

    Args:
        problem: what is asked for.
        earlier: what forward and reverse propose for it, and mixed mode for J.
    """
    avals = (*problem.inputs.avals, *problem.outputs.avals)
    if not problem.inputs.size or any(map(varying_axes, avals)):
        return earlier["mixed"]
    if any(map(is_complex, avals)) and not problem.request.holomorphic:
        return earlier["mixed"]
    offers = (_multiplied(problem), _low_rank(problem), earlier["mixed"])
    possible = [offer for offer in offers if isinstance(offer, Candidate)]
    return min(possible, key=lambda offer: offer.cost.seconds, default=earlier["mixed"])


def _multiplied(problem: Problem) -> Candidate | None:
    """Segments between cuts as wide as x and y; None where there are none, or nothing is won."""
    n = problem.inputs.size
    width, cuts = narrowest(problem.program, weigher(problem), n + 1)
    ends = (problem.program.tangents, problem.program.linear.outputs)
    cuts = [cut for cut in cuts if set(cut) not in map(set, ends)]
    if width != n or not cuts:
        return None
    # Where layers meet there are fewer arrays than inside of them, and a layer is mostly triangular as a whole.
    between_layers = [cut for cut in cuts if len(cut) == min(map(len, cuts))]
    parts = _between(problem, between_layers)
    if len(between_layers) < len(cuts) and (not parts or any(map(_full, parts))):
        parts = _between(problem, cuts) or parts
    if not parts:
        return None
    costs = [part.candidate.cost for part in parts]
    held = problem.residual_bytes + problem.output_bytes
    cost = cost_with(
        problem, [part.work for part in parts], sum(c.flops for c in costs), held + max(c.peak_bytes for c in costs)
    )
    places = first_few([where(problem, part.span[0]) for part in parts[1:]])
    modes = [f"{WORDS[part.candidate.mode]}, {pass_count(part.candidate.passes)}" for part in parts]
    note = f"cut into {len(parts)} as wide as x ({places}): {first_few(modes, '; ')}"
    rewrites = tuple(r for part in parts for r in part.candidate.rewrites)
    return Candidate("mixed", Multiplied(problem.program, tuple(parts)), cost, note, rewrites)


def _between(problem: Problem, cuts: Sequence[Cut]) -> list[Part] | None:
    """What is between the cuts; segments that take all passes are one with their neighbors."""
    try:
        if not (cuts := _after_products(problem, cuts)):
            return None
        links = Links.of(problem, cuts)
        solved = [_solved(links, k, k) for k in range(len(cuts) + 1)]
        alone = [0 if _full(part) else number for number, part in enumerate(solved, 1)]
        runs = [list(run) for _, run in itertools.groupby(range(len(solved)), alone.__getitem__)]
        if len(runs) == 1:
            return None
        return [solved[run[0]] if len(run) == 1 else _solved(links, run[0], run[-1]) for run in runs]
    except (NoCutError, NotImplementedError):
        return None


def _after_products(problem: Problem, cuts: Sequence[Cut]) -> list[Cut]:
    """Those cuts between any two of which, and between which and the ends, there is a product or a convolution."""
    program, kept = problem.program, list[Cut]()

    def mixes(first: Cut, last: Cut) -> bool:
        return any(map(is_product, program.segment(first, last).linear.equations))

    for cut in cuts:
        if mixes(kept[-1] if kept else program.tangents, cut):
            kept.append(cut)
    return kept if kept and mixes(kept[-1], program.linear.outputs) else kept[:-1]


def _full(part: Part) -> bool:
    """Whether a segment takes a pass for every element, so that it may as well be one with its neighbor."""
    return part.candidate.mode in ("fwd", "rev") and part.candidate.passes >= part.problem.inputs.size


def _solved(links: Links, first: int, last: int) -> Part:
    """Segments first, ..., last, by what is fastest."""
    problem = replace(links.segment(first, last), output=links.problem.output)
    if problem.inputs.size != problem.outputs.size:
        raise NoCutError("a segment is not square")
    found: dict[str, Candidate | Impossible] = {
        "fwd": forward.propose(problem, NOTHING),
        "rev": reverse.propose(problem, NOTHING),
    }
    offers = [*found.values(), colored.propose(problem, found), _low_rank(problem)]
    possible = [offer for offer in offers if isinstance(offer, Candidate)]
    if not possible:
        raise NoCutError("a segment allows neither mode")
    best = min(possible, key=lambda offer: offer.cost.seconds)
    return Part(problem, best, (links.ends[first], links.ends[last + 1]))


def _low_rank(problem: Problem) -> Candidate | None:
    """The lemma; None where f is no diagonal and something narrow."""
    assert isinstance(problem.output, Slogdet)
    n, weigh = problem.inputs.size, weigher(problem)
    whole = replace(problem, output=OUTPUTS["dense"])
    _, splits = path_splits(problem.structure, weigh, problem.inputs.batch_axes, -(-n // _NARROW))
    for z in splits[:1]:
        for found in split(whole, z):
            assert isinstance(found, Sum)
            direct, (outer, inner) = found.direct, found.product.children
            if not _is_permuted_diagonal(direct.problem, n):
                continue
            k, lead = outer.right.size, problem.batch or 1
            small, _ = problem.output.of_sizes(problem.ends, [(1, k)])
            made = small + Work(
                dot=2.0 * lead * n * k**2, library=2.0, bytes=2.0 * (matrix_bytes(outer) + matrix_bytes(inner))
            )
            parts = (direct, outer, inner)
            held = problem.output_bytes + problem.residual_bytes + matrix_bytes(outer) + matrix_bytes(inner)
            peak = held + 2 * problem.jacobian_bytes + max(part.passing_bytes for part in parts)
            cost = cost_with(problem, [made, *(p.work for p in parts)], sum(p.flops for p in parts), peak)
            note = f"a diagonal and a product {k:,} wide ({where(problem, z)}): the determinant lemma, of {k:,} x {k:,}"
            rewrites = tuple(r for part in parts if isinstance(part, Part) for r in part.candidate.rewrites)
            return Candidate("mixed", LowRank(problem, found), cost, note, rewrites)
    return None


def _is_permuted_diagonal(problem: Problem, n: int) -> bool:
    """Whether the pattern has one element in each row and in each column."""
    matrix, _, _ = example_pattern(problem.structure, problem.ends)
    return (
        matrix is not None
        and matrix.nnz == n
        and bool((np.diff(matrix.indptr) == 1).all())
        and (len(np.unique(matrix.indices)) == n)
    )
