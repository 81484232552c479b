"""Whether f gives an example the same in a batch of any size and at any place: its traces for two sizes, compared.

An axis is the batch's where its size is another in the other trace. Both programs must be the same equations on the
same numbers. What has the batch's axis but is made of nothing that has it must hold the same for each example, and no
equation may bring that together along the axis: zeros may, and places (0, 1, 2, ...) where an array of examples is
indexed by them; random numbers and other uses of places may not. What is not understood is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from .._primitives import row_of
from .._trace import Ends, Program, Side, as_program, index_arrays, inlined, is_variable, loop_of, program_of
from ._coupling import culprit, told
from ._indices import Indices
from .ties._axes import influence
from .ties._ties import has_line

# Parameters that say where results are, not what they are.
_PLACEMENT = ("sharding", "out_sharding", "in_shardings", "out_shardings", "in_layouts", "out_layouts", "ctx_mesh")
# Those that are sizes of a result, and those that are bounds within an operand.
_SIZES, _BOUNDS = ("shape", "new_sizes", "sizes"), ("start_indices", "limit_indices", "slice_sizes")
_INSTEAD = (
    "Or use jacobian(f): it calls f with the whole batch, and its J has the same layout where out_axes is 0. With "
    "independent=True this is not checked, and J is that of batches of one."
)


# A trace of a function, and what the first inputs hold, which are constants of it.
Trace = tuple[Program, Sequence[Any]]


def check_sizes(traces: Sequence[Trace], sizes: tuple[int, int], *, sums: bool = False) -> None:
    """Raise unless it is proved that an example's results depend neither on the batch's size nor on its place in it.

    Args:
        traces: of f, for two batch sizes. It is proved already that no example influences another.
        sizes: both batch sizes, neither of them 1.
        sums: outputs may be sums over all examples, as derivatives by what they share are.

    Raises:
        ValueError: naming the primitive and the user's line.
    """
    try:
        _Pair(traces, sizes, sums).check()
    except _Differs as found:
        raise ValueError(found.message(sizes)) from None


@dataclass(eq=False)
class _Differs(Exception):
    """What an example is given is not the same in both batches, because of an equation; None: of a constant."""

    why: str
    equation: Any

    def message(self, sizes: tuple[int, int]) -> str:
        where = told(self.equation) if self.equation else "an array that f makes with NumPy"
        alone = "f is differentiated one example at a time, by an argument whose in_axes is None"
        if self.why == "place":
            return (
                f"f makes something of its own for each place in the batch: {where}. But {alone}: each would be given "
                "what is made for the first. Make random numbers, such as those of dropout, by keys that are an "
                "argument whose in_axes is 0, a key for each example, and pass what else differs between examples in "
                f"such an argument. {_INSTEAD}"
            )
        if self.why == "size":
            return (
                f"what f gives each example depends on how many there are: {where}. But {alone}. Divide by the number "
                f"of examples outside of f. {_INSTEAD}"
            )
        return (
            f"it could not be proved that f gives an example the same in a batch of any size: what it does with "
            f"{sizes[0]} examples and with {sizes[1]} cannot be compared from {where} on. But {alone}. {_INSTEAD}"
        )


class _Pair:
    """A program and its counterpart for another batch size.

    Args:
        traces: both.
        sizes: the batch sizes.
        sums: outputs may be sums over all examples.
    """

    def __init__(self, traces: Sequence[Trace], sizes: tuple[int, int], sums: bool):
        self._programs = [_live(inlined(program)) for program, _ in traces]
        self._constants, self._sizes, self._sums = [held for _, held in traces], sizes, sums
        self._indices = [
            Indices(p, values={v: x for v, x in zip(p.inputs, index_arrays(held), strict=False) if x is not None})
            for p, held in zip(self._programs, self._constants, strict=True)
        ]
        self._other: dict[Any, Any] = {}
        self._differs: dict[Any, _Differs] = {}
        self._alike: list[Any] = []  # what holds the same for each example, and is made of nothing that has examples

    def check(self) -> None:
        """Raise `_Differs` unless each example of the outputs is made of the inputs' in the same way."""
        first, other = self._programs
        equations = list(zip(first.equations, other.equations, strict=False))
        for v, w in _zipped(first.inputs, other.inputs, equations[0][0] if equations else None):
            self._match(v, w, None)
        for v, x, y in zip(first.inputs, *self._constants, strict=False):
            if x is not y:
                self._hold(v, x, y, _Differs("size", None))
        for e, d in equations:
            self._compare(e, d)
        if len(first.equations) != len(other.equations):
            raise _Differs("form", equations[-1][0] if equations else None)
        for a, b in _zipped(first.outputs, other.outputs, None):
            if not self._same_atom(a, b, None):
                raise _Differs("size", None)
            if is_variable(a) and a in self._differs:
                raise self._differs[a]
        if self._alike and not self._sums:
            self._check_alike()

    # Variables --------------------------------------------------------------------------------------------------

    def _grows(self, m: Any, n: Any) -> bool:
        """Whether a size is as many times the batch's in both programs."""
        return m != n and m * self._sizes[1] == n * self._sizes[0]

    def _axes(self, atom: Any) -> tuple[int, ...]:
        """The axes of the batch, or of the batch merged with others."""
        if not is_variable(atom) or atom not in self._other:
            return ()
        pairs = zip(atom.aval.shape, self._other[atom].aval.shape, strict=True)
        return tuple(axis for axis, (m, n) in enumerate(pairs) if m != n)

    def _match(self, v: Any, w: Any, equation: Any) -> None:
        if not self._same_type(v.aval, w.aval):
            raise _Differs("size", equation)
        self._other[v] = w

    def _same_type(self, a: Any, b: Any) -> bool:
        shapes = getattr(a, "shape", ()), getattr(b, "shape", ())
        if getattr(a, "dtype", None) != getattr(b, "dtype", None) or len(shapes[0]) != len(shapes[1]):
            return False
        return all(m == n or self._grows(m, n) for m, n in zip(*shapes, strict=True))

    def _same_atom(self, a: Any, b: Any, equation: Any) -> bool:
        if is_variable(a) != is_variable(b) or (is_variable(a) and self._other.get(a) is not b):
            raise _Differs("form", equation)
        return is_variable(a) or _equal(a.val, b.val)

    def _known(self, variable: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """What a variable and its counterpart hold, where that depends on no input."""
        first, other = self._indices
        return first.constant(variable), other.constant(self._other[variable])

    def _hold(self, variable: Any, x: Any, y: Any, otherwise: _Differs) -> None:
        """Take down that a variable holds x, and its counterpart y."""
        if not _hold_alike(x, y):
            self._differs[variable] = otherwise
        elif self._axes(variable):
            self._alike.append(variable)

    def _compare(self, e: Any, d: Any) -> None:
        """Match an equation with its counterpart, and find what it makes of that which is not the same."""
        if e.primitive.name != d.primitive.name or e.params.keys() != d.params.keys():
            raise _Differs("form", e)
        same = [self._same_atom(a, b, e) for a, b in _zipped(e.invars, d.invars, e)]
        same += [self._same_param(name, e, d) for name in e.params if name not in _PLACEMENT]
        for v, w in _zipped(e.outvars, d.outvars, e):
            self._match(v, w, e)
        read = [self._differs[v] for v in e.invars if is_variable(v) and v in self._differs]
        found = next((cause for cause in read if cause.why == "place"), read[0] if read else None)
        own = None if all(same) else _Differs("size", e)
        if self._writes_to_some(e):
            own = _Differs("place", e)
        elif any(map(self._axes, e.outvars)) and not any(map(self._axes, e.invars)) and not found:
            if self._repeats(e):
                self._alike += e.outvars
            else:
                own = own or _Differs("place", e)
        if own:
            self._spread(e, found or own, only_read=False)
        elif found:
            self._spread(e, found, only_read=True)

    def _repeats(self, e: Any) -> bool:
        """Whether an equation whose operands have no examples gives each example the same."""
        name, axes = e.primitive.name, self._axes(e.outvars[0])
        if name == "tile":
            return all(e.invars[0].aval.shape[a] == 1 for a in axes)
        return name == "broadcast_in_dim" or (name == "iota" and e.params["dimension"] not in axes)

    def _spread(self, e: Any, found: _Differs, *, only_read: bool) -> None:
        """What differs goes through an equation, if it is known to be harmless there; else it is raised."""
        name, out = e.primitive.name, e.outvars[0]
        x, y = self._known(out)
        if len(e.outvars) == 1 and x is not None and y is not None:
            self._hold(out, x, y, found)
        elif only_read and (
            name == "convert_element_type"
            or (name == "concatenate" and e.params["dimension"] == len(out.aval.shape) - 1 not in self._axes(out))
        ):
            self._differs[out] = found
        elif not (only_read and name.startswith(("gather", "scatter")) and self._reads_own_place(e)):
            raise found

    def _reads_own_place(self, e: Any) -> bool:
        """Whether all that differs in a gather or a scatter are indices of examples, each at its own place."""
        numbers, (operand, vectors, *rest) = e.params["dimension_numbers"], e.invars
        if any(is_variable(v) and v in self._differs for v in (operand, *rest)):
            return False
        axes = numbers.start_index_map if e.primitive.name == "gather" else numbers.scatter_dims_to_operand_dims
        for column, axis in enumerate(axes):
            piece, _ = self._indices[0].piece(vectors, column)
            if not (is_variable(piece) and piece in self._differs) or self._is_own_place(e, column, axis):
                continue
            x, y = self._known(vectors)
            if x is None or y is None or not _hold_alike(x[..., column], y[..., column]):
                return False
        return True

    def _is_own_place(self, e: Any, column: int, axis: int) -> bool:
        """Whether the index along an axis of a gather's or scatter's operand is the example's own, on both sides."""
        vectors = e.invars[1]
        both = zip(self._indices, (vectors, self._other.get(vectors, vectors)), strict=True)
        first, other = (known.own_position(v, column) for known, v in both)
        return first is not None and first == other and first in self._axes(vectors) and axis in self._axes(e.invars[0])

    def _writes_to_some(self, e: Any) -> bool:
        """Whether an equation writes over some examples, and not over others."""
        name = e.primitive.name
        if name == "dynamic_update_slice":
            return not set(self._axes(e.invars[0])) <= set(self._axes(e.invars[1]))
        if not name.startswith("scatter"):
            return False
        operand, numbers, updates = e.invars[0], e.params["dimension_numbers"], self._axes(e.invars[2])
        hidden = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
        windows = [a for a in range(len(operand.aval.shape)) if a not in hidden]
        whole = {a for a, u in zip(windows, numbers.update_window_dims, strict=True) if u in updates}
        columns = enumerate(numbers.scatter_dims_to_operand_dims)
        own = {axis for column, axis in columns if axis in hidden and self._is_own_place(e, column, axis)}
        return not set(self._axes(operand)) <= whole | own | set(numbers.operand_batching_dims)

    # Parameters -------------------------------------------------------------------------------------------------

    def _same_param(self, name: str, e: Any, d: Any) -> bool:
        a: Any = e.params[name]
        b: Any = d.params[name]
        if name in _BOUNDS and len(a) == len(b) == len(e.invars[0].aval.shape):
            axes = self._axes(e.invars[0])
            return all(m == n or (k in axes and self._grows(m, n)) for k, (m, n) in enumerate(zip(a, b, strict=True)))
        if name in _SIZES and isinstance(a, tuple) and len(a) == len(b):
            return all(m == n or self._grows(m, n) for m, n in zip(a, b, strict=True))
        if name == "reps":  # of an axis of size 1 that becomes the batch's
            repeated = zip(a, b, e.invars[0].aval.shape, strict=True)
            return all(m == n or (size == 1 and self._grows(m, n)) for m, n, size in repeated)
        if name == "length" and row_of(e).body == "loop":
            loop = loop_of(e)  # over examples, it keeps them apart where it carries nothing on
            return a == b or (loop is not None and not loop.carries and self._grows(a, b))
        return self._same(a, b, rule=e.primitive.name.startswith("custom_"))

    def _same(self, a: Any, b: Any, *, rule: bool) -> bool:
        """Whether two parameters are the same; what JAX keeps of a custom rule is made anew in each trace."""
        if isinstance(a, jex.ClosedJaxpr | jex.Jaxpr):
            _Pair([(as_program(x), getattr(x, "consts", ())) for x in (a, b)], self._sizes, self._sums).check()
            return True
        if isinstance(a, tuple | list):
            return len(a) == len(b) and all(self._same(x, y, rule=rule) for x, y in zip(a, b, strict=True))
        if isinstance(a, np.ndarray | np.generic | jax.Array | float | complex):
            return _equal(a, b)  # bit by bit: NaN is NaN
        if hasattr(a, "shape") and hasattr(a, "dtype"):
            return self._same_type(a, b)
        return (rule and not isinstance(a, int)) or bool(a == b)

    # What is the same for all -----------------------------------------------------------------------------------

    def _check_alike(self) -> None:
        """Raise unless each example of the outputs reads its own entries alone of what is the same for all.

        A sum of them would be as many times one as there are examples.
        """
        program, size = self._programs[0], self._sizes[0]
        source = jex.Var(program_of(lambda: jnp.zeros(size))[0].outputs[0].aval)
        made = [e for v in dict.fromkeys(self._alike) for e in self._repeated(source, v)]
        known = self._indices[0]
        # Places are known without what they are made of.
        places = [v for v in self._differs if known.constant(v) is not None]
        given = {*self._alike, *places}
        rest = [e for e in program.equations if not any(v in given for v in e.outvars)]
        inputs = (*(v for v in program.inputs if v not in given), *places)
        outputs = tuple(v for v in program.outputs if is_variable(v))
        repeated = replace(program, inputs=(*inputs, source), outputs=outputs, equations=(*made, *rest))
        ties = influence(repeated, 1, [*(known.constant(v) for v in inputs), None])
        axes = [self._axes(v) for v in outputs]
        ends = Ends(Side((source.aval,), (0,)), Side(repeated.out_avals, tuple((*a, None)[0] for a in axes)))
        for o, (v, dependence, own) in enumerate(zip(outputs, ties.relations, axes, strict=True)):
            apart = len(own) == 1 and v.aval.shape[own[0]] == size and has_line(dependence.get(0, frozenset()), *own, 0)
            if dependence and not apart:
                equation = culprit(ties, o, 0, ends) or _maker(program, v)
                added = equation is not None and equation.primitive.name.startswith(("reduce_", "dot_general"))
                raise _Differs("size" if added else "form", equation)

    def _repeated(self, source: Any, variable: Any) -> list[Any]:
        """Equations that make a variable of one number for each example."""
        shape, size = variable.aval.shape, self._sizes[0]
        axes = self._axes(variable)
        if len(axes) != 1:
            raise _Differs("form", _maker(self._programs[0], variable))
        (axis,) = axes
        split = (*shape[:axis], size, shape[axis] // size, *shape[axis + 1 :])
        program, _, _ = program_of(
            lambda x: jax.lax.reshape(jax.lax.broadcast_in_dim(x, split, (axis,)), shape), source.aval
        )
        first, *_ = equations = list(program.equations)
        equations[0] = first.replace(invars=[source])
        equations[-1] = equations[-1].replace(outvars=[variable])
        return equations


def _zipped(a: Sequence[Any], b: Sequence[Any], equation: Any) -> list[tuple[Any, Any]]:
    if len(a) != len(b):
        raise _Differs("form", equation)
    return list(zip(a, b, strict=True))


def _hold_alike(x: Any, y: Any) -> bool:
    """Whether two constants are equal, or hold the same for every example."""
    try:
        x, y = np.asarray(x), np.asarray(y)
    except Exception:  # random keys, and arrays inside a transformation
        return False
    for axis, (m, n) in enumerate(zip(x.shape, y.shape, strict=True)):
        if m != n:
            firsts = [z.take([0], axis) for z in (x, y)]
            if not all(_equal(z, np.broadcast_to(one, z.shape)) for z, one in zip((x, y), firsts, strict=True)):
                return False
            x, y = firsts
    return _equal(x, y)


def _equal(x: Any, y: Any) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def _live(program: Program) -> Program:
    """Without the equations that no output needs, those that only print among them."""
    needed, kept = {v for v in program.outputs if is_variable(v)}, []
    for equation in reversed(program.equations):
        if any(v in needed for v in equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if is_variable(v))
    return replace(program, equations=tuple(reversed(kept)))


def _maker(program: Program, variable: Any) -> Any:
    return next((e for e in program.equations if variable in e.outvars), None)
