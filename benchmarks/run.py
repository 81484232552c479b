"""Scenarios x (jaxobian, jacfwd, jacrev): values verified, then timed; how far the choice is from the best.

    python benchmarks/run.py                      # all tagged "bench"; writes benchmarks/results/run.json
    python benchmarks/run.py --only lenet5 roe1d  # these alone
    python benchmarks/run.py --quick              # fewer repetitions, for a first look
    python benchmarks/run.py --before old.json    # keeps an earlier version's times beside the new ones
    python benchmarks/run.py --render benchmarks/results/run.json  # a result's table, and into the README with it

All methods of a scenario are compiled, warmed up and timed in turns in one process, so that a slow minute of
the machine is slow for all of them; times are medians. For batches, JAX's methods are `vmap` of a function of
one example.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from _readme import write_readme

import jaxobian as jb
from jaxobian.testing import Scenario, scenarios

RESULTS = Path(__file__).parent / "results"
OURS = "jaxobian"
# Regret: so many seconds are dispatch, and do not count.
FREE = 20e-6
# A regret above this is a miss: it may be the machine's, or that of where an executable's arrays happen to lie, so that
# all are compiled anew and timed again, and the smallest counts.
MISS, AGAIN = 1.05, 3
# A method this much slower than another is timed twice only: its long calls would leave the others cold caches.
HOPELESS = 5
# The others take at least this many turns.
TURNS = 9

Method = Callable[..., Any]


# Measure ----------------------------------------------------------------------------------------------------


def compiled(method: Method, args: tuple[Any, ...]) -> tuple[Method, float]:
    """`method` compiled for args, and the seconds that tracing and compiling took."""
    start = time.perf_counter()
    executable = jax.jit(method).lower(*args).compile()
    return executable, time.perf_counter() - start


def timed(method: Method, args: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(method(*args))
    return time.perf_counter() - start


def medians(methods: dict[str, Method], args: tuple[Any, ...], *, seconds: float, calls: int) -> dict[str, float]:
    """Median seconds a call; the methods take turns for so many `seconds`, TURNS to `calls` times."""
    times = {name: [timed(method, args) for _ in range(2)] for name, method in methods.items()}
    best = min(map(min, times.values()))
    close = [name for name, each in times.items() if min(each) <= HOPELESS * best]
    times.update((name, []) for name in close)
    start = time.perf_counter()
    for turn in range(calls):
        if turn >= TURNS and time.perf_counter() - start > seconds:
            break
        for name in close if turn % 2 else close[::-1]:
            times[name].append(timed(methods[name], args))
    return {name: statistics.median(each) if name in close else min(each) for name, each in times.items()}


def regret(seconds: dict[str, float]) -> float:
    """Our time over that of the best of JAX's methods; at most 1 where nothing but dispatch separates them."""
    best, ours = min(t for name, t in seconds.items() if name != OURS), seconds[OURS]
    return ours / best if ours - best > FREE else min(1.0, ours / best)


