"""Candidates -> Plan: which mode runs, and why."""

from __future__ import annotations

import html
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import jax

from ._budget import Budget
from ._cost import machine
from ._errors import MemoryBudgetError, ModeError
from ._explain import explain
from ._layout import abstract, as_array, is_arraylike, is_python_number
from ._linear import LinearProgram
from ._plot import draw
from ._seeds import LinearMap, Seeds, Side
from ._strategies import (
    CLEAR_WIN,
    Candidate,
    Impossible,
    Part,
    Problem,
    Values,
    colored,
    filled,
    forward,
    mixed,
    nodes,
    reverse,
)
from ._strategies._free import Free
from ._structure import Structure
from ._tracebacks import entry
from ._words import WORDS, counted, human_bytes

_SWEEPS = {"fwd": forward, "rev": reverse}
# On CPU a forward pass predicted to take this much longer usually does not.
_FORWARD_BONUS = 1.05

# What is so many times slower than the best is not timed.
HOPELESS = 20

MODES = ("auto", "fwd", "rev", "mixed", "colored")


@dataclass(frozen=True)
class Choice:
    """A problem, the candidate that was chosen for it, and what else was looked at."""

    problem: Problem
    chosen: Candidate
    candidates: tuple[Candidate | Impossible, ...]

    @property
    def groups(self) -> tuple[Seeds, ...]:
        """The passes that fill J."""
        return self.chosen.groups

    @property
    def sweeps(self) -> bool:
        """Whether passes fill J directly, rather than matrices that are multiplied."""
        return self.chosen.mode in _SWEEPS

    @property
    def numbers(self) -> frozenset[int]:
        """The operands whose numbers are a part of what runs, as those of NumPy's arrays are where colours are."""
        parts = nodes(self.chosen.variant.root) if self.chosen.mode == "mixed" else ()
        candidates = (self.chosen, *(node.candidate for node in parts if isinstance(node, Part)))
        coloured = any(candidate.mode == "colored" for candidate in candidates)
        return frozenset(self.problem.structure.read) if coloured else frozenset()

    def prepare(self, operands: Sequence[Any], xs: Sequence[Any]) -> tuple[list[Any], list[Any], Any]:
        """y, aux, and what the passes read."""
        program = self.chosen.program or self.problem.program
        assert isinstance(program, LinearProgram), "only a whole program can be evaluated"
        ys, aux, residuals = program.evaluate(operands, xs)
        if not self.sweeps:
            return ys, aux, residuals
        strategy = _SWEEPS[self.chosen.mode]
        return ys, aux, strategy.prepare(self.problem, self.chosen, Values(operands, xs, residuals))

    def blocks(self, held: Any, xs: Sequence[Any], ys: Sequence[Any], format: str) -> list[list[Any]]:
        """blocks[out][in] of J."""
        if not self.sweeps:
            strategy = colored if self.chosen.mode == "colored" else mixed
            return strategy.blocks(self.problem, self.chosen, held, format)
        linear, like = self.linear(held), self.like(held, xs, ys)
        return self.filled([seeds.sweep(linear, like) for seeds in self.groups], format)

    def filled(self, results: Sequence[Sequence[Any]], format: str) -> list[list[Any]]:
        """blocks[out][in] of J from what the passes brought back."""
        return filled(self.problem, self.groups, results, format)

    def like(self, held: Any, xs: Sequence[Any], ys: Sequence[Any]) -> Sequence[Any]:
        """What the seeds are made like; the rows that they are, where passes begin with some."""
        if isinstance(self.chosen.variant, Free):
            return [held[1]]
        return xs if self.groups[0].forward else ys

    def linear(self, held: Any) -> LinearMap:
        """One pass."""
        return _SWEEPS[self.chosen.mode].linear(self.problem, self.chosen, held)


