"""Mixed mode: the program is cut where it is narrow, and each part runs in the mode that suits it.

    J = (dy/dz) (dz/dx)                            where every path goes through z
    J = dy/dx with z held + (dy/dz) (dz/dx)        where paths around z keep elements apart

If z has fewer elements than x and than y, the first factor takes a forward pass for each of them and the second a
reverse pass. Where no single mode can compute J, the cuts lie between equations that want forward mode and others that
want reverse.

Source: Griewank and Walther, Evaluating Derivatives (2nd edition, 2008), chapters 9 and 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import jax
import numpy as np

from ..._analysis import Cut, chain, narrow_places, narrowest, path_splits, stages
from ..._arrays import describe, is_complex, is_inexact
from ..._cost import Work
from ..._execute import Blocks, Residuals, Stage
from ..._outputs import OUTPUTS, DenseBlock, Output, Results, Rows
from ..._trace import UNKNOWN_LINE, Linear, Side, active_variables, obstructions, source_line
from ..._words import WORDS, counted, listed, pass_count
from .._problem import Candidate, Impossible, Problem, Proposals
from .._sweeps import CLEAR_WIN, cost_with
from ._assembled import Assembled, assembled
from ._examples import example_axis, per_example, spread
from ._nodes import Node, Part, Product, Sum, Through, dense_blocks, matrix_bytes, walk
from ._order import chained, split, without_thin_segments
from ._segments import NoBottleneckError, NoCutError, side_at

_OTHER = {"fwd": "rev", "rev": "fwd"}
# A place that paths lead around is looked at where it is so many times narrower than a cut may be.
_NARROW = 4


@dataclass(frozen=True, eq=False)
class Factored:
    """J as a tree of local Jacobians, and where the program was cut.

    Attributes:
        problem: the question.
        root: of the tree.
        example: the problem that the tree solves: the question itself, with other equations perhaps, or where it is
            asked for the dense Jacobian of a function that keeps examples apart, that of an example.
        cuts: the variables that Jacobians meet at.
    """

    problem: Problem
    root: Node
    example: Problem
    cuts: tuple[Cut, ...]

    @property
    def program(self) -> Linear:
        """The question's."""
        return self.problem.program

    @property
    def used_numbers(self) -> frozenset[int]:
        """Those of all its parts."""
        return frozenset[int]().union(*(node.used_numbers for node in walk(self.root)))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Those of all nodes, children first."""
        return tuple(stage for _, stages in self._nodes for stage in stages)

    @cached_property
    def _nodes(self) -> tuple[tuple[Node, tuple[Stage, ...]], ...]:
        return tuple((node, node.stages(self._made)) for node in walk(self.root))

    def _made(self, results: Sequence[Results]) -> dict[Node, Sequence[Results]]:
        """What each node brought back so far."""
        found, first = {}, 0
        for node, own in self._nodes:
            found[node] = results[first : first + len(own)]
            first += len(own)
        return found

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """Residuals."""
        return Residuals(residuals)

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """As the output makes it of the tree multiplied out."""
        dense, one = _joined(self.problem, dense_blocks(self.root, self._made(results))), self.example
        alone = one.batch == self.problem.batch
        blocks = [
            [DenseBlock(block) if alone else _Diagonal(one, o, i, block) for i, block in enumerate(row)]
            for o, row in enumerate(dense)
        ]
        return output.of_blocks(self.problem.ends, blocks)

    def added(self, results: Sequence[Results], others: Blocks) -> Blocks:
        """A tree is no part of another."""
        raise NotImplementedError("a product is not added to anything")

    def in_place(self, output: Output) -> bool:
        """Results are multiplied."""
        return False


@dataclass(frozen=True)
class _Diagonal:
    """The blocks of all examples, on the diagonal of one that is asked for as a whole."""

    example: Problem
    out: int
    inp: int
    block: Any
    has_known_zeros: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return jax.eval_shape(self.dense).shape

    def dense(self) -> Any:
        return spread(self.example, self.out, self.inp, self.block)

    def entries(self) -> tuple[Any, np.ndarray]:
        index = np.flatnonzero(spread(self.example, self.out, self.inp, np.ones(self.block.shape, bool)))
        return self.dense().reshape(-1)[index], index


def propose(problem: Problem, earlier: Proposals) -> Candidate | Impossible:
    """The best order of more than one part, or why there is none.

    Args:
        problem: the problem.
        earlier: what forward and reverse propose for it.
    """
    forced, singles = problem.wants("mixed"), (earlier["fwd"], earlier["rev"])
    sides = problem.inputs.avals, problem.outputs.avals
    if not problem.request.holomorphic and all(any(map(is_complex, avals)) for avals in sides):
        return Impossible("mixed", "complex to complex needs holomorphic=True")
    try:
        if all(isinstance(single, Impossible) for single in singles):
            return _alternating(problem)
        if not problem.output.has_zeros and not forced:
            why = f'skipped for format="{problem.request.format}": its product is dense (mode="mixed" forces it)'
            return Impossible("mixed", why)
        return _narrowed(problem, 1.0 if forced else CLEAR_WIN)
    except NoBottleneckError as error:
        return Impossible("mixed", str(error), told=False)
    except (NoCutError, NotImplementedError) as error:
        return Impossible("mixed", str(error))


def _joined(problem: Problem, blocks: Blocks) -> Blocks:
    """Blocks of complex arrays from those of their parts, by JAX's conventions."""
    if problem.request.holomorphic:
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


