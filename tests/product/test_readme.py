"""The README: its code runs as it stands, prints what it says, and its table is that of the committed result."""

from __future__ import annotations

import importlib.util
import json
import linecache
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def script(name: str) -> ModuleType:
    """A script of the benchmarks, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Predictions may move a little; what moves further is to be printed anew.
DRIFT = 1.25
PREDICTED = re.compile(r"(\d[\d.,]*)( [kMGT]?FLOP| [kMGT]?B\b| [mu]?s\b|x slower)")
SCALES = {"u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def words(text: str) -> list[str]:
    """The text without what is predicted, and spaces."""
    return PREDICTED.sub("#", text.replace("about as fast", "1x slower")).split()


def predictions(text: str) -> list[float]:
    """What is predicted, in bytes, operations, seconds, and times."""
    found = PREDICTED.findall(text.replace("about as fast", "1x slower"))
    return [float(number.replace(",", "")) * SCALES.get(unit[1], 1.0) for number, unit in found]


def has_drifted(printed: str, text: str) -> bool:
    pairs = zip(predictions(printed), predictions(text), strict=True)
    return any(not 1 / DRIFT <= a / b <= DRIFT for a, b in pairs)


def test_drift_is_noticed() -> None:
    line = "reverse, 10 passes  1.57 MFLOP  peak 75.5 kB  predicted 26 us, others 3.1x slower and about as fast"
    assert predictions(line) == pytest.approx([1.57e6, 75.5e3, 26e-6, 3.1, 1.0])
    assert words(line) == words(line.replace("1.57", "3.2")) != words(line.replace("10 passes", "11 passes"))
    assert not has_drifted(line, line.replace("26 us", "25 us").replace("and about as fast", "and 1.1x slower"))
    for old, new in (("1.57", "3.2"), ("kB", "MB"), ("26 us", "40 us"), ("3.1x", "4x"), ("about as fast", "2x slower")):
        assert has_drifted(line, line.replace(old, new))


def test_the_code_runs_and_prints_what_it_says(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("flax")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    printed, compared = "", 0
    for language, text in BLOCKS:
        if language == "python":
            linecache.cache["model.py"] = (len(text), None, text.splitlines(keepends=True), "model.py")
            exec(compile(text, "model.py", "exec"), names)
            printed = capsys.readouterr().out
        elif language == "text":
            assert words(printed) == words(text)
            assert not has_drifted(printed, text), printed
            compared += 1
    assert compared == 5
    assert names["J"].shape == (10, 28, 28, 1)
    assert names["table"].shape == (784, 10)
    assert names["JX"].shape == (64, 10, 28, 28, 1)
    assert names["layer"]["kernel"].shape == (10, 120, 10)
    np.testing.assert_array_equal(names["C"].toarray(), names["S"].todense())


def test_files_that_it_names_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_make_targets_that_it_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert f"\n{target}: " in makefile, target


def test_the_tables_are_those_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = "run peers sparse quantities first_call _readme".split()
    run, peers, sparse, quantities, first_call, readme = map(script, names)
    renderers = {
        "run.json": run.render,
        "peers.json": lambda report: peers.table(report["networks"]),
        "first_call.json": first_call.render,
        "sparse.json": lambda report: sparse.table(report["problems"]),
        "quantities.json": quantities.render,
    }
    for name, render in renderers.items():
        committed = json.loads((run.RESULTS / name).read_text())
        assert readme.table_in(README, name) == render(committed).strip(), name
