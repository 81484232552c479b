"""What a pass seeds alike is computed once: every equation against the same on seeds written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

import jaxobian as jb
from jaxobian._rewrite import compact, hoist, shrunk
from jaxobian._trace import inlined, program_of
from jaxobian.testing._arrays import normal

N = 3  # of what is seeded alike
W, V, C = normal(4, 6, seed=1), normal(N, 4, 5, seed=2), normal(N, 2, 4, seed=3)

# Linear in (2, N, 4), alike along axis 1, and in (2, 4, N, 1), alike along axis 2; how many products are made once.
MAPS: dict[str, tuple[Callable[[Array, Array], Any], int]] = {
    "nothing": (lambda s, t: (s, t), 0),
    "a product": (lambda s, t: s @ W, 1),
    "constant first": (lambda s, t: jnp.einsum("kj,ink->jin", W, s), 1),
    "products in a row": (lambda s, t: jnp.tanh(V[:, 0, 0])[:, None] * (s @ W @ W.T), 2),
    "told apart, then a product": (lambda s, t: (s * C.swapaxes(0, 1)) @ W, 0),
    "one of a product's two batch axes": (lambda s, t: jnp.einsum("ink,nkm->inm", s, V), 0),
    "the same, the constant first": (lambda s, t: jnp.einsum("nkm,ink->nmi", V, s), 0),
    "the same, with another axis that goes with one": (lambda s, t: jnp.einsum("ink,nim->nimk", s, C), 0),
    "the same, that one in other places": (lambda s, t: jnp.einsum("nim,ikn->nimk", C, t[..., 0]), 0),
    "both of two batch axes": (lambda s, t: jnp.einsum("ink,ink->in", s, s[:, ::-1]), 0),
    "the same axis in both": (lambda s, t: jnp.einsum("ink,nk->n", s, jnp.ones((N, 4))), 0),
    "summed": (lambda s, t: s.sum(1), 0),
    "summed along another axis": (lambda s, t: (s.sum(0) @ W, t.sum((1, 3))), 1),
    "contracted": (lambda s, t: jnp.einsum("ink,nm->ikm", s, C[:, 0]), 0),
    "moved": (lambda s, t: jnp.transpose(s, (1, 2, 0)).reshape(N, 8), 0),
    "merged": (lambda s, t: s.reshape(2 * N, 4) @ W, 0),
    "merged in another order": (
        lambda s, t: (lax.reshape(s, (4, N * 2), (2, 1, 0)), lax.reshape(t, (N, 8), (2, 0, 1, 3))),
        0,
    ),
    "merged in another order, then a product": (lambda s, t: lax.reshape(s, (N, 2, 4), (1, 0, 2)) @ W, 1),
    "merged elsewhere": (lambda s, t: t.reshape(8, N), 0),
    "squeezed": (lambda s, t: t.squeeze(3) + jnp.swapaxes(s, 1, 2), 0),
    "widened": (lambda s, t: jnp.broadcast_to(t, (2, 4, N, 7)) @ normal(7, 3), 1),
    "added to one that is told apart": (lambda s, t: s + s * C.swapaxes(0, 1), 0),
    "added to one that is alike along other axes": (lambda s, t: s[:, :, None] + jnp.stack([s] * 4, -1), 0),
    "cast": (lambda s, t: -(s.astype(jnp.bfloat16).astype(jnp.float32) / 3), 0),
    "no rule": (lambda s, t: jnp.cumsum(s, 1) + jnp.sort(s, 1)[:, ::-1], 0),
    "a loop": (lambda s, t: lax.fori_loop(0, 3, lambda _, c: c[:, ::-1] * 2, s), 0),
    "a nested jit": (lambda s, t: jax.jit(lambda x, w: x @ w)(s, W), 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_seeds_that_are_alike(name: str) -> None:
    linear, products = MAPS[name]
    seeds, axes = [normal(2, 1, 4, seed=8), normal(2, 4, 1, 1, seed=9)], [(1,), (2,)]
    full = [jnp.broadcast_to(seeds[0], (2, N, 4)), jnp.broadcast_to(seeds[1], (2, 4, N, 1))]
    several = lambda *s: jax.tree.leaves(linear(*s))
    for actual, expected in zip(compact(several, full, axes)(*seeds), several(*full), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    program, constants, _ = program_of(several, *full)
    made, once = hoist(inlined(program), axes)
    assert len(once) == products
    assert [v.aval.shape for v in made.inputs[len(constants) :]] == [seed.shape for seed in seeds]


def test_convolutions() -> None:
    kernel, x = normal(3, 3, 2, 5), normal(1, 8, 8, 2, seed=1)
    conv = lambda x: [lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))]
    full = jnp.broadcast_to(x, (N, 8, 8, 2))
    np.testing.assert_allclose(compact(conv, [full], [(0,)])(x)[0], conv(full)[0], rtol=1e-5, atol=1e-5)
    program, _, _ = program_of(conv, full)
    assert len(hoist(program, [(0,)])[1]) == 1


def test_shapes() -> None:
    assert shrunk((3, 4, 5), (0, 2)) == (1, 4, 1)


def attention(x: Array) -> Array:
    q, k, v = (x @ normal(16, 16, seed=s) / 4 for s in range(3))
    return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2)) @ v @ normal(16, 16, seed=3)


def by_tokens(x: Array) -> Array:
    return jnp.tanh(x @ normal(16, 16, seed=1) + jnp.cos(x) @ normal(16, 16, seed=2))


@pytest.mark.parametrize("chunk_size", [None, 24])
@pytest.mark.parametrize("mode", ["fwd", "rev"])
def test_batches(mode: Any, chunk_size: int | None) -> None:
    x = normal(6, 5, 16, seed=7)
    J = jb.batch_jacobian(attention, mode=mode, chunk_size=chunk_size)
    plan = J.plan(x)
    assert "hoisted out of the batch" in str(plan)
    assert all(seeds.hoisted for seeds in plan.choice.chosen.seeds)
    expected = jax.vmap(jax.jacrev(attention))(x)
    np.testing.assert_allclose(jax.jit(J)(x), expected, rtol=1e-4, atol=1e-5)
    plain = jb.batch_jacobian(attention, mode=mode, chunk_size=chunk_size, rewrite=False)
    assert "hoisted" not in str(plain.plan(x))
    np.testing.assert_allclose(plain(x), expected, rtol=1e-4, atol=1e-5)


def test_tokens() -> None:
    """Not a batch, but an axis that every pass seeds as a whole."""
    x = normal(40, 16, seed=7)
    J = jb.jacobian(by_tokens, mode="fwd")
    assert "hoisted out of the batch" in str(J.plan(x))
    np.testing.assert_allclose(J(x), jax.jacrev(by_tokens)(x), rtol=1e-4, atol=1e-5)


def test_composes() -> None:
    x, t = normal(3, 4, 16), normal(3, 4, 16, seed=1)
    f = lambda x: jnp.sin(jb.batch_jacobian(attention, mode="fwd")(x)).sum(0)
    g = lambda x: jnp.sin(jax.vmap(jax.jacrev(attention))(x)).sum(0)
    for actual, expected in zip(jax.jvp(f, (x,), (t,)), jax.jvp(g, (x,), (t,)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
    actual, expected = (jax.grad(lambda x, h=h: h(x).sum())(x) for h in (f, g))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
