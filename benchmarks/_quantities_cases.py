"""What `quantities.py` times: networks, their quantities, the ways by hand, and the ways of other libraries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import jaxobian as jb

Method = Callable[..., Any]
# So many examples at a time, or cotangents, where a way by hand takes some and not all.
SOME = 16


@dataclass(frozen=True)
class Case:
    """A quantity of J, at `args`.

    Attributes:
        J: whose quantity it is.
        quantity: the name of J's method.
        what: function and sizes, in words.
        args: f's.
        hands: functions of f's arguments that are written by hand, by name.
        options: the quantity's own.
        peers: by the name of a package, what makes such a function with it, from the arguments.
    """

    J: Any
    quantity: str
    what: str
    args: tuple[Any, ...]
    hands: dict[str, Method]
    options: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, Callable[..., Method]] = field(default_factory=dict)

    def ours(self, *args: Any) -> Any:
        return getattr(self.J, self.quantity)(*args, **self.options)

    def plan(self) -> Any:
        return getattr(self.J, self.quantity).plan(*self.args, **self.options)


# Networks -----------------------------------------------------------------------------------------------------------


class Draw:
    """Random arrays, the same ones for every case."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int) -> Array:
        return jnp.asarray(self.rng.normal(size=shape), jnp.float32)

    def weight(self, *shape: int) -> Array:
        """Scaled so that what it maps keeps its size."""
        return self.normal(*shape) / math.sqrt(math.prod(shape[:-1]))

    def labels(self, count: int, number: int) -> Array:
        return jnp.asarray(self.rng.integers(number, size=count))

    def dense(self, *sizes: int) -> list[dict[str, Array]]:
        return [{"w": self.weight(m, n), "b": 0.1 * self.normal(n)} for m, n in pairwise(sizes)]


def mlp(params: Any, X: Array) -> Array:
    for layer in params[:-1]:
        X = jnp.tanh(X @ layer["w"] + layer["b"])
    return X @ params[-1]["w"] + params[-1]["b"]


def closed_mlp(draw: Draw, *sizes: int) -> Method:
    """An MLP whose weights are closed over."""
    return partial(mlp, draw.dense(*sizes))


def conv(X: Array, kernel: Array, stride: int, padding: str = "SAME") -> Array:
    return lax.conv_general_dilated(X, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_params(draw: Draw) -> dict[str, Array]:
    shapes = {"k1": (3, 3, 1, 16), "b1": (16,), "k2": (3, 3, 16, 32), "b2": (32,), "w": (7 * 7 * 32, 10), "b": (10,)}
    return {name: draw.weight(*shape) for name, shape in shapes.items()}


def conv_net(p: Any, X: Array) -> Array:
    h = jax.nn.relu(conv(X, p["k1"], 2) + p["b1"])
    h = jax.nn.relu(conv(h, p["k2"], 2) + p["b2"])
    return h.reshape(h.shape[0], -1) @ p["w"] + p["b"]


def lenet_params(draw: Draw) -> dict[str, Any]:
    return {"k1": draw.weight(5, 5, 1, 6), "k2": draw.weight(5, 5, 6, 16), "dense": draw.dense(400, 120, 84, 10)}


def lenet(p: Any, X: Array) -> Array:
    pool = lambda h: lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    h = pool(jnp.tanh(conv(X, p["k1"], 1)))
    h = pool(jnp.tanh(conv(h, p["k2"], 1, "VALID")))
    return mlp(p["dense"], h.reshape(h.shape[0], -1))


def transformer_params(draw: Draw, tokens: int, width: int, layers: int) -> dict[str, Any]:
    def layer() -> dict[str, Any]:
        square = {name: draw.weight(width, width) for name in "qkvo"}
        return square | {"norms": [jnp.ones(width)] * 2, "mlp": draw.dense(width, 4 * width, width)}

    embeddings = {"token": draw.weight(100, width), "place": draw.weight(tokens, width)}
    return embeddings | {"layers": [layer() for _ in range(layers)], "out": draw.weight(width, 10)}


def transformer(p: Any, X: Array, heads: int = 4) -> Array:
    def norm(x: Array, scale: Array) -> Array:
        x = x - x.mean(-1, keepdims=True)
        return scale * x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    x = p["token"][X] + p["place"]
    for layer in p["layers"]:
        h = norm(x, layer["norms"][0])
        q, k, v = ((h @ layer[name]).reshape(*h.shape[:2], heads, -1) for name in "qkv")
        scores = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1]))
        x = x + jnp.einsum("bhts,bshd->bthd", scores, v).reshape(h.shape) @ layer["o"]
        x = x + mlp(layer["mlp"], norm(x, layer["norms"][1]))
    return x.mean(1) @ p["out"]


