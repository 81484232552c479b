"""Scenarios: the networks of the users' threads, and the building blocks of others, in plain JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from ._scenario import (
    apply_mlp,
    avg_pool,
    conv,
    init_mlp,
    integers,
    max_pool,
    mlp,
    normal,
    scenario,
    uniform,
    upsample,
    weights,
)

# --- Images to scores --------------------------------------------------------------------------------------


def _lenet5(
    pool: Callable[[Array], Array] = max_pool, activation: Callable[[Array], Array] = jax.nn.relu
) -> Callable[[Array], Array]:
    """LeNet-5 from (batch, 28, 28, 1) to (batch, 10)."""
    kernel1, kernel2 = weights(5, 5, 1, 6, seed=1), weights(5, 5, 6, 16, seed=2)
    head = mlp(400, 120, 84, 10, activation=activation, seed=3)

    def f(images: Array) -> Array:
        h = pool(activation(conv(images, kernel1)))
        h = pool(activation(conv(h, kernel2, padding="VALID")))
        return head(h.reshape(len(images), -1))

    return f


@scenario("bench")
def lenet5():
    """LeNet-5 (max-pool, relu) on one 28x28 digit: the 784 x 10 table that the first thread asks for."""
    f = _lenet5()
    return lambda image: f(image[None])[0], (uniform(28, 28, 1, low=0, high=1),)


@scenario("bench", batched=True)
def lenet5_batch64():
    """LeNet-5 on 64 digits at once, examples kept apart."""
    return _lenet5(), (uniform(64, 28, 28, 1, low=0, high=1),)


@scenario("bench", batched=True)
def lenet5_avg_tanh_batch64():
    """LeNet-5 as it was in 1998, average pooling and tanh, on 64 digits."""
    return _lenet5(avg_pool, jnp.tanh), (uniform(64, 28, 28, 1, low=0, high=1),)


@scenario("bench")
def lenet5_dense_batch3():
    """LeNet-5 on three digits, differentiated as one function of the whole batch."""
    return _lenet5(), (uniform(3, 28, 28, 1, low=0, high=1),)


@scenario("bench", batched=True)
def conv32_batch32():
    """3x3 convolution with 32 channels, max-pool, dense, on 32 digits: the second network of the threads."""
    kernel, dense = weights(3, 3, 1, 32, seed=1), weights(13 * 13 * 32, 10, seed=2)

    def f(images: Array) -> Array:
        h = max_pool(jax.nn.relu(conv(images, kernel, padding="VALID")))
        return h.reshape(len(images), -1) @ dense

    return f, (uniform(32, 28, 28, 1, low=0, high=1),)


@scenario()
def conv32_small():
    """The same on one 8x8 image."""
    kernel, dense = weights(3, 3, 1, 32, seed=1), weights(9 * 32, 10, seed=2)

    def f(image: Array) -> Array:
        return max_pool(jax.nn.relu(conv(image[None], kernel, padding="VALID"))).reshape(-1) @ dense

    return f, (uniform(8, 8, 1, low=0, high=1),)


# --- Dense networks ----------------------------------------------------------------------------------------


@scenario("bench")
def dense_5_10_2():
    """A dense 5-10-2 network on a batch of three, as one function: J has shape (3, 2, 3, 5)."""
    return mlp(5, 10, 2, activation=jax.nn.relu), (normal(3, 5, seed=1),)


@scenario("bench", batched=True)
def dense_5_10_2_batch():
    """The same with examples kept apart: J has shape (3, 2, 5)."""
    return mlp(5, 10, 2, activation=jax.nn.relu), (normal(3, 5, seed=1),)


@scenario("bench", batched=True, argnums=1)
def mlp_batch64():
    """A 30-64-64-20 network on 64 examples, called as a model with parameters is."""
    return apply_mlp, (init_mlp(30, 64, 64, 20), normal(64, 30, seed=1))


@scenario("bench")
def mlp_batch16_dense():
    """A 20-32-10 network on 16 examples as one function: J is block-diagonal, and mostly zeros."""
    return mlp(20, 32, 10), (normal(16, 20, seed=1),)


@scenario("bench")
def mlp_batch64_dense():
    """A 64-64-10 network on 64 examples as one function: of 64 blocks of J, 63 are zero."""
    return mlp(64, 64, 10), (normal(64, 64, seed=1),)


@scenario("bench")
def token_mlp():
    """A 32-32-32 network on each of 64 tokens."""
    return mlp(32, 32, 32), (normal(64, 32, seed=1),)


@scenario("bench")
def mlp_classifier():
    """784-512-256-10: a classifier of images."""
    return mlp(784, 512, 256, 10), (normal(784),)


@scenario("bench")
def mlp_wide():
    """A network with few inputs and many outputs."""
    return mlp(20, 256, 256, 500), (normal(20),)


@scenario("bench")
def mlp_tall():
    """A network with many inputs and few outputs."""
    return mlp(500, 256, 256, 20), (normal(500),)


@scenario("bench")
def mlp_square():
    """512-512-512: as many outputs as inputs."""
    return mlp(512, 512, 512), (normal(512),)


@scenario("bench")
def mlp_deep():
    """Twenty narrow layers."""
    return mlp(*[64] * 20), (normal(64),)


@scenario("bench")
def autoencoder():
    """784-256-16-256-784: every path goes through sixteen numbers."""
    return mlp(784, 256, 16, 256, 784), (normal(784),)


@scenario("bench")
def autoencoder_512_32():
    """784-512-32-512-784: wider, its narrowest place thirty-two."""
    return mlp(784, 512, 32, 512, 784), (normal(784),)


@scenario("bench")
def autoencoder_two_bottlenecks():
    """512-256-16-256-24-256-512: narrow twice."""
    return mlp(512, 256, 16, 256, 24, 256, 512), (normal(512),)


@scenario("bench")
def autoencoder_skip():
    """An autoencoder whose output adds half its input: the bottleneck is not a cut any more."""
    net = mlp(784, 256, 16, 256, 784)
    return lambda x: net(x) + 0.5 * x, (normal(784),)


@scenario()
def autoencoder_gated_skip():
    """An autoencoder beside an elementwise map of its input."""
    net = mlp(60, 30, 6, 30, 60)
    return lambda x: net(x) + x * jnp.tanh(x), (normal(60),)


@scenario("bench", batched=True)
def autoencoder_batch16():
    """An autoencoder 256-128-12-128-256 on sixteen examples: sixteen cuts, each twelve wide."""
    return mlp(256, 128, 12, 128, 256), (normal(16, 256, seed=1),)


@scenario("bench")
def autoencoder_dense_batch8():
    """An autoencoder 128-64-8-64-128 on eight examples, as one function."""
    return mlp(128, 64, 8, 64, 128), (normal(8, 128, seed=1),)


@scenario()
def parallel_bottlenecks():
    """Two encoders side by side, whose codes are joined: together they are a cut, one alone is not."""
    first, second, decode = mlp(40, 20, 3), mlp(40, 16, 4, seed=5), mlp(7, 20, 40, seed=9)
    return lambda x: decode(jnp.concatenate([first(x), second(x)])), (normal(40),)


@scenario("complex")
def complex_bottleneck():
    """A real function through three complex numbers: six passes wide."""
    spectrum = weights(30, 3) + 1j * weights(30, 3, seed=1)
    back = weights(3, 30, seed=2) - 1j * weights(3, 30, seed=3)
    return lambda x: jnp.real(jnp.exp(1j * jnp.abs(x @ spectrum) ** 2) * (x @ spectrum) @ back), (normal(30),)


@scenario("bench")
def residual_mlp():
    """Four residual blocks 128-128 of width 128: there is nothing narrow."""
    blocks = [mlp(128, 128, 128, seed=10 * k) for k in range(4)]

    def f(x: Array) -> Array:
        for block in blocks:
            x = x + block(x)
        return x

    return f, (normal(128),)


@scenario("bench")
def residual_bottlenecks():
    """Three residual blocks 512-8-512: the skips allow no cut, and together the blocks are twenty-four wide."""
    blocks = [mlp(512, 8, 512, seed=10 * k) for k in range(3)]

    def f(x: Array) -> Array:
        for block in blocks:
            x = x + block(x)
        return x

    return f, (normal(512),)


@scenario("large")
def mlp_3000():
    """A 3000 x 3000, 12-layer network."""
    w = weights(3000, 3000)

    def f(x: Array) -> Array:
        for _ in range(12):
            x = jnp.tanh(1.5 * x @ w)
        return x

    return f, (normal(3000, seed=1),)


# --- By the parameters -------------------------------------------------------------------------------------


@scenario("bench")
def mlp_params():
    """A 10-32-5 network's outputs by its parameters, a pytree."""
    x = normal(10, seed=9)

    def f(params: Any) -> Array:
        return apply_mlp(params, x)

    return f, (init_mlp(10, 32, 5),)


