"""The questions people ask about Jacobians, answered on LeNet-5 and real handwritten digits.

Run `python -m jaxobian.demo`. It trains the network in a few seconds, answers three questions, each in one
line of code that is timed beside `jax.jacrev` and `jax.jacfwd`, and draws `lenet_jacobian.png`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxobian as jb

try:
    import flax.linen as nn
    import optax
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import CenteredNorm
    from matplotlib.figure import Figure
    from sklearn import datasets
    from sklearn.model_selection import train_test_split
    from tqdm import tqdm

    import jaxobian.flax
except ModuleNotFoundError as missing:
    raise ImportError(f'the demo also needs {missing.name}: pip install "jaxobian[demo]"') from missing

SECONDS = 1.0  # that each method is timed for, or for one call if that takes longer
BATCH = 64
DRAWN = (0, 2, 3, 4, 8)

Apply = Callable[[Any, jax.Array], jax.Array]  # parameters, one image or a batch -> class scores


class Digits(NamedTuple):
    """Scans of handwritten digits, from 0 (paper) to 1 (ink), and what they show."""

    images: jax.Array  # f32[n, 28, 28, 1]
    labels: jax.Array  # i32[n]


class LeNet(nn.Module):
    """LeNet-5 as it is built today: with max-pooling and ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the ten class scores (logits) of an image, `f32[28, 28, 1]`, or of each image of a batch."""
        x = nn.relu(nn.Conv(6, (5, 5), padding="SAME")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(16, (5, 5), padding="VALID")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(*x.shape[:-3], -1)
        x = nn.relu(nn.Dense(120)(x))
        x = nn.relu(nn.Dense(84)(x))
        return nn.Dense(10)(x)


def load_digits() -> tuple[Digits, Digits]:
    """Load scikit-learn's 1,797 digits, resized from 8x8 to 28x28: some to learn from, a fifth held out."""
    pixels, labels = datasets.load_digits(return_X_y=True)
    images = jax.image.resize(pixels.reshape(-1, 8, 8, 1) / 16, (len(pixels), 28, 28, 1), "bilinear")
    digits = Digits(images, jnp.asarray(labels))
    learn, held_out = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0)
    return jax.tree.map(lambda a: a[learn], digits), jax.tree.map(lambda a: a[held_out], digits)