def rnn_params(draw: Draw, inputs: int, hidden: int) -> dict[str, Array]:
    shapes = {"x": (inputs, hidden), "h": (hidden, hidden), "b": (hidden,), "out": (hidden, 10)}
    return {name: draw.weight(*shape) for name, shape in shapes.items()}


def rnn(p: Any, X: Array) -> Array:
    def step(h: Array, x: Array) -> tuple[Array, None]:
        return jnp.tanh(x @ p["x"] + h @ p["h"] + p["b"]), None

    start = jnp.zeros((X.shape[0], p["h"].shape[0]))
    return lax.scan(step, start, jnp.swapaxes(X, 0, 1))[0] @ p["out"]


# Traces and diagonals -----------------------------------------------------------------------------------------------


def of_J(f: Method, reduce: Method) -> dict[str, Method]:
    """What `reduce` leaves of J, which is made whole in either mode."""
    name = reduce.__name__
    return {f"{name}({jac.__name__})": lambda x, jac=jac: reduce(jac(f)(x)) for jac in (jax.jacfwd, jax.jacrev)}


def loop_of(f: Method, reduce: Method) -> dict[str, Method]:
    """A JVP at a time, of which the diagonal's element is kept."""

    def loop(x: Array) -> Array:
        element = lambda k: jax.jvp(f, (x,), (jax.nn.one_hot(k, x.size, dtype=x.dtype),))[1][k]
        elements = lax.map(element, jnp.arange(x.size))
        return jnp.sum(elements) if reduce is jnp.trace else elements

    return {"loop of JVPs": loop}


def ways(f: Method, reduce: Method) -> dict[str, Method]:
    return of_J(f, reduce) | loop_of(f, reduce)


def of_each(hands: dict[str, Method]) -> dict[str, Method]:
    """The same of each example: of all at once, or of some at a time."""
    some = lambda hand: lambda X: lax.map(hand, X, batch_size=SOME)
    each = {f"vmap of {name}": jax.vmap(hand) for name, hand in hands.items()}
    return each | {f"{name}, {SOME} examples at a time": some(hand) for name, hand in hands.items()}


def divergence(sizes: tuple[int, ...], batch: int) -> Case:
    draw = Draw()
    f = closed_mlp(draw, *sizes)
    what = f"divergence of a tanh MLP {'-'.join(map(str, sizes))}, {batch:,} examples"
    return Case(jb.batch_jacobian(f), "trace", what, (draw.normal(batch, sizes[0]),), of_each(ways(f, jnp.trace)))


def autoencoder() -> Case:
    draw, sizes = Draw(), (784, 256, 16, 256, 784)
    f = closed_mlp(draw, *sizes)
    what = f"autoencoder {'-'.join(map(str, sizes))}"
    return Case(jb.jacobian(f), "diagonal", what, (draw.normal(784),), ways(f, jnp.diagonal))


def tiny() -> Case:
    f = lambda x: jnp.stack([x[0] * x[1], jnp.sin(x[1]) * x[2], x[0] + x[2] ** 2])
    return Case(jb.jacobian(f), "trace", "three scalar formulas", (Draw().normal(3),), ways(f, jnp.trace))


def residual() -> Case:
    draw = Draw()
    weights = [draw.weight(128, 128) for _ in range(8)]

    def f(x: Array) -> Array:
        for w in weights:
            x = x + jnp.tanh(x @ w)
        return x

    return Case(jb.jacobian(f), "trace", "8 residual layers of 128", (draw.normal(128),), ways(f, jnp.trace))


def recurrence() -> Case:
    draw = Draw()
    w = draw.weight(200, 200)
    f = lambda x: lax.fori_loop(0, 20, lambda _, h: jnp.tanh(h @ w + x), x)
    what = "200 → 200, a dense loop of 20 steps"
    return Case(jb.jacobian(f), "diagonal", what, (draw.normal(200),), ways(f, jnp.diagonal))


