"""What `check_jacobian` found, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from .._request import MODES

_SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """One entry of the Jacobian, `J[i, j] = dy_i / dx_j`, on which the methods do not agree.

    Attributes:
        output: path of the output leaf, such as `"out['logits']"`.
        input: path of the argument leaf, such as `"args[0]['w']"`.
        index: where in the block of shape `output.shape + input.shape`.
        output_rank: how many numbers of `index` belong to the output.
        values: what each method says, by its name.
    """

    output: str
    input: str
    index: tuple[int, ...]
    output_rank: int
    values: Mapping[str, complex]

    def __str__(self) -> str:
        i, j = self.index[: self.output_rank], self.index[self.output_rank :]
        return f"d {self.output}{_subscript(i)} / d {self.input}{_subscript(j)}"


@dataclass(frozen=True, repr=False)
class Report:
    """What `check_jacobian` found; `str(report)` is a table of it.

    Attributes:
        function: the name of the function checked.
        compared: the methods whose values were compared: modes, then central differences.
        impossible: the modes that cannot differentiate this function, each with the reason.
        differences: entries on which the methods differ, NaN against number first, then the largest
            difference; at most 1000.
        differing: how many entries differ.
        entries: how many entries were compared.
        precision: the dtype that was computed in, and why if not in float64.
        rtol: the relative tolerance used.
        skipped: paths of leaves that are not floating point and so were not differentiated.
        miscompiled: what XLA makes other numbers of where it compiles it as a whole than where it compiles each
            operation alone: modes of `jacobian`, and JAX's own. Looked for where methods differ.
    """

    function: str
    compared: tuple[str, ...]
    impossible: Mapping[str, str]
    differences: tuple[Difference, ...]
    differing: int
    entries: int
    precision: str
    rtol: float
    skipped: tuple[str, ...] = field(default=())
    miscompiled: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether all methods agree on every entry."""
        return not self.differing

    def raise_if_failed(self) -> None:
        """Do nothing if the methods agree.

        Raises:
            AssertionError: they do not; the message is the report.
        """
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        verdict = "agree" if self.ok else f"{self.differing:,} differ"
        entries = "entry" if self.entries == 1 else "entries"
        lines = [
            f"check_jacobian of {self.function}: {self.entries:,} {entries}, {verdict}",
            f"  compared    {', '.join(self.compared)}; rtol {self.rtol:.0e}",
            f"  precision   {self.precision}",
        ]
        for mode, reason in self.impossible.items():
            first, *rest = reason.splitlines() or [""]
            lines += [f"  impossible  {mode}: {first}", *(f"              {line}" for line in rest)]
        if self.skipped:
            lines.append(f"  skipped     {', '.join(self.skipped)}")
        if self.miscompiled:
            lines += [
                f"  XLA         of jaxlib {version('jaxlib')} on {jax.default_backend()} miscompiles "
                f"{', '.join(self.miscompiled)}:",
                "              it makes other numbers of the whole than of one operation after the other, which is",
                "              no fault of jaxobian or of f. Another version of jaxlib may be right.",
            ]
        if not self.ok:
            lines += ["", *self._table()]
        return "\n".join(lines)

    # A failed `assert check_jacobian(f, x).ok` shows the repr.
    __repr__ = __str__

    def _table(self) -> Iterator[str]:
        shown = self.differences[:_SHOWN]
        rows = [["", *self.compared]]
        rows += [[str(d), *(_number(d.values[name]) for name in self.compared)] for d in shown]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *rest in rows:
            numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
            yield "  " + "  ".join([first.ljust(widths[0]), *numbers])
        if self.differing > len(shown):
            yield f"  ... and {self.differing - len(shown):,} more"
        if not self.miscompiled and not any(_disagree(of_modes(d.values)) for d in shown):
            yield "  The modes agree: a custom rule, stop_gradient or a kink may mean it so. Or try eps."


def close(a: Any, b: Any, tolerance: Any) -> Any:
    with np.errstate(invalid="ignore"):
        return (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= tolerance)


def of_modes(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in MODES}


def _disagree(values: Mapping[str, complex], rtol: float = 1e-9) -> bool:
    first, *others = values.values()
    return not all(close(first, other, rtol * abs(first)) for other in others)


def _subscript(index: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""


def _number(value: complex) -> str:
    return f"{value:.6g}"