def train(apply: Apply, params: Any, digits: Digits, epochs: int, batch: int = 32) -> Any:
    """Fit the parameters to the digits with AdamW, and return them."""
    batches = len(digits.labels) // batch
    # Weights that the digits do not need decay, so that the derivatives show strokes rather than noise.
    optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, epochs * batches), weight_decay=1.0)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        scores = apply(params, digits.images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(scores, digits.labels[rows]).mean()

    # One compiled step in a Python loop: a `lax.scan` over the epoch takes four times as long on a CPU.
    @jax.jit
    def step(params: Any, state: optax.OptState, rows: jax.Array) -> tuple[Any, optax.OptState, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(params, rows)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state = optimizer.init(params)
    progress = tqdm(jax.random.split(jax.random.key(0), epochs), desc="training", unit="epoch")
    for key in progress:
        shuffled = jax.random.permutation(key, len(digits.labels))
        losses = []
        for rows in shuffled[: batches * batch].reshape(batches, batch):
            params, state, value = step(params, state, rows)
            losses.append(value)
        progress.set_postfix(loss=f"{jnp.stack(losses).mean():.4f}", refresh=False)
    return params


def one_image(apply: Apply, params: Any, x: jax.Array) -> None:
    """Answer the first question: the 784 x 10 Jacobian of one image."""
    ask(
        "For any test image, I would like the derivative of any of the 10 outputs with respect to any of\n"
        "   the 784 inputs: a 784 x 10 matrix J. Is there an elegant way? Which mode is more efficient?",
        answer="J = jb.jacobian(apply, 1)(params, x).reshape(10, 784).T",
    )
    J = jb.jacobian(apply, 1)(params, x).reshape(10, 784).T
    print(f"   J.shape is {J.shape}\n")
    print(jb.jacobian(apply, 1).plan(params, x))
    compare(
        {
            "jaxobian": jb.jacobian(apply, 1),
            "jax.jacrev": jax.jacrev(apply, 1),
            "jax.jacfwd": jax.jacfwd(apply, 1),
        },
        params,
        x,
    )


def batch_of_images(apply: Apply, params: Any, X: jax.Array) -> None:
    """Answer the second question: the Jacobians of a batch of images at once."""
    ask(
        f"My input has shape [{len(X)}, 28, 28, 1], my output [{len(X)}, 10]. The derivative should have\n"
        f"   shape [{len(X)}, 10, 28, 28, 1]. Is there a way to get it without a for loop?",
        answer="J = jb.batch_jacobian(apply, 1)(params, X)",
    )
    J = jb.batch_jacobian(apply, 1)(params, X)
    print(f"   J.shape is {J.shape}\n")
    print(jb.batch_jacobian(apply, 1).plan(params, X))
    compare(
        {
            "jaxobian": jb.batch_jacobian(apply, 1),
            "vmap of jax.jacrev": jax.vmap(jax.jacrev(apply, 1), (None, 0)),
            "vmap of jax.jacfwd": jax.vmap(jax.jacfwd(apply, 1), (None, 0)),
        },
        params,
        X,
    )


def parameters(apply: Apply, params: Any, x: jax.Array) -> None:
    """Answer the third question: the Jacobian with respect to the parameters."""
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    ask(
        f"I don't see a way to extend it to parameters: my network has {count:,} of them, in a tree.",
        answer="J = jb.jacobian(apply, 0)(params, x)",
    )
    J = jb.jacobian(apply, 0)(params, x)
    print(f"   J['Dense_0']['kernel'].shape is {J['Dense_0']['kernel'].shape}, and so on\n")
    print(jb.jacobian(apply, 0).plan(params, x))
    compare({"jaxobian": jb.jacobian(apply, 0), "jax.jacrev": jax.jacrev(apply, 0)}, params, x)
    forward = jb.jacobian(apply, 0, mode="fwd", chunk_size=count).plan(params, x)
    gigabytes = forward.peak_bytes / 1e9
    print(f"   jax.jacfwd             not run: its {count:,} passes at once would take {gigabytes:.1f} GB")


def ask(question: str, answer: str) -> None:
    """Print a question in a person's words and the line of code that answers it."""
    print(f"\n\n?  {question}\n\n>  {answer}\n")


def compare(methods: dict[str, Callable], *args: Any) -> None:
    """Print each method's time, compiled and warm, and how far its values are from the first method's."""
    compiled = {name: jax.jit(method) for name, method in methods.items()}
    values = {name: jax.block_until_ready(method(*args)) for name, method in compiled.items()}
    seconds = {name: [] for name in methods}

    # Next is always the method that ran for the least time so far: fast ones run often and alternate, exposed
    # to the same noise, and a slow one need not run twice.
    while sum(seconds[name := min(seconds, key=lambda name: sum(seconds[name]))]) < SECONDS:
        start = time.perf_counter()
        jax.block_until_ready(compiled[name](*args))
        seconds[name].append(time.perf_counter() - start)

    first = next(iter(methods))
    print(f"\n   {'':20}{'time':>10}{'relative':>12}{'largest difference':>22}")
    for name in methods:
        median = statistics.median(seconds[name])
        relative = median / statistics.median(seconds[first])
        gap = "" if name == first else f"{largest_difference(values[first], values[name]):.1e}"
        print(f"   {name:20}{1e3 * median:>7.2f} ms{relative:>11.2f}x{gap:>22}")


def largest_difference(a: Any, b: Any) -> float:
    """Return the largest absolute difference between two pytrees of arrays."""
    return max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), a, b)))


