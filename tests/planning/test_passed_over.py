"""Modes that are not counted for a call: they are sure to lose, or not asked for. Who reads a plan sees them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from oracles import assert_same

import jaxobian as jb
from jaxobian._call import Traced
from jaxobian._planning import Choice

WIDE, TALL = jnp.ones((3, 100)) / 50, jnp.ones((100, 3)) / 50


def chosen(jacobian: Any, *args: Any) -> Choice:
    """What a call chooses."""
    traced = Traced.of(jacobian._f, jacobian._options, args, {})
    return traced.choose(jacobian._options, traced.device, traced.values)


def passed_over(choice: Choice) -> set[str]:
    return {c.mode for c in choice.candidates if isinstance(c, jb.Impossible) and c.passed_over}


def steps(x: Any) -> Any:
    return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y), x)


CASES: dict[str, tuple[Callable[..., Any], int, set[str]]] = {
    "few outputs": (lambda x: jnp.tanh(WIDE @ jnp.sin(x)), 100, {"fwd"}),
    "few inputs": (lambda x: jnp.tanh(TALL @ jnp.sin(x)), 3, {"rev"}),
    "as many": (lambda x: jnp.tanh(WIDE[:, :8] @ jnp.sin(x)), 8, set()),
    "a loop": (lambda x: WIDE @ steps(x), 100, set()),
    "no pass at all": (lambda x: jnp.zeros(3) + 0 * jax.lax.stop_gradient(x).sum(), 100, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_sure_to_lose_is_counted_for_plans_alone(name: str) -> None:
    f, n, expected = CASES[name]
    x = jnp.linspace(-1.0, 1.0, n)
    choice, plan = chosen(jb.jacobian(f), x), jb.jacobian(f).plan(x)
    assert passed_over(choice) == expected
    assert choice.chosen.mode == plan.mode
    assert not any(isinstance(c, jb.Impossible) and c.passed_over for c in plan.candidates)
    assert_same(jb.jacobian(f)(x), jax.jacrev(f)(x))


@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_a_mode_that_is_asked_for_is_counted_alone(mode: Any) -> None:
    f, n, _ = CASES["few outputs"]
    x = jnp.linspace(-1.0, 1.0, n)
    assert passed_over(chosen(jb.jacobian(f, mode=mode), x)) == {"fwd", "rev", "mixed", "colored"} - {mode}
    assert len(jb.jacobian(f, mode=mode).plan(x).candidates) == 4


def test_what_would_work_is_named_where_the_mode_that_is_asked_for_does_not() -> None:
    f = lambda x: jax.lax.while_loop(lambda y: y[0] < 5, lambda y: 2 * y, x)
    with pytest.raises(jb.ModeError, match='Forward mode works: mode="fwd"'):
        jb.jacobian(f, mode="rev")(jnp.ones(3))
