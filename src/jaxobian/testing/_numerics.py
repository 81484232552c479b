"""Scenarios: physics, finance, solvers, transforms and sparse stencils."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import sparse
from jax.experimental.ode import odeint

from ._scenario import normal, scenario, uniform

# --- Formulae ----------------------------------------------------------------------------------------------


@scenario("bench", argnums=(0, 1, 2, 3, 4, 5))
def roe1d():
    """Roe's approximate Riemann solver for the 1-D Euler equations: six numbers to three fluxes."""
    gamma = 1.4

    def f(rl: Array, ml: Array, el: Array, rr: Array, mr: Array, er: Array) -> Array:
        def state(r: Array, m: Array, e: Array) -> tuple[Array, Array, Array]:
            p = (gamma - 1) * (e - m**2 / (2 * r))
            return p, m / r, (e + p) / r

        (pl, vl, hl), (pr, vr, hr) = state(rl, ml, el), state(rr, mr, er)
        sl, sr = jnp.sqrt(rl), jnp.sqrt(rr)
        u, h = (sl * vl + sr * vr) / (sl + sr), (sl * hl + sr * hr) / (sl + sr)
        a2 = (gamma - 1) * (h - u**2 / 2)
        a, r = jnp.sqrt(a2), sl * sr
        dr, dp, dv = rr - rl, pr - pl, vr - vl
        c0 = (dr - dp / a2) * jnp.abs(u)
        c1, c2 = (dv + dp / (r * a)) * jnp.abs(u + a), (dv - dp / (r * a)) * jnp.abs(u - a)
        c = r / (2 * a)
        d = jnp.stack(
            [
                c0 + c * c1 - c * c2,
                c0 * u + c * c1 * (u + a) - c * c2 * (u - a),
                c0 * u**2 / 2 + c * c1 * (h + u * a) - c * c2 * (h - u * a),
            ]
        )
        left = jnp.stack([ml, pl + ml * vl, vl * (pl + el)])
        right = jnp.stack([mr, pr + mr * vr, vr * (pr + er)])
        return (left + right - d) / 2

    return f, tuple(jnp.float32(v) for v in (1.0, 0.3, 2.5, 0.6, 0.2, 1.4))


@scenario("bench")
def black_scholes():
    """The five sensitivities of an option's price: their Jacobian is the price's Hessian."""

    def price(x: Array) -> Array:
        spot, strike, rate, sigma, time = x
        forward = jnp.exp(rate * time) * spot
        d1 = (jnp.log(forward / strike) + sigma**2 * time / 2) / (sigma * jnp.sqrt(time))
        d2 = d1 - sigma * jnp.sqrt(time)
        cdf = jax.scipy.stats.norm.cdf
        return jnp.exp(-rate * time) * (forward * cdf(d1) - strike * cdf(d2))

    return jax.grad(price), (jnp.array([1.0, 1.1, 0.05, 0.3, 0.8], jnp.float32),)


def _brusselator(x: Array) -> Array:
    u, v = x

    def laplacian(w: Array) -> Array:
        return sum(jnp.roll(w, s, a) for s in (1, -1) for a in (0, 1)) - 4 * w

    return jnp.stack([1 + u**2 * v - 4.4 * u + laplacian(u), 3.4 * u - u**2 * v + laplacian(v)])


@scenario("bench")
def brusselator(side: int = 16):
    """The Brusselator on a periodic 16 x 16 grid, two fields: 12 nonzeros a cell."""
    return _brusselator, (uniform(2, side, side),)


@scenario()
def brusselator_small():
    """The same on 4 x 4."""
    return _brusselator, (uniform(2, 4, 4),)


@scenario("bench")
def burgers():
    """Burgers' equation on a periodic line of 1000 cells: three nonzeros a row."""
    h, nu = 0.1, 0.05

    def f(u: Array) -> Array:
        right, left = jnp.roll(u, -1), jnp.roll(u, 1)
        return -u * (right - left) / (2 * h) + nu * (right - 2 * u + left) / h**2

    return f, (uniform(1000),)


@scenario("bench")
def arrowhead():
    """One dense row, one dense column, a diagonal."""

    def f(x: Array) -> Array:
        return (x**2 * x[0]).at[0].set(jnp.sum(x**2))

    return f, (normal(400),)


@scenario("bench")
def helmholtz():
    """x_i log(x_i / (1 - sum x)): a diagonal plus rank one."""

    def f(x: Array) -> Array:
        return x * jnp.log(x / (1 - jnp.sum(x)))

    return f, (uniform(1000) / 2000,)


@scenario("bench")
def rosenbrock_gradient():
    """The gradient of Rosenbrock's function: tridiagonal and symmetric."""

    def rosenbrock(x: Array) -> Array:
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return jax.grad(rosenbrock), (normal(200),)


@scenario("bench")
def elementwise():
    """A thousand independent numbers: a diagonal Jacobian."""
    return lambda x: jnp.sin(x) * jnp.exp(-(x**2)), (normal(1000),)


@scenario("bench", "large")
def elementwise_4000():
    """Four thousand independent numbers: to write J, 64 MB, is all there is to do."""
    return lambda x: jnp.sin(x) * x, (normal(4000),)


@scenario("bench")
def elementwise_images():
    """An elementwise map of a (8, 10, 10) array, three axes that never mix."""
    return lambda x: jax.nn.gelu(x) + x, (normal(8, 10, 10),)


# --- Solvers and transforms --------------------------------------------------------------------------------


