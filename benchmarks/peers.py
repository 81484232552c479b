"""The networks that users ask about, in jaxobian, plain JAX, PyTorch and TensorFlow: same weights, same values, timed.

    python benchmarks/peers.py                         # every framework that is installed; results/peers.json and .png
    python benchmarks/peers.py --tensorflow PYTHON     # TensorFlow from another environment, by its interpreter
    python benchmarks/peers.py --only lenet mlp        # these networks alone
    python benchmarks/peers.py --plot                  # draw the picture of results/peers.json again

Each framework lives in a process of its own. They take turns, network by network, several rounds; a process whose
turn it is not is stopped (SIGSTOP), so that its idle threads take nothing from the one that is timed. Every J is
compared with that of `vmap(jacrev)` before it is timed. Times are medians over all rounds of a warm call.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _readme import write_readme

RESULTS = Path(__file__).parent / "results"
FRAMEWORKS = ("jaxobian", "jax", "torch", "tensorflow", "asdex")
# A method that takes longer than this, in seconds, is timed twice only.
SLOW = 1.0
ROUNDS, CALLS = 5, 7
# The largest difference from vmap(jacrev) that is let pass, relative to the largest entry of J.
TOLERANCE = 2e-5

Method = Callable[[], Any]


# Networks -----------------------------------------------------------------------------------------------------


def normal(*shape: int, seed: int) -> np.ndarray:
    scale = 1 / np.sqrt(max(1, np.prod(shape[:-1])))
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def _lenet() -> dict[str, np.ndarray]:
    shapes = {"c1": (5, 5, 1, 6), "c2": (5, 5, 6, 16), "d1": (400, 120), "d2": (120, 84), "d3": (84, 10)}
    return {name: normal(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}


def _attention() -> dict[str, np.ndarray]:
    return {name: normal(32, 32, seed=k) for k, name in enumerate(("q", "k", "v", "o"))}


# What each network is made of: its weights, and the examples.
NETWORKS: dict[str, tuple[str, Callable[[], dict[str, np.ndarray]], tuple[int, ...]]] = {
    "lenet": ("LeNet-5 (max, relu), 64 images", _lenet, (64, 28, 28, 1)),
    "lenet_avg": ("LeNet-5 (average, tanh), 64 images", _lenet, (64, 28, 28, 1)),
    "keras": (
        "3x3 convolution, 32 channels, max-pool, dense; 32 images",
        lambda: {"c1": normal(3, 3, 1, 32, seed=1), "d1": normal(13 * 13 * 32, 10, seed=2)},
        (32, 28, 28, 1),
    ),
    "dense": (
        "5-10-2, 1000 examples",
        lambda: {"d1": normal(5, 10, seed=1), "d2": normal(10, 2, seed=2)},
        (1000, 5),
    ),
    "mlp": (
        "MLP 784-512-256-10, 64 examples",
        lambda: {"d1": normal(784, 512, seed=1), "d2": normal(512, 256, seed=2), "d3": normal(256, 10, seed=3)},
        (64, 784),
    ),
    "attention": ("self-attention, 16 tokens of 32, 4 examples", _attention, (4, 16, 32)),
    "resnet": (
        "residual block 8x8x16, one image",
        lambda: {"c1": normal(3, 3, 16, 16, seed=1), "c2": normal(3, 3, 16, 16, seed=2)},
        (1, 8, 8, 16),
    ),
    "lenet_params": ("LeNet-5 by its parameters, each of 16 images", _lenet, (16, 28, 28, 1)),
}


def examples(name: str) -> np.ndarray:
    return np.random.default_rng(0).uniform(size=NETWORKS[name][2]).astype(np.float32)


# In each framework a network is apply(ops, params, x), written once over these few operations.


def apply(name: str, op: Any, p: Any, x: Any) -> Any:
    if name in ("lenet", "lenet_params", "lenet_avg"):
        pool, act = (op.avg_pool, op.tanh) if name == "lenet_avg" else (op.max_pool, op.relu)
        h = pool(act(op.conv(x, p["c1"], "SAME")))
        h = op.flat(pool(act(op.conv(h, p["c2"], "VALID"))))
        return act(act(h @ p["d1"]) @ p["d2"]) @ p["d3"]
    if name == "keras":
        return op.flat(op.max_pool(op.relu(op.conv(x, p["c1"], "VALID")))) @ p["d1"]
    if name == "dense":
        return op.tanh(op.tanh(x @ p["d1"]) @ p["d2"])
    if name == "mlp":
        return op.relu(op.relu(x @ p["d1"]) @ p["d2"]) @ p["d3"]
    if name == "attention":
        q, k, v = (x @ p[w] for w in "qkv")
        return op.softmax(q @ op.swap(k) / 32**0.5) @ v @ p["o"]
    if name == "resnet":
        return x + op.conv(op.relu(op.conv(op.relu(x), p["c1"], "SAME")), p["c2"], "SAME")
    raise ValueError(name)


# Frameworks ---------------------------------------------------------------------------------------------------
# Each gives the methods of a network by name: a function that computes J, (batch, *out, *in) or a dict of those.


def in_jax(name: str, params: dict[str, np.ndarray], x: np.ndarray, framework: str) -> dict[str, Method]:
    import jax
    import jax.numpy as jnp
    from jax import lax

    class Ops:
        relu, tanh, softmax = jax.nn.relu, jnp.tanh, staticmethod(jax.nn.softmax)
        conv = staticmethod(
            lambda x, w, pad: lax.conv_general_dilated(x, w, (1, 1), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
        max_pool = staticmethod(lambda x: lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))
        avg_pool = staticmethod(lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4)
        flat = staticmethod(lambda x: x.reshape(len(x), -1))
        swap = staticmethod(lambda x: jnp.swapaxes(x, -1, -2))

    P, X = jax.tree.map(jnp.asarray, params), jnp.asarray(x)
    batch = lambda p, x: apply(name, Ops, p, x)
    one = lambda p, x: batch(p, x[None])[0]
    by_params = name == "lenet_params"
    number, axes = (0, (None, 0)) if by_params else (1, (None, 0))

    def ready(f: Callable[..., Any]) -> Method:
        compiled = jax.jit(f)
        return lambda: jax.block_until_ready(compiled(P, X))

    if framework == "jaxobian":
        import jaxobian as jb

        return {
            "batch_jacobian": ready(jb.batch_jacobian(batch, number, in_axes=axes)),
            "vmap(jacobian)": ready(jax.vmap(jb.jacobian(one, number), axes)),
        }
    if framework == "asdex":
        if name not in ("dense", "resnet"):
            return {}
        import asdex

        f = lambda x: batch(P, x.reshape(X.shape)).reshape(-1)
        run = jax.jit(asdex.jacobian(f, X.reshape(-1)))
        return {"jacobian (sparse, of the whole batch)": lambda: jax.block_until_ready(run(X.reshape(-1)))}

    def unrolled(p: Any, x: Any) -> Any:
        y, pull = jax.vjp(batch, p, x)
        size = y[0].size
        seeds = [jnp.broadcast_to(e.reshape(y.shape[1:]), y.shape) for e in jnp.eye(size, dtype=y.dtype)]
        rows = jnp.stack([pull(seed)[1] for seed in seeds], 1)
        return rows.reshape(*y.shape, *x.shape[1:])

    methods = {"vmap(jacrev)": ready(jax.vmap(jax.jacrev(one, number), axes))}
    if not by_params:
        methods["vmap(jacfwd)"] = ready(jax.vmap(jax.jacfwd(one, number), axes))
        if jax.eval_shape(one, P, X[0]).size <= 64:
            methods["unrolled vjps"] = ready(unrolled)
    return methods


def in_torch(name: str, params: dict[str, np.ndarray], x: np.ndarray, framework: str) -> dict[str, Method]:
    import torch
    import torch.nn.functional as F

    class Ops:
        relu, tanh = torch.relu, torch.tanh
        softmax = staticmethod(lambda x: torch.softmax(x, -1))
        conv = staticmethod(lambda x, w, pad: F.conv2d(x, w, padding=pad.lower()))
        max_pool = staticmethod(lambda x: F.max_pool2d(x, 2))
        avg_pool = staticmethod(lambda x: F.avg_pool2d(x, 2))
        # In the order of the others, whose channels come last.
        flat = staticmethod(lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1))
        swap = staticmethod(lambda x: x.transpose(-1, -2))

    torch.set_num_threads(os.cpu_count() or 1)
    P = {k: torch.tensor(v.transpose(3, 2, 0, 1).copy() if v.ndim == 4 else v) for k, v in params.items()}
    X = torch.tensor(x.transpose(0, 3, 1, 2).copy() if x.ndim == 4 else x)
    batch = lambda p, x: apply(name, Ops, p, x)
    one = lambda p, x: batch(p, x[None])[0]

    def loop() -> Any:
        inputs = X.clone().requires_grad_()
        y = batch(P, inputs)
        columns = list(y.reshape(len(y), -1).sum(0))
        rows = [torch.autograd.grad(c, inputs, retain_graph=True)[0] for c in columns]
        return torch.stack(rows, 1).reshape(*y.shape, *inputs.shape[1:])

    if name == "lenet_params":
        return {"vmap(jacrev)": lambda: torch.func.vmap(torch.func.jacrev(one, 0), (None, 0))(P, X)}
    methods: dict[str, Method] = {
        "vmap(jacrev)": lambda: torch.func.vmap(torch.func.jacrev(one, 1), (None, 0))(P, X),
        "loop over outputs": loop,
    }
    return methods


def torch_layout(name: str, J: Any) -> Any:
    """A PyTorch Jacobian with channels last."""
    if isinstance(J, dict):
        return {k: v.permute(0, 1, 4, 5, 3, 2).numpy() if v.ndim == 6 else v.numpy() for k, v in J.items()}
    if name == "resnet":
        return J.permute(0, 2, 3, 1, 5, 6, 4).detach().numpy()
    return J.permute(0, 1, 3, 4, 2).detach().numpy() if len(NETWORKS[name][2]) == 4 else J.detach().numpy()


def in_tensorflow(name: str, params: dict[str, np.ndarray], x: np.ndarray, framework: str) -> dict[str, Method]:
    import tensorflow as tf

    class Ops:
        relu, tanh, softmax = tf.nn.relu, tf.tanh, tf.nn.softmax
        conv = staticmethod(lambda x, w, pad: tf.nn.conv2d(x, w, 1, pad))
        max_pool = staticmethod(lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"))
        avg_pool = staticmethod(lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"))
        flat = staticmethod(lambda x: tf.reshape(x, (x.shape[0], -1)))
        swap = staticmethod(lambda x: tf.linalg.matrix_transpose(x))

    P, X = {k: tf.constant(v) for k, v in params.items()}, tf.constant(x)

    def batched() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(X)
            y = apply(name, Ops, P, X)
        return tape.batch_jacobian(y, X)

    def loop() -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(X)
            y = apply(name, Ops, P, X)
            columns = tf.unstack(tf.reduce_sum(tf.reshape(y, (y.shape[0], -1)), 0))
        rows = tf.stack([tape.gradient(c, X) for c in columns], 1)
        return tf.reshape(rows, (*y.shape, *X.shape[1:]))

    if name == "lenet_params":
        return {}
    methods = {"batch_jacobian": tf.function(batched)}
    if np.prod(apply(name, Ops, P, X).shape[1:]) <= 64:
        methods["loop over outputs"] = tf.function(loop)
    return methods


MAKERS = {"jaxobian": in_jax, "jax": in_jax, "asdex": in_jax, "torch": in_torch, "tensorflow": in_tensorflow}


# A worker -----------------------------------------------------------------------------------------------------


def arrays(framework: str, name: str, J: Any) -> dict[str, np.ndarray]:
    if framework == "torch":
        J = torch_layout(name, J)
    if framework == "asdex":
        J = J.todense() if hasattr(J, "todense") else J
        size = NETWORKS[name][2][0]
        J = np.asarray(J).reshape(size, -1, size, int(np.prod(NETWORKS[name][2][1:])))
        J = J[np.arange(size), :, np.arange(size)]
    return {k: np.asarray(v) for k, v in J.items()} if isinstance(J, dict) else {"J": np.asarray(J)}


def work(framework: str) -> None:
    """Answer requests on standard input: make a network's methods, or time one."""
    methods: dict[str, Method] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["network"]
        if request["do"] == "make":
            methods = {}
            answer: dict[str, Any] = {}
            try:
                made = MAKERS[framework](name, NETWORKS[name][1](), examples(name), framework)
            except Exception as error:
                made, answer = {}, {"failed": {"*": f"{type(error).__name__}: {error}"[:200]}}
            for label, method in made.items():
                start = time.perf_counter()
                try:
                    J = method()
                except Exception as error:
                    answer.setdefault("failed", {})[label] = f"{type(error).__name__}: {error}"[:200]
                    continue
                answer.setdefault("first", {})[label] = time.perf_counter() - start
                saved: dict[str, Any] = arrays(framework, name, J)
                np.savez(f"{request['folder']}/{framework}-{label.replace('/', '-')}.npz", **saved)
                methods[label] = method
                for _ in range(2):
                    method()
        else:
            answer = {"seconds": list(repeated(methods[request["method"]]))}
        print(json.dumps(answer), flush=True)


