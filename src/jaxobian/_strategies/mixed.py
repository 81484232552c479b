"""Modes in turn or side by side."""

from __future__ import annotations

from . import Built, Candidate, Impossible, Problem


def propose(problem: Problem) -> Candidate | Impossible:
    return Impossible("mixed", "to come")


def build(problem: Problem, candidate: Candidate) -> Built:
    raise AssertionError
