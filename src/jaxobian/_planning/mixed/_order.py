"""From cuts to the tree that is multiplied out: the cheapest order, and what each part of it runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

from ..._analysis import Cut
from ..._execute import Stored
from ..._primitives import is_product
from ..._seeds import Seeds, plain
from .. import colored, forward, reverse
from .._problem import Candidate, Impossible, Problem
from .._sweeps import PassCost, choose_chunks, together
from ._brackets import Chain, Leaf, Multiply, Pull, Push, Tree
from ._estimate import Estimate
from ._nodes import Node, Part, Product, Span, Sum, Through, matrix_work, product_work
from ._segments import Links, NoCutError, in_parts, restricted, side_at

_MODES = {"fwd": forward, "rev": reverse}
# Of two modes the one with so many times fewer passes is taken without a look at the other.
_FAR = 4


def chained(problem: Problem, cuts: Sequence[Cut], modes: Sequence[str] | None = None) -> tuple[Node, tuple[Cut, ...]]:
    """The cheapest order for the chain that the cuts make of the program.

    Args:
        problem: the problem.
        cuts: where to cut.
        modes: the mode of each segment, where only one is possible.
    """
    links = Links.of(problem, cuts)
    estimates = [Estimate.of(links.segment(k, k), modes[k] if modes else None) for k in range(len(links.ends) - 1)]
    batch, machine = problem.batch or 1, problem.machine
    order = Chain(
        widths=[side.size for side in links.sides],
        local=lambda k, mode: estimates[k].local.get(mode, math.inf),
        push=lambda k, number: estimates[k].passes("fwd", number),
        pull=lambda k, number: estimates[k].passes("rev", number),
        multiply=lambda n, k, m: machine.time(product_work(n, k, m, batch)),
        hold=lambda n, m: machine.time(matrix_work(n, m, batch, 4)),
    )
    tree = order.cheapest()
    if tree is None:
        raise NoCutError("; ".join(dict.fromkeys(e.reason for e in estimates if e.reason)) or "no order is possible")
    return _built(links, tree, _spare(problem, links, tree)), tuple(links.ends[k] for k in _met(tree))


def without_thin_segments(problem: Problem, cuts: Sequence[Cut]) -> list[Cut]:
    """Without cuts between two others that no product or convolution separates: nothing is won by cutting there."""
    if len(cuts) <= 2:
        return list(cuts)

    def thin(first: Cut, last: Cut) -> bool:
        equations = problem.program.segment(first, last).linear.equations
        return not any(map(is_product, equations))

    kept = [cuts[0]]
    for here, after in itertools.pairwise(cuts[1:]):
        if not (thin(kept[-1], here) and thin(here, after)):
            kept.append(here)
    return [*kept, cuts[-1]]


def _spare(problem: Problem, links: Links, tree: Tree) -> int:
    """The budget of passes: what the matrices of a tree leave."""
    sizes = [links.sides[i].size * links.sides[j + 1].size * (problem.batch or 1) * 4 for i, j in _spans(tree)]
    return max(0, problem.budget - problem.residual_bytes - problem.output_bytes - sum(sizes))


def _spans(tree: Tree) -> list[tuple[int, int]]:
    """First and last segment of every Jacobian in a tree."""
    match tree:
        case Multiply(inner, outer):
            below = _spans(inner) + _spans(outer)
        case Push(inner, _):
            below = _spans(inner)
        case Pull(outer, _):
            below = _spans(outer)
        case Leaf():
            below = []
    return [(tree.first, tree.last), *below]


def _met(tree: Tree) -> list[int]:
    """The cuts at which Jacobians of a tree meet."""
    match tree:
        case Multiply(inner, outer):
            return [*_met(inner), outer.first, *_met(outer)]
        case Push(inner, _):
            return [*_met(inner), inner.last + 1]
        case Pull(outer, _):
            return [outer.first, *_met(outer)]
        case Leaf():
            return []


def _built(links: Links, tree: Tree, budget: int) -> Node:
    """The tree of nodes for an order."""
    problem = links.problem
    match tree:
        case Leaf(first, last, mode):
            ends = links.ends[first], links.ends[last + 1]
            return single(replace(links.segment(first, last), budget=budget), ends, (mode,))
        case Multiply(inner, outer):
            return Product(problem, _built(links, outer, budget), _built(links, inner, budget))
        case Push(inner, last):
            given, mode, span = _built(links, inner, budget), "fwd", (inner.last + 1, last)
        case Pull(outer, first):
            given, mode, span = _built(links, outer, budget), "rev", (first, outer.first - 1)
    whole = links.segment(tree.first, tree.last)
    segment = replace(links.segment(*span), budget=budget)
    seeded, result = whole.sides(forward=mode == "fwd")
    counted = _given_passes(segment, seeded.size, mode)
    chunking = choose_chunks(segment, counted, 0)
    shapes = tuple(aval.shape for aval in segment.sides(forward=mode == "fwd")[0].avals)
    group = plain(len(seeded.avals), len(result.avals))
    weights_first = counted.weights_first(chunking, problem)
    seeds = Seeds(
        seeded,
        result,
        mode == "fwd",
        chunking.width,
        counted.vmapped,
        chunking.looped,
        group,
        shapes,
        weights_first=weights_first,
    )
    ends = links.ends[span[0]], links.ends[span[1] + 1]
    return Through(whole, segment, given, seeds, counted, chunking, ends)


def single(problem: Problem, span: Span, modes: Sequence[str] = ("fwd", "rev")) -> Part:
    """A problem solved in a single mode."""
    passes = {mode: problem.passes(forward=mode == "fwd") for mode in modes}
    offers: list[Candidate | Impossible] = []
    for mode in sorted(modes, key=passes.__getitem__):
        # Of two modes the one with far fewer passes is the faster one.
        if not any(isinstance(o, Candidate) and _FAR * passes[o.mode] < passes[mode] for o in offers):
            offers.append(_MODES[mode].propose(problem))
    possible = [offer for offer in offers if isinstance(offer, Candidate)]
    if not possible:
        raise NoCutError("; ".join(offer.reason for offer in offers if isinstance(offer, Impossible)))
    return Part(problem, min(possible, key=lambda offer: offer.cost.seconds), span)


def _colored(problem: Problem, span: Span) -> Part:
    """A problem solved by colors."""
    if colored.hopeless(problem):
        raise NoCutError("colors save no passes")
    offer = colored.propose(problem, {mode: single.propose(problem) for mode, single in _MODES.items()})
    if isinstance(offer, Impossible):
        raise NoCutError(offer.reason)
    return Part(problem, offer, span)


def _given_passes(problem: Problem, passes: int, mode: str) -> PassCost:
    """Passes through a segment that begin with rows at hand, counted."""
    made = together(problem, Stored(problem.program), passes, forward=mode == "fwd")
    return made.counted(passes, forward=mode == "fwd", one_hot=False)


def split(problem: Problem, z: Cut, *, colors: bool = False) -> list[Node]:
    """The sum over paths around z and paths through it; none where a part of it is impossible.

    With `colors` it is none, too, where the paths around z have no colors that are worth it.
    """
    program = problem.program
    try:
        x, y = program.tangents, program.linear.outputs
        right, middle, left = in_parts(problem, problem.inputs), side_at(problem, z), in_parts(problem, problem.outputs)
        direct = restricted(problem, program.segment(x, y, frozen=z), right, left)
        inner = restricted(problem, program.segment(x, z), right, middle)
        outer = restricted(problem, program.segment(z, y), middle, left)
        around = _colored(direct, (x, y)) if colors else single(direct, (x, y))
        product = Product(problem, single(outer, (z, y)), single(inner, (x, z)))
        return [Sum(problem, around, product)]
    except (NoCutError, NotImplementedError):  # the latter where a part would begin with zeros under shard_map
        return []
