"""Mixed mode: the program is cut where it is narrow, and each part runs in the mode that suits it.

    J = (dy/dz) (dz/dx)                            where every path goes through z
    J = dy/dx with z held + (dy/dz) (dz/dx)        where paths around z keep elements apart

If z has fewer elements than x and than y, the first factor takes a forward pass for each of them and the second a
reverse pass. Where no single mode can compute J, the cuts lie between equations that want forward mode and others that
want reverse.

Source: Griewank and Walther, Evaluating Derivatives (2nd edition, 2008), chapters 9 and 10.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._cost import Machine, PassWork, pass_work
from .._graph import Cut, chain, narrow_places, narrowest, path_splits, stages
from .._layout import is_complex, is_inexact
from .._linear import (
    UNKNOWN_LINE,
    Linear,
    Program,
    active_variables,
    is_variable,
    obstructions,
    program_of,
    pullback,
    real_avals,
    source_line,
)
from .._linear import walk as walk_equations
from .._seeds import Seeds, Side, plain
from .._structure import Line
from . import colored, forward, reverse
from ._brackets import Chain, Leaf, Multiply, Pull, Push, Tree
from ._fill import bcoo
from ._free import free
from ._matrix import Blocks
from ._nodes import Ends, Node, Part, Product, Sum, Through, dense_blocks, matrix_bytes, matrix_work, product_work, walk
from ._problem import Candidate, Impossible, Problem
from ._sweeps import CLEAR_WIN, Sweep, choose_chunks, cost_with, count_passes

_MODES = {"fwd": forward, "rev": reverse}
_OTHER = {"fwd": "rev", "rev": "fwd"}
_FAR = 4
# A place that paths lead around is looked at where it is so many times narrower than a cut may be.
_NARROW = 4


@dataclass(frozen=True, eq=False)
class Mixed:
    """What a mixed candidate does: the tree, and where the program was cut.

    Attributes:
        root: of the tree.
        example: the problem that the tree solves: the question itself, or where it is asked for the dense Jacobian of a
            function that keeps examples apart, that of an example.
        cuts: the variables that Jacobians meet at.
    """

    root: Node
    example: Problem
    cuts: tuple[Cut, ...]


def propose(
    problem: Problem, singles: Sequence[Candidate | Impossible], *, forced: bool
) -> Candidate | Impossible:
    """The best order of more than one part, or why there is none.

    Args:
        problem: the problem.
        singles: what forward and reverse propose for it.
        forced: whether it is asked for even where it cannot win clearly.
    """
    sides = problem.inputs.avals, problem.outputs.avals
    if not problem.holomorphic and all(any(map(is_complex, avals)) for avals in sides):
        return Impossible("mixed", "complex to complex needs holomorphic=True")
    try:
        if all(isinstance(single, Impossible) for single in singles):
            return _alternating(problem)
        if problem.format == "bcoo" and not forced:
            return Impossible("mixed", 'a product has no zeros to leave out: only mode="mixed" forms it as bcoo')
        return _narrowed(problem, 1.0 if forced else CLEAR_WIN)
    except (_NoCutError, NotImplementedError) as error:
        return Impossible("mixed", str(error))


def blocks(problem: Problem, candidate: Candidate, residuals: Sequence[Any], format: str) -> Blocks:
    """The blocks of J in their format."""
    mixed = candidate.variant
    made, one = _joined(problem, dense_blocks(mixed.root, residuals)), mixed.example

    def placed(o: int, i: int, block: Any) -> Any:
        whole = block if one is problem else _spread(one, o, i, block)
        if format == "dense":
            return whole
        every = np.ones(block.shape, bool)
        index = np.flatnonzero(every if one is problem else _spread(one, o, i, every))
        return bcoo(whole.reshape(-1)[index], index, whole.shape)

    return [[placed(o, i, block) for i, block in enumerate(row)] for o, row in enumerate(made)]


def _joined(problem: Problem, blocks: Blocks) -> Blocks:
    """Blocks of complex arrays from those of their parts, by JAX's conventions."""
    if problem.holomorphic:
        return blocks
    rows = iter(blocks)
    joined = []
    for aval in problem.outputs.avals:
        row = next(rows)
        if is_complex(aval):
            row = list(map(jax.lax.complex, row, next(rows)))
        columns = iter(row)
        pairs = [(next(columns), next(columns) if is_complex(a) else None) for a in problem.inputs.avals]
        joined.append([re if im is None else jax.lax.complex(re, -im) for re, im in pairs])
    return joined


