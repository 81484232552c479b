"""Sparse Jacobians and Hessians beside asdex: detection, coloring, evaluation, colors.

    python benchmarks/sparse.py              # writes results/sparse.json, prints the table
    python benchmarks/sparse.py --only arrowhead

Detection and planning are timed in turns after a first round that warms both libraries up; the least of several rounds
counts, for they are single-threaded Python. Evaluation is compiled (as BCOO), warm, in turns, medians. Values are
compared with products J t. Where asdex takes more than LIMIT seconds or raises, the table says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _readme import write_readme
from jax import Array, lax

import jaxobian as jb

RESULTS = Path(__file__).parent / "results"
ROUNDS, CALLS = 5, 30
LIMIT = 120.0


def normal(*shape: int, seed: int = 0) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


def burgers(n: int) -> tuple[Callable[..., Any], Array]:
    h = 1 / n
    f = lambda u: (
        -u * (jnp.roll(u, -1) - jnp.roll(u, 1)) / (2 * h) + 1e-3 * (jnp.roll(u, -1) - 2 * u + jnp.roll(u, 1)) / h**2
    )
    return f, normal(n)


def brusselator(n: int) -> tuple[Callable[..., Any], Array]:
    def spread(w: Array) -> Array:
        return jnp.roll(w, 1, 0) + jnp.roll(w, -1, 0) + jnp.roll(w, 1, 1) + jnp.roll(w, -1, 1) - 4 * w

    def f(s: Array) -> Array:
        u, v = s[0], s[1]
        return jnp.stack([1 + u**2 * v - 4.4 * u + 0.1 * spread(u), 3.4 * u - u**2 * v + 0.1 * spread(v)])

    return f, normal(2, n, n)


def seven_point(n: int) -> tuple[Callable[..., Any], Array]:
    def f(u: Array) -> Array:
        p = jnp.pad(u, 1)
        c = slice(1, -1)
        around = p[2:, c, c] + p[:-2, c, c] + p[c, 2:, c] + p[c, :-2, c] + p[c, c, 2:] + p[c, c, :-2]
        return around - 6 * u + jnp.exp(u)

    return f, normal(n, n, n)


def arrowhead(n: int) -> tuple[Callable[..., Any], Array]:
    return lambda x: jnp.concatenate([jnp.sum(x**2)[None], x[1:] ** 2 * x[0]]), normal(n)


def conv_net() -> tuple[Callable[..., Any], Array]:
    kernels = [normal(3, 3, i, o, seed=k) / 3 for k, (i, o) in enumerate([(1, 8), (8, 8), (8, 1)])]

    def f(x: Array) -> Array:
        for kernel in kernels:
            x = jnp.tanh(
                lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
        return x

    return f, normal(1, 28, 28, 1)


def ode(n: int) -> tuple[Callable[..., Any], Array]:
    """A chain of oscillators, each with its next two neighbors on either side."""

    def f(y: Array) -> Array:
        x, v = y[:n], y[n:]
        p = jnp.pad(x, 2, mode="edge")
        force = p[1:-3] + p[3:-1] - 2 * x + 0.2 * (p[:-4] + p[4:] - 2 * x) - x**3
        return jnp.concatenate([v, force - 0.1 * v])

    return f, normal(2 * n)


def rosenbrock(x: Array) -> Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


PROBLEMS: dict[str, tuple[Callable[[], tuple[Callable[..., Any], Array]], bool]] = {
    "burgers 10,000": (lambda: burgers(10_000), False),
    "burgers 9,999": (lambda: burgers(9_999), False),
    "burgers 200,000": (lambda: burgers(200_000), False),
    "brusselator 64x64": (lambda: brusselator(64), False),
    "7-point 20x20x20": (lambda: seven_point(20), False),
    "arrowhead 1,000": (lambda: arrowhead(1_000), False),
    "conv net 28x28, width 8": (conv_net, False),
    "oscillators 5,000": (lambda: ode(5_000), False),
    "rosenbrock hessian 10,000": (lambda: (rosenbrock, normal(10_000)), True),
}


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


class Ours:
    def __init__(self, f: Callable[..., Any], x: Array, hessian: bool):
        self.f, self.x = f, x
        self.J = (jb.hessian if hessian else jb.jacobian)(f, mode="colored", format="bcoo")
        self.pattern_of = jax.grad(f) if hessian else f

    def detect(self) -> Any:
        return jb.sparsity(self.pattern_of, self.x)

    def colors(self, pattern: Any) -> int:
        return self.J.plan(self.x).passes

    def evaluate(self) -> Callable[[], Any]:
        run = jax.jit(self.J)
        return lambda: jax.block_until_ready(run(self.x))


class Asdex:
    def __init__(self, f: Callable[..., Any], x: Array, hessian: bool):
        import asdex

        self.asdex, self.f, self.x, self.hessian = asdex, f, x, hessian

    def detect(self) -> Any:
        return (self.asdex.hessian_sparsity if self.hessian else self.asdex.jacobian_sparsity)(self.f, self.x)

    def colors(self, pattern: Any) -> int:
        make = self.asdex.hessian_coloring_from_sparsity if self.hessian else self.asdex.jacobian_coloring_from_sparsity
        self.colored = make(pattern)
        return int(self.colored.num_colors)

    def evaluate(self) -> Callable[[], Any]:
        make = self.asdex.hessian_from_coloring if self.hessian else self.asdex.jacobian_from_coloring
        run = jax.jit(make(self.f, self.colored))
        return lambda: jax.block_until_ready(run(self.x))


def measure(name: str) -> dict[str, Any]:
    """Seconds of detection and coloring (ours: of the whole plan, detection apart), milliseconds of evaluation."""
    make, hessian = PROBLEMS[name]
    f, x = make()
    sides: dict[str, Any] = {"jaxobian": Ours(f, x, hessian), "asdex": Asdex(f, x, hessian)}
    result: dict[str, Any] = {side: {} for side in sides}
    for turn in range(ROUNDS):
        for side, of in sides.items():
            row = result[side]
            if "failed" in row or (turn and row["detect_s"] > LIMIT / ROUNDS):
                continue
            try:
                detect, pattern = seconds(of.detect)
                color, count = seconds(lambda of=of, pattern=pattern: of.colors(pattern))
            except Exception as error:
                row["failed"] = f"{type(error).__name__}: {error}"[:200]
                continue
            if side == "jaxobian":
                color = max(0.0, color - detect)  # a plan detects, too
            row |= {"nnz": int(pattern.nnz), "colors": count}
            row["detect_s"] = min(detect, row.get("detect_s", detect))
            row["color_s"] = min(color, row.get("color_s", color))
    runs = {side: of.evaluate() for side, of in sides.items() if "failed" not in result[side]}
    t = normal(*x.shape, seed=9)
    expected = jax.jvp(jax.grad(f) if hessian else f, (x,), (t,))[1]
    for side, run in runs.items():
        J = run()
        product = J.reshape((expected.size, x.size)) @ t.reshape(-1)
        scale = float(jnp.abs(expected).max())
        difference = float(np.abs(np.asarray(product).reshape(-1) - np.asarray(expected).reshape(-1)).max())
        result[side]["difference"] = float(f"{difference / scale:.1e}")
    times: dict[str, list[float]] = {side: [] for side in runs}
    for turn in range(CALLS):
        for side in list(runs) if turn % 2 else list(runs)[::-1]:
            times[side].append(seconds(runs[side])[0])
    for side, each in times.items():
        result[side]["ms"] = round(1e3 * statistics.median(each), 4)
    return result


def table(results: dict[str, Any]) -> str:
    lines = ["| problem | nonzeros | colors | detection, s | coloring, s | evaluation, ms |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for name, row in results.items():
        ours, theirs = row["jaxobian"], row["asdex"]

        def pair(key: str, form: str, ours: Any = ours, theirs: Any = theirs) -> str:
            shown = "–" if key not in theirs else format(theirs[key], form)
            return f"**{format(ours[key], form)}** / {shown}"

        shown = {"nnz": ",d", "colors": "d", "detect_s": ".2g", "color_s": ".2g", "ms": ".3g"}
        cells = [pair(key, form) for key, form in shown.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+")
    only = parser.parse_args().only
    names = [n for n in PROBLEMS if not only or any(o in n for o in only)]
    results = {}
    for name in names:
        results[name] = measure(name)
        print(name, json.dumps(results[name]), flush=True)
    print(table(results))
    if not only:
        versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "asdex")}
        report = {"versions": versions, "problems": results}
        (RESULTS / "sparse.json").write_text(json.dumps(report, indent=1) + "\n")
        write_readme("sparse.json", table(results))


if __name__ == "__main__":
    main()
