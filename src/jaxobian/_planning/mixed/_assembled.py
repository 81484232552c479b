"""Element by element: what lies between the ends of a program keeps apart what they bring together.

    u = B x        u repeats x along axes: the differences of all pairs
    v = g(u)       keeps elements apart along those axes: the force between the two of a pair
    y = A v        sums v along axes: the force on each particle

    J = sum over the terms of A and B of factor * (dv/du, summed over the axes that neither end has)

dv/du takes as many passes as its elements have axes of their own, however many pairs there are. Its elements are put
into J where both ends have them: on the diagonal along axes that they share, and everywhere along the others.

Where two terms are of the same number of an input, as in a particle's difference with itself, or of an output, they are
added before anything is summed, so that what cancels in f cancels here (`_assembly`).

Source: Griewank and Toint, On the unconstrained optimization of partially separable functions (1982): the Jacobian of
a sum of element functions is assembled from those of the elements.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import numpy as np
from jax import lax

from ..._analysis import Ends, Term, Terms, ends, up_to_sign
from ..._arrays import block_dtype, is_complex, varying_axes
from ..._cost import Work
from ..._execute import Blocks
from ..._outputs import Compressed
from ..._rewrite import has_all_axes, product_and_sum, rewritten, side_by_side, written
from ..._seeds import Seeds
from ..._trace import Linear
from .._problem import Problem
from ._assembly import Derivative, Element, Labels, input_labels, labels_of_u, order, output_labels, told_apart, weights
from ._nodes import Answer, Made, NoPasses, Part
from ._order import single
from ._segments import NoCutError, restricted, side_at

# Terms of A and B are combined with each other; of more than these J takes long to write.
_MOST_TERMS = 16


@dataclass(frozen=True, eq=False)
class Assembled(NoPasses, Answer):
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

    flops: float = 0.0

    @property
    def children(self) -> tuple[Part, ...]:
        return (self.part,)

    @property
    def elements(self) -> int:
        """How many there are of what is kept apart the most."""
        counts = [1]
        for seeds in self.part.candidate.seeds:
            for v, u, s, r in _pairs(self.part, seeds):
                shape, shared = self.part.right.avals[u].shape, _shared(self.part, seeds, v, u, s, r) or {}
                counts.append(math.prod(shape[axis] for axis in shared.values()))
        return max(counts)

    @property
    def work(self) -> Work:
        """Each term sums dv/du, and is put into J beside the others."""
        compressed, terms = self.part.problem, self.terms
        itemsize = max(block_dtype(a, b).itemsize for a in self.left.avals for b in self.right.avals)
        read, put = compressed.output_bytes / itemsize, self.problem.output_bytes / itemsize
        return Work(reduce=terms * read, arithmetic=3.0 * terms * put, equations=2.0 + terms)

    @property
    def terms(self) -> int:
        """Products of terms of A and B."""
        relations = self.part.problem.structure.relations
        return sum(len(self.behind[v]) * len(self.before[u]) for v, row in enumerate(relations) for u in row)

    def blocks(self, made: Made) -> Blocks:
        """The blocks of J; None where there is no dependence."""
        blocks: Blocks = [[None] * len(self.right.avals) for _ in self.left.avals]
        for (v, i), elements in self._elements(made).items():
            shape = self.part.left.avals[v].shape
            for element in told_apart(elements, len(shape)):
                for o, y, weight in self._weights(v, element.value.dtype):
                    placed, before = self._placed(element, o, y, i, weight), blocks[o][i]
                    blocks[o][i] = placed if before is None else before + placed
        return blocks

    def _elements(self, made: Made) -> dict[tuple[int, int], list[Element]]:
        """For each v and input, what each term brings of dv/dx."""
        part = self.part
        found: dict[tuple[int, int], list[Element]] = defaultdict(list)
        for seeds, results in zip(part.candidate.seeds, made[part], strict=True):
            compressed = seeds.compressed(results)
            for v, u, s, r in _pairs(part, seeds):
                shapes = part.left.avals[v].shape, part.right.avals[u].shape
                shared = _shared(part, seeds, v, u, s, r) or {}
                derivative = Derivative.of(compressed[s][r], *shapes, shared, part.left.batch_axes[v], seeds.forward)
                for term in self.before[u]:
                    rank = len(self.right.avals[term.end].shape)
                    found[v, term.end].append(Element.of(derivative, term, rank))
        return found

    def _weights(self, v: int, dtype: Any) -> Iterator[tuple[int, Labels, Any]]:
        """The outputs that v is a part of, each with the labels along its axes and the weight of v's numbers."""
        shape = self.part.left.avals[v].shape
        for o in {term.end: None for term in self.behind[v]}:
            terms = [term for term in self.behind[v] if term.end == o]
            maps = [output_labels(term, len(self.left.avals[o].shape)) for term in terms]
            for y, weight in zip(maps, weights(terms, maps, shape, dtype), strict=True):
                yield o, y, weight

    def _placed(self, element: Element, o: int, y: Labels, i: int, weight: Any) -> Any:
        """A part of a block: (batch, output, input)."""
        left, right = self.left.avals[o].shape, self.right.avals[i].shape
        axes = [*zip(left, y, strict=True), *zip(right, element.x, strict=True)]
        tied_out, tied_in = self.left.batch_axes[o], self.right.batch_axes[i]
        if tied_out is not None and tied_in is not None:
            del axes[len(left) + tied_in]
            axes.insert(0, axes.pop(tied_out))
        if not weight.ndim:
            return element.placed(axes) * weight
        own = range(weight.ndim, element.value.ndim)
        return replace(element, value=element.value * lax.expand_dims(weight, own)).placed(axes)


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
    if not found.before or not found.behind:
        return None
    before, behind = tuple(found.before), tuple(found.behind)
    if found.joined or not _same_axes(found):
        return None
    try:
        right, left = side_at(problem, before), side_at(problem, behind)
        segment = restricted(problem, problem.program.segment(before, behind), right, left)
        compressed = replace(segment, output=Compressed())
        if min(compressed.passes(forward=True), compressed.passes(forward=False)) > bound:
            return None
        part = single(compressed, (before, behind))
    except (NoCutError, NotImplementedError):
        return None
    made = Assembled(problem, part, tuple(found.before.values()), tuple(found.behind.values()))
    return made if part.candidate.passes <= bound and made.terms <= _MOST_TERMS and _can_be_told_apart(made) else None


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


