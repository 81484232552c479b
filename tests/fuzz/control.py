"""Words with programs inside: loops, branches, calls, and functions with rules of their own."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from .words import WORDS, as_real, at_least_1d, find, fitted, is_complex, positive, unary, unit, word

both = {"complex": True, "holomorphic": True}


def inner(c, a: Array) -> Array:
    """A word of another group, with a result of a's shape and dtype, for a body."""
    group = c.one_of("elementwise", "elementwise", "moves", "reductions", "products", "networks", "indexing")
    kept = not is_complex(a)
    names = [n for n, w in WORDS[group].items() if w.only is None and (kept or w.holomorphic)] or ["sin"]
    return fitted(find(names[c.number(0, len(names))]).run(c, a, a), a)


# Loops --------------------------------------------------------------------------------------------------------


@word("loops", **both)
def scan(c, a, b):
    a = at_least_1d(a)
    w, kept = float(c.rng.standard_normal()), c.number(0, 2)

    def step(carry, row):
        carry = jnp.tanh(unit(w * carry + row))
        return carry, carry * row

    last, rows = lax.scan(step, jnp.zeros(a.shape[1:], a.dtype), a, reverse=bool(c.number(0, 2)))
    return rows if kept else last


@word("loops", **both)
def scan_of_a_word(c, a, b):
    seed = c.number(0, 1000)

    def step(carry, i):
        again = type(c)(seed, c.index, c.complex)
        return unit(inner(again, carry)), jnp.sum(carry) * i

    last, sums = lax.scan(step, a, jnp.arange(3).astype(a.real.dtype), unroll=c.number(1, 3))
    return c.one_of(last, sums)


@word("loops", **both)
def scan_with_constant(c, a, b):
    weight = jnp.sum(fitted(b, a)) * 0.3
    return lax.scan(lambda v, i: (jnp.sin(v) * weight + i, None), a, jnp.arange(3).astype(a.dtype))[0]


@word("loops", **both)
def scan_over_a_table(c, a, b):
    table = c.constant_like((3, *a.shape), a)
    return lax.scan(lambda v, row: (v * row + 0.1, v), a, table)[c.number(0, 2)]


@word("loops", **both)
def scan_of_a_tree(c, a, b):
    """The carry holds an integer, and two arrays that change places."""

    def step(carry, _):
        count, (u, v) = carry
        return (count + 1, (v, jnp.sin(u) * (count + 1))), None

    return lax.scan(step, (jnp.int32(0), (a, fitted(b, a))), None, c.number(1, 4))[0][1][0]


@word("loops", **both)
def fori_loop(c, a, b):
    return lax.fori_loop(0, 3, lambda i, v: jnp.sin(v) * (i + 1) / 2, a)


@word("loops", **both)
def fori_over_rows(c, a, b):
    a = at_least_1d(a)
    return lax.fori_loop(0, a.shape[0], lambda i, v: v.at[i].set(jnp.sin(v[i]) + v[i - 1] * 0.5), a)


@word("loops", only="fwd")
def dynamic_while(c, a, b):
    return lax.while_loop(lambda v: jnp.sum(v**2) < 30, lambda v: 1.5 * v + 0.2 + 0.1 * jnp.sin(v), a)


@word("loops", only="fwd")
def counted_while(c, a, b):
    """As many steps as an argument says."""
    steps = c.index.reshape(-1)[0] % 3 + 1
    body = lambda state: (state[0] + 1, jnp.sin(state[1]) + fitted(b, a) * 0.3)
    return lax.while_loop(lambda state: state[0] < steps, body, (jnp.zeros_like(steps), a))[1]


@word("loops", **both)
def integer_while(c, a, b):
    return a * lax.while_loop(lambda i: i < 4, lambda i: i + 1, 0)


@word("loops")
def associative_scan(c, a, b):
    a = unit(at_least_1d(a))
    combine = lambda u, v: (u[0] * v[0], u[1] * v[0] + v[1])
    return lax.associative_scan(combine, (jnp.cos(a), a))[1]


@word("loops", **both)
def loop_map(c, a, b):
    return lax.map(lambda row: jnp.sum(row) * row, at_least_1d(a))


# Branches -----------------------------------------------------------------------------------------------------


@word("branches", complex=True)
def cond(c, a, b):
    other = fitted(b, a)
    return lax.cond(jnp.sum(as_real(a)) > 0.3, lambda u, v: jnp.sin(u), lambda u, v: v * 2, a, other)


@word("branches", **both)
def cond_on_an_argument(c, a, b):
    seed = c.number(0, 1000)
    branch = lambda v: inner(type(c)(seed, c.index, c.complex), v)
    return lax.cond(c.index.reshape(-1)[0] % 2 == 0, branch, lambda v: v * 2, a)


@word("branches", **both)
def switch(c, a, b):
    return lax.switch(c.one_of(2, c.index.reshape(-1)[0]), [jnp.sin, jnp.cos, lambda v: v * v], a)


@word("branches")
def cond_under_vmap(c, a, b):
    each = lambda row: lax.cond(jnp.sum(row) > 0, jnp.sin, lambda v: v * 0.5, row)
    return jax.vmap(each)(at_least_1d(a))