def choose(
    ties: Structure,
    inputs: Side,
    outputs: Side,
    *,
    mode: str,
    prefer_reverse: bool,
    holomorphic: bool,
    chunk_size: int | None,
    budget: Budget,
    platform: str,
    format: str = "dense",
    rewrite: bool = True,
    symmetric: bool = False,
) -> Choice:
    """Let each strategy propose, and take the fastest that is possible.

    Args:
        ties: the traced and linearised function, with its ties.
        inputs: the side of x, with its batch axes.
        outputs: the side of y.
        mode: "auto" or a forced mode.
        prefer_reverse: take reverse where it is possible, whatever it costs.
        holomorphic: complex to complex, C-linear.
        chunk_size: passes at once, where the user says so.
        budget: bytes that may be allocated, by each of the computations that run side by side.
        platform: of the device: "cpu", "gpu" or "tpu".
        format: of J: "dense" or "bcoo".
        rewrite: whether equations may be replaced by faster equals.
        symmetric: whether J is known to be symmetric.

    Raises:
        ModeError: the mode, or every mode, is impossible.
        MemoryBudgetError: J, or an explicit budget less J, cannot hold one pass.
    """
    problem = Problem(
        ties.program,
        ties,
        inputs,
        outputs,
        holomorphic,
        chunk_size,
        budget.limit,
        budget.explicit,
        machine(platform).shared(budget.copies),
        format,
        rewrite,
    )
    if problem.format == "dense" and problem.jacobian_bytes > budget.hard:
        raise MemoryBudgetError(_too_large(problem, budget, problem.jacobian_bytes))
    proposals: list[Candidate | Impossible] = [forward.propose(problem), reverse.propose(problem)]
    singles = tuple(proposals)
    proposals.append(mixed.propose(problem, singles, forced=mode == "mixed"))
    proposals.append(colored.propose(problem, singles, forced=mode == "colored", symmetric=symmetric))
    possible = [p for p in proposals if isinstance(p, Candidate)]
    if mode in WORDS:
        forced = next(p for p in proposals if p.mode == mode)
        if isinstance(forced, Impossible):
            raise ModeError(f"{WORDS[mode]} mode is impossible here: {forced.reason}." + _instead(possible, mode))
        possible = [forced]
    if not possible:
        reasons = "\n".join(f"  {WORDS[p.mode]:8} {p.reason}" for p in proposals if isinstance(p, Impossible))
        raise ModeError(f"no mode can compute this Jacobian.\n{reasons}")
    chosen = _fastest(possible, problem, prefer_reverse=prefer_reverse)
    limit = budget.limit if budget.explicit else budget.hard if problem.format != "dense" else math.inf
    if chosen.cost.peak_bytes > limit:
        raise MemoryBudgetError(_too_large(problem, budget, chosen.cost.peak_bytes))
    return Choice(problem, chosen, tuple(proposals))


def _fastest(possible: Sequence[Candidate], problem: Problem, *, prefer_reverse: bool) -> Candidate:
    within = [c for c in possible if c.cost.peak_bytes <= problem.budget] or [
        min(possible, key=lambda c: c.cost.peak_bytes)
    ]
    favourite = "fwd" if problem.machine.prefers_forward else "rev"

    def handicapped(candidate: Candidate) -> float:
        if prefer_reverse:
            return float(candidate.mode != "rev")
        # Only colours know all zeros, which is what bcoo is for.
        colours = CLEAR_WIN if problem.format == "dense" else 1 / CLEAR_WIN
        factor = {favourite: 1 / _FORWARD_BONUS, "mixed": CLEAR_WIN, "colored": colours}.get(candidate.mode, 1.0)
        return factor * candidate.cost.seconds

    return min(within, key=handicapped)


