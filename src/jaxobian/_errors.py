"""Each failure: what came, what was expected, what to do."""

from __future__ import annotations


class ModeError(ValueError):
    """The Jacobian cannot be computed in the mode that was asked for, or in none."""


class MemoryBudgetError(MemoryError):
    """The Jacobian itself, plus one pass, is larger than the memory budget."""


class BatchCouplingError(ValueError):
    """The examples of a batch influence each other, or were not proved not to."""


class SparsityError(ValueError):
    """The Jacobian has a nonzero outside of the pattern that was passed as `sparsity`."""


class PlanMismatchError(TypeError):
    """A plan was called with arguments other than those it was made for."""
