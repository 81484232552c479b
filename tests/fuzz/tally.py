"""What was seen in many programs, and the record of it."""

from __future__ import annotations

import datetime
import json
import platform
from collections import Counter
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from .program import Program

# What a record calls a count by another name than ours.
_NAMES = {
    "batches": "batches_that_take_one_example's_passes",
    "worst": "largest_relative_difference",
    "in_patterns": "elements_in_patterns",
}
_COUNTERS = ("kinds", "words", "chosen", "forced", "refused")


@dataclass
class Tally:
    """Counts over programs; see `record`."""

    seeds: list[str] = field(default_factory=list)
    programs: int = 0
    not_finite: int = 0
    jacobians: int = 0
    quantities: int = 0
    batches: int = 0
    nonzeros: int = 0
    in_patterns: int = 0
    missing_nonzeros: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    chosen: Counter[str] = field(default_factory=Counter)
    forced: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    at_a_kink: list[str] = field(default_factory=list)
    miscompiled_by_xla: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Tally:
        """A record that was written, to go on with."""
        found = json.loads(path.read_text())
        names = {each.name: _NAMES.get(each.name, each.name) for each in fields(cls)}
        counts: dict[str, Any] = {ours: found[name] for ours, name in names.items() if name in found}
        counts |= {name: Counter(counts[name]) for name in _COUNTERS}
        return cls(**counts)

    def begin(self, program: Program) -> None:
        self.programs += 1
        self.kinds[program.kind] += 1
        self.words.update({step.word for step in program.steps})

    def count(self, mode: str, format: str, chosen: str) -> None:
        """A Jacobian that is possible."""
        if mode == "auto":
            self.chosen[f"{chosen} {format}"] += 1
        else:
            self.forced[f"{mode} {format}"] += 1

    def note_difference(self, program: Program, apart: float) -> None:
        for dtype in program.dtypes:
            self.worst[dtype] = max(self.worst.get(dtype, 0.0), apart)

    def blame(self, whose: str, program: Program, name: str) -> None:
        """A difference that is not ours: a kink of the function, or a program that XLA compiled to another."""
        entry = f"{program.seed} {name}: {' '.join(step.word for step in program.steps)}"
        (self.at_a_kink if whose == "kink" else self.miscompiled_by_xla).append(entry)

    def record(self) -> dict[str, Any]:
        counts = {_NAMES.get(each.name, each.name): getattr(self, each.name) for each in fields(self)}
        return {
            **{name: dict(sorted(v.items())) if isinstance(v, dict) else v for name, v in counts.items()},
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "jaxlib": version("jaxlib"),
            },
            "date": datetime.date.today().isoformat(),
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.record(), indent=2) + "\n")

    def __str__(self) -> str:
        differences = ", ".join(f"{dtype} {apart:.1e}" for dtype, apart in sorted(self.worst.items()))
        return (
            f"fuzz: {self.programs} random programs of {len(self.words)} words, {self.jacobians} Jacobians, "
            f"norms, Gram matrices and traces of {self.quantities}, "
            f"{len(self.failures)} programs failed, {len(self.miscompiled_by_xla)} Jacobians miscompiled by XLA, "
            f"{len(self.at_a_kink)} at a kink, {self.not_finite} programs not finite, {self.missing_nonzeros} nonzeros "
            f"missing of {self.nonzeros} in patterns of {self.in_patterns}; largest differences: {differences}"
        )
