"""Something of J as a tensor network, where its factors are at hand: what is wanted of J closes it.

    trace of W3 D2 W2 D1 W1        sum over h1, h2 of D2[h2] (W2 o (W1 W3)^T)[h2, h1] D1[h1]
    rows of U (x) a                |U (x) a|^2 = |U|^2 |a|^2,   (U (x) a) (V (x) b) = (U . V) (a . b)

A linear program of products, sums and reshapes is such a product by itself. Where it is more, passes go on from where
x has met something else, a weight its activations: their Jacobian is one factor more. opt_einsum orders the products.

Sources: Smith and Gray, opt_einsum (JOSS 3(26), 753, 2018); Goodfellow, Efficient per-example gradient computations
(arXiv:1510.01799), for norms of outer products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._analysis import has_line
from ..._arrays import is_complex, is_concrete, varying_axes
from ..._cost import Work
from ..._execute import Residuals, Stage
from ..._outputs import OUTPUTS, Output, Quantity, Results, Rows
from ..._trace import UNKNOWN_LINE, Ends, Linear, Program, Side, is_variable, source_line
from ..._words import counted, pass_count
from .. import forward, reverse
from .._problem import Candidate, Impossible, Problem, Proposals
from .._sweeps import cost_with
from ._closed import CLOSINGS, Closed, NotClosedError, closed
from ._contraction import Contraction, Made
from ._loops import before_loops
from ._terms import Source, Term
from ._tracked import Tracked, joined_to, tracked, with_broadcasts, with_residuals_once

# Contractions more of which are not looked at: each is ordered, and compiled.
_MOST = 256
# Of more, an order is taken that is found quickly.
_MANY = 32


@dataclass(frozen=True, eq=False)
class Passed:
    """Stands for the block of an output and a variable, which passes bring back."""

    out: int
    variable: int


@dataclass(frozen=True, eq=False)
class Suffix:
    """The Jacobian of y by the variables that x has met something else in, by passes.

    Attributes:
        problem: of the segment, examples side by side where it keeps them apart.
        candidate: how it is solved.
        frontier: the variables.
        sources: for each output and variable what stands for their block.
    """

    problem: Problem
    candidate: Candidate
    frontier: tuple[Any, ...]
    sources: tuple[tuple[Source, ...], ...]


@dataclass(frozen=True, eq=False)
class Networked:
    """What is wanted of J, as contractions of residuals and of what passes bring back.

    Attributes:
        program: whose primal program is evaluated.
        ends: both sides of J.
        parts: the contractions of each part of the result.
        suffix: the passes; None where there are none.
    """

    program: Linear
    ends: Ends
    parts: Closed
    suffix: Suffix | None
    used_numbers: frozenset[int] = frozenset()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The passes of the suffix, whose Jacobian is dense."""
        if self.suffix is None:
            return ()
        dense, stages = OUTPUTS["dense"], self.suffix.candidate.execution.stages
        return tuple(replace(s, reduction=lambda _, s=s: s.reduction(dense)) for s in stages)

    def residuals(
        self, operands: Sequence[Any], xs: Sequence[Any], ys: Sequence[Any], residuals: Sequence[Any]
    ) -> Residuals:
        """Residuals."""
        return Residuals(residuals)

    def wanted(self, results: Sequence[Results], output: Output, read: Sequence[Any] = ()) -> Rows:
        """Contractions multiplied out, and put where the quantity has them."""
        assert isinstance(output, Quantity)
        value = self._reader(results, output, read)
        found, made = {}, Made()
        for key, contractions in self.parts.items():
            first, *others = [contraction.value(value, made) for contraction in contractions]
            found[key] = sum(others, start=first)
        return output.of_parts(self.ends, found)

    def _reader(self, results: Sequence[Results], output: Any, read: Sequence[Any]) -> Callable[[Source], Any]:
        """What each factor is, made once."""
        sources = [source for some in self.parts.values() for one in some for source, _ in one.operands]
        every = (atom for source in sources for atom in source.atoms if is_variable(atom))
        every = dict.fromkeys(atom for atom in every if not isinstance(atom, Passed))
        atoms = list(every)
        linear = self.program.linear
        evaluated = Program(self.program.residuals, tuple(atoms), linear.equations).pruned()
        values: dict[Any, Any] = dict(zip(map(id, atoms), map(_kept, evaluated(*read)), strict=True))
        if self.suffix is not None:
            blocks = self.suffix.candidate.execution.wanted(results, OUTPUTS["dense"], read)
            pairs = zip(self.suffix.sources, blocks, strict=True)
            values.update((id(s.atom), b) for ss, bs in pairs for s, b in zip(ss, bs, strict=True))
        made: dict[Any, Any] = {}

        def value(source: Source) -> Any:
            if source.key not in made:
                made[source.key] = _sum(source, value) if source.parts else _made(source, values, output)
            return made[source.key]

        return value

    def added(self, results: Sequence[Results], others: Rows) -> Rows:
        """It is no Jacobian."""
        raise NotImplementedError("something of J is not added to J")

    def in_place(self, output: Output) -> bool:
        """Results are multiplied."""
        return False


