"""Jacobians that are assembled from those of elements: sums over pairs, and what is like them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import Array

import jaxobian as jb
from jaxobian._request import Mode

pytestmark = pytest.mark.usefixtures("x64")

assert_same = functools.partial(oracles.assert_same, rtol=1e-13)


def wide(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def forces(x: Array) -> Array:
    apart = x[:, None] - x[None]
    return (apart / ((apart**2).sum(-1, keepdims=True) + 0.1) ** 1.5).sum(1)


def energy(x: Array) -> Array:
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    return 0.5 * jnp.sum((1 - jnp.eye(len(x))) * jnp.exp(-squared))


def by_vmap(x: Array) -> Array:
    def on_one(a: Array) -> Array:
        return jax.vmap(lambda b: (a - b) * jnp.exp(-((a - b) ** 2).sum()))(x).sum(0)

    return jax.vmap(on_one)(x)


def by_contractions(x: Array) -> Array:
    masses, apart = jnp.arange(1.0, len(x) + 1), x[:, None] - x[None]
    return -jnp.einsum("ij,ijk,j->ik", ((apart**2).sum(-1) + 0.1) ** -1.5, apart, masses)


def of_three(x: Array) -> Array:
    a, b = x[:, None, None] - x[None, :, None], x[None, None] - x[:, None, None]
    return (a * jnp.exp(-(a * b).sum(-1, keepdims=True))).sum((1, 2))


def of_an_image(x: Array) -> Array:
    return jnp.tanh(x[:, :, None, None] - x[None, None]).sum((2, 3))


def of_a_tree(p: dict[str, Array]) -> dict[str, Array]:
    return {"on x": forces(p["x"]), "between": (p["x"][:, None] * 1.5 - p["y"][None]) ** 2}


X, T = wide(7, 3), wide(8)
# Functions, their arguments, and how many passes they take assembled.
SUMS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], int]] = {
    "forces between pairs": (forces, (X,), 3),
    "the gradient of an energy of pairs": (jax.grad(energy), (X,), 3),
    "vmapped": (by_vmap, (X,), 3),
    "contractions": (by_contractions, (X,), 3),
    "phases": (lambda t: 1 + 0.3 * jnp.sin(t[None] - t[:, None]).mean(1), (T,), 1),
    "a term that is no sum": (lambda x: x**3 + forces(x), (X,), 4),
    "a term that is linear": (lambda x: forces(x) - 0.1 * x, (X,), 4),
    "sums of pairs": (lambda x: jnp.sin(x[:, None] + x[None]).sum(1), (X,), 1),
    "weighted, and summed twice": (
        lambda x: (d := 2 * x[:, None] - x[None] / 2) is None or jnp.sin(d**2).sum(0) - 3 * jnp.cos(d).sum(1),
        (X,),
        1,
    ),
    "products of pairs": (lambda t: jnp.sin(t[:, None] * t[None]).sum(1), (T,), 2),
    "nothing is summed": (lambda x: jnp.sqrt(((x[:, None] - x[None]) ** 2).sum(-1) + 1e-3), (X,), 1),
    "two arrays": (lambda x, y: ((x[:, None] - y[None]) ** 3).sum(1), (X, wide(4, 3, seed=1)), 1),
    "trees": (of_a_tree, ({"x": X, "y": wide(5, 3, seed=1)},), 4),
    "three at a time": (of_three, (X,), 6),
    "pixels": (of_an_image, (wide(4, 5),), 1),
    "coordinates first": (lambda x: jnp.sin(x.T[:, :, None] - x.T[:, None]).sum(2), (X,), 1),
    "repeated again": (lambda x: jnp.broadcast_to(jnp.sin(x[:, None] - x[None]).sum(1)[:, None], (7, 2, 3)), (X,), 1),
    "with a mask": (
        lambda x: jnp.where(jnp.eye(7, dtype=bool)[..., None], 0, jnp.sin(x[:, None] - x[None])).sum(1),
        (X,),
        1,
    ),
    "rows that are mixed": (lambda x: jax.nn.softmax((x[:, None] - x[None]).sum(-1), -1), (X,), 7),
    "called": (jax.jit(forces), (X,), 3),
}


def argnums(args: tuple[Any, ...]) -> Any:
    return 0 if len(args) == 1 else tuple(range(len(args)))


@pytest.mark.parametrize("name", SUMS)
def test_equals_jacfwd(name: str) -> None:
    f, args, passes = SUMS[name]
    J = jb.jacobian(f, argnums(args), mode="mixed")
    plan = J.plan(*args)
    assert "assembled from Jacobians of" in str(plan)
    assert plan.passes == passes
    assert_same(J(*args), jax.jacfwd(f, argnums(args))(*args))


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_in_chunks(chunk_size: int) -> None:
    assert_same(jb.jacobian(forces, mode="mixed", chunk_size=chunk_size)(X), jax.jacfwd(forces)(X))


def test_in_single_precision() -> None:
    with jax.enable_x64(False):
        x = jnp.float32(X)
        assert_same(jb.jacobian(forces, mode="mixed")(x), jax.jacfwd(forces)(x), rtol=1e-6)


def softened(apart: Array) -> Array:
    return apart / ((apart**2).sum(-1, keepdims=True) + 1e-16) ** 1.5  # 1e24 times what is between two at one place


ONE, EYE = np.ones(()), np.eye(7)
LARGE = np.where(EYE, 1e14, 1) * wide(7, 7)
# A particle is no force on itself: what would be large there cancels, as it does for jacfwd.
CANCELLING: dict[str, Callable[[Array], Array]] = {
    "differences": lambda x: softened(x[:, None] - x[None]).sum(1),
    "of products with a number": lambda x: softened(jnp.asarray(ONE) * x[:, None] - jnp.asarray(ONE) * x[None]).sum(1),
    "of clipped positions": lambda x: softened(jnp.clip(x[:, None], -9, 9) - jnp.clip(x[None], -9, 9)).sum(1),
    "of scaled positions": lambda x: softened(jnp.full(3, 0.3) * x[:, None] - jnp.full(3, 0.3) * x[None]).sum(1),
    "of rows": lambda x: softened((jnp.repeat(x, 7, 0) - jnp.tile(x, (7, 1))).reshape(7, 7, 3)).sum(1),
}
# Here it is the outputs that cancel: what acts on one is taken from the other.
ANTISYMMETRIC: dict[str, Callable[[Array], Array]] = {
    "at once": lambda v: (v - v.T).sum(1),
    "scaled first": lambda v: (jnp.asarray(ONE) * v - jnp.asarray(ONE) * v.T).sum(1),
    "one scaled first": lambda v: (jnp.asarray(ONE) * v - v.T).sum(1),
    "summed along both": lambda v: v.sum(1) - v.sum(0),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_what_cancels_does_so_exactly(name: str) -> None:
    f = CANCELLING[name]
    J = jb.jacobian(f, mode="mixed")
    assert "assembled" in str(J.plan(X))
    assert_same(J(X), jax.jacfwd(f)(X))


@pytest.mark.parametrize("name", ANTISYMMETRIC)
def test_outputs_that_cancel_do_so_exactly(name: str) -> None:
    f = lambda x: ANTISYMMETRIC[name](jnp.asarray(LARGE) * jnp.sin(x[:, None] + 2 * x[None]))
    true = jax.jacfwd(lambda x: ANTISYMMETRIC["at once"](jnp.asarray(LARGE) * jnp.sin(x[:, None] + 2 * x[None])))
    exact = name != "summed along both"  # then jacfwd itself rounds large numbers
    for mode in ("auto", "mixed"):
        try:
            J = jb.jacobian(f, mode=mode)(T[:7])
        except jb.ModeError:
            continue
        assert_same(J, true(T[:7]), rtol=1e-12 if exact or mode == "mixed" else 1e-1)


@pytest.mark.parametrize("mode", ["auto", "mixed"])
def test_what_is_not_a_number_is_not_hidden(mode: Mode) -> None:
    f = lambda x: jnp.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)).sum(1)  # of zero, on the diagonal
    J = np.asarray(jb.jacobian(f, mode=mode)(X))
    assert np.isnan(np.diagonal(J)).all()
    assert np.isnan(jax.jacfwd(f)(X)).all()


def test_what_is_taken_away_again_is_zero() -> None:
    between = lambda x: jnp.sin(x[:, None] - x[None])
    taken_away = lambda v: v.sum(1) - v.sum(1)
    for f in (
        lambda x: between(x).sum(1) - between(x).sum(1),
        lambda x: taken_away(between(x)),
        lambda x: (taken_away(between(x)), between(x).sum(0)),
    ):
        for mode in ("auto", "mixed"):
            try:
                assert_same(jb.jacobian(f, mode=mode)(T), jax.jacfwd(f)(T))
            except jb.ModeError:
                assert mode == "mixed"


ON_DIAGONALS: dict[str, tuple[Callable[[Array], Any], tuple[int, ...]]] = {
    "a chain of axes": (lambda x: jnp.sin(2 * x[:, :, None] - x[None]).sum(1), (6, 6)),
    "with the transpose": (lambda x: jnp.tanh((x + x.T)[:, :, None] + jnp.arange(5.0)).sum(-1), (6, 6)),
    "a cycle of axes": (lambda x: jnp.sin((x + x.transpose(2, 0, 1))[..., None] + T[:5]).sum((0, -1)), (4, 4, 4)),
    "a diagonal beside": (
        lambda x: (u := 2 * x[:, None] + x[None]) is None or jnp.sin(u).sum(1) + jnp.tanh(jnp.diagonal(u)),
        (8,),
    ),
    "a diagonal": (lambda x: jnp.sin((2 * x[:, None] - x[None])[jnp.arange(8), jnp.arange(8)]), (8, 3)),
}


@pytest.mark.parametrize("name", ON_DIAGONALS)
def test_diagonals(name: str) -> None:
    f, shape = ON_DIAGONALS[name]
    x = wide(*shape)
    for mode in ("auto", "mixed"):
        try:
            assert_same(jb.jacobian(f, mode=mode)(x), jax.jacfwd(f)(x))
        except jb.ModeError:
            assert mode == "mixed"


def test_factors_are_multiplied_in_f_s_order() -> None:
    for outer, between, inner in ((1e25, 1e-30, 1e25), (1e-30, 1e35, 1e-15)):

        def f(x: Array, outer: float = outer, between: float = between, inner: float = inner) -> Array:
            c = jnp.full(6, between, jnp.float32)
            return jnp.float32(outer) * (c * jnp.sin(jnp.float32(inner) * (x[:, None] - x[None]))).sum(1)

        x = jnp.float32(wide(6) / inner)
        assert_same(jb.jacobian(f, mode="mixed")(x), jax.jacfwd(f)(x), rtol=1e-5)


def test_many_particles_take_as_many_passes_as_few() -> None:
    for n in (16, 64):
        plan = jb.jacobian(forces).plan(wide(n, 3))
        assert (plan.mode, plan.passes) == ("mixed", 3)
        assert f"{n * n:,} elements" in str(plan)


def test_few_particles_are_not_assembled() -> None:
    assert jb.jacobian(forces).plan(wide(2, 3)).mode in ("fwd", "rev")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_batches(where: int) -> None:
    f = jax.vmap(forces, where, where)
    x = jnp.moveaxis(wide(5, 7, 3), 0, where)
    batched = jb.batch_jacobian(f, in_axes=where, out_axes=where, mode="mixed")
    assert batched.plan(x).passes == 3
    assert "assembled" in str(batched.plan(x))
    assert_same(batched(x), jax.vmap(jax.jacfwd(forces), where)(x))
    assert_same(jb.jacobian(f, mode="mixed")(x), jax.jacfwd(f)(x))


def test_hessian() -> None:
    H = jb.hessian(energy)
    assert H.plan(wide(30, 3)).passes == 3
    assert_same(H(X), jax.hessian(energy)(X), rtol=1e-12)


def test_composes() -> None:
    J, batch = jb.jacobian(forces, mode="mixed"), wide(4, 7, 3)
    assert_same(jax.jit(J)(X), jax.jacfwd(forces)(X))
    assert_same(jax.vmap(J)(batch), jax.vmap(jax.jacfwd(forces))(batch))
    assert_same(jax.jacrev(J)(X[:3]), jax.jacrev(jax.jacfwd(forces))(X[:3]), rtol=1e-12)


def test_bcoo() -> None:
    J = jb.jacobian(forces, mode="mixed", format="bcoo")(X)
    assert_same(J.todense(), jax.jacfwd(forces)(X))


def test_value_and_aux() -> None:
    f = lambda x: (forces(x), x[0])
    (y, aux), J = jb.value_and_jacobian(f, has_aux=True, mode="mixed")(X)
    assert_same((y, aux), f(X))
    assert_same(J, jax.jacfwd(forces)(X))


def test_the_plan_names_the_line_and_is_drawn() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    plan = jb.jacobian(forces).plan(wide(16, 3))
    assert "assembled from Jacobians of 256 elements (test_assembled.py:" in str(plan)
    assert "3 passes" in "".join(text.get_text() for text in plan.plot().texts)


# Random functions of this kind ----------------------------------------------------------------------------------


def drawn(seed: int) -> tuple[Callable[[Array], Any], Array]:
    """Some repetitions of an array along axes, what is made of their sum, and some of its axes summed."""
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 3))
    sizes = [int(n) for n in rng.integers(2, 5, rank)]
    x = wide(*sizes, seed=seed)
    # The axes of what is between: x's own, and some more, which a second copy of x may have in place of them.
    places = [list(range(rank)), list(range(rank))]
    shape = list(sizes)
    for axis in range(rank):
        if rng.random() < 0.6:
            shape.append(sizes[axis])
            places[1][axis] = len(shape) - 1
    if rng.random() < 0.3:
        shape.append(3)
    turned = [int(a) for a in rng.permutation(len(shape))]
    factors = rng.choice([1.0, -1.0, 0.5, 2.0], 2)
    weights, residual = wide(*shape, seed=seed + 1), wide(*shape, seed=seed + 2)
    summed = [tuple(a for a in range(len(shape)) if rng.random() < 0.5) for _ in range(2)]
    kind = int(rng.integers(4))

    def f(x: Array) -> Any:
        # JAX transposes a broadcast wrongly whose dimensions are not sorted, and so they are.
        orders = [np.argsort(axes) for axes in places]
        copies = [
            jax.lax.broadcast_in_dim(x.transpose(order), shape, sorted(axes))
            for order, axes in zip(orders, places, strict=True)
        ]
        if kind == 3:
            first, second = copies
            z = factors[0] * first * jnp.cos(second) + factors[1] * second
        else:
            z = jnp.asarray(sum(float(c) * copy for c, copy in zip(factors, copies, strict=True)))
        if kind == 1:  # the last axis is mixed
            z = z * jnp.exp(-(z**2).sum(-1, keepdims=True))
        elif kind == 2:
            z = jnp.einsum(z, list(range(len(shape))), residual, list(range(len(shape))), turned[: len(shape) - 1])
            return jnp.sin(z)
        z = (weights * jnp.sin(z)).transpose(turned)
        return z.sum(summed[0]), -2 * z.sum(summed[1])

    return f, x


@pytest.mark.parametrize("seed", oracles.slow_after(6, range(30)))
def test_random_sums(seed: int) -> None:
    f, x = drawn(seed)
    expected = jax.jacfwd(f)(x)
    for mode in ("auto", "mixed"):
        J = jb.jacobian(f, mode=mode)
        try:
            assert_same(J(x), expected)
        except jb.ModeError:
            assert mode == "mixed"


def test_random_sums_are_of_this_kind() -> None:
    def is_assembled(seed: int) -> bool:
        f, x = drawn(seed)
        try:
            return "assembled" in str(jb.jacobian(f, mode="mixed").plan(x))
        except jb.ModeError:
            return False

    assert sum(map(is_assembled, range(30))) > 12