def _positive(n: int) -> Array:
    a = normal(n, n)
    return a @ a.T / n + jnp.eye(n)


@scenario("bench")
def linear_solve():
    """The solution of a linear system by its right-hand side."""
    matrix = _positive(80)
    return lambda b: jnp.linalg.solve(matrix, jnp.tanh(b)), (normal(80),)


@scenario("bench")
def batched_solve():
    """32 linear systems, solved under vmap, by their right-hand sides."""
    matrix = _positive(8)
    return jax.vmap(lambda b: jnp.linalg.solve(matrix + jnp.outer(b, b), jnp.tanh(b))), (normal(32, 8),)


@scenario()
def linear_solve_matrix():
    """The solution of a linear system by its matrix."""
    b = normal(6)
    return lambda a: jnp.linalg.solve(a, b), (_positive(6),)


@scenario()
def triangular_solve():
    """A triangular solve with several right-hand sides."""
    lower = jnp.tril(_positive(5))
    return lambda b: jax.scipy.linalg.solve_triangular(lower, b, lower=True), (normal(5, 3),)


@scenario("bench")
def conjugate_gradients():
    """A linear system solved matrix-free: a while loop inside, and yet it reverses."""
    matrix = _positive(20)
    return lambda b: jax.scipy.sparse.linalg.cg(lambda x: matrix @ x, jnp.sin(b), tol=1e-7)[0], (normal(20),)


@scenario()
def cholesky():
    """A Cholesky factor by its matrix."""
    return lambda a: jnp.linalg.cholesky(a @ a.T + 3 * jnp.eye(5)), (normal(5, 5),)


@scenario()
def qr():
    """Both QR factors of a tall matrix, a tuple."""
    return lambda a: tuple(jnp.linalg.qr(a)), (normal(6, 3) + jnp.eye(6, 3) * 2,)


@scenario()
def singular_values():
    """The singular values of a matrix."""
    return lambda a: jnp.linalg.svd(a, compute_uv=False), (normal(5, 3),)


@scenario()
def eigenvalues():
    """The eigenvalues of a symmetric matrix with a known, well-separated spectrum."""
    return lambda a: jnp.linalg.eigvalsh(jnp.diag(jnp.arange(4.0)) + (a + a.T) / 10), (normal(4, 4),)


@scenario()
def determinants():
    """Determinant and log-determinant of a matrix, and its inverse, in a dict."""

    def f(a: Array) -> dict[str, Array]:
        return {"det": jnp.linalg.det(a), "logdet": jnp.linalg.slogdet(a)[1], "inv": jnp.linalg.inv(a)}

    return f, (_positive(4),)


@scenario()
def matrix_exponential():
    """The exponential of a 4 x 4 matrix."""
    return jax.scipy.linalg.expm, (0.3 * normal(4, 4),)


@scenario("bench")
def fft_filter():
    """A real signal filtered in the frequency domain."""
    gains = uniform(33)

    def f(x: Array) -> Array:
        return jnp.fft.irfft(jnp.fft.rfft(jnp.tanh(x)) * gains, n=64)

    return f, (normal(64),)


@scenario("bench", modes=("rev",))  # odeint carries a custom_vjp: it cannot be pushed forward
def ode():
    """A predator-prey model integrated by `odeint`: the state at five times by the initial state."""
    times = jnp.linspace(0.0, 2.0, 5)

    def f(state: Array) -> Array:
        return odeint(lambda y, t: jnp.stack([y[0] * (1 - y[1]), y[1] * (y[0] - 1)]), state, times)

    return f, (jnp.array([1.5, 0.7], jnp.float32),)


@scenario("bench")
def sparse_product():
    """A BCOO matrix times a vector."""
    matrix = sparse.BCOO.fromdense(jnp.where(uniform(60, 80, low=0, high=1) < 0.05, normal(60, 80), 0))
    return lambda x: matrix @ jnp.tanh(x), (normal(80),)


@scenario()
def special_functions():
    """Functions with rules of their own: igamma, erf, digamma, log-beta."""

    def f(x: Array) -> Array:
        a = jnp.full_like(x, 1.7)
        return jnp.stack(
            [jax.scipy.special.gammainc(a, x), jax.scipy.special.erf(x), jax.scipy.special.digamma(x),
             jax.scipy.special.betaln(a, x)]
        )  # fmt: skip

    return f, (uniform(6),)


@scenario()
def log_sum_exp():
    """Log-sum-exp along an axis."""
    return lambda x: jax.scipy.special.logsumexp(x, axis=1), (normal(4, 6),)


@scenario()
def norms():
    """Three norms of a vector, away from their kinks."""
    return lambda x: jnp.stack([jnp.linalg.norm(x, order) for order in (1, 2, jnp.inf)]), (normal(7),)


@scenario("bench")
def pairwise_forces():
    """Forces between twelve particles, each on each."""

    def f(positions: Array) -> Array:
        apart = positions[:, None] - positions[None]
        squared = (apart**2).sum(-1) + 0.1
        return (apart / squared[..., None] ** 1.5).sum(1)

    return f, (normal(12, 3),)


@scenario("bench")
def kinematic_chain(links: int = 40):
    """Positions of all joints of a planar arm with 40 links by its angles: lower triangular."""

    def f(angles: Array) -> Array:
        heading = jnp.cumsum(angles)
        return jnp.cumsum(jnp.stack([jnp.cos(heading), jnp.sin(heading)]), axis=1)

    return f, (normal(links),)
