"""Words that treat each element alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jax.scipy.special as special
from jax import lax, nn

from .words import as_real, binary, fitted, is_complex, positive, unary, unit, word

# Of complex values too ----------------------------------------------------------------------------------------

unary(
    "elementwise",
    {
        "sin": lax.sin,
        "cos": lax.cos,
        "tan": lambda a: lax.tan(unit(a)),
        "tanh": lambda a: lax.tanh(unit(a)),
        "sinh": lambda a: lax.sinh(unit(a)),
        "cosh": lambda a: lax.cosh(unit(a)),
        "asin": lambda a: lax.asin(unit(a) / 2),
        "acos": lambda a: lax.acos(unit(a) / 2),
        "atan": lambda a: lax.atan(unit(a) / 2),
        "asinh": lambda a: lax.asinh(unit(a) / 2),
        "acosh": lambda a: lax.acosh(positive(a) + 1),
        "atanh": lambda a: lax.atanh(unit(a) / 2),
        "exp": lambda a: lax.exp(unit(a)),
        "exp2": lambda a: lax.exp2(unit(a)),
        "expm1": lambda a: lax.expm1(unit(a)),
        "log": lambda a: lax.log(positive(a)),
        "log1p": lambda a: lax.log1p(positive(a)),
        "log2": lambda a: jnp.log2(positive(a)),
        "log10": lambda a: jnp.log10(positive(a)),
        "sqrt": lambda a: lax.sqrt(positive(a)),
        "rsqrt": lambda a: lax.rsqrt(positive(a)),
        "logistic": lambda a: lax.logistic(unit(a)),
        "square": lambda a: lax.square(unit(a)),
        "cube": lambda a: lax.integer_pow(unit(a), 3),
        "inverse_square": lambda a: lax.integer_pow(positive(a), -2),
        "reciprocal": lambda a: lax.reciprocal(positive(a)),
        "neg": lax.neg,
        "bell": lambda a: jnp.exp(-unit(a) ** 2),
        "one_minus_square": lambda a: 1 - a * a / 4,
        "polynomial": lambda a: jnp.polyval(jnp.array([0.3, -1.0, 0.5]).astype(a.dtype), unit(a)),
        "identity": lambda a: a,
        "reduce_precision_off": lambda a: a + jnp.zeros_like(a),
        "expit": special.expit,
        "sinc": lambda a: jnp.sinc(positive(a)),
    },
    complex=True,
    holomorphic=True,
)  # fmt: skip

unary(
    "elementwise",
    {
        "abs": lambda a: lax.abs(a + 0.01),
        "sign": lambda a: lax.sign(a) * a,
        "real_part": lambda a: jnp.real(a) * 2,
        "imaginary_part": lambda a: jnp.imag(a) + jnp.real(a),
        "conjugate": lambda a: jnp.conj(a) * a,
        "angle": lambda a: jnp.angle(a + 1.5),
        "absolute_square": lambda a: jnp.real(a * jnp.conj(a)),
        "through_complex": lambda a: (jnp.exp(1j * as_real(a)) ** 2).real,
        "polar": lambda a: lax.complex(*[f(as_real(a).astype(jnp.float32)) for f in (jnp.cos, jnp.sin)]),
    },
    complex=True,
)

# Of real values -----------------------------------------------------------------------------------------------

unary(
    "elementwise",
    {
        "erf": lax.erf,
        "erfc": lax.erfc,
        "erf_inv": lambda a: lax.erf_inv(unit(a)),
        "cbrt": lambda a: lax.cbrt(positive(a)),
        "floor": lambda a: a - lax.floor(a),
        "ceil": lambda a: a * lax.ceil(a),
        "round": lambda a: a + lax.stop_gradient(lax.round(a) - a),
        "rounded_to_integers": lambda a: a * jnp.floor(3 * a).astype(int),
        "clamp": lambda a: lax.clamp(jnp.asarray(-0.7, a.dtype), a, jnp.asarray(0.7, a.dtype)),
        "clip": lambda a: jnp.clip(a, -0.7, 0.7),
        "reduce_precision": lambda a: lax.reduce_precision(a, 8, 7),
        "where": lambda a: jnp.where(a > 0.1, jnp.sin(a), 2 * a),
        "piecewise": lambda a: jnp.piecewise(a, [a < -0.3, a > 0.4], [jnp.sin, lambda x: x * x, 0.5]),
        "stop_gradient": lambda a: a * lax.stop_gradient(jnp.cos(a)),
        "is_finite": lambda a: jnp.where(lax.is_finite(a), a * a, a),
        "nan_to_num": lambda a: jnp.nan_to_num(a) * 0.5,
        "to_half_and_back": lambda a: jnp.sin(a.astype(jnp.float32)).astype(a.dtype),
        "isclose": lambda a: a * jnp.isclose(a, 0.3),
        "fmod": lambda a: jnp.fmod(a + 0.05, 0.77),
    },
)
unary(
    "special",
    {
        "lgamma": lambda a: lax.lgamma(positive(a)),
        "digamma": lambda a: lax.digamma(positive(a)),
        "bessel_i0e": lax.bessel_i0e,
        "bessel_i1e": lax.bessel_i1e,
        "i0": lambda a: special.i0(unit(a)),
        "i1": lambda a: special.i1(unit(a)),
        "polygamma": lambda a: special.polygamma(1, positive(a)),
        "zeta": lambda a: special.zeta(2.5, positive(a) + 1).astype(a.dtype) * a,
        "gammainc": lambda a: special.gammainc(jnp.full_like(a, 1.3), positive(a)),
        "gammaincc": lambda a: special.gammaincc(positive(a), positive(2 * a)),
        "betainc": lambda a: special.betainc(jnp.full_like(a, 1.3), jnp.full_like(a, 0.8), positive(a) / 2.5),
        "betaln": lambda a: special.betaln(positive(a), positive(2 * a)),
        "ndtr": special.ndtr,
        "log_ndtr": special.log_ndtr,
        "ndtri": lambda a: special.ndtri(positive(a) / 2.5),
        "entr": lambda a: special.entr(positive(a)),
        "logit": lambda a: special.logit(positive(a) / 2.5),
        "xlogy": lambda a: special.xlogy(a, positive(a)),
        "xlog1py": lambda a: special.xlog1py(a, positive(a)),
        "exp1": lambda a: special.exp1(positive(a)),
        "expi": lambda a: special.expi(positive(a)),
        "spence": lambda a: special.spence(positive(a)),
        "gamma": lambda a: special.gamma(positive(a)),
    },
    half=False,
)
unary(
    "networks",
    {
        name: getattr(nn, name)
        for name in (
            "relu relu6 sigmoid softplus sparse_plus soft_sign silu mish log_sigmoid leaky_relu hard_sigmoid hard_silu "
            "hard_tanh elu celu selu gelu squareplus"
        ).split()
    },
)  # fmt: skip

# Of two values ------------------------------------------------------------------------------------------------

binary(
    "elementwise",
    {
        "add": lax.add,
        "sub": lax.sub,
        "mul": lax.mul,
        "div": lambda a, b: lax.div(a, positive(b)),
        "pow": lambda a, b: lax.pow(positive(a), unit(b)),
        "integer_power_of_an_array": lambda a, b: lax.pow(positive(a), jnp.int32(3)),
        "lerp": lambda a, b: a + 0.3 * (b - a),
    },
    complex=True,
    holomorphic=True,
)
binary(
    "elementwise",
    {
        "atan2": lambda a, b: lax.atan2(a, positive(b)),
        "rem": lambda a, b: lax.rem(a, positive(b)),
        "maximum": lax.max,
        "minimum": lax.min,
        "hypot": lambda a, b: jnp.hypot(positive(a), b),
        "logaddexp": jnp.logaddexp,
        "complex": lambda a, b: jnp.abs(lax.complex(*(x.astype(jnp.float32) for x in (a, positive(b))))),
        "arctan_of_both": lambda a, b: jnp.arctan2(b, positive(a)),
        "select_of_three": lambda a, b: lax.select_n(jnp.clip(jnp.floor(a).astype(jnp.int32) + 1, 0, 2), a, b, a * b),
        "copysign": lambda a, b: jnp.copysign(a, b),
        "heaviside": lambda a, b: jnp.heaviside(a, 0.5) * b,
    },
)


@word("elementwise", complex=True, holomorphic=True)
def promoted_sum(c, a, b):
    """Of two dtypes, and perhaps of a size that is broadcast."""
    return a + (b if is_complex(a) or not is_complex(b) else as_real(b)).reshape(-1)[0]


@word("elementwise", complex=True, holomorphic=True)
def scale_by_constant(c, a, b):
    return a * c.constant(a.shape, a)


@word("elementwise", complex=True, holomorphic=True)
def add_constant(c, a, b):
    return c.constant(a.shape, a) + a


@word("elementwise", complex=True, holomorphic=True)
def divide_by_constant(c, a, b):
    return a / (2.5 + c.constant_like(a.shape, a) * 0.1)


@word("elementwise", complex=True, holomorphic=True)
def mask(c, a, b):
    return jnp.where(c.rng.random(a.shape) < 0.5, a, fitted(b, a))


@word("elementwise", complex=True, holomorphic=True)
def mask_by_position(c, a, b):
    return jnp.where(jnp.arange(a.size).reshape(a.shape) % 3 == 1, a, 0)


@word("elementwise", complex=True, holomorphic=True)
def imaginary_unit(c, a, b):
    """Complex where the program may be."""
    return a * 1j if is_complex(a) or c.complex else a * 2


@word("elementwise")
def dropout(c, a, b):
    return jnp.where(jax.random.bernoulli(jax.random.key(c.number(0, 9)), 0.6, a.shape), a / 0.6, 0)


@word("elementwise", half=False)
def noise(c, a, b):
    return a * jax.random.normal(jax.random.key(c.number(0, 9)), a.shape, a.dtype)


@word("special", half=False)
def random_gamma(c, a, b):
    return jax.random.gamma(jax.random.key(c.number(0, 9)), positive(a) + 0.5)


@word("elementwise")
def cast(c, a, b):
    """To another precision."""
    return a.astype(c.one_of(jnp.float16, jnp.bfloat16, jnp.float32)).astype(jnp.float32) + a


@word("elementwise")
def integer_factor(c, a, b):
    """An integer in between."""
    return a * (jnp.floor(a * 2).astype(jnp.int32) % 3 + c.index.reshape(-1)[0] % 2)
