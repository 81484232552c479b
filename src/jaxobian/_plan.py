"""Candidates -> Choice: which mode runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._budget import Budget
from ._cost import Machine, is_elementwise, machine
from ._errors import MemoryBudgetError, ModeError
from ._linear import LinearProgram, subprograms, walk
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
from ._strategies._per_example import PerExample, per_example_gradients
from ._structure import Structure
from ._words import WORDS, counted, human_bytes

_SWEEPS = {"fwd": forward, "rev": reverse}
# Passes are fewer where they are so many times fewer.
_FEWER = 1.2
# Of modes that take as many passes, and times that differ by no more, the favourite is taken.
_EQUAL = 1.05

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
        variant = self.chosen.variant
        if isinstance(variant, PerExample):
            return variant.blocks(filled(variant.problem, self.groups, results))
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
    singles = (forward.propose(problem), reverse.propose(problem))
    pulled = per_example_gradients(problem, *singles, reverse.propose)
    proposals: list[Candidate | Impossible] = [singles[0], pulled]
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
    return _single(singles, problem.machine, _favourite(problem)) if best.mode in singles else best


def _single(singles: dict[str, Candidate], machine: Machine, favourite: str) -> Candidate:
    """Forward or reverse: the model decides where it can, the dimensions where it cannot, else `favourite`."""
    fast, *others = sorted(singles.values(), key=_seconds_of)
    if not others:
        return fast
    (slow,) = others
    if slow.cost.seconds > machine.slowest_alike(fast.cost.seconds):
        return fast
    if slow.passes * _FEWER <= fast.passes:
        return slow
    equal = fast.passes * _FEWER > slow.passes and slow.cost.seconds <= _EQUAL * fast.cost.seconds
    return singles[favourite] if equal else fast


def _favourite(problem: Problem) -> str:
    """The mode that is taken where nothing else decides.

    Reverse brings J's rows back in order, and its first steps wait for fewer residuals. But where nothing is more than
    elementwise, a CPU evaluates the primal's sines anew in every row that it fuses them into.
    """
    # Of a loop, what is in it counts.
    inner = (e for e in walk(problem.program.linear.equations) if not any(True for _ in subprograms(e)))
    return "fwd" if problem.machine.fuses_primal and all(map(is_elementwise, inner)) else "rev"


def _seconds_of(candidate: Candidate) -> float:
    return candidate.cost.seconds


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