def repeated(method: Method) -> Iterator[float]:
    for _ in range(CALLS):
        start = time.perf_counter()
        method()
        yield time.perf_counter() - start
        if time.perf_counter() - start > SLOW:
            return


class Worker:
    """A framework's process: stopped but for its turns."""

    def __init__(self, framework: str, python: str):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [python, __file__, "--worker", framework],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip
        self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self._signal(signal.SIGCONT)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("a worker died")
        self._signal(signal.SIGSTOP)
        return json.loads(line)

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()


# The run ------------------------------------------------------------------------------------------------------


def available(framework: str, python: str) -> str | None:
    """The version of a framework, where it is installed."""
    packages = {"jaxobian": ["jax"], "tensorflow": ["tensorflow", "tensorflow-cpu"]}.get(framework, [framework])
    for package in packages:
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def measure(name: str, workers: dict[str, Worker]) -> dict[str, Any]:
    """Times in seconds of every method of every framework, values compared first."""
    methods: dict[tuple[str, str], list[float]] = {}
    first: dict[str, dict[str, float]] = {}
    failed: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for framework, worker in workers.items():
            answer = worker.ask(do="make", network=name, folder=folder)
            first[framework] = answer.get("first", {})
            if answer.get("failed"):
                failed[framework] = answer["failed"]
            methods |= {(framework, label): [] for label in first[framework]}
        expected = dict(np.load(f"{folder}/jax-vmap(jacrev).npz"))
        differences = {}
        for framework, label in methods:
            actual = dict(np.load(f"{folder}/{framework}-{label.replace('/', '-')}.npz"))
            differences[framework, label] = max(difference(actual[k], expected[k]) for k in expected)
            assert differences[framework, label] <= TOLERANCE, (name, framework, label, differences)
    for _ in range(ROUNDS):
        for (framework, label), times in methods.items():
            if times and min(times) > SLOW and len(times) > 1:
                continue
            times += workers[framework].ask(do="time", network=name, method=label)["seconds"]
    result: dict[str, Any] = {"what": NETWORKS[name][0], "ms": {}, "first_s": first, "failed": failed, "difference": {}}
    for (framework, label), times in methods.items():
        result["ms"].setdefault(framework, {})[label] = round(1e3 * statistics.median(times), 4)
        result["difference"].setdefault(framework, {})[label] = float(f"{differences[framework, label]:.1e}")
    return result


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.size == expected.size, (actual.shape, expected.shape)
    return float(np.abs(actual.reshape(expected.shape) - expected).max() / np.abs(expected).max())


