"""A scan's products with weights, made before it for all of its steps at once.

    dh[t + 1] = D[t] (h[t] dW + A dh[t])       as       z = h dW for every t,  dh[t + 1] = D[t] (z[t] + A dh[t])

What a step makes of tangents that no step before it has touched does not have to be in the loop. Outside it is a
product like others: weights that all steps share, or of which each step has its own, are factors of a network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax

from ..._rewrite import Rewrite, rewritten
from ..._trace import Loop, Program, active_variables, inlined, is_variable, loop_of
from .._problem import Problem
from ._tracked import repeated, with_linear

_PRODUCTS = ("dot_general", "conv_general_dilated")


def before_loops(problem: Problem) -> Problem:
    """The same question of a program whose scans multiply weights beforehand."""
    linear = problem.program.linear
    active = active_variables(linear, problem.program.tangents)
    taken = {}
    for place, equation in enumerate(linear.equations):
        if equation.primitive.name == "scan" and (divided := _divided(equation, active)) is not None:
            taken[place] = Rewrite(divided, "loop", "products before it", tuple(equation.invars))
    if not taken:
        return problem
    try:
        return with_linear(problem, rewritten(linear, taken))
    except NotImplementedError:  # of what a step is made of JAX cannot make several at once
        return problem


@dataclass(frozen=True, eq=False)
class _Divided:
    """A scan in two: what can be made before it, and the rest.

    Attributes:
        loop: the scan.
        before: inputs of a step -> what its rest reads of that; by what all steps share, then step by step.
        n_shared: how many of those are the same for all steps.
        rest: inputs of a step, then those -> results of a step.
    """

    loop: Loop
    before: Program
    n_shared: int
    rest: Program
    params: dict[str, Any]

    def __call__(self, *operands: Any) -> list[Any]:
        loop, sliced, carries = self.loop, set(self.loop.sliced), self.loop.carries
        given = [k for k in range(len(operands)) if k not in carries]
        places = {v: k for k, v in enumerate(loop.body.inputs)}
        before = replace(self.before, inputs=tuple(loop.body.inputs[k] for k in given))
        axes = tuple(0 if k in sliced else None for k in given)
        out_axes = [None] * self.n_shared + [0] * (len(before.outputs) - self.n_shared)
        together = jax.vmap(before, in_axes=axes, out_axes=out_axes) if 0 in axes else before
        made = together(*(operands[k] for k in given))
        shared, stacked = made[: self.n_shared], made[self.n_shared :]
        read = self.rest.read()
        slices = {k: operands[k] for k in loop.sliced if loop.body.inputs[k] in read}

        def step(carry: list[Any], xs: Any) -> tuple[list[Any], list[Any]]:
            ours, theirs = xs
            values = {**dict(enumerate(operands)), **ours, **dict(zip(carries, carry, strict=True))}
            inputs = [values[places[v]] for v in loop.body.inputs if v in read]
            kept = replace(self.rest, inputs=(*(v for v in loop.body.inputs if v in read), *before.outputs))
            results = kept(*inputs, *shared, *theirs)
            return results[: len(carries)], results[len(carries) :]

        named = {name: self.params[name] for name in ("length", "reverse", "unroll")}
        last, ys = jax.lax.scan(step, [operands[k] for k in carries], (slices, stacked), **named)
        return [*last, *ys]


def _divided(equation: Any, active: set[Any]) -> _Divided | None:
    """A scan in two; None where nothing is multiplied before its steps, or all is."""
    loop = loop_of(equation)
    if loop is None or equation.effects:
        return None
    body = inlined(loop.body)
    ours = {v for v, w in zip(body.inputs, equation.invars, strict=True) if is_variable(w) and w in active}
    ours |= {body.inputs[k] for k in loop.carries}
    body = replace(body, equations=tuple(repeated(body.equations, active_variables(body, tuple(ours)))))
    loop = replace(loop, body=body)
    free = {v for v, w in zip(body.inputs, equation.invars, strict=True) if is_variable(w) and w in active}
    carried = {body.inputs[k] for k in loop.carries}
    free, touched, stepwise = free - carried, set(carried), {body.inputs[k] for k in loop.sliced}
    before, worth = [], False
    for e in body.equations:
        read = [v for v in e.invars if is_variable(v)]
        stepwise.update(e.outvars if any(v in stepwise for v in read) else ())
        if any(v in touched for v in read) or e.effects:
            touched.update(e.outvars)
            continue
        if any(v in free for v in read):
            free.update(e.outvars)
            worth = worth or e.primitive.name in _PRODUCTS
        before.append(e)
    if not worth:
        return None
    made = {v for e in before for v in e.outvars if v in free}
    # What is no tangent is made where it is read, in steps too.
    after = Program(body.inputs, body.outputs, tuple(e for e in body.equations if made.isdisjoint(e.outvars)))
    after = after.pruned()
    cut = [v for v in dict.fromkeys(v for e in after.equations for v in e.invars if is_variable(v)) if v in made]
    cut += [v for v in dict.fromkeys(filter(is_variable, body.outputs)) if v in made and v not in cut]
    shared, own = [v for v in cut if v not in stepwise], [v for v in cut if v in stepwise]
    first = Program(body.inputs, (*shared, *own), tuple(before)).pruned()
    rest = replace(after, inputs=(*body.inputs, *shared, *own))
    return _Divided(loop, first, len(shared), rest, equation.params)
