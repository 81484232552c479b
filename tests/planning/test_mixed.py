"""Mixed mode: values, plans, and when it is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from oracles import assert_same, impossible

import jaxobian as jb
from jaxobian.testing._scenario import mlp, normal

HOURGLASS = mlp(40, 20, 4, 20, 40)
WIDE = mlp(256, 128, 12, 128, 256)
X = normal(40)


BLOCKS = [mlp(40, 3, 40, seed=k) for k in (1, 5, 9)]
ENCODE, DECODE, SMALL, CODE = mlp(40, 12, 3), mlp(5, 20, 40), mlp(8, 2, 8), mlp(40, 5)
INTO, OUT_OF = mlp(40, 3), mlp(3, 40)


def residual(x: Array) -> Array:
    for block in BLOCKS:
        x = x + block(x)
    return x


def two_inputs(x: Array, a: Array) -> dict[str, Array]:
    z = jnp.concatenate([ENCODE(x), jnp.tanh(a)])
    return {"wide": DECODE(z), "code": z**2}


CUT: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "hourglass": (HOURGLASS, (X,)),
    "narrow twice": (mlp(40, 20, 4, 20, 6, 20, 40), (X,)),
    "skip": (lambda x: HOURGLASS(x) + 0.5 * x, (X,)),
    "gate": (lambda x: HOURGLASS(x) * jnp.tanh(x), (X,)),
    "flipped skip": (lambda x: HOURGLASS(x) + jnp.sin(x[::-1]), (X,)),
    "residual bottlenecks": (residual, (X,)),
    "softmax": (jax.nn.softmax, (X,)),
    "two outputs, one of them the code": (two_inputs, (X, normal(2, seed=3))),
    "matrices": (lambda x: SMALL(x.T.reshape(-1)[:8]).reshape(2, 4), (normal(4, 5),)),
    "the code is an output": (lambda x: (HOURGLASS(x), CODE(x)), (X,)),
    "a constant output": (lambda x: (HOURGLASS(x), jnp.ones(3)), (X,)),
    "a constant number": (lambda x: (HOURGLASS(x), jnp.float32(3)), (X,)),
    "a scan through the bottleneck": (
        lambda x: OUT_OF(jax.lax.scan(lambda c, w: (jnp.tanh(c * w), None), INTO(x), jnp.arange(3.0))[0]),
        (X,),
    ),
    "integers on the way": (lambda x: HOURGLASS(x)[jnp.argsort(x)], (X,)),
    "rematerialized": (jax.checkpoint(HOURGLASS), (X,)),
}


def argnums(args: tuple[Any, ...]) -> Any:
    return 0 if len(args) == 1 else tuple(range(len(args)))


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("name", CUT)
def test_equals_jacrev(name: str, chunk_size: int | None) -> None:
    f, args = CUT[name]
    J = jb.jacobian(f, argnums(args), mode="mixed", chunk_size=chunk_size)
    if name == "rematerialized":  # a block that is recomputed as a whole is not cut
        with pytest.raises(jb.ModeError, match="no bottleneck"):
            J(*args)
        return
    assert_same(J(*args), jax.jacrev(f, argnums(args))(*args))


@pytest.mark.parametrize("name", [name for name in CUT if name != "rematerialized"])
def test_equals_jacrev_in_double_precision(name: str) -> None:
    f, args = CUT[name]
    with jax.enable_x64(True):
        wide = tuple(x.astype(jnp.float64) for x in args)
        J = jb.jacobian(f, argnums(wide), mode="mixed")(*wide)
        assert_same(J, jax.jacrev(f, argnums(wide))(*wide), 1e-12)


def test_complex_numbers_in_the_bottleneck() -> None:
    to, back = normal(40, 3) + 1j * normal(40, 3, seed=1), normal(3, 40, seed=2) - 1j * normal(3, 40, seed=3)
    f = lambda x: jnp.real(jnp.exp(0.1j * jnp.abs(x @ to) ** 2) * (x @ to) @ back)
    J = jb.jacobian(f, mode="mixed")
    assert_same(J(X), jax.jacrev(f)(X))
    outwards = lambda x: jnp.exp(0.1j * (x @ to) ** 2) @ back
    assert_same(jb.jacobian(outwards, mode="mixed")(X), jax.jacfwd(outwards)(X))
    inwards = lambda z: jnp.abs(jnp.tanh(0.1 * z @ to)) @ jnp.abs(back)
    beside = lambda x: outwards(x) + (2 - 1j) * x[::-1]
    assert_same(jb.jacobian(beside, mode="mixed")(X), jax.jacfwd(beside)(X))
    z = X + 0.3j
    around = lambda z: inwards(z) + jnp.real((2 - 1j) * z)
    assert_same(jb.jacobian(around, mode="mixed")(z), jax.jacrev(around)(z))
    assert_same(jb.jacobian(inwards, mode="mixed")(z), jax.jacrev(inwards)(z))
    through = lambda z: jnp.tanh(0.1 * z @ to) @ back
    assert_same(jb.jacobian(through, mode="mixed", holomorphic=True)(z), jax.jacrev(through, holomorphic=True)(z), 1e-4)
    with pytest.raises(ValueError, match="holomorphic"):
        jb.jacobian(through, mode="mixed")(z)


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
def test_half_precision_in_the_bottleneck(narrow: Any) -> None:
    encode, decode = mlp(40, 4), mlp(4, 40)
    f = lambda x: decode(encode(x).astype(narrow).astype(jnp.float32))
    assert_same(jb.jacobian(f, mode="mixed")(X), jax.jacrev(f)(X), 2e-2)


# Batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0, 0), (1, 1), (0, 1)])
def test_a_batch_is_cut_per_example(axes: tuple[int, int]) -> None:
    batch = normal(6, 256)
    into, out = axes
    f = lambda x: jnp.moveaxis(WIDE(jnp.moveaxis(x, into, 0)), 0, out)
    x = jnp.moveaxis(batch, 0, into)
    J = jb.batch_jacobian(f, in_axes=into, out_axes=out, mode="mixed")
    assert_same(J(x), jax.vmap(jax.jacrev(WIDE))(batch))
    assert J.plan(x).passes == 24  # twelve for the decoder, twelve for the encoder, whatever the batch


def test_the_dense_jacobian_of_a_batch_is_cut_per_example() -> None:
    J, batch = jb.jacobian(WIDE, mode="mixed"), normal(4, 256)
    assert_same(J(batch), jax.jacrev(WIDE)(batch))
    assert J.plan(batch).passes == 24
    turned, batch = lambda x: HOURGLASS(x.T).T, normal(6, 40)
    assert_same(jb.jacobian(turned, mode="mixed")(batch.T), jax.jacrev(turned)(batch.T))


def test_several_arrays_keep_examples_apart() -> None:
    f = lambda x, a: {"y": HOURGLASS(x) * a[:, None], "z": (mlp(40, 3)(x), a)}
    args = normal(6, 40), normal(6, seed=2)
    one = lambda x, a: jax.tree.map(lambda y: y[0], f(x[None], a[None]))
    # Beside the code, a is part of the cut.
    assert_same(jb.jacobian(f, (0, 1), mode="mixed")(*args), jax.jacrev(f, (0, 1))(*args))
    assert_same(jb.batch_jacobian(f, (0, 1), mode="mixed")(*args), jax.vmap(jax.jacrev(one, (0, 1)))(*args))


def test_examples_that_are_mixed_on_the_way_are_not_cut_per_example() -> None:
    """Flipped twice: x and y keep examples apart, what lies between does not stand along the batch."""
    f = lambda x: HOURGLASS(x[::-1])[::-1]
    batch = normal(6, 40)
    with pytest.raises(jb.ModeError, match="bottleneck"):
        jb.batch_jacobian(f, mode="mixed")(batch)
    assert_same(jb.batch_jacobian(f)(batch), jax.vmap(jax.jacrev(HOURGLASS))(batch))


# Format, memory, composition --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hourglass", "skip", "batch"])
def test_bcoo(name: str) -> None:
    f, x = (HOURGLASS, normal(6, 40)) if name == "batch" else (CUT[name][0], X)
    J = jb.jacobian(f, mode="mixed", format="bcoo")(x)
    assert_same(J.todense(), jax.jacrev(f)(x))
    assert J.nse == (6 * 40 * 40 if name == "batch" else 1600)
    assert jb.jacobian(f, format="bcoo").plan(x).mode != "mixed"  # which would form zeros, too
    indices = np.asarray(J.indices)
    assert np.array_equal(indices, np.unique(indices, axis=0))


def test_composes() -> None:
    J, K = jb.jacobian(CUT["skip"][0], mode="mixed"), jax.jacrev(CUT["skip"][0])
    xs = jnp.stack([X, 2 * X])
    assert_same(jax.jit(J)(X), K(X))
    assert_same(jax.vmap(J)(xs), jax.vmap(K)(xs))
    assert_same(J.plan(X)(2 * X), K(2 * X))
    assert_same(J.plan(jax.ShapeDtypeStruct((40,), jnp.float32))(X), K(X))
    assert_same(jax.grad(lambda x: jnp.sum(jnp.sin(J(x))))(X), jax.grad(lambda x: jnp.sum(jnp.sin(K(x))))(X))
    y, second = J.with_value(X)
    assert_same((y, second), (CUT["skip"][0](X), K(X)))


def test_a_jacobian_of_a_mixed_jacobian() -> None:
    f = mlp(9, 5, 2, 5, 9)
    x = normal(9)
    J = jb.jacobian(jb.jacobian(f, mode="mixed"))
    assert_same(J(x), jax.jacfwd(jax.jacrev(f))(x))
    assert_same(jb.hessian(f, mode="rev")(x), jax.hessian(f)(x))


def test_intermediate_jacobians_count_toward_the_peak() -> None:
    plan = jb.jacobian(HOURGLASS, mode="mixed").plan(X)
    J, factor = 4 * 40 * 40, 4 * 4 * 40
    assert plan.peak_bytes > J + factor
    with pytest.raises(jb.MemoryBudgetError):
        jb.jacobian(HOURGLASS, mode="mixed", memory_budget=J + factor)(X)
    assert_same(jb.jacobian(HOURGLASS, memory_budget=2 * plan.peak_bytes)(X), jax.jacrev(HOURGLASS)(X))


# Plans ------------------------------------------------------------------------------------------------------


def test_the_plan_shows_the_tree() -> None:
    def encoder(x: Array) -> Array:
        return jnp.tanh(x @ normal(784, 256)) @ normal(256, 16)

    def autoencoder(x: Array) -> Array:
        return jnp.tanh(jnp.tanh(encoder(x)) @ normal(16, 256)) @ normal(256, 784)

    plan = jb.jacobian(autoencoder).plan(jax.ShapeDtypeStruct((784,), jnp.float32))
    lines = [f.__code__.co_firstlineno + 1 for f in (encoder, autoencoder)]  # where the code is made, or bent
    assert plan.mode == "mixed"
    assert plan.passes == 32
    text = str(plan)
    assert any(f"16 wide (test_mixed.py:{line})" in text for line in lines)
    assert "(16 -> 784: forward, 16 passes) x (784 -> 16: reverse, 16 passes)" in text


def test_the_plan_shows_the_sum_over_paths() -> None:
    plan = jb.jacobian(CUT["skip"][0], mode="mixed").plan(X)
    assert "(40 -> 40: " in str(plan)
    assert ", 1 pass) + (4 -> 40: forward, 4 passes) x (40 -> 4: reverse, 4 passes)" in str(plan)
    assert plan.passes == 9


@pytest.mark.parametrize(
    ("f", "n", "message"),
    [
        (mlp(40, 20, 5), 40, "f has no bottleneck narrower than its 5 outputs"),
        (mlp(8, 20, 40), 8, "f has no bottleneck narrower than its 8 inputs"),
        (jnp.sum, 40, "f has no bottleneck narrower than its 1 output"),
        (lambda x: jnp.ones(3), 40, "no path leads from its inputs to its outputs"),
    ],
)
def test_without_a_cut_it_says_so(f: Callable[..., Any], n: int, message: str) -> None:
    with pytest.raises(jb.ModeError, match=message):
        jb.jacobian(f, mode="mixed")(normal(n))
    plan = jb.jacobian(f).plan(normal(n))
    assert message in impossible(plan, "mixed").reason
    assert (message in str(plan)) == ("bottleneck" not in message)  # which goes without saying


def test_auto_takes_it_where_it_wins_clearly() -> None:
    wide = jax.ShapeDtypeStruct((784,), jnp.float32)
    assert jb.jacobian(mlp(784, 256, 16, 256, 784)).plan(wide).mode == "mixed"
    # Sixteen are hardly narrower than twenty.
    plan = jb.jacobian(mlp(20, 16, 20)).plan(normal(20))
    assert plan.mode != "mixed"
    assert "16 wide, hardly narrower than its 20 inputs" in str(plan)
    assert jb.jacobian(mlp(20, 16, 20), mode="mixed").plan(normal(20)).mode == "mixed"
    for mode in ("fwd", "rev"):
        assert jb.jacobian(mlp(20, 16, 20), mode=mode).plan(normal(20)).mode == mode


def test_a_custom_rule_is_obeyed_on_either_side_of_a_cut() -> None:
    @jax.custom_vjp
    def tripled(x: Array) -> Array:
        return jnp.sin(x)

    tripled.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (3 * g * jnp.cos(x),))
    for f in (lambda x: HOURGLASS(tripled(x)), lambda x: tripled(HOURGLASS(x))):
        assert_same(jb.jacobian(f, mode="mixed")(X), jax.jacrev(f)(X))
