"""How an equation, linear in its tangent, extends a term: a factor more, axes moved, summed or repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from ..._arrays import is_complex, is_inexact
from ..._rewrite import has_patches, patches
from ._terms import Axes, Letters, Source, Term, reshaped, window

_Rule = Callable[[Any, int, Term, Letters], Term | None]


def extended(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    """The term of the result, by that of the operand in a place; None where the equation is no such factor."""
    rule = _RULES.get(equation.primitive.name)
    avals = [v.aval for v in (*equation.invars, *equation.outvars)]
    if rule is None or len(equation.outvars) != 1 or any(is_complex(a) for a in avals if is_inexact(a)):
        return None
    return rule(equation, place, term, letters)


def source_of(atom: Any, change: Callable[[Any], Any] | None = None, kind: Any = None, shape: Any = None) -> Source:
    """An operand as a factor."""
    aval = atom.aval
    return Source(atom, tuple(aval.shape) if shape is None else shape, max(4, aval.dtype.itemsize), change, kind)


def _times(atom: Any, term: Term, change: Any = None, kind: Any = None) -> Term:
    """Multiplied element by element: an operand without axes, or with some of size 1, is the same along them."""
    axes = tuple(digits if n > 1 else () for digits, n in zip(term.own, atom.aval.shape, strict=False))
    return term.times(source_of(atom, change, kind), axes if atom.aval.shape else ())


def _mul(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    return _times(equation.invars[1 - place], _like(equation, place, term, letters))


def _like(equation: Any, place: int, term: Term, letters: Letters) -> Term:
    """A tangent without axes, or with some of size 1, as one that is repeated along those of the result."""
    shape, given = equation.outvars[0].aval.shape, equation.invars[place].aval.shape
    if given == shape:
        return term
    repeated = letters.axes(shape)
    if not given:
        return replace(term, own=repeated)
    own = tuple(digits if m == n else new for digits, new, m, n in zip(term.own, repeated, given, shape, strict=True))
    return replace(term, own=own)


def _div(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    if place == 1:
        return None
    return _times(equation.invars[1], _like(equation, place, term, letters), jnp.reciprocal, "reciprocal")


def _neg(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    return replace(term, scale=-term.scale)


def _sub(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    return replace(_like(equation, place, term, letters), scale=term.scale * (-1.0 if place else 1.0))


def _add(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    return _like(equation, place, term, letters)


def _same(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    return term


def _convert(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    # What is rounded on the way is not the same as what is rounded at its end.
    wide = all(v.aval.dtype.itemsize >= 4 for v in (*equation.invars, *equation.outvars))
    return term if wide and is_inexact(equation.outvars[0].aval) else None


def _transpose(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    return replace(term, own=tuple(term.own[k] for k in equation.params["permutation"]))


def _squeeze(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    gone = {k % len(term.own) for k in equation.params["dimensions"]}
    return replace(term, own=tuple(digits for k, digits in enumerate(term.own) if k not in gone))


def _reshape(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    if equation.params.get("dimensions") is not None:
        return None
    return reshaped(term, equation.outvars[0].aval.shape, letters)


def _broadcast(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    shape, given = equation.params["shape"], equation.invars[0].aval.shape
    own = list(letters.axes(shape))
    for axis, where in enumerate(equation.params["broadcast_dimensions"]):
        if given[axis] == shape[where]:
            own[where] = term.own[axis]
    return replace(term, own=tuple(own))


def _reduce_sum(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    axes = set(equation.params["axes"])
    gone = {k for axis in axes for k in term.own[axis]}
    # What no factor tells apart is summed as often as it is there.
    alike = letters.size([k for k in gone if k not in term.read()])
    own = tuple(digits for axis, digits in enumerate(term.own) if axis not in axes)
    return replace(term, own=own, scale=term.scale * alike)


def _dot(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    contract, batch = equation.params["dimension_numbers"]
    other = equation.invars[1 - place]
    axes: list[Any] = [None] * len(other.aval.shape)
    for ours, theirs in ((contract[place], contract[1 - place]), (batch[place], batch[1 - place])):
        for here, there in zip(ours, theirs, strict=True):
            axes[there] = term.own[here]
    free = {k: digits for k, digits in enumerate(letters.axes(other.aval.shape)) if axes[k] is None}
    axes = [free.get(k, digits) for k, digits in enumerate(axes)]
    kept = [term.own[k] for k in range(len(term.own)) if k not in (*contract[place], *batch[place])]
    both = [kept, list(free.values())] if place == 0 else [list(free.values()), kept]
    own = (*(term.own[k] for k in batch[place]), *both[0], *both[1])
    return replace(term.times(source_of(other), tuple(axes)), own=own)


def _select(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    if place == 0:
        return None
    which, dtype = equation.invars[0], equation.outvars[0].aval.dtype
    index = place - 1

    def chosen(x: Any) -> Any:
        return (x == index).astype(dtype)

    return _times(which, _like(equation, place, term, letters), chosen, ("chosen", index))


def _convolution(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    """By its kernel: what each position of the result sees of the image, times the kernel."""
    if place != 1 or not has_patches(equation):
        return None
    spec = equation.params["dimension_numbers"]
    made, shape = patches(equation)
    examples, *positions = letters.axes((shape[0], *shape[len(spec.rhs_spec) :]))
    axes: Axes = (examples, *(term.own[k] for k in spec.rhs_spec[1:]), *positions)
    own: list[Any] = [None] * len(spec.out_spec)
    for where, digits in zip(spec.out_spec, (examples, term.own[spec.rhs_spec[0]], *positions), strict=True):
        own[where] = digits
    source = source_of(equation.invars[0], made, ("patches", str(equation.params)), shape)
    return replace(term.times(source, axes), own=tuple(own))


def _slice(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    """Along each axis that is cut, ones where an index of the slice is that of what it is cut from."""
    starts, shape = equation.params["start_indices"], equation.outvars[0].aval.shape
    strides = equation.params["strides"] or (1,) * len(shape)
    own = list(term.own)
    for axis, (start, stride, m, n) in enumerate(
        zip(starts, strides, shape, equation.invars[0].aval.shape, strict=True)
    ):
        if m == n:
            continue
        (own[axis],) = letters.axes((m,))
        term = term.times(window(start, stride, m, n), (own[axis], term.own[axis]))
    return replace(term, own=tuple(own))


def _placed(term: Term, axis: int, starts: range, m: int, n: int, letters: Letters) -> Term:
    """With an axis of m elements put into one of n, where they have these indices."""
    if m == n and starts == range(n):
        return term
    (new,) = letters.axes((n,))
    own = (*term.own[:axis], new, *term.own[axis + 1 :])
    return replace(term.times(window(starts.start, starts.step, m, n), (term.own[axis], new)), own=own)


def _concatenate(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    axis, sizes = equation.params["dimension"], [v.aval.shape[equation.params["dimension"]] for v in equation.invars]
    first, m = sum(sizes[:place]), sizes[place]
    return _placed(term, axis, range(first, first + m), m, sum(sizes), letters) if m else None


def _pad(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    config, shapes = equation.params["padding_config"], (equation.invars[0].aval.shape, equation.outvars[0].aval.shape)
    if place or any(low < 0 or high < 0 for low, high, _ in config):
        return None
    for axis, ((low, _, between), m, n) in enumerate(zip(config, *shapes, strict=True)):
        if not m:
            return None
        term = _placed(term, axis, range(low, low + m * (between + 1), between + 1), m, n, letters)
    return term


def _rev(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    for axis in equation.params["dimensions"]:
        if (n := equation.invars[0].aval.shape[axis]) > 1:
            term = _placed(term, axis, range(n - 1, -1, -1), n, n, letters)
    return term


def _gather(equation: Any, place: int, term: Term, letters: Letters) -> Term | None:
    """Whole rows that are looked up, as by an embedding: ones where an index is that of a row."""
    dims, (rows, indices) = equation.params["dimension_numbers"], (v.aval for v in equation.invars)
    looked_up, made = indices.shape[:-1], equation.outvars[0].aval.shape
    one_row = (1, *rows.shape[1:]) == tuple(equation.params["slice_sizes"]) and dims.start_index_map == (0,)
    trailing = dims.offset_dims == tuple(range(len(looked_up), len(made)))
    batched = dims.operand_batching_dims or dims.start_indices_batching_dims
    if place or not (one_row and trailing and dims.collapsed_slice_dims == (0,)) or batched:
        return None
    n, dtype, mode = rows.shape[0], rows.dtype, str(equation.params["mode"])
    clipped = "CLIP" in mode or "PROMISE" in mode

    def found(x: Any) -> Any:
        index = jnp.clip(x[..., 0], 0, n - 1) if clipped else x[..., 0]
        return (index[..., None] == jnp.arange(n, dtype=index.dtype)).astype(dtype)

    own = letters.axes(looked_up)
    source = source_of(equation.invars[1], found, ("rows", n, clipped, str(dtype)), (*looked_up, n))
    return replace(term.times(source, (*own, term.own[0])), own=(*own, *term.own[1:]))


_RULES: dict[str, _Rule] = {
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "sub": _sub,
    "add": _add,
    "add_any": _add,
    "copy": _same,
    "optimization_barrier": _same,
    "convert_element_type": _convert,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "reshape": _reshape,
    "slice": _slice,
    "concatenate": _concatenate,
    "pad": _pad,
    "rev": _rev,
    "broadcast_in_dim": _broadcast,
    "reduce_sum": _reduce_sum,
    "dot_general": _dot,
    "select_n": _select,
    "conv_general_dilated": _convolution,
    "gather": _gather,
}
# What puts tangents beside each other, or beside zeros.
PLACING = frozenset({"concatenate", "pad"})
# What brings a tangent together with something else, or repeats it: where it is, at the latest, told by examples.
JOINING = frozenset({"dot_general", "conv_general_dilated", "mul", "div", "gather"})


def several(equation: Any, active: Sequence[int]) -> bool:
    """Whether an equation adds up what it makes of each of several tangents."""
    return len(active) == 1 or equation.primitive.name in ("add", "add_any", "sub", "select_n", "concatenate")
