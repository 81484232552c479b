"""Words that multiply, convolve, factor and solve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.linalg as sla
import numpy as np
from jax import lax

from .words import as_matrix, at_least_1d, fitted, single, unary, unit, word

both = {"complex": True, "holomorphic": True}

# Products -----------------------------------------------------------------------------------------------------


@word("products", **both)
def dense(c, a, b):
    a = at_least_1d(a)
    return a @ c.constant((a.shape[-1], c.number(1, 5)), a)


@word("products", **both)
def dense_from_the_left(c, a, b):
    a = as_matrix(a)
    return c.constant((c.number(1, 5), a.shape[0]), a) @ a


@word("products", **both)
def contract_axis(c, a, b):
    a = at_least_1d(a)
    axis = c.axis(a)
    return jnp.tensordot(jnp.asarray(c.constant((2, a.shape[axis]), a)), a, axes=(1, axis))


@word("products", **both)
def batched_dot(c, a, b):
    a = as_matrix(a)[:3, :3]
    return jnp.einsum("bi,bij->bj", a, c.constant((*a.shape, 2), a))


@word("products", **both)
def matmul(c, a, b):
    a = at_least_1d(a)
    return a @ fitted(b, jnp.zeros((a.shape[-1], 3), a.dtype))


@word("products", **both)
def quadratic(c, a, b):
    a = as_matrix(a)[:3, :3]
    return jnp.einsum("bi,bj->bij", a, fitted(b, a))


@word("products")
def accumulated_in_single(c, a, b):
    a = as_matrix(a)
    return lax.dot(a, fitted(b, a).T, preferred_element_type=jnp.float64 if a.dtype == jnp.float64 else jnp.float32)


@word("products", **both)
def stencil(c, a, b):
    """A product with a banded matrix that f makes."""
    a = a.reshape(-1)
    n = a.size
    factor = 1j if c.complex and c.number(0, 2) else 1
    matrix = factor * (jnp.eye(n, k=1, dtype=a.dtype) - 2 * jnp.eye(n, dtype=a.dtype))
    return matrix @ a


unary(
    "products",
    {
        "outer": lambda a: jnp.outer(a.reshape(-1)[:5], a.reshape(-1)[-4:]),
        "kron": lambda a: jnp.kron(a.reshape(-1)[:3], a.reshape(-1)[:2]),
        "cross": lambda a: jnp.cross(jnp.resize(a, (3,)), jnp.resize(a, (5,))[2:]),
        "vdot": lambda a: jnp.dot(a.reshape(-1), jnp.sin(a.reshape(-1))),
        "gram": lambda a: as_matrix(a) @ as_matrix(a).T,
        "matrix_power": lambda a: jnp.linalg.matrix_power(jnp.resize(unit(a), (2, 2)), 3),
        "convolve": lambda a: jnp.convolve(a.reshape(-1), a.reshape(-1)[:3]),
    },
    **both,
)

# Convolutions -------------------------------------------------------------------------------------------------


@word("convolutions", half=False)
def convolution(c, a, b):
    kernel = jnp.asarray(c.constant_like((2, 1, 3), a))
    return lax.conv_general_dilated(a.reshape(1, 1, -1), kernel, (c.number(1, 3),), c.one_of("SAME", [(2, 1)]))[0]


@word("convolutions", half=False)
def convolution_by_values(c, a, b):
    kernel = fitted(b, jnp.zeros((1, 1, 2), a.dtype))
    return lax.conv_general_dilated(a.reshape(1, 1, -1), kernel, (1,), "SAME", rhs_dilation=(2,))[0]


@word("convolutions", half=False)
def convolution_of_channels(c, a, b):
    image = jnp.resize(a, (1, 2, 3, 3))
    kernel = jnp.asarray(c.constant_like((2, 1, 2, 2), a))
    return lax.conv_general_dilated(image, kernel, (1, 2), "SAME", feature_group_count=2)[0]


@word("convolutions", half=False)
def convolution_of_batches(c, a, b):
    image, kernel = jnp.resize(a, (2, 1, 4)), jnp.asarray(c.constant_like((2, 1, 2), a))
    return lax.conv_general_dilated(image, kernel, (1,), "VALID", batch_group_count=2)


@word("convolutions", half=False)
def convolution_transposed(c, a, b):
    kernel = jnp.asarray(c.constant_like((2, 1, 1), a))
    return lax.conv_transpose(a.reshape(1, -1, 1), kernel, (2,), "SAME")[0]


@word("convolutions", half=False)
def patches(c, a, b):
    return lax.conv_general_dilated_patches(a.reshape(1, 1, -1), (2,), (1,), "VALID")[0] if a.size > 1 else a


@word("convolutions", **both)
def complex_convolution(c, a, b):
    return jnp.convolve(a.reshape(-1), jnp.asarray(c.constant((2,), a)), mode="same")


# Transforms ---------------------------------------------------------------------------------------------------

unary(
    "transforms",
    {
        "fft": lambda a: jnp.fft.fft(single(at_least_1d(a))),
        "ifft": lambda a: jnp.fft.ifft(single(at_least_1d(a))),
        "fft2": lambda a: jnp.fft.fft2(single(as_matrix(a))),
    },
    **both,
)
unary(
    "transforms",
    {
        "rfft": lambda a: jnp.fft.rfft(at_least_1d(a)),
        "irfft": lambda a: jnp.fft.irfft(at_least_1d(a).astype(jnp.result_type(a.dtype, jnp.complex64)), n=5),
        "power_spectrum": lambda a: jnp.abs(jnp.fft.fft(at_least_1d(a)) + 3),
        "filtered": lambda a: jnp.fft.ifft(jnp.fft.fft(a.reshape(-1)) * jnp.exp(-0.2j * jnp.arange(a.size))).real,
        "dct": lambda a: jax.scipy.fft.dct(a.reshape(-1)),
    },
    half=False,
)

# Factorisations and solves, of matrices that are far from singular --------------------------------------------


def _square(a, n=3):
    return jnp.resize(unit(a), (n, n)) * 0.4 + jnp.diag(jnp.arange(1.0, n + 1)).astype(a.dtype)


def _symmetric(a, n=3):
    root = _square(a, n)
    return root + jnp.conj(root.T)


def _tall(a):
    return jnp.concatenate([_square(a), jnp.resize(unit(a), (1, 3))])


def _constant(c, a):
    """A regular matrix that is no value."""
    return c.constant_like((3, 3), a) * 0.2 + 2 * jnp.eye(3, dtype=a.dtype)


unary(
    "factorisations",
    {
        "inv": lambda a: jnp.linalg.inv(_square(a)),
        "det": lambda a: jnp.linalg.det(_square(a)),
        "lu": lambda a: jax.scipy.linalg.lu(_square(a), permute_l=True)[1],
        "expm": lambda a: sla.expm(_square(a, 2) * 0.3),
    },
    half=False,
    **both,
)
unary(
    "factorisations",
    {
        "cholesky": lambda a: jnp.linalg.cholesky(_symmetric(a)),
        "eigh": lambda a: jnp.linalg.eigh(_symmetric(a))[0],
        "eigenvectors": lambda a: jnp.abs(jnp.linalg.eigh(_symmetric(a))[1]) ** 2,
        "qr": lambda a: jnp.abs(jnp.linalg.qr(_tall(a))[1]),
        "svd": lambda a: jnp.linalg.svd(_tall(a), compute_uv=False),
        "slogdet": lambda a: jnp.linalg.slogdet(_square(a))[1],
        "eigenvalues": lambda a: jnp.abs(jnp.linalg.eigvals(_square(a))),
        "pinv": lambda a: jnp.linalg.pinv(_tall(a)),
        "matrix_norm": lambda a: jnp.linalg.norm(_tall(a)),
        "nuclear_norm": lambda a: jnp.linalg.norm(_tall(a), "nuc"),
        "singular_vectors": lambda a: jnp.abs(jnp.linalg.svd(_square(a), full_matrices=False)[0]) ** 2,
    },
    complex=True,
    half=False,
)


@word("solves", half=False, **both)
def solve(c, a, b):
    return jnp.linalg.solve(_constant(c, a), jnp.resize(a, (3,)))


@word("solves", half=False, **both)
def solve_by_the_matrix(c, a, b):
    return jnp.linalg.solve(_square(a), fitted(b, jnp.zeros((3, 2), a.dtype)))


@word("solves", half=False, **both)
def triangular_solve(c, a, b):
    matrix = c.one_of(_constant(c, a), _square(a))
    sides = fitted(b, jnp.zeros((3, 2), a.dtype))
    return sla.solve_triangular(matrix, sides, lower=bool(c.number(0, 2)), trans=c.number(0, 2))


@word("solves", half=False)
def cholesky_solve(c, a, b):
    return sla.cho_solve(sla.cho_factor(_symmetric(a)), fitted(b, jnp.zeros(3, a.dtype)))


@word("solves", half=False)
def tridiagonal_solve(c, a, b):
    low, mid, high = (jnp.asarray(v, a.dtype) for v in ([0, 0.3, 0.1, 0.2], [2, 3, 2, 3], [0.4, 0.1, 0.3, 0]))
    mid = mid + 0.1 * unit(fitted(b, mid))
    return lax.linalg.tridiagonal_solve(low, mid, high, jnp.resize(a, (4, 2)))


@word("solves", half=False)
def conjugate_gradients(c, a, b):
    v = a.reshape(-1)[:4]
    return jax.scipy.sparse.linalg.cg(lambda y: 3 * y + jnp.roll(y, 1) + jnp.roll(y, -1), v, maxiter=6)[0]


@word("solves", half=False)
def least_squares(c, a, b):
    return jnp.linalg.lstsq(_tall(a), fitted(b, jnp.zeros(4, a.dtype)))[0]


@word("solves", half=False)
def polynomial_fit(c, a, b):
    return jnp.polyfit(np.linspace(-1, 1, 5), jnp.resize(a, (5,)), 2)


@word("solves", half=False, **both)
def custom_linear_solve(c, a, b):
    """A diagonal system by hand."""
    v = a.reshape(-1)[:4]
    return lax.custom_linear_solve(lambda y: 2 * y, v, lambda _, y: y / 2, lambda _, y: y / 2)