def best(result: dict[str, Any], framework: str) -> float | None:
    return min(result["ms"].get(framework, {}).values(), default=None)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Milliseconds of each framework's best method, in Markdown; the fewest of a row are bold."""
    shown = [f for f in FRAMEWORKS if f != "asdex" and any(f in r["ms"] for r in results.values())]
    names = {"jaxobian": "jaxobian", "jax": "JAX, by hand", "torch": "PyTorch", "tensorflow": "TensorFlow"}
    lines = ["| | " + " | ".join(names[f] for f in shown) + " |", "|---|" + "--:|" * len(shown)]
    for result in results.values():
        cells, fewest = [], min(ms for ms in (best(result, framework) for framework in shown) if ms is not None)
        for framework in shown:
            ms = best(result, framework)
            label = "" if ms is None else min(result["ms"][framework], key=result["ms"][framework].__getitem__)
            text = "" if ms is None else f"{ms:.3g}" + ("" if framework == "jaxobian" else f" ({label})")
            cells.append(f"**{text}**" if ms == fewest else text)
        lines.append(f"| {result['what']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars: each framework's best method, relative to jaxobian's."""
    import matplotlib.pyplot as plt

    results = report["networks"]
    names = {"jax": "JAX, the best of several hands", "torch": "PyTorch", "tensorflow": "TensorFlow"}
    colors = {"jax": "#4c72b0", "torch": "#dd8452", "tensorflow": "#937860"}
    _, ax = plt.subplots(figsize=(9, 0.75 * len(results) + 1.2), layout="constrained")
    places = np.arange(len(results))[::-1]
    for k, (framework, title) in enumerate(names.items()):
        ratios = [(best(r, framework) or np.nan) / (best(r, "jaxobian") or np.nan) for r in results.values()]
        bars = ax.barh(places + 0.27 * (1 - k), ratios, 0.25, label=title, color=colors[framework])
        ax.bar_label(bars, [f"{r:.1f}x" if r == r else "" for r in ratios], padding=3, fontsize=8)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(places, [f"{r['what']}\njaxobian {best(r, 'jaxobian'):.3g} ms" for r in results.values()], fontsize=8)
    ax.set_xscale("log")
    ticks = [0.5, 1, 2, 4, 8]
    ax.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    ax.minorticks_off()
    ax.set_xlim(0.4, 9)
    ax.set_xlabel("time relative to jaxobian; right of the line jaxobian is faster")
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, 1.06), ncols=3, frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    plt.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETWORKS)
    parser.add_argument("--tensorflow", default=sys.executable, help="an interpreter that has TensorFlow")
    parser.add_argument("--worker", choices=FRAMEWORKS, help=argparse.SUPPRESS)
    parser.add_argument("--plot", action="store_true", help="only draw the picture again")
    options = parser.parse_args()
    if options.worker:
        work(options.worker)
        return
    target = RESULTS / "peers.json"
    if not options.plot:
        pythons = {f: options.tensorflow if f == "tensorflow" else sys.executable for f in FRAMEWORKS}
        versions = {f: version for f in FRAMEWORKS if (version := available(f, pythons[f]))}
        print("found:", ", ".join(f"{f}{' on JAX' * (f == 'jaxobian')} {v}" for f, v in versions.items()))
        print("missing:", ", ".join(f for f in FRAMEWORKS if f not in versions) or "nothing")
        workers = {f: Worker(f, pythons[f]) for f in versions}
        try:
            results = {name: measure(name, workers) for name in options.only or NETWORKS}
        finally:
            for worker in workers.values():
                worker.close()
        report = {
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": versions,
            "networks": results,
        }
        print(table(results))
        if options.only:
            print(json.dumps(report, indent=1))
            return
        target.write_text(json.dumps(report, indent=1) + "\n")
        write_readme("peers.json", table(results))
    draw(json.loads(target.read_text()), RESULTS / "peers.png")


if __name__ == "__main__":
    main()
