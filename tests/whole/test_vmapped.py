"""What `jax.vmap` makes keeps its examples apart: it is never refused as a batch, and takes the passes of one example.

Every family of differentiable functions in jax.numpy, jax.lax, jax.scipy and jax.nn; on shapes alone, nothing runs.
"""

# ruff: noqa: E501 - the tables have a row an entry

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import pytest
from jax import lax
from jax.experimental.ode import odeint

import jaxobian as jb

F32 = jnp.float32
KEY = jax.random.key(0)
YES = jnp.array(True)
IDS = jnp.array([0, 2, 0, 1, 2])


def normal(*shape: int) -> Any:
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), F32)


def conv(x: Any, k: Any, stride: int = 1, padding: Any = "SAME", **more: Any) -> Any:
    return lax.conv_general_dilated(x, k, (stride,) * 2, padding, **more)


def spd(a: Any) -> Any:
    return a @ a.T + 5 * jnp.eye(a.shape[-1])


@jax.custom_vjp
def own_backward(x: Any) -> Any:
    return jnp.cumsum(x)


own_backward.defvjp(lambda x: (jnp.cumsum(x), x), lambda r, g: (g * jnp.prod(r),))


@jax.custom_jvp
def own_forward(x: Any) -> Any:
    return jnp.sin(x)


own_forward.defjvp(lambda p, t: (jnp.sin(p[0]), 2 * t[0] * jnp.prod(p[0])))