def solve() -> Case:
    draw, n = Draw(), 200
    A = draw.weight(n, n) + 3 * jnp.eye(n)
    f = lambda x: jnp.linalg.solve(A + jnp.diag(jnp.tanh(x)), x)
    what = f"dense linear solve, {n} unknowns"
    return Case(jb.jacobian(f), "diagonal", what, (draw.normal(n),), ways(f, jnp.diagonal))


def stencil() -> Case:
    n = 128
    checkers = jnp.indices((n, n)).sum(0) % 2

    def f(u: Array) -> Array:
        p = jnp.pad(u, 1)
        around = p[2:, 1:-1] + p[:-2, 1:-1] + p[1:-1, 2:] + p[1:-1, :-2]
        return 0.1 * (1 + u**2) * (around - 4 * u) + u - u**3

    def hand(u: Array) -> Array:
        seeds = jnp.stack([1 - checkers, checkers]).astype(u.dtype)
        return jnp.sum(jax.vmap(lambda s: s * jax.jvp(f, (u,), (s,))[1])(seeds), 0)

    what = f"reaction-diffusion, 5 points, {n} × {n}"
    return Case(jb.jacobian(f), "diagonal", what, (Draw().normal(n, n),), {"JVPs of a checkerboard's colors": hand})


def laplacian(batch: int) -> Case:
    """Of one input where batch is 0."""
    draw, n = Draw(), 64
    net = closed_mlp(draw, n, 256, 256, 1)
    f = lambda x: net(x)[0]
    basis = jnp.eye(n)

    def reverse(x: Array, v: Array) -> Array:
        return jnp.vdot(v, jax.jvp(jax.grad(f), (x,), (v,))[1])

    def forward(x: Array, v: Array) -> Array:
        return jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (x,), (v,))[1]

    def folx(*_: Any) -> Method:
        from folx import forward_laplacian

        one = lambda x: forward_laplacian(f)(x).laplacian
        return jax.jit(jax.vmap(one) if batch else one)

    hands = {
        "trace(hessian)": lambda x: jnp.trace(jax.hessian(f)(x)),
        "JVPs of grad": lambda x: jnp.sum(jax.vmap(partial(reverse, x))(basis)),
        "loop of JVPs of grad": lambda x: jnp.sum(lax.map(partial(reverse, x), basis)),
        "JVPs of JVPs": lambda x: jnp.sum(jax.vmap(partial(forward, x))(basis)),
    }
    what = f"Laplacian of a tanh MLP {n}-256-256-1, {f'{batch} inputs' if batch else 'one input'}"
    if not batch:
        return Case(jb.hessian(f), "trace", what, (draw.normal(n),), hands, peers={"folx": folx})
    J = jb.batch_hessian(jax.vmap(f))
    return Case(J, "trace", what, (draw.normal(batch, n),), of_each(hands), peers={"folx": folx})


# Squared norms ------------------------------------------------------------------------------------------------------


def squares(tree: Any) -> Array:
    return sum((jnp.sum(x**2) for x in jax.tree.leaves(tree)), jnp.float32(0))


def norms(what: str, apply: Method, params: Any, X: Array, *, batched: bool = True, **peers: Any) -> Case:
    """Of the gradients of each example's cross-entropy."""

    def losses(params: Any, X: Array, Y: Array) -> Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(apply(params, X)), Y[:, None], 1)[:, 0]

    def norm(params: Any, x: Array, y: Array) -> Array:
        return squares(jax.grad(lambda params: losses(params, x[None], y[None])[0])(params))

    def mapped(size: int | None) -> Method:
        return lambda params, X, Y: lax.map(lambda xy: norm(params, *xy), (X, Y), batch_size=size)

    hands = {
        "vmap(grad)": jax.vmap(norm, (None, 0, 0)),
        "loop of grads": mapped(None),
        f"vmap(grad), {SOME} examples at a time": mapped(SOME),
    }
    J = jb.batch_jacobian(losses, 0, in_axes=(None, 0, 0)) if batched else jb.jacobian(losses)
    args = params, X, Draw().labels(len(X), 10)
    return Case(J, "squared_norms", f"gradients, {what}", args, hands, peers=peers)


