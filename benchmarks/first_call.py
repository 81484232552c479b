"""The first call beside jit of the better of jacfwd and jacrev: trace, plan, compile; and what an eager call takes.

    python benchmarks/first_call.py                      # all tagged "bench"; writes benchmarks/results/first_call.json
    python benchmarks/first_call.py --only lenet5 roe1d  # these alone
    python benchmarks/first_call.py --render             # the committed result's summary, and into the README with it

The better one is that which runs faster, compiled. Each is traced and compiled in turns, all caches cleared before;
times are medians. Scenarios count whose better one takes more than 50 ms to compile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _readme import write_readme
from run import RESULTS, machine, medians, milliseconds

import jaxobian as jb
from jaxobian._call import Traced
from jaxobian._execute import traceable
from jaxobian.testing import Scenario, scenarios

# Seconds of compilation below which a scenario does not count.
SHORT = 0.05
# Times that everything is done.
TURNS = 3
PARTS = ("trace", "plan", "emit", "compile")


def ours(scenario: Scenario, f: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, float]:
    """Seconds of each part of a first call, and the instructions that are handed to XLA."""
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    jacobian = verb(f, scenario.argnums, holomorphic=scenario.holomorphic)
    began = time.perf_counter()
    traced = Traced.of(jacobian._f, jacobian._options, args, {})
    known = time.perf_counter()
    choice = traced.choose(jacobian._options, traced.device, traced.values)
    chosen = time.perf_counter()
    run = jax.jit(traceable(choice.execution, jacobian._options.request.output, False))
    lowered = run.lower(traced.program.operands, traced.xs)
    emitted = time.perf_counter()
    lowered.compile()
    ends = (began, known, chosen, emitted, time.perf_counter())
    seconds = dict(zip(PARTS, (b - a for a, b in itertools.pairwise(ends)), strict=True))
    return seconds | {"instructions": _instructions(lowered)}


def by_hand(scenario: Scenario, f: Callable[..., Any], args: tuple[Any, ...], mode: str) -> dict[str, float]:
    """The same of `jit` of JAX's own."""
    began = time.perf_counter()
    lowered = jax.jit(scenario.by_jax(f, mode)).lower(*args)
    emitted = time.perf_counter()
    lowered.compile()
    return {"emit": emitted - began, "compile": time.perf_counter() - emitted, "instructions": _instructions(lowered)}


def _instructions(lowered: Any) -> float:
    return float(sum(" = " in line for line in lowered.as_text().splitlines()))


