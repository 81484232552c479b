"""`J.at(...).to_lineax()`: what Lineax and Optimistix make of it, and the tags that are proved."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from jax.flatten_util import ravel_pytree
from oracles import assert_same

import jaxobian as jb
from jaxobian.testing._scenario import normal

X = normal(5)
A = np.asarray(normal(5, 5, seed=1) + 4 * jnp.eye(5))
BAND = np.diag(np.full(8, 4.0)) + np.diag(np.ones(7), 1) + np.diag(np.ones(7), -1)
WEIGHTS = jnp.asarray(BAND)

DIAGONAL, TRIDIAGONAL, SYMMETRIC = lx.diagonal_tag, lx.tridiagonal_tag, lx.symmetric_tag
LOWER, UPPER = lx.lower_triangular_tag, lx.upper_triangular_tag

wave = lambda x: jnp.sin(x) + 3 * x


@jax.custom_jvp
def ruled(x: Any) -> Any:
    return jnp.sum(x**3)


ruled.defjvp(lambda x, t: (ruled(x[0]), jnp.sum(3 * x[0] ** 2 * t[0])))

# J, where, the tags that are claimed
TAGS: dict[str, tuple[Any, Any, set[object]]] = {
    "elementwise": (jb.jacobian(wave), X, {DIAGONAL}),
    "elementwise on a tree": (jb.jacobian(lambda p: jax.tree.map(wave, p)), {"a": X, "b": A}, {DIAGONAL}),
    "leaves exchanged": (jb.jacobian(lambda p: (p[1], p[0])), (X, 2 * X), set()),
    "reversed": (jb.jacobian(lambda x: x[::-1]), X, set()),
    "transposed": (jb.jacobian(lambda x: x.T), A, set()),
    "stencil": (jb.jacobian(lambda x: wave(x).at[1:-1].add(x[2:] * x[:-2])), X, {TRIDIAGONAL}),
    "NumPy's band": (jb.jacobian(lambda x: BAND @ x), normal(8), {TRIDIAGONAL}),
    "JAX's band": (jb.jacobian(lambda x: WEIGHTS @ x), normal(8), set()),  # weights, which may change
    "cumulative": (jb.jacobian(lambda x: jnp.cumsum(wave(x))), X, {LOWER}),
    "cumulative from the end": (jb.jacobian(lambda x: jax.lax.cumsum(wave(x), reverse=True)), X, {UPPER}),
    "one below": (jb.jacobian(lambda x: wave(x).at[1:].add(x[:-1])), X, {TRIDIAGONAL, LOWER}),
    "dense": (jb.jacobian(lambda x: A @ x), X, set()),
    "not square": (jb.jacobian(lambda x: x[:3]), X, set()),
    "square, of another shape": (jb.jacobian(lambda x: x.reshape(1, 5)), X, set()),
    "batch": (jb.batch_jacobian(lambda x: wave(x) * x.sum(1, keepdims=True)), A, set()),
    "batch of two": (jb.batch_jacobian(lambda x: x[:, ::-1]), A[:, :2], {TRIDIAGONAL}),
    "Hessian": (jb.hessian(lambda x: jnp.sum(jnp.tanh(A @ x))), X, {SYMMETRIC}),
    "Hessian of a sum": (jb.hessian(lambda x: jnp.sum(x**3)), X, {SYMMETRIC, DIAGONAL}),
    "Hessian of a chain": (jb.hessian(lambda x: jnp.sum(x[1:] ** 2 * x[:-1])), X, {SYMMETRIC, TRIDIAGONAL}),
    "Hessian with a rule": (jb.hessian(ruled), X, {DIAGONAL}),  # by its zeros, not by the rule's word
    "Hessian with a rule, dense": (jb.hessian(lambda x: ruled(A @ x)), X, set()),
    "Hessian of two outputs": (jb.hessian(lambda x: jnp.stack([jnp.sum(x**2), jnp.prod(x)])), X, set()),
    "Jacobian of a gradient": (jb.jacobian(jax.grad(lambda x: jnp.sum(jnp.tanh(A @ x)))), X, set()),
}


@pytest.mark.parametrize("name", TAGS)
def test_tags_are_proved_and_true(name: str) -> None:
    J, x, tags = TAGS[name]
    operator: Any = J.at(x).to_lineax()
    assert operator.tags == tags
    matrix = operator.as_matrix()
    ys = operator.out_structure()
    assert matrix.shape == (operator.out_size(), operator.in_size()) == J.at(x).shape
    v = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype) + leaf, x)
    assert jax.tree.structure(operator.mv(v)) == jax.tree.structure(ys)
    assert_same(ravel_pytree(operator.mv(v))[0], matrix @ ravel_pytree(v)[0])
    assert_same(operator.T.as_matrix(), matrix.T)
    assert_same(lx.materialise(operator).as_matrix(), matrix)
    assert_same(lx.diagonal(operator), jnp.diagonal(matrix))
    transposed: Any = J.at(x).T.to_lineax()
    assert_same(transposed.as_matrix(), matrix.T)
    if operator.in_structure() == operator.out_structure():
        for got, k in zip(lx.tridiagonal(operator), (0, -1, 1), strict=True):
            assert_same(got, jnp.diagonal(matrix, k))
    turned: dict[object, object] = {LOWER: UPPER, UPPER: LOWER}
    assert transposed.tags == {turned.get(tag, tag) for tag in tags}
    held = {
        DIAGONAL: lambda m: m == jnp.diag(jnp.diag(m)),
        TRIDIAGONAL: lambda m: m == jnp.tril(jnp.triu(m, -1), 1),
        LOWER: lambda m: m == jnp.tril(m),
        UPPER: lambda m: m == jnp.triu(m),
        SYMMETRIC: lambda m: jnp.abs(m - m.T) <= 1e-5 * jnp.abs(m).max(),
    }
    assert all(bool(jnp.all(held[tag](matrix))) for tag in operator.tags)


def test_a_batch_of_hessians_in_another_order_is_not_called_symmetric() -> None:
    f = lambda x: jnp.sum(x[0] * x**2, 0) * x[1]  # examples along axis 1
    x = normal(3, 3)
    made: Any = jb.batch_hessian(f, in_axes=1).at(x).to_lineax()
    assert SYMMETRIC not in made.tags
    same: Any = jb.batch_hessian(lambda x: f(x.T)).at(x).to_lineax()
    assert SYMMETRIC in same.tags
    assert_same(same.as_matrix(), same.as_matrix().T)


SOLVED = ("elementwise on a tree", "stencil", "JAX's band", "cumulative", "one below", "dense", "batch", "Hessian")


@pytest.mark.parametrize("name", SOLVED)
def test_linear_solve(name: str) -> None:
    J, x, _ = TAGS[name]
    operator = J.at(x).to_lineax()
    b = jax.tree.map(lambda leaf: jnp.cos(leaf).astype(leaf.dtype), x)
    solution = lx.linear_solve(operator, b).value
    expected = jnp.linalg.solve(operator.as_matrix(), ravel_pytree(b)[0])
    np.testing.assert_allclose(ravel_pytree(solution)[0], expected, rtol=2e-2, atol=1e-3)
    assert jax.tree.structure(solution) == jax.tree.structure(x)


@pytest.mark.parametrize(
    "solver",
    [lx.GMRES(1e-5, 1e-5), lx.LU(), lx.QR(), lx.SVD()],
    ids=lambda s: type(s).__name__,
)
def test_solvers(solver: Any) -> None:
    f = lambda x: A @ x + 0.1 * x**2
    expected = jnp.linalg.solve(jax.jacrev(f)(X), X)
    solve = lambda x: lx.linear_solve(jb.jacobian(f).at(x).to_lineax(), x, solver).value
    np.testing.assert_allclose(solve(X), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(jax.jit(solve)(X), expected, rtol=1e-3, atol=1e-4)


def test_the_normal_equations_of_a_rectangular_one() -> None:
    f = lambda x: jnp.concatenate([x, jnp.tanh(A @ x)])
    operator = jb.jacobian(f).at(X).to_lineax()
    b = normal(10, seed=3)
    expected = jnp.linalg.lstsq(jax.jacrev(f)(X), b)[0]
    for solver in (lx.QR(), lx.Normal(lx.CG(1e-6, 1e-6)), lx.LSMR(1e-6, 1e-6)):
        np.testing.assert_allclose(lx.linear_solve(operator, b, solver).value, expected, rtol=1e-2, atol=1e-3)


def test_solutions_can_be_differentiated() -> None:
    f = lambda x: A @ x + 0.1 * x**3
    ours = lambda x: jnp.sum(lx.linear_solve(jb.jacobian(f).at(x).to_lineax(), jnp.sin(x)).value ** 2)
    plain = lambda x: jnp.sum(jnp.linalg.solve(jax.jacrev(f)(x), jnp.sin(x)) ** 2)
    assert_same(jax.grad(ours)(X), jax.grad(plain)(X), rtol=1e-4)
    assert_same(jax.jit(jax.jacfwd(ours))(X), jax.grad(plain)(X), rtol=1e-4)
    many = normal(3, 5)
    assert_same(jax.vmap(ours)(many), jax.vmap(plain)(many), rtol=1e-4)


def test_newton_s_method_inside_optimistix() -> None:
    f = lambda x: {"y": jnp.tanh(A @ x["y"]) / 4 + x["y"] - 0.3}
    at = jb.jacobian(f).at

    def newton(x: Any, args: Any) -> Any:
        op = at(x)
        step = lx.linear_solve(op.to_lineax(), op.value).value
        return jax.tree.map(jnp.subtract, x, step)

    x0 = {"y": jnp.zeros(5)}
    ours = optx.fixed_point(newton, optx.FixedPointIteration(1e-5, 1e-5), x0).value
    theirs = optx.root_find(lambda x, _: f(x), optx.Newton(1e-5, 1e-5), x0).value
    np.testing.assert_allclose(f(ours)["y"], 0, atol=1e-5)
    np.testing.assert_allclose(ours["y"], theirs["y"], atol=1e-4)


def test_gauss_newton_inside_optimistix() -> None:
    t = jnp.linspace(0, 1, 12)
    residual = lambda p: p[0] * jnp.exp(-p[1] * t) - 2 * jnp.exp(-1.3 * t)
    at = jb.jacobian(residual).at

    def step(p: Any, args: Any) -> Any:
        op = at(p)
        return p - lx.linear_solve(op.to_lineax(), op.value, lx.QR()).value

    p0 = jnp.array([1.5, 1.0])
    ours = optx.fixed_point(step, optx.FixedPointIteration(1e-5, 1e-5), p0).value
    theirs = optx.least_squares(lambda p, _: residual(p), optx.GaussNewton(1e-5, 1e-5), p0).value
    np.testing.assert_allclose(ours, [2, 1.3], rtol=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_complex_numbers_and_integers() -> None:
    f = lambda z: jnp.exp(z) * z[::-1] + 3 * z
    z = X + 1j * X[::-1]
    operator = jb.jacobian(f, holomorphic=True).at(z).to_lineax()
    J = jax.jacrev(f, holomorphic=True)(z)
    np.testing.assert_allclose(lx.linear_solve(operator, z).value, jnp.linalg.solve(J, z), rtol=1e-3)
    assert_same(lx.conj(operator).as_matrix(), J.conj())
    untagged: Any = jb.hessian(lambda z: jnp.sum(z**2 * jnp.sum(z)), holomorphic=True).at(z).to_lineax()
    assert untagged.tags == set()
    with pytest.raises(ValueError, match="pass holomorphic=True"):
        jb.jacobian(f).at(z).to_lineax()
    with pytest.raises(ValueError, match="have integers; leave those out of argnums"):
        jb.jacobian(lambda p: p[0], allow_int=True).at((X, jnp.arange(2))).to_lineax()


def test_an_operator_is_shown_in_a_line() -> None:
    shown = repr(jb.hessian(lambda x: jnp.sum(x**4)).at(X).to_lineax())
    assert shown == "JacobianOperator(LinearizedJacobian(5 x 5), diagonal_tag, symmetric_tag)"
    assert repr(jb.jacobian(lambda x: A @ jnp.sin(x)).at(X).to_lineax()).endswith("no tags)")