class _NoCutError(Exception):
    """There is no mixed plan; the message says why."""


# Which cuts -------------------------------------------------------------------------------------------------------


def _narrowed(problem: Problem, gain: float) -> Candidate:
    """Cuts where the program is narrow; or where paths around a narrow place keep elements apart.

    A cut wins by no more than the number of passes that it saves; those that win less than `gain` are not looked at.
    """
    example = _per_example(problem)
    weigh = _weigher(example)
    bound = math.ceil(min(_size(example.inputs), _size(example.outputs)) / gain)
    cuts, width = chain(example.program, weigh, bound)
    offers = [_offer(problem, example, *_chained(example, _apart(example, cuts)))] if cuts else []
    _, splits = path_splits(example.structure, weigh, example.inputs.tied, width)
    offers += [_offer(problem, example, node, (z,)) for z in splits[:1] for node in _split(example, z)]
    if not offers:
        places = narrow_places(example.program, weigh, bound // _NARROW)[:1]
        offers += [_offer(problem, example, node, (z,)) for z in places for node in _split(example, z, colours=True)]
    if not offers:
        raise _NoCutError(_too_wide(example))
    return min(offers, key=lambda offer: offer.cost.seconds)


def _size(side: Side) -> int:
    """Real numbers that a pass tells apart."""
    return sum(n * (2 if is_complex(aval) else 1) for n, aval in zip(side.sizes, side.avals, strict=True))


def _alternating(problem: Problem) -> Candidate:
    """Cuts between what forbids forward and what forbids reverse mode."""
    program = problem.program
    active = active_variables(program.linear, program.tangents)
    found = {mode: obstructions(program.linear, active, mode) for mode in _OTHER}
    forbidden = {mode: {id(equation) for equation, _ in found[mode]} for mode in _OTHER}
    if forbidden["fwd"] & forbidden["rev"]:
        words = [f"{o} and {r.why}" for e, o in found["fwd"] for f, r in found["rev"] if e is f]
        raise _NoCutError("; ".join(dict.fromkeys(words)))
    offers, reason = [], ""
    for first in _OTHER:
        cuts = stages(program, forbidden, first)
        modes = [(first, _OTHER[first])[k % 2] for k in range(len(cuts) + 1)]
        try:
            offers += [_offer(problem, problem, *_chained(problem, cuts, modes))] if cuts else []
        except _NoCutError as error:
            reason = str(error)
    if not offers:
        raise _NoCutError(reason)
    return min(offers, key=lambda offer: offer.cost.seconds)


def _too_wide(problem: Problem) -> str:
    n, m = problem.inputs.size, problem.outputs.size
    number, side = (n, "input") if n <= m else (m, "output")
    ends = f"{number:,} {side}{'' if number == 1 else 's'}"
    width, _ = narrowest(problem.program, _weigher(problem), min(_size(problem.inputs), _size(problem.outputs)))
    if width == 0:
        return "no cut is needed: no path leads from its inputs to its outputs"
    if width < number:
        return f"the narrowest cut of the program is {width:,} wide, hardly narrower than its {ends}"
    return f"no cut of the program is narrower than its {ends}"


def _weigher(problem: Problem) -> Callable[[Any], int | None]:
    """How many passes a cut at a variable takes: an element counts once for all examples that keep it apart."""
    structure, batch = problem.structure, problem.batch

    @cache
    def weigh(variable: Any) -> int | None:
        aval = variable.aval
        if not is_inexact(aval):
            return None
        size = math.prod(aval.shape) * (2 if is_complex(aval) and not problem.holomorphic else 1)
        if batch is None:
            return size
        return None if _example_axis(problem, structure.of(variable), aval.shape) is None else size // batch

    return weigh


def _example_axis(problem: Problem, dependence: dict[int, Any], shape: Sequence[int]) -> int | None:
    """The axis along which a variable keeps examples apart."""
    for axis, size in enumerate(shape):
        if size == problem.batch and all(
            _has_line(relation, axis, problem.inputs.tied[j]) for j, relation in dependence.items()
        ):
            return axis
    return None


def _has_line(relation: Any, out: int | None, inp: int | None) -> bool:
    return out is not None and inp is not None and Line(out, inp, 1, 0) in relation


def _per_example(problem: Problem) -> Problem:
    """The problem itself; for a function that keeps examples apart, that of all its examples side by side."""
    if problem.batch is not None:
        return problem
    shapes = [aval.shape for aval in problem.inputs.avals]
    offers: list[tuple[int, Problem]] = []
    for axis, size in enumerate(shapes[0] if shapes else ()):
        tied_in: list[int | None] = [axis] + [None] * (len(shapes) - 1)
        tied_out: list[int | None] = []
        for aval, dependence in zip(problem.outputs.avals, problem.structure.relations, strict=True):
            tied_out.append(_shared_axis(aval.shape, dependence, shapes, tied_in, size))
        if size > 1 and None not in tied_in and None not in tied_out:
            inputs, outputs = Side(problem.inputs.avals, tuple(tied_in)), Side(problem.outputs.avals, tuple(tied_out))
            offers.append((size, replace(problem, inputs=inputs, outputs=outputs, format="dense")))
    return max(offers, key=lambda offer: offer[0])[1] if offers else problem


def _shared_axis(
    shape: Sequence[int], dependence: dict[int, Any], shapes: Sequence[Any], tied_in: list[int | None], size: int
) -> int | None:
    """An output's axis that is tied to the example axes of all inputs; those still unknown are found on the way."""
    for out, n in enumerate(shape):
        if n != size:
            continue
        found = dict(enumerate(tied_in))
        for j, relation in dependence.items():
            axes = range(len(shapes[j])) if found[j] is None else (found[j],)
            found[j] = next((a for a in axes if _has_line(relation, out, a) and shapes[j][a] == size), -1)
        if -1 not in found.values():
            tied_in[:] = [found[j] for j in range(len(tied_in))]
            return out
    return None


def _spread(example: Problem, o: int, i: int, block: Any) -> Any:
    """The blocks of all examples on the diagonal of a dense Jacobian."""
    numpy: Any = np if isinstance(block, np.ndarray) else jnp
    left, right, n = example.outputs, example.inputs, example.batch or 1
    out, inp = left.shapes[o], right.shapes[i]
    mask = np.eye(n, dtype=bool).reshape(n, *(1,) * len(out), n, *(1,) * len(inp))
    whole = numpy.where(mask, block.reshape(n, *out, 1, *inp), numpy.zeros((), block.dtype))
    whole = numpy.moveaxis(whole, 0, left.tied[o] or 0)
    first = len(out) + 1
    return numpy.moveaxis(whole, first, first + (right.tied[i] or 0))


# From cuts to a tree ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Links:
    """A problem's program as a chain: what stands at each cut, and the segments between any two."""

    problem: Problem
    ends: tuple[Cut, ...]
    sides: tuple[Side, ...]

    @classmethod
    def of(cls, problem: Problem, cuts: Sequence[Cut]) -> _Links:
        program = problem.program
        ends = (program.tangents, *cuts, program.linear.outputs)
        between = (_side(problem, cut) for cut in cuts)
        sides = (_real(problem, problem.inputs), *between, _real(problem, problem.outputs))
        return cls(problem, ends, sides)

    def segment(self, first: int, last: int) -> Problem:
        """Segments first, ..., last as one problem."""
        whole = self.problem
        part = whole.program.segment(self.ends[first], self.ends[last + 1])
        return _part(whole, part, self.sides[first], self.sides[last + 1])


def _side(problem: Problem, cut: Cut) -> Side:
    """The arrays that a Jacobian ends at where it ends at a cut."""
    tied: list[int | None] = [None] * len(cut)
    if problem.batch is not None:
        tied = [_example_axis(problem, problem.structure.of(v), v.aval.shape) for v in cut]
        if None in tied:
            raise _NoCutError(f"the cut at {_shape(cut[tied.index(None)])} does not keep examples apart")
    return _real(problem, Side(tuple(v.aval for v in cut), tuple(tied)))


def _real(problem: Problem, side: Side) -> Side:
    """The side with complex arrays in two parts: a map between those need not be C-linear."""
    if problem.holomorphic:
        return side
    pairs = [(part, tied) for aval, tied in zip(side.avals, side.tied, strict=True) for part in real_avals(aval)]
    return Side(tuple(part for part, _ in pairs), tuple(tied for _, tied in pairs))


def _part(problem: Problem, program: Linear, inputs: Side, outputs: Side) -> Problem:
    """The problem of a segment."""
    part = problem.part(program if problem.holomorphic else program.with_real_ends(), inputs, outputs)
    for tied, dependence in zip(outputs.tied, part.structure.relations, strict=True):
        if problem.batch and not all(
            _has_line(relation, tied, inputs.tied[j]) for j, relation in dependence.items()
        ):
            raise _NoCutError("between the narrowest cut and the outputs examples are not kept apart")
    return part


def _chained(
    problem: Problem, cuts: Sequence[Cut], modes: Sequence[str] | None = None
) -> tuple[Node, tuple[Cut, ...]]:
    """The cheapest order for the chain that the cuts make of the program.

    Args:
        problem: the problem.
        cuts: where to cut.
        modes: the mode of each segment, where only one is possible.
    """
    links = _Links.of(problem, cuts)
    estimates = [_Estimate.of(links.segment(k, k), modes[k] if modes else None) for k in range(len(links.ends) - 1)]
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
        raise _NoCutError("; ".join(dict.fromkeys(e.reason for e in estimates if e.reason)) or "no order is possible")
    return _built(links, tree, _spare(problem, links, tree)), tuple(links.ends[k] for k in _met(tree))


@dataclass(frozen=True, eq=False)
class _Estimate:
    """What passes through a segment take, roughly: counted on a single pass.

    Attributes:
        machine: constants of the device.
        work: for each mode that is possible, the work of a pass.
        local: the seconds that the segment's Jacobian takes alone.
        reason: why a mode is impossible.
    """

    machine: Machine
    work: dict[str, PassWork]
    local: dict[str, float]
    reason: str

    @classmethod
    def of(cls, problem: Problem, only: str | None) -> _Estimate:
        program, machine = problem.program, problem.machine
        work: dict[str, PassWork] = {}
        local: dict[str, float] = {}
        reason = ""
        if only != "rev" and all(e.primitive.name != "custom_lin" for e in walk_equations(program.linear.equations)):
            work["fwd"] = pass_work(program.linear, program.tangents, 1, one_hot=False)
        if "fwd" in work and _symmetric(program):
            work["rev"] = work["fwd"]
        elif only != "fwd":
            try:
                pulled = _pulled(program)
                work["rev"] = pass_work(pulled, pulled.inputs[len(program.residuals) :], 1, one_hot=False)
            except Exception as error:
                reason = str(error)
        for mode, each in work.items():
            forward = mode == "fwd"
            found = free(problem, forward=forward)
            if found is not None:  # nothing need be pushed through the first product
                seeds = found.rest.inputs[len(program.residuals) :]
                each = pass_work(found.rest, seeds, 1, one_hot=False)
            local[mode] = machine.time(each.chunk(problem.sides(forward=forward)[0].size))
        return cls(machine, work, local, reason)

    def passes(self, mode: str, number: int) -> float:
        """Seconds for so many passes."""
        return self.machine.time(self.work[mode].chunk(number)) if mode in self.work else math.inf


# A pass back through these takes what a pass forward does.
_SYMMETRIC = frozenset(
    "dot_general mul div neg add sub add_any convert_element_type transpose reshape squeeze expand_dims "
    "broadcast_in_dim reduce_sum rev copy".split()
)


def _symmetric(program: Linear) -> bool:
    return all(e.primitive.name in _SYMMETRIC for e in program.linear.equations)


def _pulled(program: Linear) -> Program:
    """The program that pulls one cotangent back through a linear one."""

    def pull(residuals: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        return pullback(lambda *t: program.push(residuals, t), program.in_avals)(*cotangents)

    pulled, _, _ = program_of(pull, list(program.residual_avals), list(program.out_avals))
    return pulled.pruned()


def _apart(problem: Problem, cuts: Sequence[Cut]) -> list[Cut]:
    """Without cuts between two others that no product or convolution separates: nothing is won by cutting there."""
    if len(cuts) <= 2:
        return list(cuts)

    def thin(first: Cut, last: Cut) -> bool:
        equations = problem.program.segment(first, last).linear.equations
        return all(e.primitive.name not in ("dot_general", "conv_general_dilated") for e in equations)

    kept = [cuts[0]]
    for here, after in itertools.pairwise(cuts[1:]):
        if not (thin(kept[-1], here) and thin(here, after)):
            kept.append(here)
    return [*kept, cuts[-1]]


def _spare(problem: Problem, links: _Links, tree: Tree) -> int:
    """The budget of passes: what the matrices of a tree leave."""
    sizes = [links.sides[i].size * links.sides[j + 1].size * (problem.batch or 1) * 4 for i, j in _spans(tree)]
    return max(0, problem.budget - problem.residual_bytes - problem.jacobian_bytes - sum(sizes))


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


def _built(links: _Links, tree: Tree, budget: int) -> Node:
    """The tree of nodes for an order."""
    problem = links.problem
    match tree:
        case Leaf(first, last, mode):
            ends = links.ends[first], links.ends[last + 1]
            return _single(replace(links.segment(first, last), budget=budget), ends, (mode,))
        case Multiply(inner, outer):
            return Product(problem, _built(links, outer, budget), _built(links, inner, budget))
        case Push(inner, last):
            given, mode, span = _built(links, inner, budget), "fwd", (inner.last + 1, last)
        case Pull(outer, first):
            given, mode, span = _built(links, outer, budget), "rev", (first, outer.first - 1)
    whole = links.segment(tree.first, tree.last)
    segment = replace(links.segment(*span), budget=budget)
    seeded, landed = whole.sides(forward=mode == "fwd")
    counted = _given_passes(segment, seeded.size, mode)
    chunking = choose_chunks(segment, counted, 0)
    shapes = tuple(aval.shape for aval in segment.sides(forward=mode == "fwd")[0].avals)
    group = plain(len(seeded.avals), len(landed.avals))
    seeds = Seeds(seeded, landed, mode == "fwd", chunking.width, counted.vmapped, chunking.looped, group, shapes)
    ends = links.ends[span[0]], links.ends[span[1] + 1]
    return Through(whole, segment, given, seeds, counted, chunking, ends)


def _single(problem: Problem, ends: Ends, modes: Sequence[str] = ("fwd", "rev")) -> Part:
    """A problem solved in a single mode."""
    passes = {mode: _passes_of(problem, mode) for mode in modes}
    offers: list[Candidate | Impossible] = []
    for mode in sorted(modes, key=passes.__getitem__):
        # Of two modes the one with far fewer passes is the faster one.
        if not any(isinstance(o, Candidate) and _FAR * passes[o.mode] < passes[mode] for o in offers):
            offers.append(_MODES[mode].propose(problem))
    possible = [offer for offer in offers if isinstance(offer, Candidate)]
    if not possible:
        raise _NoCutError("; ".join(offer.reason for offer in offers if isinstance(offer, Impossible)))
    return Part(problem, min(possible, key=lambda offer: offer.cost.seconds), ends)


def _coloured(problem: Problem, ends: Ends) -> Part:
    """A problem solved by colours."""
    singles = [_MODES[mode].propose(problem) for mode in ("fwd", "rev")]
    offer = colored.propose(problem, singles, forced=False)
    if isinstance(offer, Impossible):
        raise _NoCutError(offer.reason)
    return Part(problem, offer, ends)


def _passes_of(problem: Problem, mode: str) -> int:
    forward = mode == "fwd"
    seeded, landed = problem.sides(forward=forward)
    return sum(Seeds(seeded, landed, forward, 1, group=g).passes for g in problem.groups(forward=forward))


def _given_passes(problem: Problem, passes: int, mode: str) -> Sweep:
    """Passes through a segment that begin with rows at hand, counted."""
    program, forward = problem.program, mode == "fwd"

    def run(residuals: Sequence[Any], seeds: Sequence[Any]) -> list[Any]:
        if forward:
            return program.push(residuals, seeds)
        return pullback(lambda *t: program.push(residuals, t), program.in_avals)(*seeds)

    avals = problem.sides(forward=forward)[0].avals
    return count_passes(run, program.residual_avals, avals, passes, forward=forward, one_hot=False)


def _split(problem: Problem, z: Cut, *, colours: bool = False) -> list[Node]:
    """The sum over paths around z and paths through it; none where a part of it is impossible.

    With `colours` it is none, too, where the paths around z have no colours that are worth it.
    """
    program = problem.program
    try:
        x, y = program.tangents, program.linear.outputs
        right, middle, left = _real(problem, problem.inputs), _side(problem, z), _real(problem, problem.outputs)
        direct = _part(problem, program.segment(x, y, held=z), right, left)
        inner = _part(problem, program.segment(x, z), right, middle)
        outer = _part(problem, program.segment(z, y), middle, left)
        around = _coloured(direct, (x, y)) if colours else _single(direct, (x, y))
        product = Product(problem, _single(outer, (z, y)), _single(inner, (x, z)))
        return [Sum(problem, around, product)]
    except (_NoCutError, NotImplementedError):  # the latter where a part would begin with zeros under shard_map
        return []


# The candidate ----------------------------------------------------------------------------------------------------


def _offer(problem: Problem, example: Problem, root: Node, cuts: tuple[Cut, ...]) -> Candidate:
    """The candidate that a tree is, with its cost."""
    nodes = list(walk(root))
    matrices = sum(map(matrix_bytes, nodes[:-1]))
    held = problem.jacobian_bytes + problem.residual_bytes + matrices
    if example is not problem:
        held += matrix_bytes(root)
    peak = held + max(node.passing_bytes for node in nodes)
    seeds = tuple(seeds for node in nodes for seeds in node.seeds)
    cost = cost_with(problem, [node.work for node in nodes], sum(node.flops for node in nodes), peak)
    variant = Mixed(root, example, cuts)
    rewrites = tuple(r for node in nodes if isinstance(node, Part) for r in node.candidate.rewrites)
    return Candidate("mixed", seeds, cost, variant, _note(example, root, cuts), n_groups=0, rewrites=rewrites)


def _note(problem: Problem, root: Node, cuts: Sequence[Cut]) -> str:
    """The tree in words, and where the program was cut."""
    places = " and ".join(f"{_side(problem, cut).size:,} wide ({_where(problem, cut)})" for cut in cuts)
    return f"cut where it is {places}: {_words(root, outermost=True)}"


_WORDS = {"fwd": "forward", "rev": "reverse", "colored": "coloured"}


def _words(node: Node, *, outermost: bool = False) -> str:
    match node:
        case Part():
            return f"({_span(node)}: {_WORDS[node.candidate.mode]}, {_passes(node.candidate.passes)})"
        case Product():
            text = f"{_words(node.outer)} x {_words(node.inner)}"
        case Sum():
            text = f"{_words(node.direct)} + {_words(node.product, outermost=True)}"
        case Through():
            word = "pushed on" if node.passes.forward else "pulled back"
            text = f"{_words(node.given)} {word} to {_span(node)} ({_passes(node.passes.passes)})"
    return text if outermost else f"({text})"


def _span(node: Node) -> str:
    return f"{node.right.size:,} -> {node.left.size:,}"


def _passes(number: int) -> str:
    return f"{number:,} pass{'' if number == 1 else 'es'}"


def _where(problem: Problem, cut: Cut) -> str:
    """Where the variables of a cut are made."""
    makers = {v: e for e in problem.program.linear.equations for v in e.outvars}
    places = [source_line(makers[v]) if v in makers else "an input" for v in cut]
    known = [place for place in dict.fromkeys(places) if place != UNKNOWN_LINE]
    return ", ".join(known[:3]) + (", ..." if len(known) > 3 else "") if known else "inside a library"


def _shape(variable: Any) -> str:
    return f"{variable.aval.str_short()}" if is_variable(variable) else str(variable)
