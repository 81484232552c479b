"""What is chosen for each scenario, a line each: choices.txt is committed, so that a change of it is seen in review.

    python tests/choices.py    # rewrites tests/choices.txt; needs the JAX that its first line names

A line has the mode, its passes, how many run at once, how often JAX traced to plan a call, what was rewritten, and what
else is said of the choice: cuts, colors, where passes start.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp

import jaxobian as jb
from jaxobian import _budget
from jaxobian._call import Traced
from jaxobian.testing import Scenario, scenarios

FILE = Path(__file__).with_name("choices.txt")
# Programs differ between versions of JAX, and plans with them.
HEADER = "# JAX {version}, CPU, 16 GB free. Made by `make choices`."
FREE = 16 * 10**9


@cache
def _once() -> None:
    """Let everything be traced that is traced once in a process."""
    jb.jacobian(lambda x: jnp.tanh(x @ jnp.ones((20, 3))))(jnp.ones(20))
    for scenario in scenarios():
        if scenario.name == "lenet5_dense_batch3":
            f, args = scenario.make()
            jb.batch_jacobian(f).plan(*args)


def line(scenario: Scenario) -> str:
    """What is chosen for a scenario, on a machine with `FREE` bytes."""
    _once()
    f, args = scenario.make()
    verb = jb.batch_jacobian if scenario.batched else jb.jacobian
    jacobian = verb(f, scenario.argnums, holomorphic=scenario.holomorphic)
    with (
        mock.patch.object(_budget, "free_bytes", return_value=FREE),
        mock.patch.object(jax, "make_jaxpr", wraps=jax.make_jaxpr) as tracing,
    ):
        traced = Traced.of(jacobian._f, jacobian._options, args, {}, as_plan=True)
        chosen = traced.choose(jacobian._settled(traced), traced.device, traced.values).chosen
    looped = any(seeds.looped for seeds in chosen.seeds)
    note = re.sub(r" at [\w/.-]+\.py:\d+| \(inside a library\)", "", chosen.note)
    passes = f"{chosen.passes} {'pass' if chosen.passes == 1 else 'passes'}"
    chunks = f"{chosen.chunk_size} {'a step of a loop' if looped else 'at once'}"
    words = [passes, chunks, f"{tracing.call_count} traces", note]
    for (what, by), times in Counter((what, by) for what, by, _ in chosen.rewrites).items():
        words.append(f"{what} -> {by}" + (f" ({times} times)" if times > 1 else ""))
    return f"{scenario.name:34} {chosen.mode:8} " + "; ".join(filter(None, words))


def committed() -> tuple[str, dict[str, str]]:
    """The version of JAX that the file is of, and its lines by their scenario's name."""
    first, *lines = FILE.read_text().splitlines()
    match = re.match(r"# JAX ([\w.]+),", first)
    assert match, first
    return match.group(1), {text.split()[0]: text for text in lines}


if __name__ == "__main__":
    lines = []
    for scenario in scenarios():
        lines.append(line(scenario))
        print(lines[-1], flush=True)
    FILE.write_text("\n".join([HEADER.format(version=jax.__version__), *lines]) + "\n")
