"""Predicted peak memory beside the measured high-water mark, for every scenario above 20 MB.

    python benchmarks/memory.py                              # all; writes benchmarks/results/memory.json
    python benchmarks/memory.py sin_roll_3000 --budget 128MB # one, in this process: prints bytes as JSON

A child process for each: it compiles and runs once, hands free memory back to the system, resets the kernel's
high-water mark (VmHWM), and runs again. What the mark rises by is what computing J allocated. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

import jaxobian as jb
from jaxobian.testing import Scenario, scenarios

RESULTS = Path(__file__).parent / "results" / "memory.json"
SMALLEST = 20e6
# Forward mode on a batch of images takes a minute or more.
SLOWEST = 60.0


def status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found.group(1)) * 1024


def transform(scenario: Scenario, f: Any, **options: Any) -> jb.JacobianFunction:
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    return verb(f, scenario.argnums, holomorphic=scenario.holomorphic, **options)


def named(name: str) -> Scenario:
    return next(s for s in scenarios() if s.name == name)


def measure(name: str, mode: str, budget: str | None) -> dict[str, float]:
    """Predicted and measured bytes of one scenario, in this process."""
    f, args = named(name).make()
    J = transform(named(name), f, mode=mode, memory_budget=budget)
    jax.block_until_ready((args, J(*args)))
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before = status("VmRSS")
    jax.block_until_ready(J(*args))
    return {"predicted": J.plan(*args).peak_bytes, "measured": status("VmHWM") - before}


def in_child(name: str, mode: str, budget: str | None = None) -> dict[str, Any]:
    command = [sys.executable, __file__, name, "--mode", mode]
    command += ["--budget", budget] if budget else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def large() -> list[tuple[str, str]]:
    """Scenarios and modes that are predicted to take more than 20 MB, in reasonable time."""
    found = []
    for scenario in scenarios():
        f, args = scenario.make()
        for candidate in transform(scenario, f).plan(*args).candidates if args else ():
            cost = getattr(candidate, "cost", None)
            if cost and candidate.mode != "mixed" and cost.peak_bytes > SMALLEST and cost.seconds < SLOWEST:
                found.append((scenario.name, candidate.mode))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="one scenario, in this process")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--budget", help='memory_budget, such as "128MB"')
    options = parser.parse_args()
    if options.name:
        print(json.dumps(measure(options.name, options.mode, options.budget)))
        return
    cases = [(name, mode, None) for name, mode in large()]
    cases += [("sin_roll_3000", "auto", "128MB"), ("mlp_3000", "auto", "256MB")]
    rows = []
    for name, mode, budget in cases:
        row = {"name": name, "mode": mode, "budget": budget} | in_child(name, mode, budget)
        row["ratio"] = row["predicted"] / max(1, row["measured"])
        rows.append(row)
        print(
            f"{name:26} {mode:4} {budget or '':6} predicted {row['predicted'] / 1e6:8.1f} MB"
            f"  measured {row['measured'] / 1e6:8.1f} MB  ratio {row['ratio']:.2f}",
            flush=True,
        )
    ratios = [row["ratio"] for row in rows]
    summary = {"least": min(ratios), "median": statistics.median(ratios), "most": max(ratios)}
    print(summary)
    RESULTS.write_text(
        json.dumps({"jax": jax.__version__, "cores": os.cpu_count(), "rows": rows, "summary": summary}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
