"""The tables of primitives agree: what one of them knows, the others know or need not."""

from __future__ import annotations

import pytest
from grammar import OF_JAX_ITSELF, given, public_primitives

from jaxobian._analysis._constants import CONSTANTS
from jaxobian._analysis.pattern._constant_part import _RULES as FIXED
from jaxobian._analysis.pattern._inner import INNER
from jaxobian._analysis.pattern._moves import MOVES
from jaxobian._analysis.pattern._unions import UNIONS
from jaxobian._analysis.ties._axes import _INNER
from jaxobian._analysis.ties._rules import RULES
from jaxobian._cost import _equations as costs
from jaxobian._trace import CALLS
from jaxobian._trace._linearize import _JOINTLY, _PLACES, _SINGLY

COSTS = costs.MOVES.union(costs.TRANSCENDENTAL, costs._ARITHMETIC, costs._RULES, costs._LOOPS)
LINEAR = {*_JOINTLY, *_SINGLY, *_PLACES, "select_n", "custom_lin"}
# Named as in only some versions or devices, or where no public name says them.
ELSEWHERE = set(
    """
    closed_call eval_jaxpr copy_p pcast pvary mul_by_scalar geqrf random_gamma_grad one_minus_square polynomial log2
    select symbolic_zeros reshard bcoo_dot_general random_wrap random_unwrap psum2 psum_invariant lt_to le_to eq_to
    stack unstack tile mulhi random_clone call_hi_primitive
    """.split()
)
# Of integers, keys or devices alone; or what any rule would be wrong for, since the user says what it does.
NO_TIES = set(
    """
    iota bitcast_convert_type shift_right_arithmetic shift_right_logical random_bits random_seed random_gamma
    threefry2x32 platform_index lt_to call_hi_primitive
    """.split()
)
NO_COST = {"platform_index", "call_hi_primitive"}


@pytest.mark.parametrize(
    "table",
    [RULES, _INNER, INNER, UNIONS, MOVES, FIXED, CONSTANTS, LINEAR, COSTS],
    ids="ties ties_of_bodies patterns_of_bodies unions moves fixed constants linear costs".split(),
)
def test_names_are_primitives(table: set[str]) -> None:
    assert set(table) - public_primitives() - given().keys() - ELSEWHERE == set()


def test_what_has_ties_has_a_cost() -> None:
    """But for programs inside equations, which are counted as what they hold."""
    assert RULES.keys() - COSTS == set()


def test_what_is_known_of_elements_is_known_of_axes() -> None:
    assert (UNIONS.keys() | MOVES.keys() | FIXED.keys()) - RULES.keys() == set()


def test_the_numbers_of_an_equation_are_followed_where_its_pattern_is() -> None:
    assert FIXED.keys() - UNIONS.keys() - MOVES.keys() <= {"reduce_sum"}  # whose ties say as much


def test_what_is_linear_has_ties() -> None:
    assert LINEAR - RULES.keys() - _INNER.keys() == set()


def test_bodies_are_looked_into_for_axes_and_for_elements() -> None:
    assert _INNER.keys() ^ INNER.keys() <= {"custom_linear_solve", "call_hi_primitive"}  # whose ties say as much
    assert INNER.keys() >= CALLS


def test_a_scatter_is_one_in_every_table() -> None:
    linear = {"scatter", "scatter-add", "scatter-sub", "scatter-mul"}
    every = {name for name in public_primitives() if name.startswith("scatter")}
    assert every <= RULES.keys() & costs._RULES.keys()
    assert linear <= _PLACES.keys()
    assert {"scatter-add", "scatter-sub"} <= UNIONS.keys() & FIXED.keys()


def test_kinds_of_cost_are_apart() -> None:
    kinds = (costs.MOVES, costs.TRANSCENDENTAL, costs._ARITHMETIC, costs._RULES, costs._LOOPS)
    assert sum(map(len, kinds)) == len(COSTS)


def test_what_jax_can_differentiate_is_known() -> None:
    assert given().keys() - RULES.keys() - _INNER.keys() - NO_TIES == set()
    assert given().keys() - COSTS - _INNER.keys() - NO_COST == set()
    assert {"closed_call", "eval_jaxpr"} <= {*OF_JAX_ITSELF} & CALLS