def _same_axes(found: Ends) -> bool:
    """Whether the terms of a variable and an output are along the same axes of that."""

    def along(term: Term) -> frozenset[int | None]:
        return frozenset(term.axes) - {None}

    pairs = (pair for terms in found.behind.values() for pair in itertools.combinations(terms, 2))
    return all(along(one) == along(other) for one, other in pairs if one.end == other.end)


def _can_be_told_apart(made: Assembled) -> bool:
    """Whether what passes seed alike are whole axes, and terms of the same number of an input can be added first."""
    part = made.part
    maps: dict[tuple[int, int], list[Labels]] = defaultdict(list)
    for seeds in part.candidate.seeds:
        for v, u, s, r in _pairs(part, seeds):
            shared = _shared(part, seeds, v, u, s, r)
            if shared is None:
                return False
            rank_v = len(part.left.avals[v].shape)
            labels = labels_of_u(shared, rank_v, len(part.right.avals[u].shape))
            for term in made.before[u]:
                x = input_labels(labels, term, len(made.right.avals[term.end].shape), rank_v)
                batch_axis = made.right.batch_axes[term.end]
                if batch_axis is not None and x[batch_axis] != part.left.batch_axes[v]:
                    return False
                maps[v, term.end].append(x)
    for v, terms in enumerate(made.behind):
        for term in terms:
            batch_axis, rank = made.left.batch_axes[term.end], len(made.left.avals[term.end].shape)
            if batch_axis is not None and output_labels(term, rank)[batch_axis] != part.left.batch_axes[v]:
                return False
    return all(order(found, len(part.left.avals[v].shape)) is not None for (v, _), found in maps.items())


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
    alike: dict[Any, list[tuple[float, Any]]] = defaultdict(list)
    for v, terms in found.behind.items():
        sign, same = up_to_sign(terms)
        alike[same, v.aval.shape, v.aval.dtype, v in found.before].append((sign, v))
    behind, equations = {}, []
    for (terms, *_, given), several in alike.items():
        if given or len(several) == 1:
            behind.update((v, found.behind[v]) for _, v in several)
            continue
        signs = [sign for sign, _ in several]
        (total,), _ = side_by_side([(partial(_sum, signs), *(v.aval for _, v in several))])
        made, (result,) = written(total, None, [v for _, v in several])
        equations += made
        behind[result] = tuple(sorted(terms, key=repr))
    if equations:
        linear = replace(program.linear, equations=(*program.linear.equations, *equations))
        program = Linear(linear, len(program.tangents))
    if program is not problem.program:
        problem = problem.part(program, problem.ends)
    return problem, replace(found, behind=behind)


def _sum(signs: Sequence[float], *values: Any) -> list[Any]:
    return [reduce(operator.add, (v if sign > 0 else -v for sign, v in zip(signs, values, strict=True)))]


def _pairs(part: Part, seeds: Seeds) -> Iterator[tuple[int, int, int, int]]:
    """The arrays v and u that depend on each other, with what their numbers are among those of a group."""
    for s in range(len(seeds.seeded.avals)):
        for r, number in enumerate(seeds.numbers):
            v, u = (number, s) if seeds.forward else (s, number)
            if u in part.problem.structure.relations[v]:
                yield v, u, s, r


def _shared(part: Part, seeds: Seeds, v: int, u: int, s: int, r: int) -> dict[int, int] | None:
    """The axes of v that run along those of u; None where what passes seed alike are other than whole axes."""
    batch = part.left.batch_axes[v], part.right.batch_axes[u]
    shared = {} if batch[0] is None or batch[1] is None else {batch[0]: batch[1]}
    shapes = part.left.avals[v].shape, part.right.avals[u].shape
    cells = (seeds.group.cells[s], seeds.group.landings[s][r]) if seeds.group else ((), ())
    for cell, landing in zip(*cells, strict=True):
        out, inp = (landing.axis, cell.axis) if seeds.forward else (cell.axis, landing.axis)
        n = shapes[1][inp]
        if cell.base != n or shapes[0][out] != n or np.any(landing.digits(n) != np.arange(n)):
            return None
        if out in shared or inp in shared.values():
            return None  # a diagonal
        shared[out] = inp
    return shared