def torch_norms(params: Any, X: Array, Y: Array) -> Method:
    """torch.func of the MLP."""
    import torch
    from torch.func import grad, vmap

    tensors = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), params)
    x, y = torch.from_numpy(np.array(X)), torch.from_numpy(np.array(Y)).long()

    def loss(params: Any, x: Any, y: Any) -> Any:
        for layer in params[:-1]:
            x = torch.tanh(x @ layer["w"] + layer["b"])
        z = x @ params[-1]["w"] + params[-1]["b"]
        return -torch.log_softmax(z, -1).gather(-1, y[None])[0]

    def run(*_: Any) -> Any:
        gradients = vmap(grad(loss), (None, 0, 0))(tensors, x, y)
        return sum(g.flatten(1).square().sum(1) for layer in gradients for g in layer.values())

    return run


def norms_mlp() -> Case:
    draw = Draw()
    params, X = draw.dense(784, 512, 256, 10), draw.normal(128, 784)
    return norms("MLP 784-512-256-10, 128 examples", mlp, params, X, torch=torch_norms)


def norms_conv() -> Case:
    draw = Draw()
    return norms("conv net 1-16-32, dense, 64 images", conv_net, conv_params(draw), draw.normal(64, 28, 28, 1))


def norms_transformer() -> Case:
    draw = Draw()
    tokens = draw.labels(512, 100).reshape(16, 32)
    return norms(
        "transformer of 2 layers, 16 × 32 tokens of 64", transformer, transformer_params(draw, 32, 64, 2), tokens
    )


def norms_rnn(batched: bool) -> Case:
    draw = Draw()
    what = f"RNN of 32 (scan), 32 sequences of 64{'' if batched else ', by jacobian(losses)'}"
    return norms(what, rnn, rnn_params(draw, 16, 32), draw.normal(32, 64, 16), batched=batched)


def encoder() -> Case:
    """What a contractive autoencoder is punished by: the Frobenius norm."""
    draw, batch = Draw(), 256
    f = closed_mlp(draw, 784, 256, 16)
    what = f"Frobenius norms, tanh MLP 784-256-16, {batch} examples"
    args = (draw.normal(batch, 784),)
    return Case(jb.batch_jacobian(f), "squared_norms", what, args, of_each(of_J(f, squares)), {"over": "all"})


# Gram matrices ------------------------------------------------------------------------------------------------------


def ntk(what: str, apply: Method, params: Any, X: Array) -> Case:
    """The empirical neural tangent kernel, all pairs of examples and of outputs."""

    def contracted(params: Any, X: Array) -> Array:
        one = lambda x: jax.jacrev(lambda params: apply(params, x[None])[0])(params)
        flat = [x.reshape(*x.shape[:2], -1) for x in jax.tree.leaves(jax.vmap(one)(X))]
        return sum((jnp.einsum("bip,cjp->bicj", x, x) for x in flat), jnp.float32(0))

    def products(params: Any, X: Array) -> Array:
        y, push = jax.linearize(lambda params: apply(params, X), params)
        pull = jax.linear_transpose(push, params)
        basis = jnp.eye(y.size).reshape(-1, *y.shape)
        return lax.map(lambda u: push(*pull(u)), basis, batch_size=SOME).reshape(y.shape * 2)

    hands = {"vmap(jacrev), einsum": contracted, f"products with J Jᵀ, {SOME} at a time": products}
    return Case(jb.jacobian(apply), "gram", f"NTK, {what}", (params, X), hands)


def ntk_mlp() -> Case:
    draw = Draw()
    return ntk("MLP 784-512-256-10, 32 examples", mlp, draw.dense(784, 512, 256, 10), draw.normal(32, 784))


def ntk_lenet() -> Case:
    draw = Draw()
    return ntk("LeNet-5, 16 images", lenet, lenet_params(draw), draw.normal(16, 28, 28, 1))


