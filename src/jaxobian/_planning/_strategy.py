"""A strategy is a value: its mode, what it proposes, and by how much it has to win."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import colored, forward, mixed, network, per_example, reverse
from ._problem import Candidate, Impossible, Problem, Proposals
from ._sweeps import CLEAR_WIN

_SLIGHT_WIN = 1.1


def _none(problem: Problem) -> float:
    return 1.0


def _clearly(problem: Problem) -> float:
    return CLEAR_WIN


def _slightly(problem: Problem) -> float:
    # Where a network is predicted to take as long as something else, it does.
    return _SLIGHT_WIN


def _colors(problem: Problem) -> float:
    # Only colors know all zeros, which is what a sparse format is for; a pattern of the user's is what is returned.
    if problem.request.sparsity is not None and not problem.output.has_zeros:
        return 0.0
    return CLEAR_WIN if problem.output.has_zeros else 1 / CLEAR_WIN


def _always(problem: Problem) -> bool:
    return True


@dataclass(frozen=True)
class Strategy:
    """A way to compute J, or something of it.

    Attributes:
        mode: as `Candidate.mode` has it. Of several strategies of one mode, the last one's proposal counts.
        propose: the problem, what strategies asked before proposed -> a candidate, or why there is none.
        handicap: times its predicted seconds, by which it is compared with others.
        answers: whether it is for what is asked.
    """

    mode: str
    propose: Callable[[Problem, Proposals], Candidate | Impossible]
    handicap: Callable[[Problem], float] = _none
    answers: Callable[[Problem], bool] = _always


# In the order in which they are asked: each sees what those before it propose.
STRATEGIES = (
    Strategy("fwd", forward.propose),
    Strategy("rev", reverse.propose),
    Strategy("mixed", mixed.propose, _clearly),
    Strategy("colored", colored.propose, _colors),
    Strategy("rev", per_example.propose),
    Strategy("mixed", mixed.determinant, _clearly, mixed.answers),
    Strategy("network", network.propose, _slightly, network.answers),
)
