"""check_jacobian: one function's Jacobian by every means there is, compared entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from .._api import jacobian
from .._errors import ModeError
from .._request import MODES
from ._compiled import op_by_op, theirs
from ._report import Difference, Report, close, of_modes

_DIFFERENCES = "differences"
_ALONG_I = "differences along i"
_STORED = 1000

Blocks = list[list[np.ndarray]]  # by output leaf, then by input leaf


def check_jacobian(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    eps: float | None = None,
    **kwargs: Any,
) -> Report:
    """Compare the Jacobian of f in all possible modes with each other and with central differences.

    `J[i, j] = dy_i / dx_j` is computed by `jaxobian.jacobian` in every mode that can, and as
    `(f(x + h e_j) - f(x - h e_j)) / 2h`, all in float64: floating-point arguments are cast (what f
    closes over is promoted where it meets them). A function that refuses float64 is checked in
    its own precision. Differences are trusted only as far as steps of h and of 2h agree, so noise in f rarely
    raises an alarm; at a kink (`relu` at 0) they rightly see something else than the modes.

    Where methods differ, each mode and JAX's own Jacobians are run once more, each operation compiled alone, so that
    a defect of XLA's compiler is found and named as such.

    With complex numbers, what is compared follows JAX: real to complex, `du/dx + i dv/dx`; complex to real,
    `du/dx - i du/dy`; `holomorphic`, `f'(z)`, by differences along both axes, which agree only if f is.

    Args:
        f: a function of pytrees to a pytree.
        *args: where to check it. Leaves that are not floating point are held fixed, and named in the report.
        argnums: the arguments to differentiate by.
        has_aux: f returns `(y, aux)`.
        holomorphic: f is complex to complex, and analytic.
        rtol: tolerance relative to the largest entry of a block (an output leaf by an input leaf). By default
            1e-5 in float64, and what central differences can reach in lower precision.
        atol: absolute tolerance. By default a hundred units in the last place of 1.
        eps: the step, relative to `max(1, |x_j|)`. By default the cube root of the precision.
        **kwargs: passed to f, and not differentiated.

    Returns:
        A `Report`: `.ok`, `.differences`, `.raise_if_failed()` and a readable `str`. f runs four times for
        each input element.

    Raises:
        ValueError: no argument leaf, or no output leaf, is floating point.
        ModeError: no mode, nor any sequence of modes, can differentiate f.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxobian.testing import check_jacobian
        >>> report = check_jacobian(lambda x: jnp.sin(x) * x[0], jnp.arange(3.0))
        >>> report.ok, report.entries
        (True, 9)
    """
    name = getattr(f, "__name__", type(f).__name__)
    with jax.enable_x64(True):
        problem = _Problem(f, args, kwargs, argnums, has_aux, wide=True)
        try:
            outputs, skipped = problem.outputs()
        except (TypeError, ValueError) as error:
            refusal = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            return _report(name, problem, outputs, skipped, "float64", holomorphic, rtol, atol, eps)
    # A convolution with float32 weights, say, takes no float64 image.
    problem = _Problem(f, args, kwargs, argnums, has_aux, wide=False)
    outputs, skipped = problem.outputs()
    precision = f"the arguments' own; in float64 f raises {refusal}"
    return _report(name, problem, outputs, skipped, precision, holomorphic, rtol, atol, eps)


class _Problem:
    """f as a function of a flat list of floating-point arrays to another, everything else held fixed."""

    def __init__(
        self,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        argnums: int | Sequence[int],
        has_aux: bool,
        *,
        wide: bool,
    ):
        self._f, self._kwargs, self._has_aux = f, kwargs, has_aux
        self.__name__ = getattr(f, "__name__", type(f).__name__)
        if wide:
            args = jax.tree.map(lambda x: _widen(x) if isinstance(x, (jax.Array, np.ndarray)) else x, args)
        self._args = list(args)
        differentiated = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        self._argnums = tuple(range(len(args))[i] for i in differentiated)
        leaves, self._tree = tree_flatten_with_path([args[i] for i in self._argnums])
        self._leaves = [leaf for _, leaf in leaves]
        paths = [f"args[{self._argnums[path[0].idx]}]{keystr(path[1:])}" for path, _ in leaves]
        self._where = [k for k, leaf in enumerate(self._leaves) if _is_inexact(leaf)]
        self.skipped = [_named(path, x) for path, x in zip(paths, self._leaves, strict=True) if not _is_inexact(x)]
        self.paths = [paths[k] for k in self._where]
        self.inputs = [_widen(self._leaves[k]) if wide else jnp.asarray(self._leaves[k]) for k in self._where]
        if not self.inputs:
            came = ", ".join(self.skipped) or "no arrays"
            raise ValueError(f"argnums={argnums} should hold floating-point arrays to differentiate by; got {came}.")

    def _output(self, *inputs: jax.Array) -> Any:
        leaves, args = list(self._leaves), list(self._args)
        for k, x in zip(self._where, inputs, strict=True):
            leaves[k] = x
        for i, arg in zip(self._argnums, jax.tree.unflatten(self._tree, leaves), strict=True):
            args[i] = arg
        y = self._f(*args, **self._kwargs)
        return y[0] if self._has_aux else y

    def __call__(self, *inputs: jax.Array) -> list[jax.Array]:
        return [jnp.asarray(y) for y in jax.tree.leaves(self._output(*inputs)) if _is_inexact(y)]

    def outputs(self) -> tuple[list[tuple[str, jax.ShapeDtypeStruct]], tuple[str, ...]]:
        """Return path and shape of the floating-point outputs, and the names of all leaves that are not."""
        leaves, _ = tree_flatten_with_path(jax.eval_shape(self._output, *self.inputs))
        named = [(f"out{keystr(path)}", y) for path, y in leaves]
        kept = [(path, y) for path, y in named if _is_inexact(y)]
        skipped = [_named(path, y) for path, y in named if not _is_inexact(y)]
        if not kept:
            came = ", ".join(skipped) or "no arrays"
            raise ValueError(f"f should return floating-point arrays to differentiate; got {came}.")
        return kept, (*self.skipped, *skipped)


def _report(
    name: str,
    problem: _Problem,
    outputs: list[tuple[str, jax.ShapeDtypeStruct]],
    skipped: tuple[str, ...],
    precision: str,
    holomorphic: bool,
    rtol: float | None,
    atol: float | None,
    eps: float | None,
) -> Report:
    unit = max(float(jnp.finfo(a.dtype).eps) for a in [*problem.inputs, *(y for _, y in outputs)])
    step = unit ** (1 / 3) if eps is None else eps
    rtol = max(1e-5, unit ** (1 / 3) / 5) if rtol is None else rtol
    atol = 100 * unit if atol is None else atol

    blocks: dict[str, Blocks] = {}
    impossible = {}
    everything = tuple(range(len(problem.inputs)))
    for mode in MODES:
        try:
            rows = jacobian(problem, everything, mode=mode, holomorphic=holomorphic)(*problem.inputs)
            blocks[mode] = _wide_blocks(rows)
        except ModeError as error:
            if mode == "auto":  # then nothing can
                raise
            impossible[mode] = str(error)
    along, errors = _central_differences(problem, step, unit, holomorphic)
    blocks |= along

    found = _differences(problem, outputs, blocks, errors, rtol, atol)
    miscompiled: list[str] = []
    if found:  # is it the modes that differ, or what XLA makes of them?
        modes: list[Any] = list(of_modes(blocks))
        for mode in modes:
            ours = jacobian(problem, everything, mode=mode, holomorphic=holomorphic)
            alone = _wide_blocks(op_by_op(ours, problem.inputs))
            if _apart(blocks[mode], alone, rtol, atol):
                miscompiled.append(f'mode="{mode}"')
                blocks[f"{mode} op by op"] = alone
        for call, compiled, alone in theirs(problem, everything, holomorphic):
            if _apart(_wide_blocks(compiled), _wide_blocks(alone), rtol, atol):
                miscompiled.append(call)
        found = _differences(problem, outputs, blocks, errors, rtol, atol)
    entries = sum(block.size for row in blocks["auto"] for block in row)
    worst_first = tuple(sorted(found, key=_size, reverse=True)[:_STORED])
    return Report(
        name, tuple(blocks), impossible, worst_first, len(found), entries, precision, rtol, skipped, tuple(miscompiled)
    )


def _differences(
    problem: _Problem,
    outputs: list[tuple[str, jax.ShapeDtypeStruct]],
    blocks: dict[str, Blocks],
    errors: Blocks,
    rtol: float,
    atol: float,
) -> list[Difference]:
    """Every entry on which the methods do not agree."""
    found = []
    for o, (out_path, y) in enumerate(outputs):
        for i, in_path in enumerate(problem.paths):
            values = {method: rows[o][i] for method, rows in blocks.items()}
            differ = _differ(values, errors[o][i], rtol, atol)
            for index in map(tuple, np.argwhere(differ).tolist()):
                at_index = {method: value[index].item() for method, value in values.items()}
                found.append(Difference(out_path, in_path, index, y.ndim, at_index))
    return found


def _apart(a: Blocks, b: Blocks, rtol: float, atol: float) -> bool:
    """Whether two Jacobians are not the same to rounding."""
    pairs = [(u, v) for row, other in zip(a, b, strict=True) for u, v in zip(row, other, strict=True)]
    scales = [float(np.max(np.abs(v), where=np.isfinite(v), initial=0)) for _, v in pairs]
    return not all(close(u, v, atol + rtol * scale).all() for (u, v), scale in zip(pairs, scales, strict=True))


def _wide_blocks(rows: Any) -> Blocks:
    return [[_wide_array(block) for block in row] for row in rows]


def _central_differences(f: _Problem, eps: float, unit: float, holomorphic: bool) -> tuple[dict[str, Blocks], Blocks]:
    """Return the blocks by central differences, and how far each entry is to be trusted."""
    run = jax.jit(lambda *inputs: f(*inputs))
    at = [np.asarray(x) for x in f.inputs]
    ys = [np.asarray(y) for y in run(*at)]

    def slopes(i: int, step: float, direction: complex) -> list[np.ndarray]:
        """Every output's slope along every element of input i, by steps in that direction."""
        columns = []
        for j, value in enumerate(at[i].flat):
            ahead, behind = at[i].copy(), at[i].copy()
            ahead.flat[j] += direction * step * max(1.0, abs(value))
            behind.flat[j] -= direction * step * max(1.0, abs(value))
            y1, y0 = run(*at[:i], ahead, *at[i + 1 :]), run(*at[:i], behind, *at[i + 1 :])
            taken = abs(ahead.flat[j] - behind.flat[j])  # not quite twice the step, after rounding
            columns.append([(_wide_array(b) - _wide_array(a)) / taken for b, a in zip(y1, y0, strict=True)])
        if not columns:
            return [np.zeros((*y.shape, 0)) for y in ys]
        return [np.stack(column, axis=-1) for column in zip(*columns, strict=True)]

    def derivative(i: int, step: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The derivative as JAX defines it, and for analytic f once more, from steps along i."""
        along_x = slopes(i, step, 1)
        if not np.iscomplexobj(at[i]):
            return along_x, along_x
        along_y = slopes(i, step, 1j)
        if holomorphic:
            return along_x, [-1j * v for v in along_y]
        both = [u - 1j * v for u, v in zip(along_x, along_y, strict=True)]
        return both, both

    values: Blocks = [[] for _ in ys]
    along_i: Blocks = [[] for _ in ys]
    errors: Blocks = [[] for _ in ys]
    with np.errstate(invalid="ignore"):
        for i, x in enumerate(at):
            (fine, fine_i), (coarse, _) = derivative(i, eps), derivative(i, 2 * eps)
            for o, y in enumerate(ys):
                floor = 10 * unit * float(np.max(np.abs(y), initial=0)) / eps
                shape = y.shape + x.shape
                values[o].append(fine[o].reshape(shape))
                along_i[o].append(fine_i[o].reshape(shape))
                errors[o].append((np.abs(fine[o] - coarse[o]) + floor).reshape(shape))
    return {_DIFFERENCES: values} | ({_ALONG_I: along_i} if holomorphic else {}), errors


def _differ(values: dict[str, np.ndarray], error: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    """Where two modes differ, or a mode and a difference by more than that can be trusted."""
    modes = list(of_modes(values).values())
    scale = max((float(np.max(np.abs(v), where=np.isfinite(v), initial=0)) for v in modes), default=0.0)
    tolerance = atol + rtol * scale
    differ = np.zeros(error.shape, bool)
    for a in modes:
        for b in modes[1:]:
            differ |= ~close(a, b, tolerance)
        for name in (_DIFFERENCES, _ALONG_I):
            if name in values:
                differ |= ~close(a, values[name], tolerance + 4 * error)
    return differ


def _size(difference: Difference) -> float:
    values = np.array(list(difference.values.values()))
    return float(np.max(np.abs(values[:, None] - values))) if np.isfinite(values).all() else np.inf


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype if hasattr(x, "dtype") else jnp.result_type(x), jnp.inexact)


def _widen(x: Any) -> Any:
    return jnp.asarray(x, _wide_dtype(x)) if _is_inexact(x) else x


def _wide_array(x: Any) -> np.ndarray:
    return np.asarray(x, _wide_dtype(x))


def _wide_dtype(x: Any) -> Any:
    return np.complex128 if jnp.issubdtype(jnp.result_type(x), jnp.complexfloating) else np.float64


def _named(path: str, x: Any) -> str:
    return f"{path} ({x.dtype if hasattr(x, 'dtype') else type(x).__name__})"
