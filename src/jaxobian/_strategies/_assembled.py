"""Element by element: what lies between the ends of a program keeps apart what they bring together.

    u = B x        u repeats x along axes: the differences of all pairs
    v = g(u)       keeps elements apart along those axes: the force between the two of a pair
    y = A v        sums v along axes: the force on each particle

    J = sum over the terms of A and B of factor * (dv/du, summed over the axes that neither end has)

dv/du takes as many passes as its elements have axes of their own, however many pairs there are. Its elements are put
into J where both ends have them: on the diagonal along axes that they share, and everywhere along the others.

Where two terms of B are of the same input they are of the same element of it where the axes that they differ in have
the same index: a particle's difference with itself. That is told apart, so that what cancels does so exactly.

Source: Griewank and Toint, On the unconstrained optimization of partially separable functions (1982): the Jacobian of
a sum of element functions is assembled from those of the elements.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._cost import Work
from .._graph import Ends, Term, Terms, ends
from .._layout import block_dtype, is_complex, varying_axes
from .._linear import Linear, program_of
from .._rewrite import has_all_axes, product_and_sum, rewritten, written
from .._seeds import Seeds
from ._assembly import Element, labelled, told_apart
from ._matrix import Blocks
from ._nodes import Answer, Part
from ._order import single
from ._problem import Problem
from ._segments import NoCutError, restricted, side_at

# Terms of A and B are combined with each other; of more than these J takes long to write.
_MOST_TERMS = 16


@dataclass(frozen=True, eq=False)
class Assembled(Answer):
    """A Jacobian put together from those of its elements.

    Attributes:
        problem: the whole.
        part: dv/du, for all u and v.
        before: for each u, its terms.
        behind: for each v, its terms.
    """

    problem: Problem
    part: Part
    before: tuple[Terms, ...]
    behind: tuple[Terms, ...]

    seeds: tuple[Seeds, ...] = ()
    passing_bytes: int = 0
    flops: float = 0.0

    @property
    def children(self) -> tuple[Part, ...]:
        return (self.part,)

    @property
    def elements(self) -> int:
        """How many there are of what is kept apart the most."""
        counts = [1]
        for seeds in self.part.candidate.groups:
            for v, u, s, r in _pairs(self.part, seeds):
                shape, tied = self.part.right.avals[u].shape, _tied(self.part, seeds, v, u, s, r) or {}
                counts.append(math.prod(shape[axis] for axis in tied.values()))
        return max(counts)

    @property
    def work(self) -> Work:
        """Each term sums dv/du, and is put into J beside the others."""
        compressed, terms = self.part.problem, self.terms
        itemsize = max(block_dtype(a, b).itemsize for a in self.left.avals for b in self.right.avals)
        read, put = compressed.jacobian_bytes / itemsize, self.problem.jacobian_bytes / itemsize
        return Work(reduce=terms * read, arithmetic=3.0 * terms * put, equations=2.0 + terms)

    @property
    def terms(self) -> int:
        """Products of terms of A and B."""
        relations = self.part.problem.structure.relations
        return sum(len(self.behind[v]) * len(self.before[u]) for v, row in enumerate(relations) for u in row)

    def blocks(self, residuals: Sequence[Any]) -> Blocks:
        """The blocks of J; None where there is no dependence."""
        blocks: Blocks = [[None] * len(self.right.avals) for _ in self.left.avals]
        for v, u, element in self._elements(residuals):
            for i in {term.end: None for term in self.before[u]}:
                pieces = told_apart(element, [term for term in self.before[u] if term.end == i])
                for out, (piece, inp) in itertools.product(self.behind[v], pieces):
                    placed, before = self._placed(piece, out, inp), blocks[out.end][i]
                    blocks[out.end][i] = placed if before is None else before + placed
        return blocks

    def _placed(self, element: Element, out: Term, inp: Term) -> Any:
        """A term of a block: (batch, output, input)."""
        left, right = self.left.avals[out.end].shape, self.right.avals[inp.end].shape
        axes = [*labelled(left, out, element.v), *labelled(right, inp, element.u)]
        tied_out, tied_in = self.left.tied[out.end], self.right.tied[inp.end]
        if tied_out is not None and tied_in is not None:
            del axes[len(left) + tied_in]
            axes.insert(0, axes.pop(tied_out))
        value = element.placed(axes)
        return value * jnp.asarray(out.factor * inp.factor, value.dtype)

    def _elements(self, residuals: Sequence[Any]) -> Iterator[tuple[int, int, Element]]:
        """dv/du for each v and u that depend on each other."""
        part = self.part
        for seeds, results in zip(part.candidate.groups, part.swept(residuals), strict=True):
            compressed = seeds.compressed(results)
            for v, u, s, r in _pairs(part, seeds):
                tied = _tied(part, seeds, v, u, s, r) or {}
                shapes, batch = (part.left.avals[v].shape, part.right.avals[u].shape), part.left.tied[v]
                yield v, u, Element.of(compressed[s][r], shapes, tied, batch, forward=seeds.forward)


# Whether a program is such -----------------------------------------------------------------------------------------


def assembled(problem: Problem, bound: int) -> Assembled | None:
    """The Jacobian put together from those of its elements; None where that saves no passes.

    Args:
        problem: the problem.
        bound: how many passes it may take.
    """
    if bound < 1:
        return None
    avals = (*problem.inputs.avals, *problem.outputs.avals)
    found = ends(problem.program)
    if any(is_complex(aval) or varying_axes(aval) for aval in avals) or not _repeats(found, len(problem.inputs.avals)):
        return None
    problem, found = _summed(problem, found)
    before, behind = tuple(found.before), tuple(found.behind)
    if not all(map(_can_be_told_apart, found.before.values())):
        return None
    try:
        right, left = side_at(problem, before), side_at(problem, behind)
        segment = restricted(problem, problem.program.segment(before, behind), right, left)
        compressed = replace(segment, format="compressed")
        if min(compressed.passes(forward=True), compressed.passes(forward=False)) > bound:
            return None
        part = single(compressed, (before, behind))
    except (NoCutError, NotImplementedError):
        return None
    if any(_tied(part, seeds, *pair) is None for seeds in part.candidate.groups for pair in _pairs(part, seeds)):
        return None
    made = Assembled(problem, part, tuple(found.before.values()), tuple(found.behind.values()))
    return made if made.terms <= _MOST_TERMS else None


def _repeats(found: Ends, inputs: int) -> bool:
    """Whether an input is repeated before, or read along axes of several arrays."""
    arrays = found.before.items()
    repeated = (
        axis is None and n > 1
        for v, terms in arrays
        for term in terms
        for axis, n in zip(term.axes, v.aval.shape, strict=True)
    )
    return len(arrays) > inputs or any(repeated)


def _can_be_told_apart(terms: Terms) -> bool:
    ends = [term.end for term in terms]
    return all(ends.count(end) <= 2 for end in ends)


def _summed(problem: Problem, found: Ends) -> tuple[Problem, Ends]:
    """The problem with the last contractions as products and sums, and with one variable for those summed alike."""
    program, offers = problem.program, {}
    for place in found.products:
        equation = program.linear.equations[place]
        contracted, whole = equation.params["dimension_numbers"][0][0], has_all_axes(equation)
        dtypes = {v.aval.dtype for v in (*equation.invars, *equation.outvars)}
        if contracted and whole is not None and len(dtypes) == 1 and equation.params.get("out_sharding") is None:
            offers[place] = product_and_sum(equation, whole)
    if offers:
        program = Linear(rewritten(program.linear, offers), len(program.tangents))
        found = ends(program)
    alike: dict[Any, list[Any]] = defaultdict(list)
    for v, terms in found.behind.items():
        alike[terms, v.aval.shape, v.aval.dtype, v in found.before].append(v)
    behind, equations = {}, []
    for (terms, *_, given), several in alike.items():
        if given or len(several) == 1:
            behind.update((v, terms) for v in several)
            continue
        total = program_of(lambda *vs: sum(vs[1:], vs[0]), *(v.aval for v in several))[0]
        made, (result,) = written(total, None, several)
        equations += made
        behind[result] = terms
    if equations:
        linear = replace(program.linear, equations=(*program.linear.equations, *equations))
        program = Linear(linear, len(program.tangents))
    if program is not problem.program:
        problem = problem.part(program, problem.inputs, problem.outputs)
    return problem, replace(found, behind=behind)


def _pairs(part: Part, seeds: Seeds) -> Iterator[tuple[int, int, int, int]]:
    """The arrays v and u that depend on each other, with what their numbers are among those of a group."""
    numbers = seeds.group.landed if seeds.group else range(len(seeds.landed.avals))
    for s in range(len(seeds.seeded.avals)):
        for r, number in enumerate(numbers):
            v, u = (number, s) if seeds.forward else (s, number)
            if u in part.problem.structure.relations[v]:
                yield v, u, s, r


def _tied(part: Part, seeds: Seeds, v: int, u: int, s: int, r: int) -> dict[int, int] | None:
    """The axes of v that run along those of u; None where what passes seed alike are other than whole axes."""
    batch = part.left.tied[v], part.right.tied[u]
    tied = {} if batch[0] is None or batch[1] is None else {batch[0]: batch[1]}
    shapes = part.left.avals[v].shape, part.right.avals[u].shape
    cells = (seeds.group.cells[s], seeds.group.landings[s][r]) if seeds.group else ((), ())
    for cell, landing in zip(*cells, strict=True):
        out, inp = (landing.axis, cell.axis) if seeds.forward else (cell.axis, landing.axis)
        n = shapes[1][inp]
        if cell.base != n or shapes[0][out] != n or np.any(landing.digits(n) != np.arange(n)):
            return None
        tied[out] = inp
    return tied
