"""What is chosen for each scenario is what choices.txt says. Where a change is meant: `make choices`, and review it."""

from __future__ import annotations

from typing import Any

import jax
import pytest
from choices import committed, line

from jaxobian.testing import Scenario, scenarios

pytestmark = pytest.mark.contracts

VERSION, LINES = committed()
other = jax.__version__ != VERSION


def case(number: int, scenario: Scenario) -> Any:
    """One in six is looked at where no slow test is run."""
    return pytest.param(scenario, id=scenario.name, marks=pytest.mark.slow if number % 6 else ())


def test_every_scenario_has_its_line() -> None:
    assert list(LINES) == [scenario.name for scenario in scenarios()]


@pytest.mark.skipif(other, reason=f"choices.txt is of JAX {VERSION}, whose programs are others")
@pytest.mark.parametrize("scenario", [*map(case, range(len(scenarios())), scenarios())])
def test_choices_are_as_committed(scenario: Scenario) -> None:
    assert line(scenario) == LINES[scenario.name]
