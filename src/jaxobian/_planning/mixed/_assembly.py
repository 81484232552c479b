"""The Jacobians of elements, and how they are summed and put into J.

The axes of dv/du that v shares with u, or has alone, have v's numbers for labels; those of the input that v shares none
with have further ones. What differs in a label of v is another element. In J, a label that both an output and an input
have is on the diagonal, and one that neither has is summed.

Where two terms are of the same number of an input, or of an output, they are added before anything is summed, as they
are where f itself is differentiated: what cancels there does so here, however large it is.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import lax

from ..._analysis import Term

# The label along each axis of an input or output; None along axes of size 1, and along those where a term is the same.
Labels = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Derivative:
    """dv/du without the zeros that are known.

    Attributes:
        value: with an axis for each label.
        labels: of its axes.
        v, u: for each axis of v and of u, the label that runs along it.
    """

    value: Any
    labels: tuple[int, ...]
    v: tuple[int, ...]
    u: tuple[int, ...]

    @classmethod
    def of(
        cls, block: Any, v: Sequence[int], u: Sequence[int], shared: Mapping[int, int], batch: int | None, forward: bool
    ) -> Derivative:
        """From what passes bring back.

        Args:
            block: (batch, v, what is u's alone) where they go forward, else (batch, what is v's alone, u).
            v: the shape of v.
            u: the shape of u.
            shared: the axes of v that run along those of u.
            batch: the axis of v that is the batch's.
            forward: whether u was seeded.
        """
        of_v, of_u = tuple(range(len(v))), labels_of_u(shared, len(v), len(u))
        lead = () if batch is None else (batch,)
        seeded, landed = (of_u, of_v) if forward else (of_v, of_u)
        free = tuple(label for label in seeded if label not in landed)
        own = tuple(label for label in landed if label not in lead)
        labels = (*lead, *own, *free) if forward else (*lead, *free, *own)
        sizes = dict(zip((*of_u, *of_v), (*u, *v), strict=True))
        return cls(block.reshape([sizes[label] for label in labels]), labels, of_v, of_u)


def labels_of_u(shared: Mapping[int, int], rank_v: int, rank_u: int) -> tuple[int, ...]:
    """The label along each axis of u: that of v's axis, or one of its own."""
    along = {inp: out for out, inp in shared.items()}
    return tuple(along.get(axis, rank_v + axis) for axis in range(rank_u))


def input_labels(u: Sequence[int], term: Term, rank: int, n_shared: int) -> Labels:
    """The label along each axis of an input of that rank, of which u has a term."""
    found: list[int | None] = [None] * rank
    for label, axis in zip(u, term.axes, strict=True):
        if axis is not None:
            found[axis] = label if label < n_shared else n_shared + axis
    return tuple(found)


def output_labels(term: Term, rank: int) -> Labels:
    """The label along each axis of an output of that rank, of which v is a term."""
    found: list[int | None] = [None] * rank
    for label, axis in enumerate(term.axes):
        if axis is not None:
            found[axis] = label
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Element:
    """dv/dx by way of a term, without the zeros that are known.

    Attributes:
        value: with an axis for each label.
        labels: of its axes, sorted.
        x: along each axis of the input.
    """

    value: Any
    labels: tuple[int, ...]
    x: Labels

    @classmethod
    def of(cls, derivative: Derivative, term: Term, rank: int) -> Element:
        """By way of a term of an input of that rank."""
        n_shared, x = len(derivative.v), input_labels(derivative.u, term, rank, len(derivative.v))
        along = zip(derivative.u, term.axes, strict=True)
        names = {label: axis + n_shared for label, axis in along if axis is not None}
        names |= {label: label for label in derivative.v}
        value = jnp.sum(derivative.value, [k for k, label in enumerate(derivative.labels) if label not in names])
        labels = [names[label] for label in derivative.labels if label in names]
        turned = value.transpose([labels.index(label) for label in sorted(labels)])
        return cls(turned * jnp.asarray(term.factor, value.dtype), tuple(sorted(labels)), x)

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

    def along(self, labels: Sequence[int]) -> Any:
        """The value with an axis, perhaps of size 1, for each of more labels."""
        return lax.expand_dims(self.value, [k for k, label in enumerate(labels) if label not in self.labels])

    def where_equal(self, pairs: Sequence[tuple[int, int]]) -> Any:
        """Where the labels of every pair have the same index, as far as it has them."""
        places = [(self.labels.index(p), self.labels.index(q)) for p, q in pairs if {p, q} <= {*self.labels}]
        return _equal(self.value.shape, places)


def _equal(shape: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Any:
    """Where the indices along the axes of every pair are the same."""

    def index(axis: int) -> Any:
        return lax.expand_dims(jnp.arange(shape[axis]), [k for k in range(len(shape)) if k != axis])

    return functools.reduce(operator.and_, (index(a) == index(b) for a, b in pairs), jnp.ones((), bool))


def pairs(one: Labels, other: Labels) -> list[tuple[int, int]]:
    """The labels that have the same index where two terms are of the same number."""
    both = zip(one, other, strict=True)
    return [(p, q) for p, q in both if p is not None and q is not None and p != q]


def order(maps: Sequence[Labels], n_shared: int) -> list[Labels] | None:
    """Different labels of the terms of one input, such that each is told apart from those before it; or None.

    Args:
        maps: along the axes of the input, for each term.
        n_shared: labels from here on are of the input's own axes.
    """

    def own(labels: Labels) -> set[int]:
        return {axis for axis, label in enumerate(labels) if label is not None and label >= n_shared}

    ordered = sorted(dict.fromkeys(maps), key=lambda labels: -len(own(labels)))
    nested = all(own(later) <= own(earlier) for k, later in enumerate(ordered) for earlier in ordered[:k])
    return ordered if nested else None


def told_apart(elements: Sequence[Element], n_shared: int) -> list[Element]:
    """Elements of one v and one input, such that no two are of the same number of it."""
    found: list[Element] = []
    ordered = order([element.x for element in elements], n_shared)
    assert ordered is not None, "a plan is made only where terms can be told apart"
    for labels in ordered:
        alike = [element for element in elements if element.x == labels]
        new = replace(alike[0], value=functools.reduce(operator.add, (element.value for element in alike)))
        for k, old in enumerate(found):
            same = pairs(old.x, new.x)
            zero = jnp.zeros((), new.value.dtype)
            moved = jnp.where(old.where_equal(same), new.along(old.labels), zero)
            found[k] = replace(old, value=old.value + moved)
            new = replace(new, value=jnp.where(new.where_equal(same), zero, new.value))
        found.append(new)
    return found


def weights(terms: Sequence[Term], maps: Sequence[Labels], shape: Sequence[int], dtype: Any) -> list[Any]:
    """Factors of the terms of one v and one output, such that no two are of the same number of it.

    Returns:
        For each, a number, or an array that has the axes of v.
    """
    found: list[Any] = []
    for term, labels in zip(terms, maps, strict=True):
        new: Any = jnp.asarray(term.factor, dtype)
        for k in range(len(found)):
            same = _equal(shape, pairs(maps[k], labels))
            found[k] = found[k] + jnp.where(same, new, 0)
            new = jnp.where(same, jnp.zeros((), dtype), new)
        found.append(new)
    return found