@scenario("bench")
def mlp_params_batch16():
    """The same over a batch of 16 examples: per-example gradients of every output."""
    return apply_mlp, (init_mlp(10, 32, 5), normal(16, 10, seed=9))


@scenario(argnums=(0, 1))
def mlp_params_and_inputs():
    """By the parameters and by the input at once: `argnums` is a tuple."""
    return apply_mlp, (init_mlp(4, 6, 3), normal(2, 4, seed=9))


@scenario("bench")
def conv_params():
    """A convolution's output by its kernel."""
    images, dense = normal(1, 12, 12, 2, seed=1), weights(144 * 4, 10, seed=2)

    def f(kernel: Array) -> Array:
        return jnp.tanh(conv(images, kernel)).reshape(-1) @ dense

    return f, (weights(3, 3, 2, 4),)


@scenario()
def embedding_params():
    """Word embeddings, looked up and averaged, by the table."""
    tokens, head = integers(12, 6, seed=1), weights(4, 3, seed=2)

    def f(table: Array) -> Array:
        return jnp.tanh(table[tokens].mean(0)) @ head

    return f, (normal(12, 4),)


# --- Blocks ------------------------------------------------------------------------------------------------


def _conv_autoencoder(*, skip: bool) -> Callable[[Array], Array]:
    """Convolutions 32x32 -> 16 numbers -> 32x32; with a skip the last one also sees the input."""
    sizes = [(1, 8), (8, 16), (16, 8), (8 + skip, 1)]
    k1, k2, k3, k4 = (weights(3, 3, *io, seed=i) for i, io in enumerate(sizes))
    encode, decode = weights(1024, 16, seed=5), weights(16, 1024, seed=6)

    def f(image: Array) -> Array:
        h = jnp.tanh(conv(image[None], k1, stride=2))
        h = jnp.tanh(conv(h, k2, stride=2))
        z = jnp.tanh(h.reshape(-1) @ encode)
        h = upsample(jnp.tanh(z @ decode).reshape(1, 8, 8, 16))
        h = upsample(jnp.tanh(conv(h, k3)))
        return conv(jnp.concatenate([h, image[None]], axis=-1) if skip else h, k4)[0]

    return f


