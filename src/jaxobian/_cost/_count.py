"""What a program costs: operations counted equation by equation, and what passes through it add."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from .._linear import Program, as_program, is_variable, subprograms
from ._machine import Work

# What an equation that is fused into others, or stands in a loop's body, takes of a dispatch.
_FUSED = 0.03
# What the kernel takes that a fused chain of equations becomes.
_KERNEL = 0.5
# Output channels with which a grouped convolution keeps the vector units busy.
_FULL_WIDTH = 8.0
# What a convolution takes for each tap of its kernel at each place, and for each element that it gathers, in flops.
_TAP, _GATHERED = 90.0, 6.0
# A dynamic while loop runs an unknown number of steps; any guess is the same for both modes.
ASSUMED_STEPS = 10

# How the result of an equation is made of its operands without touching memory on the way: XLA fuses these.
_MOVES = frozenset(
    "broadcast_in_dim reshape squeeze transpose rev slice pad concatenate stack unstack tile convert_element_type copy "
    "copy_p name iota dynamic_slice split real imag complex conj stop_gradient optimization_barrier".split()
)
_TRANSCENDENTAL = frozenset(
    "exp exp2 expm1 log log1p log2 tanh sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh logistic erf erfc "
    "erf_inv lgamma digamma polygamma zeta igamma igammac igamma_grad_a random_gamma random_gamma_grad "
    "bessel_i0e bessel_i1e regularized_incomplete_beta pow cbrt rsqrt sqrt".split()
)
_REDUCTIONS = frozenset(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or argmax argmin reduce".split()
)
_CUMULATIVE = frozenset("cumsum cumprod cummax cummin cumlogsumexp".split())
_SOLVES = frozenset(
    "cholesky lu qr geqrf householder_product eigh eig svd schur triangular_solve tridiagonal_solve hessenberg "
    "tridiagonal lu_pivots_to_permutation".split()
)


def nbytes(aval: Any) -> int:
    """Bytes of an array; 0 for what is not one (keys, tokens)."""
    itemsize = getattr(getattr(aval, "dtype", None), "itemsize", 0)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def count(program: Program) -> Work:
    """Operations of `program`, each equation once, loops with their lengths."""
    if program not in _COUNTED:
        _COUNTED[program] = pass_work(program, program.inputs, 1, one_hot=False).chunk(1)
    return _COUNTED[program]


# Every candidate asks for the work of the same primal program.
_COUNTED: WeakKeyDictionary[Program, Work] = WeakKeyDictionary()


@dataclass(frozen=True)
class PassWork:
    """The work of one chunk of passes through a linear program, as a function of how many run at once.

    Attributes:
        fixed: work that a chunk does whatever its width, such as reading weights.
        each: work that every pass adds.
        intermediates: bytes that every pass makes on its way: what it holds at most, however little is let go.
        together: bytes that a pass holds where each array is let go after it is read last.
    """

    fixed: Work
    each: Work
    intermediates: float
    together: float

    def chunk(self, width: int) -> Work:
        return self.fixed + self.each * width


def pass_work(program: Program, seeds: Sequence[Any], width: int, *, one_hot: bool = True) -> PassWork:
    """Count a program that runs `width` passes at once.

    Args:
        program: a flat program, for instance a vmapped linear one.
        seeds: those of its inputs that carry the passes.
        width: how many passes they carry.
        one_hot: whether they are vectors of the standard basis.
    """
    active, fused = set(seeds), _fused(program)
    # One-hot vectors are computed, not read; so is what a gather takes of them, or of an elementwise function of them.
    basis, readers = set(seeds if one_hot else ()), _readers(program)
    fixed, each, alive = Work(), Work(), 0.0
    for equation in program.equations:
        stored = [v for v in equation.outvars if v not in fused]
        moved = 2.0 * sum(nbytes(v.aval) for v in stored)
        work = _work(equation)
        if stored and _is_elementwise(equation):
            work += Work(equations=_KERNEL)
        if any(is_variable(v) and v in active for v in equation.invars):
            active.update(equation.outvars)
            read = {v for v in equation.invars if is_variable(v) and v in active}
            if one_hot and _is_elementwise(equation) and read <= basis:
                limit = math.inf if equation.primitive.name in _MOVES else 1
                basis.update(v for v in equation.outvars if len(readers[v]) <= limit)
            elif equation.primitive.name == "gather" and equation.invars[0] in basis:
                basis.update(equation.outvars)
                work = Work(arithmetic=work.gather, equations=work.equations)
            each += replace(work, bytes=work.bytes + moved, equations=0.0)
            alive += sum(nbytes(v.aval) for v in stored) + _inside(equation)
            given = (
                0
                if _is_elementwise(equation)
                else sum(nbytes(v.aval) for v in equation.invars if is_variable(v) and v not in active)
            )
            fixed += Work(bytes=float(given), equations=work.equations)
        else:
            fixed += replace(work, bytes=work.bytes + moved)
    together = _together(program, active, fused)
    return PassWork(fixed, each * (1.0 / width), alive / width, together / width)


def _together(program: Program, active: set[Any], fused: set[Any]) -> float:
    """The most bytes of active variables that are held at once, outputs apart; fused ones are not held."""
    last: dict[Any, int] = {}  # the equation that reads a variable last, through those that are fused into it
    for place, equation in reversed(list(enumerate(program.equations))):
        outs = [v for v in equation.outvars if v in fused]
        end = max((last.get(v, place) for v in outs), default=place)
        for v in equation.invars:
            if is_variable(v):
                last[v] = max(last.get(v, 0), end)
    held, most, dying = 0.0, 0.0, dict[int, float]()
    outputs = {v for v in program.outputs if is_variable(v)}
    for place, equation in enumerate(program.equations):
        made = [v for v in equation.outvars if v in active and v not in fused and v not in outputs and v in last]
        held += sum(nbytes(v.aval) for v in made)
        for v in made:
            dying[last[v]] = dying.get(last[v], 0.0) + nbytes(v.aval)
        inside = _inside(equation) if any(v in active for v in equation.outvars) else 0.0
        most = max(most, held + inside)
        held -= dying.get(place, 0.0)
    return most


def _inside(equation: Any) -> float:
    """Bytes alive inside an equation while it runs: one step of a loop's body, a convolution's reordered operands."""
    if equation.primitive.name == "conv_general_dilated":
        return float(2 * nbytes(equation.invars[0].aval) + nbytes(equation.outvars[0].aval))
    return float(sum(nbytes(v.aval) for p in subprograms(equation) for e in p.equations for v in e.outvars))


def _is_elementwise(equation: Any) -> bool:
    name = equation.primitive.name
    return name in _MOVES or (name not in _RULES and not any(True for _ in subprograms(equation)))


def _fused(program: Program) -> set[Any]:
    """Variables that never reach memory.

    They are made by an elementwise equation and read by a single one that XLA fuses it with; what only moves elements
    about may be read by several.
    """
    readers = _readers(program)
    fused = set()
    for equation in program.equations:
        if not _is_elementwise(equation) or equation.primitive.name in ("concatenate", "stack", "pad"):
            continue
        limit = math.inf if equation.primitive.name in _MOVES else 1
        for v in equation.outvars:
            if len(readers[v]) <= limit and all(_fuses(reader) for reader in readers[v]):
                fused.add(v)
    return fused.difference(v for v in program.outputs if is_variable(v))


def _readers(program: Program) -> dict[Any, list[Any]]:
    """The equations that read each variable that an equation makes."""
    readers: dict[Any, list[Any]] = {v: [] for e in program.equations for v in e.outvars}
    for equation in program.equations:
        for v in equation.invars:
            if is_variable(v) and v in readers:
                readers[v].append(equation)
    return readers


def repeated(program: Program, outputs: Sequence[Any]) -> Work:
    """Elementwise equations that nothing but some outputs of `program` needs.

    XLA fuses them with what reads those outputs, and computes them as often as it reads.
    """
    readers, ends = _readers(program), {v for v in outputs if is_variable(v)}
    others = {v for v in program.outputs if is_variable(v)} - ends
    chain, work = set[int](), Work()

    def alone(v: Any) -> bool:
        return v not in others and (v in ends or bool(readers[v])) and all(id(e) in chain for e in readers[v])

    for equation in reversed(program.equations):
        if _is_elementwise(equation) and all(map(alone, equation.outvars)):
            chain.add(id(equation))
            work += Work(arithmetic=_work(equation).arithmetic)
    return work


def turned(program: Program) -> int:
    """Elements of outputs that products and convolutions make: to transpose those is a pass over memory of its own.

    The transposition of what an elementwise equation makes is fused into it.
    """
    makers = {v: e for e in program.equations for v in e.outvars}
    total = 0
    for output in program.outputs:
        maker = makers.get(output) if is_variable(output) else None
        while maker is not None and maker.primitive.name in _MOVES:
            source = maker.invars[0]
            maker = makers.get(source) if is_variable(source) else None
        if maker is not None and maker.primitive.name in ("dot_general", "conv_general_dilated"):
            total += _size(output)
    return total


def _fuses(equation: Any) -> bool:
    return _is_elementwise(equation) or equation.primitive.name in _REDUCTIONS


def _work(equation: Any) -> Work:
    name = equation.primitive.name
    rule = _RULES.get(name)
    if rule is not None:
        return rule(equation) + Work(equations=1.0)
    inner = [count(p) for p in subprograms(equation)]
    if inner:
        return sum(inner, Work(equations=1.0))
    if name in _MOVES:
        return Work(equations=_FUSED)
    size = sum(math.prod(getattr(v.aval, "shape", ())) for v in equation.outvars)
    return Work(arithmetic=size * (10.0 if name in _TRANSCENDENTAL else 1.0), equations=_FUSED)


def _size(atom: Any) -> int:
    return math.prod(getattr(atom.aval, "shape", ()))


def _dot(equation: Any) -> Work:
    (contract, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval
    depth = math.prod(left.shape[d] for d in contract)
    # A complex multiply-add is four real ones.
    factor = 8.0 if np.issubdtype(left.dtype, np.complexfloating) else 2.0
    return Work(dot=factor * depth * _size(equation.outvars[0]))


def _convolution(equation: Any) -> Work:
    params, kernel = equation.params, equation.invars[1].aval
    spec = params["dimension_numbers"].rhs_spec  # output channels, input channels of a group, space
    depth = kernel.shape[spec[1]] * math.prod(kernel.shape[d] for d in spec[2:])
    # Between the elements of a dilated operand lie zeros, which are skipped.
    holes = math.prod(params["lhs_dilation"])
    flops = 2.0 * depth * _size(equation.outvars[0]) / holes
    groups = params["feature_group_count"] * params["batch_group_count"]
    channels = max(1, kernel.shape[spec[0]])
    if groups > 1:
        return Work(conv=flops, idle=flops * max(0.0, _FULL_WIDTH * groups / channels - 1))
    # It gathers what the kernel reads, tap by tap, and multiplies that with the kernel: the fewer channels, the less
    # there is to do for each tap.
    gathered = _size(equation.outvars[0]) / channels * depth / holes
    taps = gathered / max(1, kernel.shape[spec[1]])
    return Work(conv=flops, idle=_TAP * taps + _GATHERED * gathered)


def _window(equation: Any) -> Work:
    window = math.prod(equation.params.get("window_dimensions", (1,)))
    return Work(window=float(window * max(_size(v) for v in equation.outvars)))


def _solve(equation: Any) -> Work:
    """A factorisation or solve with matrices of order n: about n flops for each element it reads or writes."""
    largest = max((v.aval for v in equation.invars), key=lambda a: math.prod(a.shape))
    order = largest.shape[-1] if largest.shape else 1
    return Work(solve=2.0 * order * (sum(map(_size, equation.invars)) + sum(map(_size, equation.outvars))))


def _linear_solve(equation: Any) -> Work:
    """Its own solver, which it runs once; in what else it holds it is taken apart and put together again."""
    solver = equation.params["jaxprs"].solve
    return count(as_program(solver))


def _fft(equation: Any) -> Work:
    size = _size(equation.outvars[0])
    return Work(solve=20.0 * size * math.log2(max(2, math.prod(equation.params["fft_lengths"]))))


def _scan(equation: Any) -> Work:
    return sum((_step(p) for p in subprograms(equation)), Work()) * equation.params["length"]


def _while(equation: Any) -> Work:
    return sum((_step(p) for p in subprograms(equation)), Work()) * ASSUMED_STEPS


def _step(body: Program) -> Work:
    """One step of a loop, whose equations take no dispatch of their own."""
    work = count(body)
    return replace(work, equations=_FUSED * work.equations)


def _cond(equation: Any) -> Work:
    worst = Work()
    for branch in subprograms(equation):
        worst = worst.larger(count(branch))
    return worst


def _scatter(equation: Any) -> Work:
    return Work(scatter=float(_size(equation.invars[2])))


def _sort(equation: Any) -> Work:
    size = _size(equation.invars[0])
    return Work(scatter=size * math.log2(max(2, size)) / 4)


_RULES: dict[str, Callable[[Any], Work]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "fft": _fft,
    **dict.fromkeys(["sort", "top_k", "approx_top_k"], _sort),
    "gather": lambda e: Work(gather=float(_size(e.outvars[0]))),
    "dynamic_update_slice": lambda e: Work(arithmetic=float(_size(e.invars[1]))),
    "select_and_scatter_add": lambda e: _window(e) + Work(scatter=float(_size(e.invars[0]))),
    **dict.fromkeys(["scatter", "scatter-add", "scatter-sub", "scatter-mul", "scatter-min", "scatter-max"], _scatter),
    **dict.fromkeys(
        ["reduce_window_sum", "reduce_window_max", "reduce_window_min", "reduce_window", "select_and_gather_add"],
        _window,
    ),
    **dict.fromkeys(_REDUCTIONS, lambda e: Work(reduce=float(_size(e.invars[0])))),
    **dict.fromkeys(_CUMULATIVE, lambda e: Work(reduce=4.0 * _size(e.invars[0]))),
    **dict.fromkeys(_SOLVES, _solve),
    "custom_linear_solve": _linear_solve,
}


def not_understood(equations: Sequence[Any]) -> list[str]:
    """Names of primitives whose cost is a guess, in order of appearance."""
    known = _MOVES | _TRANSCENDENTAL | _RULES.keys() | _ARITHMETIC
    names = (e.primitive.name for e in equations if not any(True for _ in subprograms(e)))
    return list(dict.fromkeys(name for name in names if name not in known))


_ARITHMETIC = frozenset(
    "add add_any sub mul div rem neg abs sign max min select_n select eq ne lt le gt ge eq_to lt_to le_to and or "
    "not xor floor ceil round clamp integer_pow square one_minus_square polynomial is_finite shift_left "
    "shift_right_logical shift_right_arithmetic nextafter mul_by_scalar custom_lin random_bits random_wrap "
    "random_unwrap threefry2x32 symbolic_zeros pvary pcast psum psum_invariant psum2 all_gather random_seed "
    "random_fold_in reduce_precision population_count sharding_constraint device_put bitcast_convert_type".split()
)
