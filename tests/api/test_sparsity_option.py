"""A pattern of one's own, checked by a product; J as a matrix of SciPy's; patterns compared, kept and read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from oracles import candidate
from scipy import sparse

import jaxobian as jb

N = 30
X = jnp.linspace(0.1, 1.0, N)
RIGHT = sparse.csr_array(np.eye(N) + np.eye(N, k=1))
WRONG = sparse.eye_array(N, format="csr")
QUANTITIES = ("diagonal", "trace", "squared_norms", "gram", "slogdet")


def f(x: Any) -> Any:
    return jnp.sin(x) ** 2 + jnp.concatenate([x[1:] ** 3, jnp.zeros(1)])


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


@jax.custom_vjp
def reverse_only(x: Any) -> Any:
    return f(x)


reverse_only.defvjp(lambda x: (f(x), x), lambda x, u: jax.vjp(f, x)[1](u))


@pytest.mark.parametrize("format", ["dense", "bcoo", "scipy"])
@pytest.mark.parametrize(
    "given",
    [RIGHT, RIGHT.toarray(), jb.Pattern.from_scipy(RIGHT), BCOO.from_scipy_sparse(sparse.coo_matrix(RIGHT))],
    ids=["SciPy", "NumPy", "Pattern", "BCOO"],
)
def test_a_pattern_of_ones_own(given: Any, format: Any) -> None:
    J = jb.jacobian(f, sparsity=given, format=format)
    found = J(X)
    np.testing.assert_allclose(found if format == "dense" else found.todense(), jax.jacrev(f)(X), rtol=1e-5)
    plan = J.plan(X)
    assert candidate(plan, "colored").passes == 2
    assert "the sparsity that was passed" in candidate(plan, "colored").note
    if format != "dense":
        assert plan.mode == "colored"
        assert (found.nse if format == "bcoo" else found.nnz) == RIGHT.nnz


def test_a_sparse_j_has_the_elements_that_were_passed() -> None:
    both = RIGHT + RIGHT.T  # more than there are
    found = jb.jacobian(lambda x: x**2, sparsity=both, format="scipy")(X)
    assert found.nnz == both.nnz
    np.testing.assert_allclose(found.toarray(), np.diag(2 * X), rtol=1e-6)


@pytest.mark.parametrize("format", ["dense", "bcoo", "scipy"])
@pytest.mark.parametrize("name", [None, *QUANTITIES])
def test_an_element_outside_is_named(name: str | None, format: Any) -> None:
    J = jb.jacobian(f, sparsity=WRONG, format=format)
    of = J if name is None else getattr(J, name)
    for call in (of, of.with_value, of.plan(X), of):
        with pytest.raises(jb.SparsityError, match=r"f's output\[(\d+)\] changes with args\[0\]\[(\d+)\]") as info:
            call(X)
    assert isinstance(info.value, ValueError)


@pytest.mark.parametrize("function", [f, reverse_only])
def test_the_element_that_is_named_is_nonzero(function: Any) -> None:
    without = RIGHT.tolil()
    without[17, 18] = 0
    with pytest.raises(jb.SparsityError, match=r"output\[17\] changes with args\[0\]\[18\], dy/dx = 1\.3\."):
        jb.jacobian(function, sparsity=without.tocsr())(X)


def test_rows_that_are_wrong_by_what_others_lack_are_passed_by() -> None:
    m = 40
    large, small = (lambda x: 1e3 * jnp.sin(x[:m]) + jnp.sin(x[m:])), (lambda x: 1e-3 * jnp.sin(x[m:]))
    f = lambda x: jnp.concatenate([large(x), small(x), jnp.sum(jnp.sin(x))[None]])
    pattern = sparse.csr_array(np.vstack([np.eye(2 * m), np.ones((1, 2 * m))]))
    with pytest.raises(jb.SparsityError, match=r"output\[\d+\] changes with args\[0\]\[[4-7]\d\]"):
        jb.jacobian(f, sparsity=pattern)(jnp.linspace(0.1, 1, 2 * m))


def test_an_element_outside_of_an_example() -> None:
    batch = jnp.stack([X, X + 1, X + 2])
    J = jb.batch_jacobian(jax.vmap(f, out_axes=1), out_axes=1, sparsity=RIGHT, format="bcoo")
    np.testing.assert_allclose(J(batch).todense(), jax.vmap(jax.jacrev(f))(batch), rtol=1e-5)
    with pytest.raises(jb.SparsityError, match=r"output\[\d+, (\d)\] changes with args\[0\]\[\1, \d+\]"):
        jb.batch_jacobian(jax.vmap(f, out_axes=1), out_axes=1, sparsity=WRONG)(batch)


def test_it_is_checked_at_the_first_call_with_values() -> None:
    calls = []

    def counted(x: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return f(x)

    J = jb.jacobian(counted, sparsity=WRONG)
    jax.jit(J)(X)  # in a trace there is nothing to compare
    with pytest.raises(jb.SparsityError):
        J(X)
    J = jb.jacobian(counted, sparsity=RIGHT, format="bcoo")
    first, second = [], []
    for found in (first, second):
        calls.clear()
        jax.block_until_ready(J(X))
        jax.effects_barrier()
        found.extend(calls)
    assert len(second) < len(first)


def test_rounding_is_not_taken_for_an_element() -> None:
    f = lambda x: (x + 1e4 * jnp.roll(x, 1)) - 1e4 * jnp.roll(x, 1) + x**2 * 1e3
    pattern = sparse.csr_array(np.eye(N) + np.roll(np.eye(N), -1, 1))
    np.testing.assert_allclose(jb.jacobian(f, sparsity=pattern)(X), jax.jacfwd(f)(X), rtol=1e-3, atol=1e-2)


def test_trees_and_numbers() -> None:
    t = {"a": X[:3], "b": jnp.float32(2.0), "n": jnp.arange(2)}
    g = lambda t: {"u": t["a"] * t["b"], "v": t["b"] ** 2}
    expected = np.block([[2 * np.eye(3), np.asarray(X[:3, None])], [np.zeros((1, 3)), np.full((1, 1), 4.0)]])
    J = jb.jacobian(g, allow_int=True, format="scipy")
    for found in (J(t), jb.jacobian(g, allow_int=True, format="scipy", sparsity=expected)(t), J.at(t).dense()):
        assert isinstance(found, sparse.csr_array)
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
        assert found.has_sorted_indices or found.sorted_indices().nnz == found.nnz
    np.testing.assert_allclose(J.at(t).T.dense().toarray(), expected.T, rtol=1e-6)
    y, found = J.with_value(t)
    assert y["v"] == 4
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    with pytest.raises(jb.SparsityError, match=r"output\['u'\]\[\d\] changes with args\[0\]\['b'\], "):
        jb.jacobian(g, allow_int=True, sparsity=np.eye(4))(t)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_scipy_has_no_short_floats(dtype: Any) -> None:
    found = jb.jacobian(jnp.square, format="scipy")(X.astype(dtype))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.diagonal(), 2 * X, rtol=1e-2)


def test_gram_as_a_matrix() -> None:
    J = jb.jacobian(f, format="scipy")
    expected = jax.jacrev(f)(X)
    for of, reference in ((J.gram, expected @ expected.T), (lambda x: J.gram(x, side="in"), expected.T @ expected)):
        found = of(X)
        assert isinstance(found, sparse.csr_array)
        np.testing.assert_allclose(found.toarray(), reference, rtol=1e-4, atol=1e-6)
    assert J.diagonal(X).shape == (N,)
    with jax.disable_jit():
        np.testing.assert_allclose(J.gram(X).toarray(), expected @ expected.T, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(J(X).toarray(), expected, rtol=1e-5)


@pytest.mark.parametrize("triangle", [sparse.tril, sparse.triu, lambda H: H])
def test_of_a_hessian_a_triangle_is_enough(triangle: Any) -> None:
    expected = jax.hessian(rosenbrock)(X)
    H = jb.hessian(rosenbrock, sparsity=triangle(sparse.coo_array(np.asarray(expected))), format="scipy")
    np.testing.assert_allclose(H(X).toarray(), expected, rtol=1e-4, atol=1e-3)
    assert H.plan(X).passes <= 3
    with pytest.raises(jb.SparsityError):
        jb.hessian(rosenbrock, sparsity=WRONG)(X)
    with pytest.raises(ValueError, match="sparsity is 30 x 30, and J is 60 x 30"):
        jb.hessian(lambda x: (rosenbrock(x), x[0] ** 3), sparsity=WRONG)(X)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="5 x 5, and J is 30 x 30"):
        jb.jacobian(f, sparsity=sparse.eye_array(5))(X)
    with pytest.raises(ValueError, match="5 x 5, and J of one example is 30 x 30"):
        jb.batch_jacobian(jax.vmap(f), sparsity=sparse.eye_array(5)).plan(X[None])
    with pytest.raises(TypeError, match="got str"):
        jb.jacobian(f, sparsity="dense")
    with pytest.raises(ValueError, match="of shape \\(3,\\)"):
        jb.jacobian(f, sparsity=np.ones(3))
    with pytest.raises(ValueError, match=r"reshape\(m, n\)"):
        jb.jacobian(f, sparsity=BCOO.fromdense(jnp.ones((2, 2, 2))))
    with pytest.raises(ValueError, match='mode must be "colored" or "auto"'):
        jb.jacobian(f, sparsity=RIGHT, mode="fwd")
    with pytest.raises(ValueError, match="needs values"):
        jax.jit(jb.jacobian(f, format="scipy"))(X)
    with pytest.raises(ValueError, match="one matrix"):
        jb.batch_jacobian(f, format="scipy")
    shared: Any = {"in_axes": (None, 0), "sparsity": RIGHT}
    with pytest.raises(ValueError, match="sparsity is not supported with in_axes=None"):
        jb.batch_jacobian(lambda p, x: p * x, **shared)


def test_complex_and_other_functions() -> None:
    z = X + 1j * X[::-1]
    J = jb.jacobian(lambda z: z**2 * 1j, holomorphic=True, sparsity=WRONG)
    np.testing.assert_allclose(J(z), np.diag(2j * z), rtol=1e-5)
    with pytest.raises(jb.SparsityError):
        jb.jacobian(lambda z: z * jnp.roll(z, 1), holomorphic=True, sparsity=WRONG)(z)
    to_complex = lambda x: x * jnp.roll(x, 1) * (1 + 2j)
    with pytest.raises(jb.SparsityError):
        jb.jacobian(to_complex, sparsity=WRONG)(X)


# Patterns -----------------------------------------------------------------------------------------------------------


def test_patterns_are_values(tmp_path: Any) -> None:
    pattern = jb.sparsity(f, X)
    pattern.save(tmp_path / "pattern.npz")
    same = (
        jb.Pattern.load(tmp_path / "pattern.npz"),
        jb.Pattern.from_scipy(RIGHT),
        jb.Pattern.from_scipy(RIGHT.tocsc()),
    )
    for other in same:
        assert other == pattern
        assert hash(other) == hash(pattern)
    assert pattern != jb.Pattern.from_scipy(WRONG)
    assert jb.Pattern.from_scipy(sparse.csr_array((2, 3))) != jb.Pattern.from_scipy(sparse.csr_array((2, 4)))
    assert pattern != "pattern"
    zero = sparse.csr_array((np.zeros(1), ([0], [1])), shape=(2, 2))
    assert jb.Pattern.from_scipy(zero).nnz == 1


def test_where_j_can_be_nonzero_is_a_question_to_j() -> None:
    assert jb.jacobian(f).sparsity(X) == jb.sparsity(f, X) == jb.Pattern.from_scipy(RIGHT)
    shape = jax.ShapeDtypeStruct((N,), jnp.float32)
    assert jb.jacobian(f, sparsity=WRONG).sparsity(shape) == jb.Pattern.from_scipy(WRONG)
    assert jb.batch_jacobian(jax.vmap(f)).sparsity(X[None]) == jb.sparsity(f, X)
    assert jb.hessian(rosenbrock).sparsity(X).nnz == 3 * N - 2
    shared = jb.batch_jacobian(lambda p, x: p * x, in_axes=(None, 0)).sparsity(X, jnp.ones((5, N)))
    assert shared == jb.Pattern.from_scipy(WRONG)

    class Model:
        J = jb.jacobian(lambda self, x: f(x), argnums=1)

    assert Model().J.sparsity(X) == jb.sparsity(f, X)
