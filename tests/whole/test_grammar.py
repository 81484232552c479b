"""The grammar of the fuzz holds every public primitive of JAX's that has a derivative."""

from __future__ import annotations

import pytest
from grammar import EXCEPTIONS, given, public_primitives

pytestmark = pytest.mark.slow  # every word is traced


def test_every_public_primitive_with_a_derivative_is_in_the_grammar() -> None:
    assert public_primitives() - given().keys() - EXCEPTIONS == set()


def test_no_exception_is_out_of_date() -> None:
    assert EXCEPTIONS & given().keys() <= {"lt_to"}  # of sorts in some versions