def _too_large(problem: Problem, budget: Budget, needed: int) -> str:
    def whole(one: float) -> str:
        parts = f" ({counted(n, 'example')} x {human_bytes(one)})" if n > 1 else ""
        return f"{human_bytes(n * one)}{parts}"

    n = budget.copies
    room = n * (budget.limit if budget.explicit else budget.hard)
    limit = f"the budget is {human_bytes(room)}" if budget.explicit else f"{human_bytes(room)} of memory are free"
    fewer = "fewer examples" if n > 1 else "fewer inputs or outputs"
    if problem.jacobian_bytes > budget.hard:
        batch = "" if n > 1 or problem.batch else ", or batch_jacobian for a function of a batch"
        return (
            f"J takes {whole(problem.jacobian_bytes)}; {limit}. Take {fewer} at a time{batch}. For products with J, "
            "which never form it: jax.jvp(f, (x,), (v,))[1] is J v, jax.vjp(f, x)[1](u) is u J, and "
            "jax.linearize(f, x)[1] is a function of v, for many of them."
        )
    enough = human_bytes(1.1 * needed * n).replace(" ", "")
    return (
        f"computing J one pass at a time takes {whole(needed)}, J alone {whole(problem.jacobian_bytes)}; {limit}. "
        f'Raise it, for instance memory_budget="{enough}", or take {fewer} at a time.'
    )


def _instead(possible: Sequence[Candidate], mode: str) -> str:
    others = [c.mode for c in possible if c.mode != mode]
    return f' {WORDS[others[0]].capitalize()} mode works: mode="{others[0]}", or "auto".' if others else ""


# Plans ------------------------------------------------------------------------------------------------------------


class Run(Protocol):
    """Runs a choice on values of the shapes that it was made for."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any: ...

    def of(self, choice: Choice) -> Run:
        """The same for another choice."""
        ...


@dataclass(frozen=True)
class Source:
    """What a plan is made from: `function.plan(*args, **kwargs)`."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def shapes(self) -> tuple[Any, ...]:
        """The same with shapes in place of arrays."""
        args, kwargs = jax.tree.map(_shape, (self.args, self.kwargs))
        return self.function, args, kwargs