def draw(apply: Apply, params: Any, images: jax.Array, path: Path) -> None:
    """Draw a row for each image: the image, and how each class score changes with each of its pixels."""
    scores = apply(params, images)
    jacobians = jb.batch_jacobian(apply, 1)(params, images)[..., 0]
    # A few pixels stand out so far that, were they in range, all the others would be pale.
    colors = CenteredNorm(halfrange=float(jnp.percentile(jnp.abs(jacobians), 99.7)))

    # A Figure of its own, without pyplot, leaves alone the backend and the settings of whoever imports this.
    figure = Figure(figsize=(16, 10), dpi=100, facecolor="white")
    place = {"left": 0.02, "right": 0.915, "bottom": 0.12, "top": 0.84, "wspace": 0.09, "hspace": 0.24}
    panels = figure.subplots(len(images), 11, gridspec_kw=place)
    for row, image, jacobian, score in zip(panels, images[..., 0], jacobians, scores, strict=True):
        row[0].imshow(image, cmap="gray_r")
        for k, panel in enumerate(row[1:]):
            panel.imshow(jacobian[k], cmap="RdBu_r", norm=colors)
            panel.contour(image, levels=[0.5], colors="black", linewidths=0.8, alpha=0.5)
            label = f"{score[k]:.1f}".replace("-", "\N{MINUS SIGN}")
            panel.set_xlabel(label, color="0.45", size=12, labelpad=3)
        for panel in row:
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set(color="0.8")
        predicted = row[1 + int(score.argmax())]
        predicted.spines[:].set(color="black", linewidth=2.5)
        predicted.xaxis.label.set(color="black", weight="bold")

    for panel, title in zip(panels[0], ["image", *range(10)], strict=True):
        panel.set_title(title, size=16, weight="normal" if title == "image" else "bold", pad=7)
    beside = figure.add_axes((0.931, 0.12, 0.011, 0.72))
    scale = figure.colorbar(ScalarMappable(colors, "RdBu_r"), cax=beside, extend="both")
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=12, color="0.5")
    scale.set_label("change of the score per unit of ink", size=13, labelpad=8)
    explain(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def explain(figure: Figure) -> None:
    """Write the title and the caption."""
    figure.text(0.02, 0.945, "What makes LeNet-5 read a 0, a 1, \u2026 or a 9?", size=25, weight="bold")
    figure.text(0.02, 0.903, "How the score of each class changes with each of the 784 pixels", size=17)
    caption = (
        "Red: more ink here raises the score of the column's class. Blue: more ink lowers it. "
        "Thin line: the outline of the digit.\n"
        "Below each map stands the score (logit); the highest, in a frame, is the prediction. "
        "All maps: jb.batch_jacobian(apply, 1)(params, images)"
    )
    figure.text(0.02, 0.028, caption, size=13, color="0.25", linespacing=1.6)


def main(argv: list[str] | None = None) -> int:
    """Train LeNet-5, answer the questions, draw the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxobian.demo",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=15, help="how long to train")
    parser.add_argument("--out", type=Path, default="lenet_jacobian.png", help="where to write the picture")
    options = parser.parse_args(argv)

    learn, held_out = load_digits()
    X, labels = held_out
    model = LeNet()
    apply, params = jaxobian.flax.functional(model, model.init(jax.random.key(1), X[0]))
    params = train(apply, params, learn, options.epochs)
    accuracy = (apply(params, X).argmax(-1) == labels).mean()
    print(f"LeNet-5 reads {accuracy:.1%} of {len(X)} held-out digits right.")

    one_image(apply, params, X[0])
    batch_of_images(apply, params, X[:BATCH])
    parameters(apply, params, X[0])

    first_of_each = jnp.array([(labels == digit).argmax() for digit in DRAWN])
    draw(apply, params, X[first_of_each], options.out)
    print(f"\n\nThe picture: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
