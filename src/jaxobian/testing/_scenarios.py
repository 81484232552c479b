"""The list of scenarios."""

from __future__ import annotations

from . import (
    _arrays,
    _control,
    _costs,
    _finance,
    _learning,
    _matrices,
    _networks,
    _numerics,
    _odes,
    _physics,
    _robotics,
)
from ._larger import LARGER
from ._scenario import Scenario

_FAMILIES = (
    _networks,
    _numerics,
    _costs,
    _arrays,
    _control,
    _robotics,
    _odes,
    _physics,
    _learning,
    _matrices,
    _finance,
)


def scenarios(*, tag: str | None = None) -> list[Scenario]:
    """Return the named functions, with inputs, that correctness tests and benchmarks share.

    Each is differentiated as `J[i, j] = dy_i / dx_j` with `y = f(*args)`; see `Scenario`.

    Args:
        tag: only those with this tag.

    Returns:
        The scenarios, in a fixed order, with unique names. Arrays are only made when `make` is called.

    Example:
        >>> from jaxobian.testing import scenarios
        >>> f, (x,) = next(s for s in scenarios() if s.name == "lenet5").make()
        >>> x.shape, f(x).shape
        ((28, 28, 1), (10,))
    """
    every = [value for family in _FAMILIES for value in vars(family).values() if isinstance(value, Scenario)]
    every += LARGER
    return [s for s in every if tag is None or tag in s.tags]
