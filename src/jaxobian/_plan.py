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
from ._cost import Machine, machine
from ._errors import MemoryBudgetError, ModeError, human_bytes
from ._explain import WORDS, explain
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

_SWEEPS = {"fwd": forward, "rev": reverse}
# Passes are fewer where they are so many times fewer.
_FEWER = 1.2
# Of modes that take as many passes, and times that differ by no more, the machine's favourite is taken.
_EQUAL = 1.05

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
    """The candidate that is predicted to take least time; of single modes that take about as long, fewer passes."""
    within = [c for c in possible if c.cost.peak_bytes <= problem.budget] or [
        min(possible, key=lambda c: c.cost.peak_bytes)
    ]
    singles = {c.mode: c for c in within if c.mode in _SWEEPS}
    if prefer_reverse and "rev" in singles:
        return singles["rev"]

    def handicapped(candidate: Candidate) -> float:
        # Only colours know all zeros, which is what bcoo is for.
        colours = CLEAR_WIN if problem.format == "dense" else 1 / CLEAR_WIN
        factor = {"mixed": CLEAR_WIN, "colored": colours}.get(candidate.mode, 1.0)
        return factor * candidate.cost.seconds

    best = min(within, key=handicapped)
    return _single(singles, problem.machine) if best.mode in singles else best


def _single(singles: dict[str, Candidate], machine: Machine) -> Candidate:
    """Forward or reverse: the model decides where it can, the dimensions where it cannot."""
    fast, *others = sorted(singles.values(), key=_seconds_of)
    if not others:
        return fast
    (slow,) = others
    if slow.cost.seconds > machine.slowest_alike(fast.cost.seconds):
        return fast
    if slow.passes * _FEWER <= fast.passes:
        return slow
    equal = fast.passes * _FEWER > slow.passes and slow.cost.seconds <= _EQUAL * fast.cost.seconds
    return singles["fwd" if machine.prefers_forward else "rev"] if equal else fast


def _seconds_of(candidate: Candidate) -> float:
    return candidate.cost.seconds


def _too_large(problem: Problem, budget: Budget, needed: int) -> str:
    size, n = human_bytes(problem.jacobian_bytes), budget.copies
    limit = (
        f"the memory budget of {human_bytes(budget.limit * n)}"
        if budget.explicit
        else f"all free memory ({human_bytes(budget.hard * n)})"
    )
    if n > 1:
        limit += f" has for each of {n} examples side by side"
    if problem.jacobian_bytes > budget.hard:
        batch = "take fewer examples" if n > 1 else "take the Jacobian of a batched function with batch_jacobian"
        return (
            f"J alone takes {size}, more than {limit}. Differentiate fewer inputs or outputs at a time, {batch}, or "
            "use products with J (jax.jvp, jax.vjp) instead."
        )
    enough = human_bytes(1.1 * needed * n).replace(" ", "")
    return (
        f"J takes {size} and computing it one pass at a time {human_bytes(needed)} altogether, more than {limit}. "
        f'Raise the budget, for instance memory_budget="{enough}"{", or take fewer examples" if n > 1 else ""}.'
    )


def _instead(possible: Sequence[Candidate], mode: str) -> str:
    others = [WORDS[c.mode] for c in possible if c.mode != mode]
    return f' {others[0].capitalize()} mode works: leave mode="auto".' if others else ""


# Plans ------------------------------------------------------------------------------------------------------------


class Run(Protocol):
    """Runs a choice on values of the shapes that it was made for."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def of(self, choice: Choice) -> Run:
        """The same for another choice."""
        ...


@dataclass(frozen=True, eq=False)
class Plan:
    """How a Jacobian is computed: the choice, what it costs, and what else there was.

    Made by `jacobian(f).plan(*args)`. Calling it runs exactly this plan on other values of the same shapes.

    Attributes:
        mode: "fwd", "rev", "mixed" or "colored".
        passes: (co)tangents pushed or pulled, summed over segments, whatever the chunking.
        flops: predicted arithmetic of all passes, in floating-point operations.
        peak_bytes: predicted high-water mark of what is allocated while J is computed, J included, in bytes;
            arguments and closed-over arrays not counted.
        chunk_size: passes run at once.
        structure: what is known of J's structure.
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
    choice: Choice = field(repr=False)
    _run: Run = field(repr=False)
    measured: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """J at other values of the same shapes and dtypes.

        Raises:
            PlanMismatchError: an argument is not as planned; the message names it.
        """
        return self._run(*args, **kwargs)

    def tune(self, *args: Any, **kwargs: Any) -> Plan:
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
        limit = HOPELESS * min(c.cost.seconds for c in choice.candidates if isinstance(c, Candidate))
        budget = max(choice.problem.budget, choice.chosen.cost.peak_bytes)
        choices = [
            replace(choice, chosen=c)
            for c in choice.candidates
            if isinstance(c, Candidate) and c.cost.seconds <= limit and c.cost.peak_bytes <= budget
        ]
        plans = {c.chosen.mode: make_plan(self.title, self.structure, c, self._run.of(c)) for c in choices}
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
        choice = self.choice
        return explain(
            self.title, self.structure, choice.problem, choice.chosen, choice.candidates, dict(self.measured)
        )

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.explain())}</pre>"


def make_plan(title: str, structure: str, choice: Choice, run: Run) -> Plan:
    """A plan that shows `choice` and runs it."""
    chosen = choice.chosen
    return Plan(
        chosen.mode, chosen.passes, chosen.cost.flops, chosen.cost.peak_bytes, chosen.chunk_size, structure,
        choice.candidates, title, choice, run,
    )  # fmt: skip


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