def _kept(array: Any) -> Any:
    """An array, of which XLA does not know that it is constant: it would multiply it out as it compiles, in seconds."""
    return jax.lax.optimization_barrier(array) if is_concrete(array) and np.ndim(array) > 1 else array


def _sum(source: Source, value: Callable[[Source], Any]) -> Any:
    """Products of arrays like the source, added."""
    total: Any = 0.0
    for scale, sources in source.parts:
        total = total + math.prod(map(value, sources), start=scale)
    return jnp.broadcast_to(total, source.shape)


def _made(source: Source, values: dict[Any, Any], output: Any) -> Any:
    if isinstance(source.kind, tuple) and source.kind[0] == "weight":
        return output.weights[source.kind[1]]
    if source.atom is None:
        array = None
    elif id(source.atom) in values:
        array = values[id(source.atom)]
    else:
        array = jnp.asarray(source.atom.val)
    return array if source.change is None else source.change(array)


def answers(problem: Problem) -> bool:
    """Whether a network is for what is asked: J itself is what it would be multiplied out to."""
    return type(problem.output) in CLOSINGS


def propose(problem: Problem, earlier: Proposals) -> Candidate | Impossible:
    """The best network, or why there is none.

    Args:
        problem: what is asked for.
        earlier: what forward and reverse propose for it.
    """
    avals = (*problem.inputs.avals, *problem.outputs.avals)
    if not problem.request.rewrite:
        return Impossible("network", "rewrite=False is asked for")
    if any(is_complex(a) or varying_axes(a) or a.dtype.itemsize < 4 for a in avals):
        return Impossible("network", "it is for real arrays of single or double precision")
    if not problem.inputs.size or not problem.outputs.size:
        return Impossible("network", "J is empty")
    offers: list[Candidate] = []
    problem = with_broadcasts(before_loops(with_residuals_once(problem)))
    reason = "f is no product of arrays that are at hand"
    for first in (False, True):
        try:
            offer = _offer(problem, tracked(problem, first=first))
        except NotClosedError:
            offer = None
        except _NoNetworkError as error:
            reason, offer = str(error), None
        if offer is not None:
            offers.append(offer)
    fitting = [offer for offer in offers if offer.cost.peak_bytes <= problem.budget] or offers
    return min(fitting, key=lambda offer: offer.cost.seconds) if fitting else Impossible("network", reason)


class _NoNetworkError(Exception):
    """There is no network; the message says why."""


def _offer(problem: Problem, known: Tracked) -> Candidate | None:
    """The candidate that contracts what is known, and what passes bring back from there."""
    if known.frontier and set(known.frontier) <= set(problem.program.tangents):
        raise _NoNetworkError("passes would begin at x: J would be formed")
    suffix = _suffix(problem, known) if known.frontier else None
    fewest = min(problem.passes(forward=True), problem.passes(forward=False))
    if suffix is not None and suffix.candidate.passes > fewest:
        raise _NoNetworkError(f"it would take {pass_count(suffix.candidate.passes)} to where x meets something else")
    jacobian = _jacobian(problem, known, suffix)
    assert isinstance(problem.output, Quantity)
    parts = closed(problem.output, jacobian, problem.ends, known.letters)
    every = [one for some in parts.values() for one in some]
    if len(every) > _MOST:
        raise _NoNetworkError(f"a network would have {len(every)} products of factors")
    if len(every) > _MANY:
        parts = {key: [replace(one, quickly=True) for one in some] for key, some in parts.items()}
    parts = {key: [_best(one, problem) for one in some] for key, some in parts.items()}
    every = [one for some in parts.values() for one in some]
    if not any(one.operands for one in every):
        return None  # nothing is multiplied
    return _candidate(problem, parts, every, suffix)


def _best(one: Contraction, problem: Problem) -> Contraction:
    """With half of it made once, where that takes less time."""
    halved = one.in_halves()
    time = problem.machine.time
    return halved if halved is not None and time(halved.work) < time(one.work) else one


def _suffix(problem: Problem, known: Tracked) -> Suffix:
    """The passes from the frontier on."""
    if problem.batch is not None and not all(_axis_of_examples(problem, v) is not None for v in known.frontier):
        raise _NoNetworkError("examples are mixed where passes would begin")
    linear, frontier = problem.program.linear, known.frontier
    segment = problem.program.segment(frontier, linear.outputs)
    if problem.batch is not None:
        axes = tuple(_axis_of_examples(problem, v) for v in frontier)
        part = problem.part(segment, Ends(Side(tuple(v.aval for v in frontier), axes), problem.outputs))
    else:
        side = Side(tuple(v.aval for v in frontier), (None,) * len(frontier))
        part = _side_by_side(problem.part(segment, Ends(side, problem.outputs)))
    passes = min(part.passes(forward=True), part.passes(forward=False))
    offers = [mode.propose(part) for mode in (reverse, forward)]
    possible = [offer for offer in offers if isinstance(offer, Candidate)]
    if not possible or not passes:
        raise _NoNetworkError("passes cannot go on from where x meets something else")
    lead = part.ends.lead
    sources = tuple(
        tuple(
            Source(Passed(o, z), (*lead, *y, *x), max(4, part.inputs.avals[z].dtype.itemsize), None, "passes")
            for z, x in enumerate(part.inputs.shapes)
        )
        for o, y in enumerate(part.outputs.shapes)
    )
    return Suffix(part, min(possible, key=lambda offer: offer.cost.seconds), frontier, sources)


