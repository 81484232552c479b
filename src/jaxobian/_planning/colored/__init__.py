"""Colored mode: rows or columns of a sparse J that do not overlap share a pass."""

from ._propose import hopeless as hopeless
from ._propose import propose as propose
