"""Budgets: what the user says, what the machine has, and that predictions keep to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxobian as jb
from jaxobian import _budget
from jaxobian._budget import Budget, budget, free_bytes, parse_bytes
from jaxobian._request import Mode

CPU = jax.devices()[0]
N = 60
SHAPE = jax.ShapeDtypeStruct((N,), jnp.float32)
J_BYTES = 4 * N * N


def chain(x):
    """A square Jacobian with many intermediates."""
    for _ in range(6):
        x = jnp.sin(x) + 0.1 * jnp.roll(x, 1)
    return x


# Reading a budget -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (128, 128),
        (1.5e3, 1500),
        (np.int64(7), 7),
        (np.float32(8.0), 8),
        ("128", 128),
        ("4GB", 4 * 10**9),
        ("4GiB", 4 * 2**30),
        ("4 GB", 4 * 10**9),
        (" 4gb ", 4 * 10**9),
        ("4G", 4 * 10**9),
        ("4Gi", 4 * 2**30),
        ("1.5kB", 1500),
        ("1.5 MiB", 3 * 2**19),
        ("0.5TB", 5 * 10**11),
        ("2TiB", 2**41),
        ("100B", 100),
        ("1e6", 10**6),
        ("1e3MB", 10**9),
    ],
)
def test_bytes(text: Any, count: int) -> None:
    assert parse_bytes(text) == count
    assert isinstance(parse_bytes(text), int)


@pytest.mark.parametrize(
    "text",
    [
        *("", "GB", "4XB", "four", "4 4GB", "1.2.3MB", "-1", "-4GB", "0", "0GB", "1e999"),
        *(0, 0.5, -5, float("nan"), float("inf"), True, None, [4]),
    ],
    ids=repr,
)
def test_no_bytes(text: Any) -> None:
    with pytest.raises(ValueError, match="memory_budget") as caught:
        parse_bytes(text)
    assert repr(text) in str(caught.value)


def test_the_user_s_word_and_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert budget("1kB", CPU) == Budget(1000, 1000, True)
    monkeypatch.setattr(_budget, "free_bytes", lambda _: 1000)
    assert budget(None, CPU) == Budget(500, 1000, False)


# What is free -----------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def rooms(tmp_path: Path, lines: str) -> list[int]:
    (tmp_path / "proc").write_text(lines)
    return _budget._cgroup_rooms(tmp_path / "fs", tmp_path / "proc")


V2, V1 = "0::/user/job\n", "5:cpu,cpuacct:/job\n4:memory:/job\n"


def test_version_2_limits_hold_at_every_level(tmp_path: Path) -> None:
    stat = "anon 5\ninactive_file 10\nactive_file 3"
    write(tmp_path / "fs/user/job", memory__max="1000", memory__current="400", memory__stat=stat)
    write(tmp_path / "fs/user", memory__max="2000", memory__current="1900", memory__stat=stat)
    write(tmp_path / "fs", memory__max="max", memory__current="5000", memory__stat=stat)
    # Page cache that is not in use can be had back.
    assert sorted(rooms(tmp_path, V2)) == [110, 610]


def test_version_1_limits(tmp_path: Path) -> None:
    stat = "cache 5\ninactive_file 10\ntotal_inactive_file 99"
    files = {"memory__limit_in_bytes": "1000", "memory__usage_in_bytes": "400", "memory__stat": stat}
    write(tmp_path / "fs/memory/job", **files)
    assert rooms(tmp_path, V1) == [610]


def test_inside_a_container_the_root_is_the_container_s_own(tmp_path: Path) -> None:
    # The path that the host sees does not exist here.
    write(tmp_path / "fs", memory__max="1000", memory__current="400", memory__stat="inactive_file 0")
    assert rooms(tmp_path, "0::/docker/abc\n") == [600]
    assert rooms(tmp_path, "0::/../other\n") == [600]
    assert rooms(tmp_path, "0::/\n") == [600]


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", str(2**62), "", "nonsense"])
def test_absurd_limits_mean_none(tmp_path: Path, limit: str) -> None:
    write(tmp_path / "fs/user/job", memory__max=limit, memory__current="400", memory__stat="inactive_file 0")
    files = {"memory__limit_in_bytes": limit, "memory__usage_in_bytes": "4", "memory__stat": "cache 0"}
    write(tmp_path / "fs/memory/job", **files)
    assert rooms(tmp_path, V2) == []
    assert rooms(tmp_path, V1) == []


def test_a_limit_that_is_exceeded_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "fs", memory__max="1000", memory__current="1400", memory__stat="inactive_file 0")
    assert rooms(tmp_path, "0::/\n") == [0]


def test_a_limit_holds_also_where_its_statistics_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "fs", memory__max="1000", memory__current="400")
    assert rooms(tmp_path, "0::/\n") == [600]


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert _budget._cgroup_rooms(tmp_path, tmp_path / "missing") == []
    assert rooms(tmp_path, "0::/\n") == []
    assert rooms(tmp_path, "3:cpu:/x\n") == []


def test_memory_that_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  200 kB\nMemFree:  1 kB\nMemAvailable:    100 kB\n")
    assert _budget._available(tmp_path / "meminfo") == 102400
    assert _budget._available(tmp_path / "missing") > 0
    if jax.devices()[0].platform == "cpu":
        monkeypatch.setattr(_budget, "_available", lambda: 1000)
        for limits, free in [([], 1000), ([10**9, 600], 600), ([0], 0)]:
            monkeypatch.setattr(_budget, "_cgroup_rooms", lambda limits=limits: limits)
            assert free_bytes(jax.devices()[0]) == free


# Keeping to one ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_a_budget_is_kept_and_never_changes_the_answer(mode: Mode) -> None:
    x = jnp.linspace(-1, 1, N)
    expected = jax.jacrev(chain)(x)
    widths = []
    for extra in (1.0, 0.3, 0.1):
        free = jb.jacobian(chain, mode="fwd" if mode == "auto" else mode).plan(SHAPE).peak_bytes
        limit = J_BYTES + int(extra * (free - J_BYTES))
        J = jb.jacobian(chain, mode=mode, memory_budget=limit)
        plan = J.plan(SHAPE)
        assert J_BYTES <= plan.peak_bytes <= limit
        assert plan.passes == N or mode == "auto"
        widths.append(plan.chunk_size)
        np.testing.assert_allclose(J(x), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(jax.jit(J)(x), expected, rtol=1e-4, atol=1e-5)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < N or mode == "auto"


def test_text_and_number_mean_the_same() -> None:
    plans = [jb.jacobian(chain, memory_budget=b).plan(SHAPE) for b in (40000, "40000", "40kB", 4e4)]
    assert len({(p.mode, p.chunk_size, p.peak_bytes) for p in plans}) == 1


def no_run(x):
    """Fails where it runs, not where it is traced."""

    def fail(_: Any) -> None:
        raise AssertionError("ran")

    jax.debug.callback(fail, x)
    return chain(x)


@pytest.mark.parametrize("chunk_size", [None, 1, 10])
@pytest.mark.parametrize("transform", [lambda J: J, jax.jit], ids=["eager", "jit"])
def test_where_j_does_not_fit_nothing_runs(transform: Any, chunk_size: int | None) -> None:
    J = jb.jacobian(no_run, memory_budget=J_BYTES - 1, chunk_size=chunk_size)
    with pytest.raises(jb.MemoryBudgetError, match=r"J takes 14\.4 kB; the budget is 14\.4 kB"):
        transform(J)(jnp.ones(N))
    with pytest.raises(MemoryError):
        J.plan(SHAPE)


@pytest.mark.parametrize("chunk_size", [None, 1, 10])
@pytest.mark.parametrize("mode", ["auto", "fwd", "rev"])
def test_where_j_fits_but_no_pass_does_nothing_runs(mode: Mode, chunk_size: int | None) -> None:
    J = jb.jacobian(no_run, mode=mode, memory_budget=J_BYTES + 8, chunk_size=chunk_size)
    with pytest.raises(jb.MemoryBudgetError, match=r"of which 14\.4 kB are the result; the budget is 14\.4 kB"):
        J(jnp.ones(N))


def test_the_budget_that_the_error_recommends_will_do() -> None:
    with pytest.raises(jb.MemoryBudgetError) as caught:
        jb.jacobian(chain, memory_budget=J_BYTES + 8).plan(SHAPE)
    recommended = str(caught.value).split('memory_budget="')[1].split('"')[0]
    plan = jb.jacobian(chain, memory_budget=recommended).plan(SHAPE)
    assert plan.peak_bytes <= parse_bytes(recommended)


def test_a_batch_needs_the_memory_of_its_blocks() -> None:
    batch = jax.ShapeDtypeStruct((50, 10), jnp.float32)
    blocks = 4 * 50 * 10 * 10
    assert blocks <= jb.batch_jacobian(jnp.sin).plan(batch).peak_bytes < 4 * (50 * 10) ** 2
    with pytest.raises(jb.MemoryBudgetError, match=r"20\.0 kB"):
        jb.batch_jacobian(jnp.sin, memory_budget=blocks - 1).plan(batch)


def test_the_default_only_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Half of what is free cannot hold J plus a pass: chunks of one, and no error.
    monkeypatch.setattr(_budget, "free_bytes", lambda _: J_BYTES + 100)
    plan = jb.jacobian(chain).plan(SHAPE)
    assert plan.chunk_size == 1
    # Not even J fits into all that is free.
    monkeypatch.setattr(_budget, "free_bytes", lambda _: J_BYTES - 1)
    with pytest.raises(jb.MemoryBudgetError, match=r"J takes 14\.4 kB; 14\.4 kB of memory are free"):
        jb.jacobian(chain).plan(SHAPE)


def test_the_default_does_not_overrule_a_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_budget, "free_bytes", lambda _: J_BYTES + 100)
    for mode in ("fwd", "rev"):
        for width in (N, N + 1, 7):
            plan = jb.jacobian(chain, mode=mode, chunk_size=width).plan(SHAPE)
            assert plan.chunk_size == min(width, N)


def test_predicted_memory_counts_residuals_but_not_arguments() -> None:
    # A product with a large matrix that is given: no copy of it is counted.
    w = jax.ShapeDtypeStruct((N, 1000), jnp.float32)
    plan = jb.jacobian(lambda x, w: x @ w, mode="fwd").plan(SHAPE, w)
    assert plan.peak_bytes < 4 * N * 1000 * 3.5  # J itself is as large as w
    # Residuals of a long chain are counted where they are stored.
    plan = jb.jacobian(lambda x: jnp.sum(chain(x)), mode="rev").plan(SHAPE)
    assert plan.peak_bytes >= 6 * 4 * N


def test_a_long_loop_goes_forward_without_residuals_where_they_do_not_fit() -> None:
    def f(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c) * 1.1, None), x, None, length=2000)[0]

    x = jnp.array([0.1, 0.5, 0.9])
    plan = jb.jacobian(f, memory_budget="4kB").plan(x)  # residuals alone: 2000 * 3 * 4 bytes
    assert plan.mode == "fwd"
    assert plan.peak_bytes <= 4000
    np.testing.assert_allclose(plan(x), jax.jacfwd(f)(x), rtol=1e-4)


# Measured ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the kernel's high-water mark")
@pytest.mark.parametrize(("name", "budget"), [("sin_roll_3000", "128MB"), ("mlp_3000", "256MB")])
def test_a_budget_is_kept_by_what_really_is_allocated(name: str, budget: str) -> None:
    # At once the first would take 1.4 GB. A process of its own, for the mark is of the whole process.
    script = Path(__file__).parents[2] / "benchmarks" / "memory.py"
    command = [sys.executable, str(script), name, "--budget", budget]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["predicted"] <= parse_bytes(budget)
    assert found["measured"] <= parse_bytes(budget)
    assert found["measured"] >= 0.5 * 4 * 3000**2, "J itself was not seen"
