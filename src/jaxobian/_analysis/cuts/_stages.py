"""Where no single mode works: cuts between equations that want forward mode and equations that want reverse."""

from __future__ import annotations

from ..._trace import Linear, active_variables, is_variable
from ._cuts import Cut

_OTHER = {"fwd": "rev", "rev": "fwd"}


def stages(program: Linear, forbidden: dict[str, set[int]], first: str) -> list[Cut]:
    """Cut a linear program into segments whose modes alternate, each as long as it can be.

    An equation joins the segment of its operands unless it forbids that segment's mode; then it waits for the next.

    Args:
        program: the linear program.
        forbidden: for each mode, the ids of the equations that cannot run in it; none forbids both.
        first: the mode of the first segment.

    Returns:
        What each segment hands on to later ones or to the result, the last segment aside.
    """
    active = active_variables(program.linear, program.tangents)
    modes = (first, _OTHER[first])
    made = dict.fromkeys(program.tangents, 0)
    read = dict.fromkeys(program.tangents, -1)
    for equation in program.linear.equations:
        operands = [v for v in equation.invars if is_variable(v) and v in active]
        if not operands:
            continue
        stage = max(made[v] for v in operands)
        if id(equation) in forbidden[modes[stage % 2]]:
            stage += 1
        made.update(dict.fromkeys(equation.outvars, stage))
        read.update({v: max(stage, read.get(v, -1)) for v in operands})
    last = max(made.values())
    read.update({v: last + 1 for v in program.linear.outputs if is_variable(v) and v in made})
    return [tuple(v for v, stage in made.items() if stage <= k < read.get(v, -1)) for k in range(last)]