def _shape(leaf: Any) -> Any:
    if not is_arraylike(leaf) or is_python_number(leaf):
        return leaf
    aval = abstract(as_array(leaf))
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How a Jacobian is computed: the choice, what it costs, and what else there was.

    Made by `jacobian(f).plan(*args)`. Calling it runs exactly this plan on other values of the same shapes. A *pass* is
    one JVP (a tangent pushed forward) or one VJP (a cotangent pulled back). Where a differentiated argument is shared
    by all examples of a batch (`in_axes=None`), passes are those of an example, and all examples run them side by
    side: flops, bytes and seconds are those of the whole call.

    A copy of a plan is the plan itself. Pickled are the function, the arguments' shapes and the mode; unpickling plans
    anew and takes that mode, so that a tuned choice is kept. That needs a function that can be pickled: one of a
    module, or any with `cloudpickle`.

    Attributes:
        mode: "fwd", "rev", "mixed" or "colored".
        passes: JVPs and VJPs, summed over the parts of f, whatever the chunking.
        flops: predicted arithmetic of all passes, in floating-point operations.
        peak_bytes: predicted high-water mark of what is allocated while J is computed, J included, in bytes;
            arguments and closed-over arrays not counted.
        seconds: of a call, compiled and warm: measured, where `tune` timed it, or else predicted.
        chunk_size: passes run at once.
        structure: what is known of J's structure, and its size.
        candidates: every mode that was looked at: a `Candidate` with its cost, or `Impossible` with the reason.
        measured: seconds that each mode took, where `tune` timed them.
    """

    mode: str
    passes: int
    flops: float
    peak_bytes: int
    chunk_size: int
    structure: str
    candidates: tuple[Candidate | Impossible, ...]
    title: str
    choice: Choice
    _run: Run
    _source: Source
    _examples: int | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """What a call takes: measured, or else predicted."""
        (chosen,) = [c for c in self.candidates if isinstance(c, Candidate) and c.mode == self.mode]
        return self.measured.get(self.mode, chosen.seconds)

    def __repr__(self) -> str:
        return "\n".join(self.explain().splitlines()[:2])

    def __copy__(self) -> Plan:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: Any) -> Plan:
        return self

    def __reduce__(self) -> Any:
        return _planned_anew, (*self._source.shapes(), self.mode, dict(self.measured))

    @entry
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """J at other values of the same shapes and dtypes.

        Raises:
            PlanMismatchError: an argument is not as planned; the message names it.
        """
        return self._run(*args, **kwargs)

    @entry
    def tune(self, /, *args: Any, **kwargs: Any) -> Plan:
        """Time every candidate on this device, and return the plan of the one that was fastest.

        What is predicted to take more than `HOPELESS` times as long as the best, or more memory than the budget, is
        left out.

        Args:
            *args: as for f: arrays of the shapes that were planned.
            **kwargs: as for f.

        Returns:
            A plan, whose `measured` has the seconds.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> x = jnp.ones(20)
            >>> plan = jb.jacobian(lambda x: jnp.tanh(x)[:5]).plan(x).tune(x)
            >>> sorted(plan.measured)
            ['fwd', 'rev']
        """
        choice = self.choice
        possible = [c for c in choice.candidates if isinstance(c, Candidate)]
        limit = HOPELESS * min(c.seconds for c in possible)
        budget = max(choice.problem.budget, choice.chosen.peak_bytes)
        timed = [c for c in possible if c.seconds <= limit and c.peak_bytes <= budget]
        plans = {c.mode: self._of(c) for c in timed}
        measured = _timed({mode: partial(plan, *args, **kwargs) for mode, plan in plans.items()})
        return replace(plans[min(measured, key=measured.__getitem__)], measured=measured)

    def plot(self, ax: Any = None) -> Any:
        """The program as a chain, its widths as thickness, the modes as arrows; needs matplotlib.

        Args:
            ax: matplotlib axes to draw into; by default those of a new figure.

        Returns:
            The axes.
        """
        return draw(self.choice.problem, self.choice.chosen, self.title, ax)

    def explain(self) -> str:
        """The plan in words: the choice, the other modes with their cost or why they are impossible."""
        problem, measured = self.choice.problem, dict(self.measured)
        return explain(self.title, self.structure, problem, self.mode, self.candidates, measured, self._examples)

    def _of(self, candidate: Candidate) -> Plan:
        """The plan of the same call by another candidate."""
        choice = replace(self.choice, chosen=candidate)
        return make_plan(self.title, self.structure, choice, self._run.of(choice), self._source, self._examples)

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.explain())}</pre>"


def make_plan(
    title: str, structure: str, choice: Choice, run: Run, source: Source, examples: int | None = None
) -> Plan:
    """A plan that shows `choice` and runs it.

    Args:
        title: its first line.
        structure: what is known of J's structure.
        choice: for one call of what was traced.
        run: runs it.
        source: what the plan is made from.
        examples: how many of such calls run side by side, where that is what the user asked for.
    """
    number = 1 if examples is None else examples
    chosen, candidates = choice.chosen.times(number), tuple(c.times(number) for c in choice.candidates)
    return Plan(
        chosen.mode, chosen.passes, chosen.flops, chosen.peak_bytes, chosen.chunk_size, structure,
        candidates, title, choice, run, source, examples,
    )  # fmt: skip


def _planned_anew(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str, measured: dict[str, float]
) -> Plan:
    """A plan that was pickled: its mode where that is still possible, with the times that it had."""
    plan = function.plan(*args, **kwargs)
    for candidate in plan.choice.candidates:
        if isinstance(candidate, Candidate) and candidate.mode == mode != plan.mode:
            plan = plan._of(candidate)
    return replace(plan, measured=measured)


def _timed(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each, taking turns; what turns out hopeless runs twice only."""
    times: dict[str, list[float]] = {}
    for mode, run in runs.items():
        _seconds(run)  # compiles
        times[mode] = [_seconds(run)]
    best = min(map(min, times.values()))
    close = [mode for mode, each in times.items() if min(each) <= HOPELESS * best]
    turns = max(3, min(30, int(0.5 / max(best, 1e-9)))) if len(close) > 1 else 0
    for turn in range(turns):
        for mode in close if turn % 2 else close[::-1]:
            times[mode].append(_seconds(runs[mode]))
    return {mode: statistics.median(each) for mode, each in times.items()}


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
