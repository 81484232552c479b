"""Candidates -> Choice: which mode runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ._budget import Budget
from ._cost import Machine, is_elementwise, machine
from ._errors import MemoryBudgetError, ModeError
from ._execute import Execution
from ._linear import subprograms, walk
from ._outputs import Output
from ._seeds import Ends
from ._strategies import (
    CLEAR_WIN,
    Candidate,
    Impossible,
    Problem,
    colored,
    forward,
    mixed,
    per_example_gradients,
    reverse,
)
from ._structure import Structure
from ._words import WORDS, counted, human_bytes

_SINGLE = ("fwd", "rev")
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
    def execution(self) -> Execution:
        """What runs."""
        return self.chosen.execution

    @property
    def known(self) -> frozenset[int]:
        """The operands whose values are a part of what runs, as those of NumPy's arrays are where colors are."""
        used = self.execution.uses_known_values
        return frozenset(self.problem.structure.read) if used else frozenset()


def choose(
    ties: Structure,
    ends: Ends,
    output: Output,
    *,
    mode: str,
    prefer_reverse: bool,
    holomorphic: bool,
    chunk_size: int | None,
    budget: Budget,
    platform: str,
    rewrite: bool = True,
    symmetric: bool = False,
) -> Choice:
    """Let each strategy propose, and take the fastest that is possible.

    Args:
        ties: the traced and linearised function, with its ties.
        ends: both sides of J, with their batch axes.
        output: what is wanted of J.
        mode: "auto" or a forced mode.
        prefer_reverse: take reverse where it is possible, whatever it costs.
        holomorphic: complex to complex, C-linear.
        chunk_size: passes at once, where the user says so.
        budget: bytes that may be allocated, by each of the computations that run side by side.
        platform: of the device: "cpu", "gpu" or "tpu".
        rewrite: whether equations may be replaced by faster equals.
        symmetric: whether J is known to be symmetric.

    Raises:
        ModeError: the mode, or every mode, is impossible.
        MemoryBudgetError: J, or an explicit budget less J, cannot hold one pass.
    """
    problem = Problem(
        ties.program,
        ties,
        ends,
        holomorphic,
        chunk_size,
        budget.limit,
        budget.explicit,
        machine(platform).shared(budget.copies),
        output,
        rewrite,
    )
    if output.has_zeros and problem.jacobian_bytes > budget.hard:
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
    limit = budget.limit if budget.explicit else math.inf if output.has_zeros else budget.hard
    if chosen.cost.peak_bytes > limit:
        raise MemoryBudgetError(_too_large(problem, budget, chosen.cost.peak_bytes))
    return Choice(problem, chosen, tuple(proposals))


def _fastest(possible: Sequence[Candidate], problem: Problem, *, prefer_reverse: bool) -> Candidate:
    """The candidate that is predicted to take least time; of single modes that take about as long, fewer passes."""
    within = [c for c in possible if c.cost.peak_bytes <= problem.budget] or [
        min(possible, key=lambda c: c.cost.peak_bytes)
    ]
    singles = {c.mode: c for c in within if c.mode in _SINGLE}
    if prefer_reverse and "rev" in singles:
        return singles["rev"]

    def handicapped(candidate: Candidate) -> float:
        # Only colours know all zeros, which is what bcoo is for.
        colours = CLEAR_WIN if problem.output.has_zeros else 1 / CLEAR_WIN
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
