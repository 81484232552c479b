"""A release of jaxlib that miscompiles is named, once, and what we compile is kept from its fault."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import jaxobian as jb
from jaxobian import _compiler
from jaxobian.testing._scenario import normal

pytestmark = pytest.mark.contracts

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_release_is_excluded_wherever_it_is_named() -> None:
    (dependencies,) = re.findall(r"^dependencies = .*$", PYPROJECT.read_text(), re.MULTILINE)
    for release in _compiler._WRONG:
        for package in ("jax", "jaxlib"):
            assert re.search(rf'"{package}>=[0-9.]+,!={re.escape(release)}"', dependencies)


def test_the_first_call_on_such_a_release_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
    _compiler._warn.cache_clear()
    with pytest.warns(RuntimeWarning, match=r'miscompiles reductions on CPU.*"jaxlib!=0.10.2"') as caught:
        _compiler.warn_of(jax.devices("cpu")[0])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _compiler.warn_of(jax.devices("cpu")[0])
    _compiler._warn.cache_clear()


def test_its_fault_is_turned_off_on_the_platform_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlib, "__version__", "0.10.2")
    assert _compiler.compiler_options("cpu") == {"xla_cpu_experimental_ynn_fusion_type": ""}
    assert _compiler.compiler_options("gpu") is None
    monkeypatch.setattr(jaxlib, "__version__", "0.10.1")
    assert _compiler.compiler_options("cpu") is None


@pytest.mark.parametrize("rows", [40, 97, 130])
def test_normalized_rows_are_as_in_eager_jax(rows: int) -> None:
    w = normal(rows * 3, 7) / rows

    def f(x: jax.Array) -> jax.Array:
        y = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        return jnp.tanh(y.reshape(-1) @ w)

    x = normal(rows, 3, seed=1)
    true = jax.jacrev(f)(x)  # operation by operation
    for mode in ("auto", "rev", "fwd"):
        np.testing.assert_allclose(jb.jacobian(f, mode=mode)(x), true, atol=1e-5)
    g = jax.vmap(lambda c: c[:2] * jnp.sum(c**2))
    true = jax.vmap(jax.jacrev(lambda c: c[:2] * jnp.sum(c**2)))(x)
    np.testing.assert_allclose(jb.batch_jacobian(g)(x), true, rtol=1e-5)