# Which cuts -------------------------------------------------------------------------------------------------------


def _narrowed(problem: Problem, gain: float) -> Candidate:
    """Cuts where the program is narrow; or where paths around a narrow place keep elements apart.

    A cut wins by no more than the number of passes that it saves; those that win less than `gain` are not looked at.
    """
    example = per_example(_formed(problem))
    weigh = weigher(example)
    bound = math.ceil(min(_size(example.inputs), _size(example.outputs)) / gain)
    cuts, width = chain(example.program, weigh, bound)
    offers = [_offer(problem, example, *chained(example, without_thin_segments(example, cuts)))] if cuts else []
    fewest = min(example.passes(forward=True), example.passes(forward=False))
    together = assembled(example, int(fewest / gain))
    offers += [] if together is None else [_offer(problem, together.problem, together, together.part.span)]
    _, splits = path_splits(example.structure, weigh, example.inputs.batch_axes, width)
    offers += [_offer(problem, example, node, (z,)) for z in splits[:1] for node in split(example, z)]
    if not offers:
        places = narrow_places(example.program, weigh, bound // _NARROW)[:1]
        offers += [_offer(problem, example, node, (z,)) for z in places for node in split(example, z, colors=True)]
    if not offers:
        raise _too_wide(example, problem)
    return min(offers, key=lambda offer: offer.cost.seconds)


def _formed(problem: Problem) -> Problem:
    """The question, J itself where something of it is wanted: that is made of it."""
    return problem if problem.output.whole else replace(problem, output=OUTPUTS["dense"])


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
        words = [str(o) for mode in _OTHER for e, o in found[mode] if id(e) in forbidden[_OTHER[mode]]]
        raise NoCutError(f"one operation allows neither mode: {'; '.join(dict.fromkeys(words))}")
    offers, reason = [], ""
    for first in _OTHER:
        cuts = stages(program, forbidden, first)
        modes = [(first, _OTHER[first])[k % 2] for k in range(len(cuts) + 1)]
        try:
            formed = _formed(problem)
            offers += [_offer(problem, formed, *chained(formed, cuts, modes))] if cuts else []
        except NoCutError as error:
            reason = str(error)
    if not offers:
        raise NoCutError(reason)
    return min(offers, key=lambda offer: offer.cost.seconds)


def _too_wide(example: Problem, problem: Problem) -> NoCutError:
    """Why no cut wins, in the user's sizes."""
    n, m = example.inputs.size, example.outputs.size
    number, side, what = (n, problem.inputs, "input") if n <= m else (m, problem.outputs, "output")
    ends = f"its {counted(number, what)}"
    if example.batch is not None:
        ends += f" per example ({listed([describe(aval) for aval in side.avals])})"
    width, _ = narrowest(example.program, weigher(example), min(_size(example.inputs), _size(example.outputs)))
    if width == 0:
        return NoCutError("J is zero: no path leads from its inputs to its outputs")
    if width < number:
        return NoCutError(f"the narrowest cut of the program is {width:,} wide, hardly narrower than {ends}")
    return NoBottleneckError(f"f has no bottleneck narrower than {ends}")


def weigher(problem: Problem) -> Callable[[Any], int | None]:
    """How many passes a cut at a variable takes: an element counts once for all examples that keep it apart."""
    structure, batch = problem.structure, problem.batch

    @cache
    def weigh(variable: Any) -> int | None:
        aval = variable.aval
        if not is_inexact(aval):
            return None
        size = math.prod(aval.shape) * (2 if is_complex(aval) and not problem.request.holomorphic else 1)
        if batch is None:
            return size
        return None if example_axis(problem, structure.of(variable), aval.shape) is None else size // batch

    return weigh


# The candidate ----------------------------------------------------------------------------------------------------


def _offer(problem: Problem, example: Problem, root: Node, cuts: tuple[Cut, ...]) -> Candidate:
    """The candidate that a tree is, with its cost."""
    nodes = list(walk(root))
    matrices = sum(map(matrix_bytes, nodes[:-1]))
    held = problem.output_bytes + problem.residual_bytes + matrices
    if example.batch != problem.batch or not problem.output.whole:
        held += matrix_bytes(root)
    held += 0 if problem.output.whole else problem.jacobian_bytes
    peak = held + max(node.passing_bytes for node in nodes)
    # Something of J is made of all of it.
    made = Work() if problem.output.whole else problem.output.work(problem.ends, 0) + Work(bytes=problem.jacobian_bytes)
    cost = cost_with(problem, [*(node.work for node in nodes), made], sum(node.flops for node in nodes), peak)
    execution = Factored(problem, root, example, cuts)
    rewrites = tuple(r for node in nodes if isinstance(node, Part) for r in node.candidate.rewrites)
    return Candidate("mixed", execution, cost, _note(example, root, cuts), rewrites)


def _note(problem: Problem, root: Node, cuts: Sequence[Cut]) -> str:
    """The tree in words, and where the program was cut."""
    if isinstance(root, Assembled):
        solved, elements = root.part.candidate, counted(root.elements, "element")
        how = f"{WORDS[solved.mode]}, {pass_count(solved.passes)}"
        return f"assembled from Jacobians of {elements} ({where(problem, (*cuts[0], *cuts[1]))}): {how}"
    places = " and ".join(f"{side_at(problem, cut).size:,} wide ({where(problem, cut)})" for cut in cuts)
    return f"cut where it is {places}: {_words(root, outermost=True)}"


def _words(node: Node, *, outermost: bool = False) -> str:
    match node:
        case Part():
            return f"({_span(node)}: {WORDS[node.candidate.mode]}, {pass_count(node.candidate.passes)})"
        case Product():
            text = f"{_words(node.outer)} x {_words(node.inner)}"
        case Sum():
            text = f"{_words(node.direct)} + {_words(node.product, outermost=True)}"
        case Through():
            word = "pushed forward" if node.passes.forward else "pulled back"
            text = f"{_words(node.given)} {word} to {_span(node)} ({pass_count(node.passes.passes)})"
        case _:
            raise TypeError(f"no words for {type(node).__name__}")
    return text if outermost else f"({text})"


def _span(node: Node) -> str:
    return f"{node.right.size:,} -> {node.left.size:,}"


def where(problem: Problem, cut: Cut) -> str:
    """Where the variables of a cut are made."""
    makers = {v: e for e in problem.program.linear.equations for v in e.outvars}
    places = [source_line(makers[v]) if v in makers else "an input" for v in cut]
    known = [place for place in dict.fromkeys(places) if place != UNKNOWN_LINE]
    return ", ".join(known[:3]) + (", ..." if len(known) > 3 else "") if known else "inside a library"
