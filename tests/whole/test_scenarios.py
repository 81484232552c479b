"""Every scenario, in every mode and several chunk sizes, against JAX; composition; and the list itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxobian as jb
from jaxobian._request import Mode
from jaxobian.testing import Scenario, scenarios

MODES = ("auto", "fwd", "rev", "mixed")
NAMED = {s.name: s for s in scenarios()}
ORDINARY = [s for s in NAMED.values() if "large" not in s.tags]
# In forward mode, hundreds of passes through convolutions of whole batches: many seconds each.
TOO_SLOW = {
    (name, "fwd") for name in ("lenet5_batch64", "lenet5_avg_tanh_batch64", "conv32_batch32", "lenet5_dense_batch3")
}

# Those that must be cut.
CUT = {name for name in NAMED if "autoencoder" in name or "bottleneck" in name} | {"helmholtz", "layer_norm"}

by_name = pytest.mark.parametrize("scenario", ORDINARY, ids=str)

# J's dtype is the same in every mode, which jax.jacfwd's and jax.jacrev's is not: it has a test of its own.
assert_same = functools.partial(oracles.assert_same, rtol=2e-5, dtypes=False)


@functools.lru_cache(maxsize=2)  # tests come scenario by scenario
def made(scenario: Scenario) -> tuple[Any, tuple[Any, ...], Any]:
    f, args = scenario.make()
    return f, args, jax.device_get(scenario.expected())


def transform(scenario: Scenario, f: Any, **options: Any) -> Any:
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    return verb(f, scenario.argnums, holomorphic=scenario.holomorphic, **options)


def size_rule(f: Any, args: tuple[Any, ...], scenario: Scenario) -> str:
    """What the sizes alone suggest."""
    n = sum(x.size for x in jax.tree.leaves([args[i] for i in scenario.differentiated]))
    m = sum(y.size for y in jax.tree.leaves(jax.eval_shape(f, *args)))
    return "fwd" if n <= m else "rev"


# Right ------------------------------------------------------------------------------------------------------


def cases() -> Iterator[Any]:
    """All passes at once, one at a time, or a number of them that seldom divides them all; each mode once quickly."""
    for number, s in enumerate(ORDINARY):
        small = "bench" not in s.tags
        some = (None, 3) if number % 2 else (3, None)
        one = (1,) if number % 3 == 0 else ()
        fwd, rev, mixed = ((some[0], *one), (some[1], *one), one or (3,)) if small else ((7,), (7,), (7,))
        chunks = {"auto": (None,), "fwd": fwd, "rev": rev, "mixed": mixed}
        for mode in MODES:
            if (s.name, mode) not in TOO_SLOW:
                for k, chunk in enumerate(chunks[mode]):
                    marks = pytest.mark.slow if k else ()
                    yield pytest.param(s, mode, chunk, id=f"{s.name}-{mode}-{chunk}", marks=marks)


@pytest.mark.parametrize(("scenario", "mode", "chunk_size"), list(cases()))
def test_equals_jax(scenario: Scenario, mode: Mode, chunk_size: int | None) -> None:
    f, args, expected = made(scenario)
    compute = transform(scenario, f, mode=mode, chunk_size=chunk_size)
    if mode == "mixed" and not (scenario.name in CUT or scenario.modes == ()):
        try:
            assert_same(compute(*args), expected)
        except jb.ModeError as error:  # nothing is narrow, or examples are not kept apart there
            if not any(word in str(error) for word in ("bottleneck", "cut", "J is zero")):
                raise
    elif mode == "mixed":
        assert_same(compute(*args), expected)
    elif mode != "auto" and mode not in scenario.modes:
        with pytest.raises(jb.ModeError):
            compute(*args)
    else:
        assert_same(compute(*args), expected)


@by_name
def test_dtypes_do_not_depend_on_the_mode(scenario: Scenario) -> None:
    f, args = scenario.make()
    xs = [args[i] for i in scenario.differentiated]
    x = xs[0] if isinstance(scenario.argnums, int) else tuple(xs)
    dtype = jax.dtypes.result_type if hasattr(jax.dtypes, "result_type") else jnp.result_type
    expected = jax.tree.map(
        lambda y: jax.tree.map(lambda x: jnp.promote_types(y.dtype, dtype(x)), x), jax.eval_shape(f, *args)
    )
    for mode in scenario.modes or ("auto",):
        J = jax.eval_shape(transform(scenario, f, mode=mode), *args)
        assert jax.tree.map(lambda block: block.dtype, J) == expected


@pytest.mark.parametrize("name", ["sin_roll_3000"])
def test_large_ones_on_random_directions(name: str) -> None:
    f, (x,) = NAMED[name].make()
    J = jb.jacobian(f)(x)
    v = jnp.asarray(np.random.default_rng(0).standard_normal(x.shape), x.dtype)
    assert_same(J @ v, jax.jvp(f, (x,), (v,))[1], rtol=1e-4)
    assert_same(v @ J, jax.vjp(f, x)[1](v)[0], rtol=1e-4)


@pytest.mark.parametrize("scenario", scenarios(tag="size_rule_wrong"), ids=str)
def test_auto_sees_more_than_sizes(scenario: Scenario) -> None:
    f, args = scenario.make()
    assert jb.jacobian(f).plan(*args).mode != size_rule(f, args, scenario)


# Composes ---------------------------------------------------------------------------------------------------

COMPOSED = [
    NAMED[name]
    for name in (
        "scalar_to_vector",
        "pytrees",
        "broadcasting",
        "gather",
        "scatter",
        "cond",
        "fori_loop",
        "scan_with_inputs_and_outputs",
        "nested_jit",
        "remat",
        "custom_jvp",
        "linear_solve_matrix",
        "cholesky",
        "conv1d",
        "complex_inside",
    )
]
composed = pytest.mark.parametrize("scenario", COMPOSED, ids=str)
# Compositions take seconds each: one mode for each scenario, in turns.
in_turns = pytest.mark.parametrize(
    ("scenario", "mode"), [(s, ("fwd", "rev")[k % 2]) for k, s in enumerate(COMPOSED)], ids=str
)


@composed
def test_in_jit(scenario: Scenario) -> None:
    f, args, expected = made(scenario)
    assert_same(jax.jit(transform(scenario, f, chunk_size=3))(*args), expected)


@in_turns
def test_in_vmap(scenario: Scenario, mode: Mode) -> None:
    f, (x,), _ = made(scenario)
    xs = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf, 1.1 * leaf]), x)
    assert_same(jax.vmap(transform(scenario, f, mode=mode))(xs), jax.vmap(jax.jacrev(f))(xs), rtol=1e-4)


@in_turns
def test_of_itself(scenario: Scenario, mode: Mode) -> None:
    f, (x,), _ = made(scenario)
    assert_same(jb.jacobian(jb.jacobian(f, mode=mode))(x), jax.jacfwd(jax.jacrev(f))(x), rtol=1e-4)


@in_turns
def test_grad_through(scenario: Scenario, mode: Mode) -> None:
    f, (x,), _ = made(scenario)

    def norm(jacobian: Any) -> Any:
        return lambda x: sum(jnp.sum(jnp.sin(block)) for block in jax.tree.leaves(jacobian(x)))

    assert_same(jax.grad(norm(jb.jacobian(f, mode=mode)))(x), jax.grad(norm(jax.jacrev(f)))(x), rtol=1e-4)


@composed
def test_in_scan(scenario: Scenario) -> None:
    f, (x,), expected = made(scenario)
    _, stacked = jax.lax.scan(lambda carry, _: (carry, jb.jacobian(f)(carry)), x, None, length=2)
    assert_same(jax.tree.map(lambda block: block[1], stacked), expected)


@pytest.mark.parametrize("name", ["dense_5_10_2_batch", "mlp_batch64"])
def test_batches_in_jit(name: str) -> None:
    f, args, expected = made(NAMED[name])
    assert_same(jax.jit(transform(NAMED[name], f))(*args), expected)


# The list ---------------------------------------------------------------------------------------------------


def test_scenarios_are_told_apart_and_documented() -> None:
    names = [s.name for s in scenarios()]
    assert len(set(names)) == len(names) >= 100
    assert all(s.doc.endswith((".", ":")) and s.name.isidentifier() for s in scenarios())


def test_at_least_six_where_sizes_mislead() -> None:
    misleading = scenarios(tag="size_rule_wrong")
    assert len(misleading) >= 6
    for scenario in misleading:
        f, args = scenario.make()
        assert size_rule(f, args, scenario) in scenario.modes == ("fwd", "rev")


@pytest.mark.parametrize("scenario", [s for s in ORDINARY if len(s.modes) < 2], ids=str)
def test_declared_modes_are_what_jax_can_do(scenario: Scenario) -> None:
    f, args = scenario.make()
    for mode in {"fwd", "rev"} - set(scenario.modes):
        with pytest.raises((TypeError, ValueError)):
            jax.eval_shape(scenario.by_jax(f, mode), *args)


@by_name
def test_make_is_deterministic(scenario: Scenario) -> None:
    (_, args), (_, again) = scenario.make(), scenario.make()
    for a, b in zip(jax.tree.leaves(args), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(_data(a), _data(b))


def _data(x: Any) -> np.ndarray:
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)