def _axis_of_examples(problem: Problem, v: Any) -> int | None:
    relations = problem.structure.of(v)
    for axis, size in enumerate(v.aval.shape):
        if size == problem.batch and all(
            has_line(relation, axis, problem.inputs.batch_axes[j]) for j, relation in relations.items()
        ):
            return axis
    return None


def _side_by_side(part: Problem) -> Problem:
    """A segment that keeps examples apart, as that of all examples side by side; else as it is."""
    outputs = part.outputs.avals
    for out, size in enumerate(outputs[0].shape if len(outputs) == 1 else ()):
        axes: list[int | None] = []
        for j, z in enumerate(part.inputs.avals):
            relation = part.structure.relations[0].get(j)
            found = (a for a, n in enumerate(z.shape) if n == size and relation and has_line(relation, out, a))
            axes.append(next(found, None))
        if size > 1 and None not in axes:
            return replace(part, ends=Ends(Side(part.inputs.avals, tuple(axes)), Side(outputs, (out,))))
    return part


def _jacobian(problem: Problem, known: Tracked, suffix: Suffix | None) -> list[list[list[Term]]]:
    """J as terms."""
    inputs = range(len(problem.inputs.avals))
    if suffix is None:
        outputs = problem.program.linear.outputs
        of = [known.terms.get(v, {}) if is_variable(v) else {} for v in outputs]
        return [[of_output.get(i, []) for i in inputs] for of_output in of]
    part, letters = suffix.problem, known.letters
    made: list[list[list[Term]]] = []
    for o, y in enumerate(part.outputs.avals):
        row: list[list[Term]] = [[] for _ in inputs]
        for z, v in enumerate(suffix.frontier):
            if z not in part.structure.relations[o]:
                continue
            axes = part.outputs.batch_axes[o], part.inputs.batch_axes[z]
            for i, terms in known.terms[v].items():
                row[i] += [joined_to(t, suffix.sources[o][z], tuple(y.shape), axes, letters) for t in terms]
        made.append(row)
    return made


def _candidate(problem: Problem, parts: Closed, every: Sequence[Contraction], suffix: Suffix | None) -> Candidate:
    """The network with its cost."""
    work, shared = _work(every)
    sources = {source.key: source for one in every for source, _ in one.operands}
    in_dots = {key for one in every for key in one.in_dots}
    changed = [
        # Sums are fused with what reads them, unless that is a product of matrices.
        source
        for key, source in sources.items()
        if source.change is not None or (source.parts and key in in_dots)
    ]
    work += Work(bytes=2.0 * sum(source.nbytes for source in changed))
    held = problem.output_bytes + problem.residual_bytes + sum(source.nbytes for source in changed)
    peak = held + shared + max((one.peak for one in every), default=0)
    flops, rewrites = work.flops, ()
    if suffix is not None:
        cost = suffix.candidate.cost
        work, flops, rewrites = work + cost.work, flops + cost.flops, suffix.candidate.rewrites
        peak += cost.peak_bytes
    cost = cost_with(problem, [work], flops, math.ceil(peak))
    execution = Networked(problem.program, problem.ends, parts, suffix)
    return Candidate("network", execution, cost, _note(problem, every, suffix), rewrites)


def _work(every: Sequence[Contraction]) -> tuple[Work, int]:
    """What contractions take, and the bytes that are kept because several read them."""
    work, shared, numbers, made = Work(), dict[int, int](), dict[Hashable, int](), dict[int, int]()
    for which, one in enumerate(every):
        for number, step in zip(one.numbered(numbers)[len(one.operands) :], one.steps, strict=True):
            if number not in made:
                work += one.work_of(step)
                made[number] = which
            elif made[number] != which:
                shared[number] = one.nbytes_of(step)
    return work, sum(shared.values())


def _note(problem: Problem, every: Sequence[Contraction], suffix: Suffix | None) -> str:
    """The network in words."""
    most = max(every, key=lambda one: len(one.operands))
    arrays = counted(len({source.key for source, _ in most.operands}), "array")
    words = f"network of {arrays}" if len(every) == 1 else f"{counted(len(every), 'network')} of up to {arrays}"
    if suffix is None:
        return f"{words}: no pass is made"
    makers = {v: e for e in problem.program.linear.equations for v in e.outvars}
    places = dict.fromkeys(source_line(makers[v]) for v in suffix.frontier if v in makers)
    lines = [place for place in places if place != UNKNOWN_LINE]
    where = ", ".join(lines[:3]) + (", ..." if len(lines) > 3 else "") if lines else "where x meets something else"
    return f"{words}: passes go back to {where}; beyond that J stays a product"