def better(scenario: Scenario, f: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """The mode of JAX's own that runs faster."""
    if len(scenario.modes) == 1:
        return scenario.modes[0]
    runs = {mode: jax.jit(scenario.by_jax(f, mode)).lower(*args).compile() for mode in scenario.modes}
    seconds = medians(runs, args, seconds=0.1, calls=9)
    return min(seconds, key=seconds.__getitem__)


def bench(scenario: Scenario, turns: int) -> dict[str, Any]:
    """Both first calls of a scenario, in turns."""
    f, args = scenario.make()
    jax.block_until_ready(args)
    mode = better(scenario, f, args)
    turned = []
    for _ in range(turns):
        each = {}
        for name, first in (
            ("jaxobian", lambda: ours(scenario, f, args)),
            (mode, lambda: by_hand(scenario, f, args, mode)),
        ):
            jax.clear_caches()
            jb.clear_cache()
            each[name] = first()
        turned.append(each)

    def median(name: str) -> dict[str, float]:
        return {part: statistics.median(each[name][part] for each in turned) for part in turned[0][name]}

    mine, hand = median("jaxobian"), median(mode)
    total = sum(hand[part] for part in ("emit", "compile"))
    return {
        "name": scenario.name,
        "better": mode,
        "jaxobian": mine,
        "hand": hand,
        "ratio": sum(mine[part] for part in PARTS) / total,
        "planning": mine["plan"] / total,
        "seconds": total,
    }


# Eager calls ------------------------------------------------------------------------------------------------------


def _attention(x: Any) -> Any:
    """A transformer block: self-attention and two dense layers, each with a residual and a norm."""
    rng = np.random.default_rng(0)
    q, k, v, a, b = (jnp.asarray(rng.standard_normal(s, np.float32)) / 8 for s in [(32, 32)] * 3 + [(32, 64), (64, 32)])

    def norm(x: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    y = norm(x)
    x = x + jax.nn.softmax((y @ q) @ (y @ k).T / 6) @ (y @ v)
    return x + jax.nn.gelu(norm(x) @ a) @ b


def eager() -> list[dict[str, Any]]:
    """An eager call, once compiled, beside a trace of f and the compiled call."""
    lenet, (image,) = next(s for s in scenarios() if s.name == "lenet5").make()
    found = []
    for name, f, x in (
        ("sin", jnp.sin, jnp.ones(8)),
        ("LeNet-5", lenet, image),
        ("transformer block", _attention, jnp.ones((16, 32))),
    ):
        jacobian, plan = jb.jacobian(f), jb.jacobian(f).plan(x)

        def trace(x: Any, f: Any = f) -> Any:
            jax.make_jaxpr(lambda x: f(x))(x)  # a new function: JAX keeps no trace of it
            return x

        methods = {
            "trace": trace,
            "eager": jacobian,
            "jit": jax.jit(jacobian),
            "plan": plan,
            "jax": jax.jacrev(f),
        }
        times = {key: [] for key in methods}
        for turn in range(25):
            for key, method in methods.items():
                began = time.perf_counter()
                jax.block_until_ready(method(x))
                if turn > 4:
                    times[key].append(time.perf_counter() - began)
        found.append({"name": name} | {key: statistics.median(each) for key, each in times.items()})
    return found


# Tell -------------------------------------------------------------------------------------------------------------


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Medians and worst of the scenarios that count."""
    rows = [row for row in results["scenarios"] if row["seconds"] > SHORT]
    long = [row for row in rows if row["seconds"] > 0.1]
    return {
        "scenarios": len(rows),
        "median_ratio": statistics.median(row["ratio"] for row in rows),
        "worst_ratio": max((row["ratio"], row["name"]) for row in rows),
        "median_planning": statistics.median(row["planning"] for row in rows),
        "worst_planning": max((row["planning"], row["name"]) for row in long),
        "median_instructions": statistics.median(
            row["jaxobian"]["instructions"] / row["hand"]["instructions"] for row in rows
        ),
    }


def render(results: dict[str, Any]) -> str:
    """The README's table: the first call, then eager ones."""
    on, s = results["machine"], results["summary"]
    lines = [
        f"{on['device']}, {on['cores']} cores; Python {on['python']}, jax {on['jax']}; {on['date']}. {s['scenarios']} "
        f"scenarios, beside `jit` of the better of `jacfwd` and `jacrev`, caches empty.",
        "",
        "| first call | median | worst |",
        "|---|--:|--:|",
        f"| trace, plan and compile | {s['median_ratio']:.2f} | {s['worst_ratio'][0]:.2f} (`{s['worst_ratio'][1]}`) |",
        f"| planning alone | {s['median_planning']:.2f} | {s['worst_planning'][0]:.2f} (`{s['worst_planning'][1]}`) |",
        f"| instructions handed to XLA | {s['median_instructions']:.2f} | |",
        "",
        "| later calls, ms | trace of f | `J(x)` | `jax.jacrev(f)(x)` | `jax.jit(J)(x)` | `J.plan(x)(x)` |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in results["eager"]:
        times = (milliseconds(row[key]) for key in ("trace", "eager", "jax", "jit", "plan"))
        lines.append(f"| {row['name']} | {' | '.join(times)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these scenarios (of any tag)")
    parser.add_argument("--turns", type=int, default=TURNS, help="how often everything is done")
    parser.add_argument("--render", action="store_true", help="print the committed result, and put it into the README")
    options = parser.parse_args()
    out = RESULTS / "first_call.json"
    if options.render:
        write_readme("first_call.json", render(json.loads(out.read_text())))
        return
    results: dict[str, Any] = {"machine": machine(), "scenarios": [], "eager": eager()}
    for scenario in scenarios():
        if scenario.name in options.only if options.only else "bench" in scenario.tags:
            row = bench(scenario, options.turns)
            results["scenarios"].append(row)
            parts = " ".join(f"{part} {1e3 * row['jaxobian'][part]:5.0f}" for part in PARTS)
            hand = " ".join(f"{part} {1e3 * row['hand'][part]:5.0f}" for part in ("emit", "compile"))
            print(f"{row['name']:30} {parts} | {hand} | {row['ratio']:.2f} planning {row['planning']:.2f}", flush=True)
    results["summary"] = summary(results)
    print(render(results))
    if not options.only:
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        write_readme("first_call.json", render(results))


if __name__ == "__main__":
    main()