# name: (function of one example, shapes)
CASES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "elementwise": (lambda x: jnp.sinc(x) + jsp.special.i0(x) + jnp.arctan2(x, x[::-1]) + jsp.special.xlogy(x, 2.0), ((4,),)),
    "activations": (lambda x: jax.nn.gelu(x) + jax.nn.softmax(x) * jax.nn.standardize(x) + jax.nn.logsumexp(x), ((4,),)),
    "gated": (jax.nn.glu, ((2, 4),)),
    "special functions": (lambda x: jsp.special.polygamma(1, x) + jsp.special.gammainc(x + 3, x) + jsp.special.expn(2, x), ((4,),)),
    "multigammaln": (lambda x: jsp.special.multigammaln(x, 2), ((4,),)),
    **{name: (getattr(jnp, name), ((3, 4),)) for name in ("sum", "prod", "mean", "std", "max", "median", "ptp", "nanprod")},
    "prod along an axis": (lambda x: jnp.prod(x, 1, keepdims=True) * x, ((2, 3, 4),)),
    "prod along two": (lambda x: jnp.prod(x, (0, 2)), ((2, 3, 4),)),
    "norm": (jnp.linalg.norm, ((3, 4),)),
    "quantile": (lambda x: jnp.quantile(x, jnp.array([0.3, 0.7]), axis=0), ((5, 3),)),
    "cumulative": (lambda x: jnp.cumsum(x) * jnp.cumprod(x).sum() + lax.cummax(x.ravel()) + lax.cumlogsumexp(x.ravel()), ((3, 4),)),
    "cumulative, backwards": (lambda x: lax.cumprod(x, 1, reverse=True) + lax.cummin(x, 0), ((3, 4),)),
    "convolve by itself": (lambda q: jnp.convolve(q, q), ((4,),)),
    "convolve by a constant": (lambda q: jnp.convolve(q, normal(3), mode="same"), ((6,),)),
    "correlate": (lambda q: jnp.correlate(q, q[:2], mode="valid"), ((5,),)),
    "convolve2d": (lambda q: jsp.signal.convolve2d(q, q), ((3, 3),)),
    "fftconvolve": (lambda q: jsp.signal.fftconvolve(q, q), ((5,),)),
    "stft": (lambda q: jnp.abs(jsp.signal.stft(q, nperseg=4)[2]), ((12,),)),
    "depthwise": (lambda x, k: conv(x, k, feature_group_count=4), ((1, 4, 5, 5), (4, 1, 2, 2))),
    "dilated": (lambda x: conv(x, normal(2, 4, 2, 2), 2, [(1, 0), (0, 1)], lhs_dilation=(2, 1), rhs_dilation=(1, 2)), ((1, 4, 5, 5),)),
    "transposed convolution": (lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), ((1, 3, 3, 2), (2, 2, 2, 3))),
    "1 x 1 convolution": (lambda x, k: conv(x, k), ((2, 3, 4, 4), (5, 3, 1, 1))),
    "patches": (lambda x: lax.conv_general_dilated_patches(x, (2, 2), (1, 1), "SAME"), ((1, 2, 4, 4),)),
    "gradient of a convolution": (jax.grad(lambda q: (jnp.convolve(q, q) ** 2).sum()), ((4,),)),
    "gradient of a product": (jax.grad(jnp.prod), ((4,),)),
    "Jacobian of a convolution": (jax.jacrev(lambda q: jnp.convolve(q, q)), ((3,),)),
    "Hessian": (jax.hessian(lambda x: jnp.prod(jnp.sin(x))), ((3,),)),
    "dot": (lambda a, b: lax.dot_general(a, b, (((1,), (2,)), ((0,), (1,)))), ((2, 3), (4, 2, 3))),
    "einsum": (lambda a: jnp.einsum("ij,jk,kl->il", a, a, a) + jnp.einsum("ij,kl->il", a, a), ((3, 3),)),
    "kron": (lambda a: jnp.kron(a, a), ((2, 3),)),
    "matrix power": (lambda a: jnp.linalg.matrix_power(a, 3), ((4, 4),)),
    "expm": (jsp.linalg.expm, ((3, 3),)),
    "inverse": (lambda a: jnp.linalg.inv(a) * jnp.linalg.det(a), ((4, 4),)),
    "slogdet": (lambda a: jnp.linalg.slogdet(a)[1], ((4, 4),)),
    "solve": (lambda a: jnp.linalg.solve(a, a[0]), ((4, 4),)),
    "cholesky": (lambda a: jsp.linalg.cho_solve(jsp.linalg.cho_factor(spd(a)), a[0]), ((4, 4),)),
    "lu": (lambda a: jsp.linalg.lu_solve(jsp.linalg.lu_factor(a), a[0]), ((4, 4),)),
    "qr": (jnp.linalg.qr, ((5, 3),)),
    "svd": (lambda a: jnp.linalg.svd(a, full_matrices=False)[1], ((3, 5),)),
    "eigh": (lambda a: jnp.linalg.eigh(spd(a)), ((3, 3),)),
    "pinv": (jnp.linalg.pinv, ((3, 4),)),
    "lstsq": (lambda a: jnp.linalg.lstsq(a, normal(4))[0], ((4, 3),)),
    "triangular": (lambda a: jsp.linalg.solve_triangular(jnp.tril(a), a, lower=True, trans=1), ((4, 4),)),
    "tridiagonal": (lambda a: lax.linalg.tridiagonal_solve(a[0], a[1] + 5, a[2], a), ((4, 4),)),
    "conjugate gradients": (lambda a: jsp.sparse.linalg.cg(spd(a), a[0])[0], ((3, 3),)),
    "gmres": (lambda a: jsp.sparse.linalg.gmres(spd(a), a[0])[0], ((3, 3),)),
    "covariance": (lambda a: jnp.cov(a) + jnp.corrcoef(a), ((3, 4),)),
    **{f"fft.{g.__name__}": (lambda x, g=g: jnp.abs(g(x)), ((3, 4),)) for g in (jnp.fft.fft, jnp.fft.irfft, jnp.fft.rfft2, jnp.fft.fftshift)},
    "dct": (lambda x: jsp.fft.idct(jsp.fft.dct(x) * x), ((6,),)),
    "sorts": (lambda x: jnp.sort(x, 0) + jnp.sort(x, descending=True) + x[jnp.argsort(x[:, 0])] * lax.sort((x, 2 * x), num_keys=2)[1], ((4, 3),)),
    "top_k": (lambda x: lax.top_k(x, 2)[0] * lax.approx_max_k(x, 2)[0], ((3, 5),)),
    "ranks": (lambda x: jsp.stats.rankdata(x) * x * jnp.unique(x, size=5), ((5,),)),
    "gathers": (lambda x: x[jnp.array([3, 0, 0])] * x[jnp.argmax(x)] * x[jnp.nonzero(x > 0, size=3)], ((4,),)),
    "gathers of rows": (lambda x: x[:, jnp.argmax(x[0])] * x[jnp.arange(3), jnp.array([1, 0, 1])], ((3, 4),)),
    "take": (lambda x: jnp.take(x, jnp.array([1, 9]), mode="wrap") * jnp.take(x, jnp.array([1, 9]), mode="fill"), ((4,),)),
    "take_along_axis": (lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), 1) + jnp.take_along_axis(x, jnp.argsort(x, 0), 0), ((3, 4),)),
    "piecewise": (lambda x: jnp.piecewise(x, [x < 0, x >= 0], [jnp.sin, jnp.cos]) + jnp.select([x > 1, x > 0], [x, x**2], x**3), ((4,),)),
    "scatters": (lambda x: [getattr(x.at[jnp.argmax(x)], op)(x[0]) for op in ("set", "add", "multiply", "min", "max")], ((4,),)),
    "scatters of rows": (lambda x: [getattr(x.at[jnp.array([2, 0, 0])], op)(jnp.sin(x)) for op in ("set", "add", "min", "subtract")], ((3, 4),)),
    "scatters by their own position": (lambda x: jnp.ones((3, 6)).at[jnp.arange(3), jnp.array([2, 0, 5])].add(x[:, 0]), ((3, 4),)),
    "dynamic slices": (lambda x: lax.dynamic_update_slice(x, lax.dynamic_slice(x, (jnp.argmax(x[:, 0]), 0), (1, 4)), (jnp.argmin(x[:, 0]), 0)), ((3, 4),)),
    "segments": (lambda x: jax.ops.segment_sum(x, IDS, 3) + jax.ops.segment_max(x, jnp.argsort(x[:, 0]) // 2, 3), ((5, 2),)),
    "bincount": (lambda x: jnp.bincount(IDS, weights=x, length=3), ((5,),)),
    "interp": (lambda x: jnp.interp(x, jnp.arange(5.0), x[::-1]) * jnp.searchsorted(jnp.sort(x), x), ((5,),)),
    "map_coordinates": (lambda x: jsp.ndimage.map_coordinates(normal(3, 4), [x, x], order=1, mode="wrap"), ((3,),)),
    "resize": (lambda x: jax.image.resize(x, (5, 6), "cubic"), ((3, 4),)),
    "polynomials": (lambda p: jnp.polymul(p, p).sum() * jnp.polyval(p, normal(3)) * jnp.poly(p)[:3], ((3,),)),
    "polyfit": (lambda y: jnp.polyfit(jnp.arange(5.0), y, 2), ((5,),)),
    "reshapes": (lambda x: x.reshape(3, 2) @ x.reshape(3, 2, order="F").T + lax.reshape(x, (3, 3 - 1), (1, 0)) @ x, ((2, 3),)),
    "moves": (lambda x: jnp.roll(x, 1) + jnp.rot90(x, 2) + jnp.tile(x, (1, 2))[:, ::2] + jnp.repeat(x, 2, 0)[::2], ((2, 3),)),
    "joins": (lambda x: jnp.concatenate([jnp.stack([x, x * 2], 1).reshape(6), jnp.block([x, x]), jnp.append(x, x[:1])]), ((3,),)),
    "splits": (lambda x: [*jnp.array_split(x, 3), *jnp.unstack(x)], ((5,),)),
    "rolls by what it holds": (lambda x: jnp.roll(x, jnp.argmax(x)), ((4,),)),
    **{f"pad, {mode}": (lambda x, mode=mode: jnp.pad(x, 1, mode=mode), ((3, 2),)) for mode in ("constant", "edge", "reflect", "wrap", "mean")},
    "pad of its own": (lambda x: lax.pad(x, x[0], ((1, 2, 1),)), ((4,),)),
    "differences": (lambda x: jnp.diff(x, 2, axis=0).sum() * jnp.stack(jnp.gradient(x)), ((4, 3),)),
    "windows": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (1, 2), "SAME") + lax.reduce_window(x, 0.0, lax.add, (2, 2), (1, 2), "SAME"), ((4, 4),)),
    "gradient of max-pooling": (jax.grad(lambda x: (lax.reduce_window(x, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID") ** 2).sum()), ((4, 4),)),
    "scan": (lambda x: lax.scan(lambda c, a: (c * jnp.prod(a), jnp.prod(a)), 1.0, x), ((4, 3),)),
    "scan of convolutions": (lambda x: lax.scan(lambda c, a: (jnp.convolve(c, a, mode="same"), None), x[0], x, reverse=True), ((3, 4),)),
    "associative scan": (lambda x: lax.associative_scan(jnp.matmul, x), ((5, 2, 2),)),
    "map": (lambda x: lax.map(jnp.prod, x, batch_size=2), ((3, 4),)),
    "while": (lambda x: lax.while_loop(lambda c: jnp.sum(c) < 3, lambda c: c * 1.5 + 1, x), ((4,),)),
    "fori": (lambda x: lax.fori_loop(0, 4, lambda i, y: y.at[i].set(jnp.sin(y[i - 1])), x), ((4,),)),
    "cond": (lambda x: lax.cond(x[0] > 0, jnp.prod, jnp.sum, x), ((4,),)),
    "switch": (lambda x: lax.switch(jnp.argmax(x) % 3, [jnp.sin, jnp.cos, lambda v: jnp.convolve(v, v, "same")], x), ((4,),)),
    "cond of a constant": (lambda x: lax.cond(YES, jnp.prod, jnp.sum, x), ((4,),)),
    "checkpoint": (jax.checkpoint(lambda x: jnp.prod(jnp.sin(jnp.convolve(x, x)))), ((4,),)),
    "custom rules": (lambda x: own_backward(jnp.convolve(x, x)), ((4,),)),
    "custom rules, forward": (own_forward, ((4,),)),
    "custom rules in a loop": (lambda x: lax.scan(lambda c, a: (own_backward(c) * a, None), x, jnp.arange(3.0))[0], ((4,),)),
    "odeint": (lambda x, p: odeint(lambda y, t, p: jnp.sin(y) * p, x, jnp.array([0.0, 1.0]), p), ((3,), (3,))),
    "custom solve": (lambda x: lax.custom_linear_solve(lambda y: y * (1 + x**2), x, lambda _, b: b / (1 + x**2), symmetric=True), ((4,),)),
    "stop_gradient": (lambda x: lax.optimization_barrier(x * lax.stop_gradient(jnp.prod(x))), ((4,),)),
    "attention": (lambda q: jax.nn.dot_product_attention(q, q, q, is_causal=True), ((3, 2, 4),)),
    "random": (lambda x: jax.random.gamma(KEY, jnp.exp(x)) + jax.random.permutation(KEY, x) + jax.random.choice(KEY, x, (4,), p=jax.nn.softmax(x)), ((4,),)),
    "random, by a key of its own": (lambda x: x * jax.random.uniform(jax.random.fold_in(KEY, jnp.argmax(x))), ((4,),)),
    "densities": (lambda x: jsp.stats.multivariate_normal.logpdf(x, x[::-1], spd(jnp.outer(x, x))) + jsp.stats.gaussian_kde(x)(normal(3)).sum(), ((3,),)),
}  # fmt: skip
_LAYOUTS = [("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC"), ("HWCN", "HWIO", "HWCN"), ("CHWN", "IHWO", "NHWC")]
for _layout in _LAYOUTS:
    for _groups in ({}, {"feature_group_count": 2}, {"batch_group_count": 2}):
        _sizes = {"N": 4, "C": 4, "O": 6, "I": 4 // _groups.get("feature_group_count", 1)}
        _x, _k = ([_sizes.get(c, 3) for c in spec] for spec in _layout[:2])
        _of = lambda x, k, more=dict(_groups, dimension_numbers=_layout): conv(x, k, **more)
        _name = f"convolution, {_layout}, {_groups}"
        CASES[_name] = (_of, (tuple(_x), tuple(_k)))
        CASES[f"{_name}, by x"] = (lambda x, f=_of, k=tuple(_k): f(x, normal(*k)), (tuple(_x),))
        CASES[f"{_name}, by the kernel"] = (lambda k, f=_of, x=tuple(_x): f(normal(*x), k), (tuple(_k),))


def real(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, its outputs that have derivatives."""
    return lambda *xs: [y for y in jax.tree.leaves(f(*xs)) if jnp.issubdtype(y.dtype, jnp.floating)]


def passes(J: Any, *shapes: tuple[int, ...]) -> int | None:
    """Of a plan; None where the mode is impossible."""
    try:
        return J.plan(*(jax.ShapeDtypeStruct(shape, F32) for shape in shapes)).passes
    except jb.ModeError:
        return None


@pytest.mark.parametrize("name", CASES)
def test_what_vmap_makes_takes_the_passes_of_one_example(name: str) -> None:
    f, shapes = real(CASES[name][0]), CASES[name][1]
    argnums = tuple(range(len(shapes)))
    mode = ("fwd", "rev")[len(name) % 2]
    one = passes(jb.jacobian(f, argnums, mode=mode), *shapes)
    assert passes(jb.batch_jacobian(jax.vmap(f), argnums, mode=mode), *((7, *shape) for shape in shapes)) == one


@pytest.mark.parametrize("name", [name for k, name in enumerate(CASES) if k % 4 == 0])
def test_vmaps_in_vmaps_and_along_other_axes(name: str) -> None:
    f, shapes = real(CASES[name][0]), CASES[name][1]
    argnums = tuple(range(len(shapes)))
    inner = jax.vmap(f, in_axes=-1)
    for size in (2, 8):
        J = jb.batch_jacobian(jax.vmap(inner, in_axes=1, out_axes=1), argnums, in_axes=1, out_axes=1)
        assert passes(J, *((*shape[:1], size, *shape[1:], 3) for shape in shapes)) is not None
