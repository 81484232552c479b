"""Candidates -> Choice: which mode runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._analysis import Structure
from .._budget import Budget, budget
from .._cost import Machine, is_elementwise, machine
from .._errors import MemoryBudgetError, ModeError
from .._execute import Execution
from .._outputs import Slogdet
from .._request import Request
from .._trace import Ends, subprograms, walk
from .._words import counted, human_bytes, pass_count, word
from ._problem import Candidate, Impossible, Problem
from ._strategy import STRATEGIES, Strategy

_SINGLE = ("fwd", "rev")
# Passes are fewer where they are so many times fewer.
_FEWER = 1.2
# Of modes that take as many passes, and times that differ by no more, the favorite is taken.
_EQUAL = 1.05
# A single mode is passed over that takes so many times the passes of the other.
_HOPELESS = 4
# Where those are so few that nothing else saves any: colors, beside forward mode; copies of what examples share, beside
# reverse.
_FEW_ENOUGH = {"fwd": 16, "rev": 4}

_WAYS_OUT = (
    "What would let one of them: lax.scan, or a fori_loop with constant bounds, in place of a while_loop (reverse); "
    "custom_jvp in place of custom_vjp (forward); Jacobians of parts of f, multiplied."
)

_Found = Mapping[str, Candidate | Impossible]


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
        return self.execution.used_numbers

    def explained(self) -> Choice:
        """The same, with what was passed over counted, too: nothing that runs needs that, but who reads a plan does."""
        found = _all_counted(self.problem, {candidate.mode: candidate for candidate in self.candidates})
        self.problem.traces.clear()
        return replace(self, candidates=tuple(found.values()))


def choose(ties: Structure, ends: Ends, request: Request, device: Any) -> Choice:
    """Let each strategy propose, and take the fastest that is possible.

    Args:
        ties: the traced and linearized function, with its ties.
        ends: both sides of J, with their batch axes.
        request: what is asked of J.
        device: that it is computed on.

    Raises:
        ModeError: the mode, or every mode, is impossible.
        MemoryBudgetError: J, or an explicit budget less J, cannot hold one pass.
    """
    room = budget(request.memory_budget, device).shared(request.copies)
    speeds = machine(device.platform).shared(request.copies)
    problem = Problem(ties.program, ties, ends, request, request.output, room.limit, speeds)
    if problem.output.has_zeros and problem.output_bytes > room.hard:
        raise MemoryBudgetError(_too_large(problem, room, problem.output_bytes))
    found: dict[str, Candidate | Impossible] = {}
    for strategy in _in_order(problem):
        found[strategy.mode] = _passed_over(problem, strategy.mode, found) or strategy.propose(problem, found)
    found = {strategy.mode: found[strategy.mode] for strategy in _asked(problem)}  # as plans list them
    possible = [p for p in found.values() if isinstance(p, Candidate)]
    if request.mode != "auto":
        forced = found[request.mode]
        if isinstance(forced, Impossible):
            possible = [p for p in _all_counted(problem, found).values() if isinstance(p, Candidate)]
            raise ModeError(
                f"{word(forced.mode)} mode is impossible here: {forced.reason}." + _instead(possible, forced.mode)
            )
        possible = [forced]
    if not possible:
        reasons = "\n".join(f"  {word(p.mode):8} {p.reason}" for p in found.values() if isinstance(p, Impossible))
        raise ModeError(f"no mode can compute this Jacobian.\n{reasons}\n{_WAYS_OUT}")
    chosen = _fastest(possible, problem)
    # A J that fits is tried, for a predicted peak is an upper bound; one that is factored is held for a small answer.
    tried = problem.output.has_zeros and not isinstance(problem.output, Slogdet)
    limit = room.limit if room.explicit else math.inf if tried else room.hard
    if chosen.cost.peak_bytes > limit:
        raise MemoryBudgetError(_too_large(problem, room, chosen.cost.peak_bytes))
    problem.traces.clear()  # a plan is kept; what it was made by need not be
    return Choice(problem, chosen, tuple(found.values()))


def _asked(problem: Problem) -> list[Strategy]:
    """The strategies for what is asked."""
    return [strategy for strategy in STRATEGIES if strategy.answers(problem)]


def _in_order(problem: Problem) -> Sequence[Strategy]:
    """The strategies, of forward and reverse that one first which may make the other needless."""
    forward, reverse, *others = _asked(problem)
    fewer = problem.passes(forward=True) <= problem.passes(forward=False)
    return (forward, reverse, *others) if fewer and not problem.request.prefer_reverse else (reverse, forward, *others)


def _passed_over(problem: Problem, mode: str, found: _Found) -> Impossible | None:
    """A mode that need not be looked at: another one is asked for, or sure to be taken."""
    wanted, other = problem.request.mode, "rev" if mode == "fwd" else "fwd"
    if wanted != "auto":
        # What is neither looks at what both forward and reverse propose.
        needed = mode == wanted or (mode in _SINGLE and wanted not in _SINGLE)
        return None if needed else Impossible(mode, f'mode="{wanted}" is asked for', passed_over=True)
    if problem.request.prefer_reverse:
        taken = mode != "rev" and _fits(found["rev"], problem)
        return Impossible(mode, "reverse is preferred", passed_over=True) if taken else None
    if mode not in _SINGLE or not problem.output.has_zeros or not _fits(found.get(other), problem):
        return None
    many, few = problem.passes(forward=mode == "fwd"), problem.passes(forward=mode != "fwd")
    # What loops and rules of the user's own take in one direction says nothing of the other.
    flat = not any(True for e in problem.program.linear.equations for _ in subprograms(e))
    if not flat or not 0 < few < _FEW_ENOUGH[mode] or many < _HOPELESS * few:
        return None
    return Impossible(mode, f"it takes {pass_count(many)}, {word(other)} {few}", passed_over=True)


def _fits(one: Candidate | Impossible | None, problem: Problem) -> bool:
    return isinstance(one, Candidate) and one.cost.peak_bytes <= problem.budget


def _all_counted(problem: Problem, found: _Found) -> dict[str, Candidate | Impossible]:
    """What every strategy proposes, those too that were passed over."""
    every = dict(found)
    for strategy in _asked(problem):
        one = found[strategy.mode]
        if isinstance(one, Impossible) and one.passed_over:
            every[strategy.mode] = strategy.propose(problem, every)
    return every


def _fastest(possible: Sequence[Candidate], problem: Problem) -> Candidate:
    """The candidate that is predicted to take least time; of single modes that take about as long, fewer passes."""
    within = [c for c in possible if c.cost.peak_bytes <= problem.budget] or [
        min(possible, key=lambda c: c.cost.peak_bytes)
    ]
    singles = {c.mode: c for c in within if c.mode in _SINGLE}
    if problem.request.prefer_reverse and "rev" in singles:
        return singles["rev"]

    handicaps = {strategy.mode: strategy.handicap(problem) for strategy in _asked(problem)}
    best = min(within, key=lambda candidate: handicaps[candidate.mode] * candidate.cost.seconds)
    return _single(singles, problem.machine, _favorite(problem)) if best.mode in singles else best


def _single(singles: dict[str, Candidate], machine: Machine, favorite: str) -> Candidate:
    """Forward or reverse: the model decides where it can, the dimensions where it cannot, else `favorite`."""
    fast, *others = sorted(singles.values(), key=_seconds_of)
    if not others:
        return fast
    (slow,) = others
    if slow.cost.seconds > machine.slowest_alike(fast.cost.seconds):
        return fast
    if slow.passes * _FEWER <= fast.passes:
        return slow
    equal = fast.passes * _FEWER > slow.passes and slow.cost.seconds <= _EQUAL * fast.cost.seconds
    return singles[favorite] if equal else fast


def _favorite(problem: Problem) -> str:
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
    whose = "J" if problem.output.whole else f"the {problem.output.name.replace('_', ' ')} of J"
    if problem.output_bytes > budget.hard:
        batch = "" if n > 1 or problem.batch else ", or batch_jacobian for a function of a batch"
        return f"{whose} takes {whole(problem.output_bytes)}; {limit}. Take {fewer} at a time{batch}." + _unformed(
            problem
        )
    enough = human_bytes(1.1 * needed * n).replace(" ", "")
    return (
        f"computing {whose} one pass at a time takes {whole(needed)}, of which {whole(problem.output_bytes)} are the "
        f"result; {limit}. "
        f'Raise it, for instance memory_budget="{enough}", or take {fewer} at a time.'
    )


def _unformed(problem: Problem) -> str:
    """What else there is of a J that is too large."""
    if not problem.output.whole:
        return ""
    sparse = ' Where most of J is zero, format="bcoo" holds the rest alone.' if problem.output.has_zeros else ""
    return (
        f"{sparse} What never forms J, made by J = jacobian(f): J.at(x) is an operator, with J.at(x).mv(v) for J v and "
        "J.at(x).rmv(u) for u J; J.diagonal, J.trace, J.squared_norms and J.gram are functions of x."
    )


def _instead(possible: Sequence[Candidate], mode: str) -> str:
    others = [c.mode for c in possible if c.mode != mode]
    return f' {word(others[0]).capitalize()} mode works: mode="{others[0]}", or "auto".' if others else ""
