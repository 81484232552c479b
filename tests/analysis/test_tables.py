"""The table of primitives: a row for each that JAX can differentiate, and a function for each kind that a row names."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
from grammar import NO_DERIVATIVE, OF_REFERENCES, given, public_primitives

from jaxobian._analysis._constants import evaluation
from jaxobian._analysis.pattern._inner import BODIES as BODIES_OF_PATTERNS
from jaxobian._analysis.pattern._moves import EVALUATED, INDEXED
from jaxobian._analysis.pattern._unions import SUMS, UNIONS
from jaxobian._analysis.ties._axes import BODIES
from jaxobian._analysis.ties._rules import TIES
from jaxobian._cost import _equations as costs
from jaxobian._primitives import PRIMITIVES

# Named as in only some versions or devices, or where no public name says them.
ELSEWHERE = set(
    """
    call_hi_primitive copy_p pcast pvary mul_by_scalar geqrf random_gamma_grad symbolic_zeros reshard bcoo_dot_general
    random_wrap random_unwrap random_clone psum2 psum_invariant remat2 custom_vmap_call
    closed_call eval_jaxpr one_minus_square polynomial log2 mulhi stack unstack tile
    """.split()
)
# Public ones without a row: of devices and of references, and what nobody has asked for yet.
NO_ROW = set(
    """
    after_all axis_index create_token empty2 rng_bit_generator rng_uniform ormqr cholesky_update symmetric_product
    all_to_all pmax pmin ppermute ragged_all_to_all get swap call dce_sink stage
    """.split()
)
OF_ELEMENTS = {*EVALUATED, *INDEXED, *SUMS, *UNIONS}
ELEMENTWISE_COSTS = {"move", *costs.OPERATIONS}


def column(name: str) -> set[str]:
    """The words of a column."""
    return {word for row in PRIMITIVES.values() if (word := getattr(row, name)) is not None}


@pytest.mark.slow  # every word of the grammar is traced
def test_names_are_primitives() -> None:
    assert PRIMITIVES.keys() - public_primitives() - given().keys() - ELSEWHERE == set()


def test_every_public_primitive_has_a_row_or_is_known_to_have_none() -> None:
    assert public_primitives() - PRIMITIVES.keys() - NO_ROW == set()
    assert PRIMITIVES.keys() & NO_ROW == set()


@pytest.mark.slow  # every word of the grammar is traced
def test_what_jax_can_differentiate_has_ties_and_a_cost() -> None:
    """Or programs inside; `platform_index` says which of a cond's branches is for which device."""
    known = {name for name, row in PRIMITIVES.items() if row.body or (row.kind and row.cost)}
    assert given().keys() - known - {"iota", "platform_index"} == set()
    assert not {"iota", *OF_REFERENCES} & known
    assert {name for name in NO_DERIVATIVE if name in PRIMITIVES} <= known


@pytest.mark.parametrize(
    ("name", "functions"),
    [
        ("kind", TIES),
        ("elements", OF_ELEMENTS),
        ("cost", {*costs.COSTS, *ELEMENTWISE_COSTS}),
        ("body", {*BODIES, "combining"}),
    ],
)
def test_every_kind_that_a_row_names_has_a_function_and_no_other_has(name: str, functions: Collection[str]) -> None:
    words = column(name)
    assert words - {*functions} == set()
    if name != "elements":
        assert {*functions} - words == set()


def test_what_is_known_of_elements_is_known_of_axes() -> None:
    assert OF_ELEMENTS - column("of_elements") == set()
    assert all(row.kind for row in PRIMITIVES.values() if row.elements)


def test_numbers_are_computed_as_numpy_does() -> None:
    """The words that are none of NumPy's are kinds that it takes parameters for."""
    own = {word for word in column("values") if not hasattr(np, word)}
    assert own <= {*EVALUATED, "iota", "conversion", "identity"}
    assert all(callable(evaluation(word)) for word in column("values"))


def test_bodies_are_looked_into_for_axes_and_for_elements() -> None:
    assert BODIES.keys() - BODIES_OF_PATTERNS.keys() == {"solve", "expansion"}  # whose ties say as much
    assert costs.LOOPS.keys() <= BODIES.keys()


def test_costs_of_a_kind_are_said_once() -> None:
    assert not costs.COSTS.keys() & ELEMENTWISE_COSTS


def test_what_is_symmetric_or_made_once_is_linear() -> None:
    assert all(row.linear for row in PRIMITIVES.values() if row.symmetric or row.batch_major or row.hoists)
