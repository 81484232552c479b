"""The Jacobians of elements, and how they are summed and put into J.

An element's axes have labels: an axis of v that runs along one of u has its label, and what differs in such an axis is
another element. In J a label that both an output and an input have is on the diagonal, one that neither has is summed.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import lax

from .._graph import Term


@dataclass(frozen=True, eq=False)
class Element:
    """dv/du without the zeros that are known.

    Attributes:
        value: with an axis for each label.
        labels: numbers of its axes.
        v, u: for each axis of v and of u, the label that runs along it.
    """

    value: Any
    labels: tuple[int, ...]
    v: tuple[int, ...]
    u: tuple[int, ...]

    @classmethod
    def of(
        cls, block: Any, shapes: tuple[Sequence[int], Sequence[int]], tied: Mapping[int, int], batch: int | None, *,
        forward: bool,
    ) -> Element:  # fmt: skip
        """From what passes bring back.

        Args:
            block: (batch, v, free axes of u) where they go forward, else (batch, free axes of v, u).
            shapes: of v and u.
            tied: the axes of v that run along those of u.
            batch: the axis of v that is the batch's.
            forward: whether u was seeded.
        """
        v, u = shapes
        of_u = tuple(range(len(u)))
        of_v = tuple(tied.get(axis, len(u) + axis) for axis in range(len(v)))
        lead = () if batch is None else (of_v[batch],)
        seeded, landed = (of_u, of_v) if forward else (of_v, of_u)
        free = tuple(label for label in seeded if label not in landed)
        own = tuple(label for label in landed if label not in lead)
        labels = (*lead, *own, *free) if forward else (*lead, *free, *own)
        sizes = dict(zip((*of_u, *of_v), (*u, *v), strict=True))
        return cls(block.reshape([sizes[label] for label in labels]), labels, of_v, of_u)

    def placed(self, axes: Sequence[tuple[int, int | None]]) -> Any:
        """Summed over labels that are along no axis, and put where axes of the same label have the same index.

        Args:
            axes: the size and the label of each axis of the result.
        """
        shape, first = [n for n, _ in axes], {}
        pairs = []
        for axis, (_, label) in enumerate(axes):
            if label in first:
                pairs.append((first[label], axis))
            elif label is not None:
                first[label] = axis
        summed = jnp.sum(self.value, [k for k, label in enumerate(self.labels) if label not in first])
        order = [label for label in self.labels if label in first]
        turned = summed.transpose([order.index(label) for label in first])
        value = lax.broadcast_in_dim(turned, shape, [*first.values()])
        return jnp.where(_equal(shape, pairs), value, jnp.zeros((), value.dtype)) if pairs else value

    def without(self, pairs: Sequence[tuple[int, int]]) -> Element:
        """Zeros where the labels of every pair have the same index."""
        places = [(self.labels.index(p), self.labels.index(q)) for p, q in pairs]
        zero = jnp.zeros((), self.value.dtype)
        return replace(self, value=jnp.where(_equal(self.value.shape, places), zero, self.value))

    def where_equal(self, pairs: Sequence[tuple[int, int]]) -> Element:
        """The elements where the labels of every pair have the same index, which is one label from there on."""
        element = self
        for p, q in pairs:
            here = element.labels
            value = jnp.diagonal(element.value, axis1=here.index(p), axis2=here.index(q))
            labels = (*(label for label in here if label not in (p, q)), p)
            v, u = (tuple(p if label == q else label for label in side) for side in (element.v, element.u))
            element = Element(value, labels, v, u)
        return element


def _equal(shape: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Any:
    """Where the indices along the axes of every pair are the same."""

    def index(axis: int) -> Any:
        return lax.expand_dims(jnp.arange(shape[axis]), [k for k in range(len(shape)) if k != axis])

    return functools.reduce(operator.and_, (index(a) == index(b) for a, b in pairs))


def told_apart(element: Element, terms: Sequence[Term]) -> list[tuple[Element, Term]]:
    """Elements and terms of one input: where two terms are of the same element of it, they are one."""
    if len(terms) == 1:
        return [(element, terms[0])]
    one, other = terms
    pairs = _differing(one, other)
    apart = element.without(pairs)
    both = one._replace(factor=one.factor + other.factor)
    same = [(element.where_equal(pairs), both)] if both.factor else []
    return [(apart, one), (apart, other), *same]


def _differing(one: Term, other: Term) -> list[tuple[int, int]]:
    """The axes of the variable along which two terms have the same axis of an input, where they differ."""
    places = {axis: k for k, axis in enumerate(one.axes) if axis is not None}
    return [(places[axis], k) for k, axis in enumerate(other.axes) if axis is not None and places[axis] != k]


def labelled(shape: Sequence[int], term: Term, labels: Sequence[int]) -> list[tuple[int, int | None]]:
    """The size and the label of each axis of an input or output; None along those where the term is the same.

    Args:
        shape: of the input or output.
        term: what it has of a variable, or the variable of it.
        labels: along the axes of the variable.
    """
    along = dict(zip(term.axes, labels, strict=True))
    return [(n, along.get(axis)) for axis, n in enumerate(shape)]
