"""What tests of several folders ask for."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def x64() -> Iterator[None]:
    """Numbers of 64 bits, where nothing else is said."""
    with jax.enable_x64(True):
        yield