@scenario("bench")
def conv_autoencoder():
    """Convolutions 32x32 -> 16 numbers -> 32x32."""
    return _conv_autoencoder(skip=False), (normal(32, 32, 1),)


@scenario("bench")
def unet_32():
    """The convolutional autoencoder of 32x32 images, whose last convolution also sees its input."""
    return _conv_autoencoder(skip=True), (normal(32, 32, 1),)


@scenario("bench")
def unet():
    """A 16x16 autoencoder whose last convolution also sees its input: no narrow cut."""
    k1, k2, k3 = weights(3, 3, 1, 8), weights(3, 3, 8, 8, seed=1), weights(3, 3, 9, 1, seed=2)
    encode, decode = weights(512, 16, seed=3), weights(16, 512, seed=4)

    def f(image: Array) -> Array:
        h = jnp.tanh(conv(image[None], k1, stride=2))
        z = jnp.tanh(h.reshape(-1) @ encode)
        h = upsample(jnp.tanh(conv(jnp.tanh(z @ decode).reshape(1, 8, 8, 8), k2)))
        return conv(jnp.concatenate([h, image[None]], axis=-1), k3)[0]

    return f, (normal(16, 16, 1),)


@scenario("bench")
def resnet_block():
    """Two convolutions with a skip connection."""
    k1, k2 = weights(3, 3, 4, 4), weights(3, 3, 4, 4, seed=1)

    def f(x: Array) -> Array:
        return x + conv(jax.nn.relu(conv(x[None], k1)), k2)[0]

    return f, (normal(8, 8, 4),)


