"""Measure the cost model's constants on this machine and rewrite its file in src/jaxobian/_cost/devices.

    python benchmarks/calibrate.py              # measure, fit, say how well it fits, rewrite
    python benchmarks/calibrate.py --dry-run    # all but the last
    python benchmarks/calibrate.py --plot       # predicted against measured, into benchmarks/results; fits nothing

Every scenario tagged "bench" is timed in each mode that can compute it, all passes at once and in chunks. Seconds
are linear in the counted work, so that the constants are a least-squares fit: non-negative, on relative errors, and
drawn toward the constants there are, which decide where the scenarios do not tell.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

import jaxobian as jb
from jaxobian._cost import KINDS
from jaxobian.testing import Scenario, scenarios

DEVICES = Path(jb.__file__).parent / "_cost" / "devices"
RESULTS = Path(__file__).parent / "results"
# How much the constants there are weigh, in timings.
PRIOR_WEIGHT = 4.0
# Below this, dispatch is all that is measured.
SHORTEST = 30e-6
# Differences below this are dispatch.
FREE = 20e-6
# What the constants are of: kinds of work, and a call, which is made once whatever it does.
CONSTANTS = (*KINDS, "call")
# Of pairs of candidates that are predicted to differ by a machine's error, so many are in the right order.
RIGHT = 0.9
CHUNKS = (None, 32)


def median_seconds(run: Any, args: tuple[Any, ...], budget: float = 1.0) -> float:
    """Median seconds of a warm call."""
    times, start = [], time.perf_counter()
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() - start < budget):
        before = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append(time.perf_counter() - before)
    return statistics.median(times[1:])


def measure(scenario: Scenario) -> list[dict[str, Any]]:
    """Counted work and measured seconds of a scenario, a row for each mode and chunking."""
    f, args = scenario.make()
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    rows = []
    for mode in ("fwd", "rev", "mixed"):
        for chunk_size in CHUNKS if mode != "mixed" else (None,):
            J = verb(f, scenario.argnums, mode=mode, holomorphic=scenario.holomorphic, chunk_size=chunk_size)
            try:
                plan = J.plan(*args)
            except jb.ModeError:
                break
            if chunk_size is not None and plan.passes <= 2 * chunk_size:
                continue
            if plan.choice.chosen.cost.seconds > 20:
                continue  # a forced mode that takes minutes
            chosen = plan.choice.chosen
            seconds = median_seconds(jax.jit(J).lower(*args).compile(), args)
            rows.append(
                {
                    "name": scenario.name,
                    "mode": mode,
                    "chunk_size": plan.chunk_size,
                    "work": [*chosen.cost.work, 1.0],
                    "predicted": chosen.cost.seconds,
                    "seconds": seconds,
                }
            )
    jax.clear_caches()
    return rows


def fit(rows: list[dict[str, Any]], prior: dict[str, float]) -> dict[str, float]:
    """Seconds a unit of each kind of work, and a call: argmin of the squared relative errors, none negative."""
    known = np.array([prior[kind] for kind in CONSTANTS])
    active = known > 0
    scale = known[active]
    used = [row for row in rows if row["seconds"] > SHORTEST]
    work = np.array([row["work"] for row in used])[:, active] * scale
    seconds = np.array([row["seconds"] for row in used])
    system = np.vstack([work / seconds[:, None], PRIOR_WEIGHT * np.eye(active.sum())])
    target = np.concatenate([np.ones(len(used)), PRIOR_WEIGHT * np.ones(active.sum())])
    # Large relative errors are outliers that a linear model cannot mend: weigh them down, once fitted.
    solution, _ = nnls(system, target)
    for _ in range(10):
        weights = 1 / np.sqrt(np.maximum(np.abs(system @ solution - target), 0.3))
        solution, _ = nnls(system * weights[:, None], target * weights)
    found = dict.fromkeys(CONSTANTS, 0.0)
    found |= {k: float(f"{x:.2e}") for k, x in zip(np.array(CONSTANTS)[active], solution * scale, strict=True)}
    return found


def predicted(row: dict[str, Any], seconds: dict[str, float]) -> float:
    return sum(seconds[kind] * amount for kind, amount in zip(CONSTANTS, row["work"], strict=True))


def error(rows: list[dict[str, Any]], seconds: dict[str, float], shortest: float, longest: float) -> float:
    """The factor between two predictions from which on RIGHT of all pairs are in the right order.

    Args:
        rows: timings.
        seconds: the constants.
        shortest, longest: what the faster one of a pair is predicted to take.
    """
    pairs = []
    for a, b in itertools.combinations(rows, 2):
        fast, slow = sorted((a, b), key=lambda row: predicted(row, seconds))
        if a["name"] == b["name"] and a["mode"] != b["mode"] and shortest < predicted(fast, seconds) <= longest:
            right = fast["seconds"] < slow["seconds"] + FREE
            pairs.append((predicted(slow, seconds) / predicted(fast, seconds), right))
    pairs.sort(reverse=True)
    shares = np.cumsum([right for _, right in pairs]) / np.arange(1, len(pairs) + 1)
    enough = [ratio for (ratio, _), share in zip(pairs, shares, strict=True) if share >= RIGHT]
    return round(min(enough, default=2.0), 2)


def report(rows: list[dict[str, Any]], seconds: dict[str, float]) -> str:
    """How well the constants predict: typical factor of error, and what it would cost to trust them."""
    used = [row for row in rows if row["seconds"] > SHORTEST]
    off = [abs(np.log(predicted(row, seconds) / row["seconds"])) for row in used]
    regrets = []
    for name in {row["name"] for row in rows}:
        mine = [row for row in rows if row["name"] == name]
        chosen = min(mine, key=lambda row: predicted(row, seconds))
        regrets.append(chosen["seconds"] / min(row["seconds"] for row in mine))
    return (
        f"{len(used)} timings; predicted within a factor of {np.exp(np.median(off)):.2f} at the median, "
        f"{np.exp(np.quantile(off, 0.9)):.2f} at the ninth decile; taking the predicted best costs "
        f"{statistics.mean(regrets):.3f} of the best on average, {max(regrets):.2f} at worst"
    )


def plot(rows: list[dict[str, Any]]) -> str:
    """Predicted against measured seconds as a picture and as JSON; how well the order is told."""
    from matplotlib.figure import Figure

    colors = {"fwd": "tab:blue", "rev": "tab:orange", "mixed": "tab:red"}
    words = {"fwd": "forward", "rev": "reverse", "mixed": "mixed"}
    figure = Figure(figsize=(6, 5), layout="constrained")
    ax = figure.subplots()
    for mode, color in colors.items():
        mine = [row for row in rows if row["mode"] == mode]
        measured, foreseen = [r["seconds"] for r in mine], [r["predicted"] for r in mine]
        ax.loglog(measured, foreseen, "o", ms=4, color=color, alpha=0.7, label=words[mode])
    ends = [min(r["seconds"] for r in rows), max(r["seconds"] for r in rows)]
    ax.loglog(ends, ends, color="0.6", lw=1)
    rank = float(spearmanr([r["predicted"] for r in rows], [r["seconds"] for r in rows])[0])  # pyright: ignore
    right, pairs = told(rows)
    told_right = f"{right} of {pairs} pairs in the right order"
    ax.set(xlabel="measured seconds", ylabel="predicted seconds", title=f"rank correlation {rank:.2f}; {told_right}")
    ax.legend(frameon=False)
    figure.savefig(RESULTS / "calibration.png", dpi=110)
    kept = [{key: row[key] for key in ("name", "mode", "chunk_size", "predicted", "seconds")} for row in rows]
    found = {"rank_correlation": rank, "pairs": pairs, "pairs_in_order": right, "timings": kept}
    (RESULTS / "calibration.json").write_text(json.dumps(found, indent=1) + "\n")
    return f"rank correlation {rank:.3f} over {len(rows)} timings; of two candidates for one function, {told_right}"


def told(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Of pairs of candidates for a function that really differ, by a tenth and more than dispatch, those told apart."""
    right = pairs = 0
    for a, b in itertools.combinations(rows, 2):
        slow, fast = max(a["seconds"], b["seconds"]), min(a["seconds"], b["seconds"])
        if a["name"] == b["name"] and slow > 1.1 * fast and slow - fast > SHORTEST:
            pairs += 1
            right += (a["predicted"] > b["predicted"]) == (a["seconds"] > b["seconds"])
    return right, pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="measure and fit, rewrite nothing")
    parser.add_argument("--plot", action="store_true", help="draw predicted against measured seconds, and stop")
    parser.add_argument("--rows", type=Path, help="keep the timings here, or use those there")
    options = parser.parse_args()
    if options.rows and options.rows.exists():
        rows = json.loads(options.rows.read_text())
    else:
        rows = []
        for scenario in scenarios():
            if "bench" in scenario.tags and "large" not in scenario.tags:
                rows += measure(scenario)
                print(
                    f"{scenario.name:28}",
                    *(f"{r['mode']} {r['seconds'] * 1e3:.3g} ms" for r in rows if r["name"] == scenario.name),
                    flush=True,
                )
    if options.rows:
        options.rows.write_text(json.dumps(rows))

    if options.plot:
        print(plot(rows))
        return
    platform = jax.devices()[0].platform
    file = DEVICES / f"{platform}.json"
    constants = json.loads(file.read_text())
    before = constants["seconds"] | {"call": constants["call"]}
    after = fit(rows, before)
    print("before:", report(rows, before))
    print("after: ", report(rows, after))
    for kind in CONSTANTS:
        print(f"  {kind:12} {before[kind]:.3g} -> {after[kind]:.3g}")
    short = constants["short"]
    errors = {"short_error": error(rows, after, 0, short), "error": error(rows, after, short, np.inf)}
    print(f"predictions are ranked right from a factor of {errors['short_error']} (short), {errors['error']} on")
    if not options.dry_run:
        device = jax.devices()[0].device_kind
        constants |= {"call": after.pop("call"), "seconds": after, **errors}
        constants["measured"] = f"benchmarks/calibrate.py, {device}, jax {jax.__version__}, {datetime.date.today()}"
        file.write_text(json.dumps(constants, indent=2) + "\n")
        print(f"rewrote {file.name}")


if __name__ == "__main__":
    main()
