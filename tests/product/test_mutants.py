"""The planted faults: each can still be planted, so that what `make mutants` says is true of the code as it is."""

from __future__ import annotations

import ast

import pytest
from mutants import CAUGHT, MUTANTS, PACKAGE, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_be_planted(mutant: Mutant) -> None:
    planted = mutant.source()
    assert planted != (PACKAGE / mutant.file).read_text()
    ast.parse(planted)


def test_there_are_enough() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 24
    assert len(MUTANTS) - 1 <= CAUGHT