@scenario("bench")
def attention():
    """Two-headed self-attention over 12 tokens of 16 features, with a residual."""
    wq, wk, wv, wo = (weights(16, 2, 8, seed=i) for i in range(4))

    def f(x: Array) -> Array:
        q, k, v = (jnp.einsum("td,dhk->htk", x, w) for w in (wq, wk, wv))
        attend = jax.nn.softmax(jnp.einsum("hsk,htk->hst", q, k) / jnp.sqrt(8.0))
        return x + jnp.einsum("hst,htk,dhk->sd", attend, v, wo)

    return f, (normal(12, 16),)


@scenario("bench")
def layer_norm():
    """LayerNorm over the features of 8 tokens."""
    scale = uniform(32, seed=1)

    def f(x: Array) -> Array:
        centered = x - x.mean(-1, keepdims=True)
        return scale * centered / jnp.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)

    return f, (normal(8, 32),)


@scenario("bench")
def group_norm():
    """GroupNorm of a 6x6 image with 8 channels in 4 groups."""

    def f(x: Array) -> Array:
        groups = x.reshape(6, 6, 4, 2)
        mean, var = groups.mean((0, 1, 3), keepdims=True), groups.var((0, 1, 3), keepdims=True)
        return ((groups - mean) / jnp.sqrt(var + 1e-5)).reshape(x.shape)

    return f, (normal(6, 6, 8),)


@scenario("bench")
def softmax_head():
    """Probabilities of a dense classifier that sum to one: J is singular."""
    net = mlp(40, 30, 10)
    return lambda x: jax.nn.softmax(net(x)), (normal(40),)


@scenario("bench")
def remat_mlp():
    """A network whose layers are recomputed in the backward pass (`jax.checkpoint`)."""
    w1, w2, w3 = weights(60, 80), weights(80, 80, seed=1), weights(80, 50, seed=2)
    layer = jax.checkpoint(lambda w, x: jnp.tanh(x @ w))
    return lambda x: layer(w3, layer(w2, layer(w1, x))), (normal(60),)


@scenario("bench")
def rnn():
    """A recurrent network over 20 steps of 3 features; its last state by the whole sequence."""
    w, u = weights(8, 8), weights(3, 8, seed=1)

    def f(xs: Array) -> Array:
        return lax.scan(lambda h, x: (jnp.tanh(h @ w + x @ u), None), jnp.zeros(8), xs)[0]

    return f, (normal(20, 3, seed=2),)


@scenario("bench")
def rnn_outputs():
    """The same network's states at all steps by its initial state and sequence, both in one pytree."""
    w, u = weights(8, 8), weights(3, 8, seed=1)

    def f(inputs: dict[str, Array]) -> Array:
        def step(h: Array, x: Array) -> tuple[Array, Array]:
            h = jnp.tanh(h @ w + x @ u)
            return h, h

        return lax.scan(step, inputs["h"], inputs["xs"])[1]

    return f, ({"h": normal(8), "xs": normal(20, 3, seed=2)},)


@scenario()
def conv1d():
    """A dilated 1-D convolution over time."""
    kernel = weights(3, 2, 4)

    def f(x: Array) -> Array:
        y = lax.conv_general_dilated(
            x[None], kernel, (1,), [(4, 0)], rhs_dilation=(2,), dimension_numbers=("NWC", "WIO", "NWC")
        )
        return jax.nn.gelu(y[0])

    return f, (normal(10, 2),)


@scenario()
def depthwise_conv():
    """A depthwise convolution, one kernel a channel."""
    kernel = weights(3, 3, 1, 4)

    def f(x: Array) -> Array:
        return lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
        )[0]

    return f, (normal(5, 5, 4),)


@scenario()
def transposed_conv():
    """A strided transposed convolution."""
    kernel = weights(3, 3, 2, 3)

    def f(x: Array) -> Array:
        return lax.conv_transpose(x[None], kernel, (2, 2), "SAME")[0]

    return f, (normal(4, 4, 2),)


@scenario()
def dropout():
    """Dropout with an explicit key: the same mask in every pass."""
    keep = 0.5
    net1, net2 = mlp(12, 20), mlp(20, 4, seed=1)

    def f(x: Array, key: Array) -> Array:
        mask = jax.random.bernoulli(key, keep, (20,))
        return net2(jnp.where(mask, jnp.tanh(net1(x)) / keep, 0))

    return f, (normal(12), jax.random.key(0))