def verify(name: str, actual: Any, expected: Any) -> None:
    """Raise unless each leaf is right to 1e-4 of its largest entry."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        a, b = np.asarray(a, wide), np.asarray(b, wide)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.max(np.abs(b), initial=0)), err_msg=name)


def bench(scenario: Scenario, *, quick: bool) -> dict[str, Any]:
    """Everything that is measured of one scenario; seconds throughout."""
    f, args = scenario.make()
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    ours = verb(f, scenario.argnums, holomorphic=scenario.holomorphic)
    inputs = jax.tree.leaves([args[i] for i in scenario.differentiated])
    outputs = jax.tree.leaves(jax.eval_shape(f, *args))
    start = time.perf_counter()
    plan = ours.plan(*args)
    planning = time.perf_counter() - start

    methods: dict[str, Method] = {OURS: ours}
    methods |= {f"jac{mode}": scenario.by_jax(f, mode) for mode in scenario.modes}
    executables, compile_seconds = {}, {}
    for name, method in methods.items():
        executables[name], compile_seconds[name] = compiled(method, args)
    expected = scenario.expected()
    for name, executable in executables.items():
        verify(f"{scenario.name}, {name}", executable(*args), expected)
    del expected

    effort = {"seconds": 0.5, "calls": 50} if quick else {"seconds": 2.0, "calls": 300}
    seconds = medians(executables, args, **effort)
    if len(methods) > 1:
        for _ in range(AGAIN):
            if regret(seconds) <= MISS:
                break
            executables = {name: compiled(method, args)[0] for name, method in methods.items()}
            seconds = min(seconds, medians(executables, args, **effort), key=regret)
    return {
        "name": scenario.name,
        "doc": scenario.doc,
        "batched": scenario.batched,
        "inputs": sum(x.size for x in inputs),
        "outputs": sum(y.size for y in outputs),
        "mode": plan.mode,
        "passes": plan.passes,
        "chunk_size": plan.chunk_size,
        "peak_bytes": plan.peak_bytes,
        "seconds": seconds,
        "regret": regret(seconds) if len(methods) > 1 else None,
        "compile_seconds": compile_seconds,
        "planning_seconds": planning,
    }


def machine() -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{device.platform}: {device.device_kind}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "jaxobian": jb.__version__,
    }


# Tell -------------------------------------------------------------------------------------------------------


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """Median and worst regret over all scenarios, however short they are."""
    rows = [row for row in results["scenarios"] if row["regret"] is not None]
    worst = max(rows, key=lambda row: row["regret"], default=None)
    return {
        "scenarios": len(rows),
        "median_regret": statistics.median(row["regret"] for row in rows) if rows else None,
        "worst_regret": worst and worst["regret"],
        "worst_scenario": worst and worst["name"],
    }


def render(results: dict[str, Any]) -> str:
    """The result as a Markdown table, with what it was measured on above and what follows from it below."""
    on, found = results["machine"], results["summary"]
    lines = [
        f"{on['device']}, {on['cores']} cores; Python {on['python']}, jax {on['jax']}, "
        f"jaxlib {on['jaxlib']}; {on['date']}. Milliseconds, compiled and warm; batches against `vmap`.",
        "",
        "| scenario | outputs × inputs | chosen | passes | jaxobian | jacfwd | jacrev | regret |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in results["scenarios"]:
        times = [row["seconds"].get(name) for name in (OURS, "jacfwd", "jacrev")]
        cells = [
            f"{row['name']}{' (batch)' if row['batched'] else ''}",
            f"{row['outputs']:,} × {row['inputs']:,}",
            row["mode"],
            f"{row['passes']:,}",
            *(milliseconds(t) for t in times),
            "" if row["regret"] is None else f"{row['regret']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if found["scenarios"]:
        lines += [
            "",
            f"Median regret {found['median_regret']:.2f} over {found['scenarios']} scenarios, "
            f"worst {found['worst_regret']:.2f} (`{found['worst_scenario']}`); "
            f"differences below {1e6 * FREE:.0f} microseconds count for none.",
        ]
    return "\n".join(lines)


def milliseconds(t: float | None) -> str:
    """Three digits, or a dash where JAX cannot."""
    if t is None:
        return "–"
    return f"{1e3 * t:.3g}" if t < 1 else f"{1e3 * t:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these scenarios (of any tag)")
    parser.add_argument("--out", type=Path, help="where to write the JSON; by default benchmarks/results/run.json")
    parser.add_argument("--before", type=Path, metavar="JSON", help="a result of an earlier version, to compare with")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument(
        "--render", type=Path, metavar="JSON", help="print a result's table; the committed one's goes into the README"
    )
    options = parser.parse_args()

    if options.render:
        table = render(json.loads(options.render.read_text()))
        print(table)
        if options.render.resolve() == RESULTS / "run.json":
            write_readme("run.json", table)
        return
    chosen = [s for s in scenarios() if (s.name in options.only if options.only else "bench" in s.tags)]
    unknown = set(options.only or ()) - {s.name for s in chosen}
    if unknown:
        parser.error(f"no scenario is named {', '.join(sorted(unknown))}")

    results: dict[str, Any] = {"machine": machine(), "scenarios": []}
    for scenario in chosen:
        row = bench(scenario, quick=options.quick)
        results["scenarios"].append(row)
        ratio = "" if row["regret"] is None else f"  regret {row['regret']:.2f}"
        times = "  ".join(f"{name} {milliseconds(t)}" for name, t in row["seconds"].items())
        print(f"{scenario.name:24} {row['mode']:6} {times}{ratio}", flush=True)
        jax.clear_caches()  # else the executables of a hundred scenarios stay in memory
    results["summary"] = summary(results)
    if options.before:
        earlier = json.loads(options.before.read_text())
        seconds = {row["name"]: (row["seconds"][OURS], row["passes"]) for row in earlier["scenarios"]}
        for row in results["scenarios"]:
            if row["name"] in seconds:
                row["before"] = dict(zip(("seconds", "passes"), seconds[row["name"]], strict=True))
    print(f"\n{render(results)}")
    # A part of the scenarios does not overwrite the result of all.
    out = options.out or (None if options.only or options.quick else RESULTS / "run.json")
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        if out == RESULTS / "run.json":
            write_readme("run.json", render(results))
        print(f"\nwrote {out}")


if __name__ == "__main__":
    main()
