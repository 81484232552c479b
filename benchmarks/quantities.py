"""Traces, diagonals, norms, Gram matrices and determinants of Jacobians beside the best JAX written by hand.

    python benchmarks/quantities.py                  # writes results/quantities.json, and its table into the README
    python benchmarks/quantities.py --only ntk norms # the cases whose names contain one of these
    python benchmarks/quantities.py --render         # the committed result's table, and into the README with it

By hand are ways that a user of JAX would try: J in either mode and what is wanted of it, loops of JVPs or gradients,
products with J J^T, all examples at once or some at a time. The one that is fastest with hindsight counts. All are
compiled, their values compared, and timed in turns in one process; times are medians. Planning (f's trace included) is
the median of three functions that are new to every cache; tracing and compiling what is best by hand is timed once.
folx and torch are timed where they are installed. neural-tangents 0.6.5 does not import under JAX 0.10 and later;
netket 3.23 contracts J, for the NTK, as one of the ways by hand does.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from _quantities_cases import CASES, Case, Method
from _readme import write_readme
from run import OURS, RESULTS, compiled, machine, medians, milliseconds

import jaxobian as jb

# The largest relative error that is let pass.
TOLERANCE = 1e-4
# How many new functions are planned.
FRESH = 3
# All ways by hand take a few turns; the best BEST of them, and all that are not by hand, take many.
BEST = 2
FEW: dict[str, Any] = {"seconds": 0.0, "calls": 5}
MANY: dict[str, Any] = {"seconds": 2.0, "calls": 200}
PEERS = ("folx", "torch")
# What is timed beside them, wherever it is: the formula that papers give for the layer.
FORMULA = "closed formula"
# The idle threads of torch must not spin beside those of JAX.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


# Measure ------------------------------------------------------------------------------------------------------------


def clear() -> None:
    jax.clear_caches()
    jb.clear_cache()


def planning(make: Callable[[], Case]) -> float:
    """Seconds that tracing and planning take."""
    found = []
    for _ in range(FRESH):
        case = make()
        clear()
        start = time.perf_counter()
        case.plan()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def compiled_methods(case: Case) -> tuple[dict[str, Any], dict[str, float]]:
    """Ours and those by hand, and the seconds that tracing and compiling took."""
    executables, seconds = {}, {}
    for name, method in {OURS: case.ours, **case.hands}.items():
        clear()
        executables[name], seconds[name] = compiled(method, case.args)
    return executables, seconds


def peers_of(case: Case) -> tuple[dict[str, Method], dict[str, str]]:
    """The methods of the peers that are installed and work, and what is wrong with the others that are."""
    methods, wrong = {}, {}
    for name, make in case.peers.items():
        if name not in (FORMULA, *versions()):
            continue
        try:
            method = make(*case.args)
            jax.block_until_ready(method(*case.args))
            methods[name] = method
        except Exception as failure:
            wrong[name] = f"{type(failure).__name__}: {failure}"[:200]
    return methods, wrong


def error(actual: Any, expected: Any) -> float:
    """The largest difference, relative to the largest element of its array."""

    def of_array(actual: Any, expected: Any) -> float:
        a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert a.shape == b.shape, (a.shape, b.shape)
        return np.max(np.abs(a - b)) / np.max(np.abs(b))

    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return float(f"{max(of_array(a, b) for a, b in pairs):.1e}")


def measure(make: Callable[[], Case]) -> dict[str, Any]:
    """Everything that is measured of a case; seconds throughout."""
    plan_seconds = planning(make)
    case = make()
    plan = case.plan()
    executables, compile_seconds = compiled_methods(case)
    peers, wrong = peers_of(case)
    methods = executables | peers
    expected = methods[next(iter(case.hands))](*case.args)
    errors = {name: error(method(*case.args), expected) for name, method in methods.items()}
    assert max(errors.values()) < TOLERANCE, errors
    seconds = medians(methods, case.args, **FEW)
    best = sorted(case.hands, key=seconds.__getitem__)[:BEST]
    seconds |= medians({name: methods[name] for name in (OURS, *best, *peers)}, case.args, **MANY)
    hand = min(best, key=seconds.__getitem__)
    J = jax.tree.leaves(jax.eval_shape(lambda *args: case.J(*args), *case.args))
    return {
        "quantity": case.quantity,
        "what": case.what,
        "hand": hand,
        "seconds": seconds,
        "ratio": seconds[OURS] / seconds[hand],
        "mode": plan.mode,
        "passes": plan.passes,
        "plan": str(plan).splitlines(),
        "errors": errors,
        "peers": list(peers),
        "failed": wrong,
        "peak_bytes": plan.peak_bytes,
        "J_bytes": sum(x.size * x.dtype.itemsize for x in J),
        "temporary_bytes": {name: e.memory_analysis().temp_size_in_bytes for name, e in executables.items()},
        "planning_seconds": plan_seconds,
        "compile_seconds": compile_seconds,
    }


# Tell ---------------------------------------------------------------------------------------------------------------

WORDS = {
    "trace": "trace",
    "diagonal": "diagonal",
    "squared_norms": "squared norms",
    "gram": "Gram matrix",
    "slogdet": "slogdet",
}


def size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def cells(row: dict[str, Any]) -> list[str]:
    seconds = row["seconds"]
    return [
        WORDS[row["quantity"]],
        row["what"],
        milliseconds(seconds[OURS]),
        f"{milliseconds(seconds[row['hand']])} ({row['hand']})",
        f"{row['ratio']:{'.2f' if row['ratio'] > 0.1 else '.1g'}}",
        f"{1e3 * row['planning_seconds']:,.0f} / {1e3 * row['compile_seconds'][row['hand']]:,.0f}",
        f"{size(row['peak_bytes'])} / {size(row['J_bytes'])}",
        f"{row['mode']}, {row['passes']:,} {'pass' if row['passes'] == 1 else 'passes'}",
    ]


def tell_peers(report: dict[str, Any]) -> str:
    """Their milliseconds, where they are installed."""
    rows = report["cases"].values()
    timed = [f"{name} {milliseconds(row['seconds'][name])} ({row['what']})" for row in rows for name in row["peers"]]
    failed = [f"{name} fails ({row['what']})" for row in rows for name in row["failed"]]
    missing = [name for name in PEERS if name not in report["versions"]]
    return "; ".join([*timed, *failed, *(f"{name} is not installed" for name in missing)])


def summary(rows: list[dict[str, Any]]) -> str:
    """What follows from the table, and how long the first call takes."""
    by_hand = lambda row: row["compile_seconds"][row["hand"]]
    ratio = statistics.median(row["ratio"] for row in rows)
    planned = statistics.median(row["planning_seconds"] / by_hand(row) for row in rows)
    first = {row["what"]: row["compile_seconds"][OURS] / by_hand(row) for row in rows}
    worst = max(first, key=first.__getitem__)
    return (
        f"Medians of these {len(rows)}: the ratio is {ratio:.2f}; planning takes {planned:.2f} of tracing and "
        f"compiling by hand; trace, plan and compilation together {statistics.median(first.values()):.2f}, at worst "
        f"{first[worst]:.1f} ({worst})."
    )


def render(report: dict[str, Any]) -> str:
    """The README's table."""
    on, rows = report["machine"], list(report["cases"].values())
    packages = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join(
        [
            f"{on['device']}, {on['cores']} cores; Python {on['python']}, {packages}; {on['date']}. Milliseconds. "
            "*By hand* is the fastest, with hindsight, of J made in either mode, loops of JVPs or of gradients, and "
            "products with J Jᵀ, of all examples at once or of some at a time; formulas for one architecture, such as "
            "(U Uᵀ) ∘ (A Aᵀ) for a dense layer, are not among them. *Planning* stands beside tracing and compiling "
            f"that way, the predicted *peak* beside the bytes of J. Others, ms: {tell_peers(report)}.",
            "",
            "| quantity | of | jaxobian | by hand | ratio | planning / compiling | peak / J | chosen |",
            "|---|---|--:|--:|--:|--:|--:|---|",
            *(f"| {' | '.join(cells(row))} |" for row in rows),
            "",
            summary(rows),
        ]
    )


def versions() -> dict[str, str]:
    """Of JAX, and of the peers that are installed."""
    found = {}
    for name in ("jax", "jaxlib", *PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only the cases whose names contain one of these")
    parser.add_argument("--render", action="store_true", help="print the committed result, and put it into the README")
    options = parser.parse_args()
    out = RESULTS / "quantities.json"
    if options.render:
        table = render(json.loads(out.read_text()))
        print(table)
        write_readme("quantities.json", table)
        return
    names = [name for name in CASES if not options.only or any(part in name for part in options.only)]
    if not names:
        parser.error(f"no case is named so; there are {', '.join(CASES)}")
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), "cases": {}}
    for name in names:
        row = report["cases"][name] = measure(CASES[name])
        print(name, " | ".join(cells(row)[2:]), {k: milliseconds(t) for k, t in row["seconds"].items()}, flush=True)
        clear()  # else all executables stay in memory
    table = render(report)
    print(table)
    if not options.only:
        out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write_readme("quantities.json", table)


if __name__ == "__main__":
    main()
