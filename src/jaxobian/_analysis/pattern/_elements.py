"""Program -> rows: for every element of an output, the elements of the inputs that it can depend on.

The linear program is followed equation by equation; a variable is a sparse pattern with a row for each of its elements.
Equations that move elements about move rows; windows, products and reductions unite them; of all others the ties are
known (`_rules`), and what is dense there is dense here. What no argument influences (index arrays, masks) is evaluated;
every other value is taken for any value at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..._lazy import sparse
from ..._primitives import row_of
from ..._trace import Program, forward, inlined, is_variable
from .._indices import Indices
from ..ties._axes import Notes, Structure, local_ties
from ._inner import BODIES
from ._moves import Known
from ._rows import FULL, MOST, Full, Results, Rows, Shape, by_ties, csr, dims_of, positions, size_of, taken, united
from ._unions import followed


@dataclass
class Elements:
    """Follows a program.

    Attributes:
        columns: how many columns a row has.
        effort: how many nonzeros may still be written down; None: as many as it takes.
        known: what atoms hold.
        indices: the same, for the rules of ties.
        dense: the equations that made something depend on everything, in order.
    """

    columns: int
    known: Known
    indices: Indices
    effort: int | None = None
    dense: list[Any] = field(default_factory=list)
    exact: ClassVar[bool] = False

    def follow(self, program: Program, start: dict[Any, Rows]) -> dict[Any, Rows]:
        """The rows of every variable that depends on one of `start`."""

        def through(equation: Any, operands: dict[int, Rows]) -> Results:
            if self.effort is not None and sum(map(size_of, equation.outvars)) > self.effort:
                results: Results = [FULL] * len(equation.outvars)  # arrays too large to be looked at one by one
            else:
                results = [self._spent(rows) for rows in self.through(equation, operands)]
            if any(r is FULL for r in results) and not any(r is FULL for r in operands.values()):
                self.dense.append(equation)
            return results

        return forward(program, start, through)

    @property
    def room(self) -> int:
        """How many nonzeros may be written down at once."""
        return MOST if self.effort is None else self.effort

    def _spent(self, rows: Rows | None) -> Rows | None:
        """The same while effort lasts; what comes later is taken to depend on everything."""
        if self.effort is None or rows is None or isinstance(rows, Full):
            return rows
        self.effort -= rows.nnz
        return rows if self.effort >= 0 else FULL

    def through(self, equation: Any, operands: dict[int, Rows]) -> Results:
        """The rows of an equation's results."""
        body = BODIES.get(row_of(equation).body)
        if body is None and all(isinstance(rows, Full) for rows in operands.values()):
            return [FULL] * len(equation.outvars)
        results = body(self, equation, operands) if body is not None else followed(self, equation, operands)
        return self._by_ties(equation, operands) if results is None else results

    def scaled(self, rows: Rows, factor: np.ndarray, shape: Shape) -> Rows:
        """Nothing is left where the factor is zero; a single number may be any."""
        if factor.size <= 1 or np.all(factor):
            return rows
        return taken(rows, np.where(np.broadcast_to(factor, shape) != 0, positions(shape), -1))

    def matrix(self, numbers: sparse.csr_matrix) -> sparse.csr_matrix:
        """Which elements reach which."""
        return sparse.csr_matrix(numbers != 0)

    def _by_ties(self, equation: Any, operands: dict[int, Rows]) -> Results:
        results: Results = []
        for out, row in zip(
            equation.outvars, local_ties(equation, set(operands), self.indices, Notes([])), strict=True
        ):
            parts = [
                by_ties(rows, row[k], dims_of(out), dims_of(equation.invars[k]))
                for k, rows in operands.items()
                if k in row
            ]
            results.append(united(parts) if parts else None)
        return results

    def inside(self, program: Program, operands: dict[int, Rows]) -> Results:
        """The outputs of a program by those of its inputs that are active."""
        program = inlined(program)
        inner = self.anew(program, self.columns)
        found = inner.follow(program, {program.inputs[k]: rows for k, rows in operands.items()})
        self.effort = inner.effort
        return [found.get(v) if is_variable(v) else None for v in program.outputs]

    def anew(self, program: Program, columns: int) -> Elements:
        """A follower of a program inside an equation, which knows nothing of what is outside."""
        indices = Indices(program)
        return Elements(columns, indices.constant, indices, self.effort)


# Structure -> rows -------------------------------------------------------------------------------------------------


def elements(
    structure: Structure, columns: Sequence[np.ndarray], total: int, effort: int | None = None
) -> tuple[list[Rows | None], list[Any], frozenset[int]]:
    """The rows of every output of a linear program.

    Args:
        structure: the program, with what is known of its index arrays.
        columns: for each tangent, the column that each of its elements stands for.
        total: how many columns there are.
        effort: how many nonzeros of all variables may be written down before it is given up.

    Returns:
        The rows of each output, None where it depends on nothing; the equations that are to blame where one depends on
        everything; and the operands whose numbers they are known by.
    """
    program, lookup = structure.program, structure.lookup()
    follower = Elements(total, lookup, structure.indices, effort)
    start: dict[Any, Rows] = {
        v: csr(np.arange(c.size + 1, dtype=np.int32), c.reshape(-1).astype(np.int32), (c.size, total))
        for v, c in zip(program.tangents, columns, strict=True)
    }
    found = follower.follow(program.linear, start)
    return [found.get(v) if is_variable(v) else None for v in program.linear.outputs], follower.dense, lookup.used
