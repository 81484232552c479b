"""Compiled functions kept between eager calls: keyed by the program and by all that was asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from ._analysis import check_examples, structure
from ._arrays import is_concrete
from ._call import Options, Traced
from ._call._surroundings import surroundings
from ._execute import Computed, Executable, compiled, traceable, values_alone
from ._trace import forget, identity, our_settings, values_key

# Programs whose compiled functions are kept; the one unused for longest goes first.
KEPT = 128
# Numbers that f closes over are known, until they have been so many different ones.
_CHANGING = 4

_kept: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()


def clear_cache() -> None:
    """Forget all compiled functions that eager calls have left; the next call of each plans and compiles anew.

    Kept are those of the 128 functions called last: J of a function that is called again with the same kinds of arrays
    is neither planned nor compiled a second time.

    Example:
        >>> import jaxobian as jb
        >>> jb.clear_cache()
    """
    with _lock:
        _kept.clear()
    forget()


@dataclass
class _Runs:
    """The compiled functions of a program.

    Attributes:
        numbers: the operands whose numbers one of them was made by.
        runs: each by what those hold; under None one that was made by none of them.
    """

    numbers: frozenset[int] = frozenset()
    runs: dict[Hashable, Executable] = field(default_factory=dict)


def computed(traced: Traced, options: Options, value: bool, *, mapped: bool = False) -> Computed:
    """What is wanted of J for a trace, y where asked for, and aux, all as flat arrays.

    Args:
        traced: the call.
        options: what was asked for.
        value: whether y is to be returned, too.
        mapped: whether the call is one of many under `jax.vmap`, where no loop can run on the host.
    """
    operands, xs = traced.program.operands, traced.xs
    around = surroundings((*operands, *xs))
    options = options.asking(copies=max(options.request.copies, around.copies))
    if not xs:  # nothing to differentiate: empty trees, or integers alone
        run = values_alone(traced.program, traced.ends, options.request.output)
    elif around.traced and not mapped:
        choice = traced.choose(options, traced.device)
        run = traceable(choice.execution, options.request.output, value)
    else:
        # Under vmap or grad of values, too, what is compiled is kept; but no loop can run on the host.
        mapped = mapped or not all(map(is_concrete, (*operands, *xs)))
        run = kept(traced, options, value, mapped=mapped)
    quantity = options.request.quantity
    return traced.placement.run(run, operands, xs, ("out", "in") if quantity is None else quantity.sides)


def kept(traced: Traced, options: Options, value: bool, *, mapped: bool = False) -> Executable:
    """The compiled function for a trace; one that computes the same from the same kinds of arrays is used again.

    Args:
        traced: the call.
        options: what was asked for.
        value: whether y is to be returned, too.
        mapped: whether the call is one of many under `jax.vmap`, where no loop can run on the host.
    """
    # How f is called is in the program, and how results are handed back comes after it.
    found: _Runs = remembered((_key(traced), options.request, value, mapped), _Runs)

    def values() -> Hashable:
        return values_key(traced.program.numbers[k] for k in sorted(found.numbers))

    run = found.runs.get(values()) or found.runs.get(None)
    if run is None:
        known = len(found.runs) < _CHANGING
        closed = replace(traced, program=traced.program.without_values(numbers=known))
        choice = closed.choose(options, traced.device, traced.values)
        run = compiled(choice.execution, options.request.output, value, traced.device.platform, mapped=mapped)
        with _lock:
            found.numbers |= choice.known
            found.runs[values() if known else None] = run
    return run


def check_independent(traced: Traced) -> None:
    """Raise unless the derivatives of a call are proved to keep its examples apart.

    Raises:
        BatchCouplingError: naming what couples them.
    """

    def check() -> bool:
        check_examples(structure(traced.program), traced.ends, traced.names, traced.values)
        return True

    with our_settings():
        remembered((_key(traced), "apart"), check)


def _key(traced: Traced) -> Hashable:
    ends = traced.ends
    return identity(traced.program), ends.inputs.batch_axes, ends.outputs.batch_axes, traced.device


def remembered(key: Hashable, make: Callable[[], Any]) -> Any:
    """What was made under a key, or is made now."""
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    made = make()  # unlocked, for it may take long, and call us again
    with _lock:
        found = _kept.setdefault(key, made)  # another thread may have been faster
        _kept.move_to_end(key)
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return found