# Calls --------------------------------------------------------------------------------------------------------


def _hessian_product(v):
    return jax.jvp(jax.grad(lambda v: jnp.sum(jnp.cos(v) * v[::-1])), (v,), (v,))[1]


def _of_a_word(transform):
    def run(c, a, b):
        seed = c.number(0, 1000)
        return transform(lambda v: inner(type(c)(seed, c.index, c.complex), v))(a)

    return run


unary(
    "calls",
    {
        "nested_jit": lambda a: jax.jit(lambda v: jnp.sin(v) * jax.jit(jnp.cos)(v))(a),
        "remat": lambda a: jax.checkpoint(lambda v: jnp.tanh(unit(v)) * v)(a),
        "tangent": lambda a: jax.jvp(jnp.sin, (a,), (a,))[1],
        "linearized": lambda a: jax.linearize(jnp.sin, a)[1](a * a),
        "vmap_inside": lambda a: jax.vmap(lambda row: jnp.sum(row) * row)(at_least_1d(a)),
        "vmap_along_the_last_axis": lambda a: jax.vmap(jnp.cumsum, -1, -1)(at_least_1d(a)),
        "vmapped_product": lambda a: jax.vmap(jnp.prod)(at_least_1d(a)),
        "vmap_of_jit": lambda a: jax.vmap(jax.jit(lambda v: v * jnp.sin(v)))(at_least_1d(a)),
        "named": lambda a: checkpoint_name(jnp.sin(a), "here") * a,
    },
    **both,
)
unary(
    "calls",
    {
        "gradient": lambda a: jax.grad(lambda v: jnp.sum(jnp.sin(v) * v**2))(a),
        "pulled_back": lambda a: jax.vjp(jnp.tanh, a)[1](a)[0],
        "hessian_product": lambda a: _hessian_product(a.reshape(-1)),
        "jacobian_inside": lambda a: jax.jacfwd(lambda v: jnp.sin(v) * jnp.sum(v))(a.reshape(-1)[:3]),
        "remat_but_dots": lambda a: jax.checkpoint(
            lambda v: jnp.sin(jnp.outer(v, v) @ v), policy=jax.checkpoint_policies.dots_saveable
        )(a.reshape(-1)[:4]),
    },
    half=False,
)  # fmt: skip


@word("calls", **both)
def jit_of_a_word(c, a, b):
    return _of_a_word(jax.jit)(c, a, b)


@word("calls", **both)
def remat_of_a_word(c, a, b):
    return _of_a_word(jax.checkpoint)(c, a, b)


@word("calls")
def vmap_of_a_word(c, a, b):
    return _of_a_word(jax.vmap)(c, at_least_1d(a), b)


@word("calls")
def vmap_with_a_constant(c, a, b):
    a = at_least_1d(a)
    return jax.vmap(lambda x, y: x * jnp.sum(y), in_axes=(0, None))(a, b if not is_complex(b) else as_real(b))


# Functions with rules of their own. These are not the derivative: they are to be obeyed. -----------------------


@jax.custom_jvp
def _jvp(a):
    return a**2


@_jvp.defjvp
def _jvp_rule(primals, tangents):
    return primals[0] ** 2, 3 * primals[0] * tangents[0]


@jax.custom_vjp
def _vjp(a):
    return a**2


_vjp.defvjp(lambda a: (a**2, a), lambda a, g: (3 * a * g,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _power(a, n):
    return a**n


_power.defvjp(lambda a, n: (a**n, (a, np.arange(2))), lambda n, res, g: (n * res[0] ** (n - 1) * g * res[1][1],))


@jax.custom_vjp
def _with_code(a):
    return a * 2, jnp.argmax(a).astype(jnp.int32)


_with_code.defvjp(lambda a: (_with_code(a), None), lambda _, g: (2 * g[0],))


@jax.custom_batching.custom_vmap
def _vmapped(a):
    return jnp.sin(a) * a


@_vmapped.def_vmap
def _vmapped_rule(size, batched, a):
    return jnp.sin(a) * a, batched[0]


# What reverse mode alone can do, as forward mode could: for functions that are pushed by the judge.
PUSHABLE = {
    "custom_vjp": lambda c, a, b: _jvp(a),
    "custom_vjp_of_more": lambda c, a, b: positive(a) ** 3,
    "custom_vjp_with_an_integer": lambda c, a, b: a * 2 * (jnp.argmax(a).astype(jnp.int32) + 1),
}

unary("rules", {"custom_jvp": _jvp, "squareplus_of_jax": lambda a: jax.nn.relu(a) + jax.nn.silu(a)})


@word("rules", only="rev")
def custom_vjp(c, a, b):
    return _vjp(a)


@word("rules", only="rev", half=False)
def custom_vjp_of_more(c, a, b):
    return _power(positive(a), 3)


@word("rules", only="rev")
def custom_vjp_with_an_integer(c, a, b):
    y, code = _with_code(a)
    return y * (code + 1)


@word("rules", only="fwd")
def custom_vmap(c, a, b):
    return _vmapped(a)


@word("rules")
def custom_vmap_under_vmap(c, a, b):
    return jax.vmap(_vmapped)(at_least_1d(a))