def gauss_newton() -> Case:
    draw = Draw()
    t, y = jnp.linspace(0, 1, 500), draw.normal(500)
    f = lambda p: p[0] * jnp.exp(-p[1] * t) * jnp.sin(p[2] * t + p[3]) - y
    product = lambda J: J.T @ J
    product.__name__ = "JᵀJ"
    what = "Gauss-Newton, 4 parameters, 500 points"
    return Case(jb.jacobian(f), "gram", what, (draw.normal(4),), of_J(f, product), {"side": "in"})


def scalar() -> Case:
    draw = Draw()
    X = draw.normal(1000, 100)
    f = lambda w: jnp.sum(jax.nn.softplus(X @ w))
    hands = {"squares of grad": lambda w: squares(jax.grad(f)(w))}
    return Case(jb.jacobian(f), "gram", "a scalar: logistic loss, 100 weights", (draw.normal(100),), hands)


# Determinants -------------------------------------------------------------------------------------------------------


def slogdet(J: Array) -> tuple[Array, Array]:
    return tuple(jnp.linalg.slogdet(J))


def flow(what: str, f: Method, formula: Method | None, X: Array) -> Case:
    """Determinants of each example's J; the formula returns log |det J|, and f's determinants are positive by it."""
    peers = {"closed formula": lambda X: jax.jit(lambda X: (jnp.ones(len(X)), formula(X)))} if formula else {}
    return Case(
        jb.batch_jacobian(f), "slogdet", f"{what}, {len(X):,} examples", (X,), of_each(of_J(f, slogdet)), peers=peers
    )


def couplings(layers: int, width: int = 64) -> Case:
    """RealNVP: half of x scales and shifts the other half, then all is reversed."""
    draw, half = Draw(), width // 2
    nets = [draw.dense(half, 128, width) for _ in range(layers)]

    def both(X: Array) -> tuple[Array, Array]:
        logs = jnp.zeros(X.shape[:-1])
        for net in nets:
            s, t = jnp.split(mlp(net, X[..., :half]), 2, -1)
            s = jnp.tanh(s)
            X = jnp.concatenate([X[..., :half], X[..., half:] * jnp.exp(s) + t], -1)[..., ::-1]
            logs = logs + jnp.sum(s, -1)
        return X, logs

    what = f"RealNVP of {layers} coupling {'layer' if layers == 1 else 'layers'}, d = {width}"
    return flow(what, lambda x: both(x)[0], lambda X: both(X)[1], draw.normal(256, width))


def planar(width: int = 200) -> Case:
    draw = Draw()
    u, w = draw.normal(width) / math.sqrt(width), draw.normal(width) / math.sqrt(width)
    f = lambda x: x + u * jnp.tanh(x @ w + 0.1)[..., None]
    formula = lambda X: jnp.log(jnp.abs(1 + (1 - jnp.tanh(X @ w + 0.1) ** 2) * (u @ w)))
    return flow(f"planar flow, d = {width}", f, formula, draw.normal(32, width))


def dense_flow(width: int = 64) -> Case:
    """Nothing that helps."""
    draw = Draw()
    net = closed_mlp(draw, width, width, width)
    return flow(f"a dense residual block, d = {width}", lambda x: x + net(x), None, draw.normal(256, width))


CASES: dict[str, Callable[[], Case]] = {
    "divergence 64-64-64-64": lambda: divergence((64, 64, 64, 64), 1024),
    "divergence 32-256-256-32": lambda: divergence((32, 256, 256, 32), 256),
    "divergence 2-64-64-2": lambda: divergence((2, 64, 64, 2), 4096),
    "laplacian one": lambda: laplacian(0),
    "laplacian batch": lambda: laplacian(128),
    "tiny": tiny,
    "residual": residual,
    "autoencoder": autoencoder,
    "stencil": stencil,
    "recurrence": recurrence,
    "solve": solve,
    "norms mlp": norms_mlp,
    "norms conv": norms_conv,
    "norms transformer": norms_transformer,
    "norms rnn": lambda: norms_rnn(True),
    "norms rnn, jacobian": lambda: norms_rnn(False),
    "encoder": encoder,
    "ntk mlp": ntk_mlp,
    "ntk lenet": ntk_lenet,
    "gauss newton": gauss_newton,
    "scalar": scalar,
    "slogdet coupling": lambda: couplings(1),
    "slogdet couplings": lambda: couplings(8),
    "slogdet planar": planar,
    "slogdet dense": dense_flow,
}
