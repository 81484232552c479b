"""Blocks of local Jacobians, and their products.

A block belongs to an array z_j on the left and to an array z_i on the right; its shape is (batch, *z_j, *z_i). It is
None where z_j does not depend on z_i, and `ONE` where z_j is z_i.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from ..._arrays import block_dtype
from ..._execute import Blocks
from ..._trace import Side

ONE = "one"  # a block that is the identity


def multiplied(outer: Blocks, inner: Blocks, left: Side, middle: Side, right: Side, batch: tuple[int, ...]) -> Blocks:
    """The blocks of (dz_k / dz_j) (dz_j / dz_i)."""
    return [
        [
            _dot([(a, inner[z][i], middle.sizes[z]) for z, a in enumerate(row)], left, o, right, i, batch)
            for i in range(len(right.avals))
        ]
        for o, row in enumerate(outer)
    ]


def _dot(
    factors: Sequence[tuple[Any, Any, int]], left: Side, o: int, right: Side, i: int, batch: tuple[int, ...]
) -> Any:
    """The sum of products of the blocks that meet at each array in the middle."""
    terms: list[Any] = []
    columns, rows = [], []
    shape = (*batch, *left.shapes[o], *right.shapes[i])
    dtype = block_dtype(left.avals[o], right.avals[i])
    for a, b, k in factors:
        if a is None or b is None:
            continue
        if a is ONE or b is ONE:
            other = b if a is ONE else a
            if other is ONE and len(factors) == 1:
                return ONE
            terms.append(dense(other, left, o, right, i, batch).reshape(shape).astype(dtype))
        else:
            columns.append(a.reshape(*batch, left.sizes[o], k).astype(dtype))
            rows.append(b.reshape(*batch, k, right.sizes[i]).astype(dtype))
    if columns:
        a, b = jnp.concatenate(columns, -1), jnp.concatenate(rows, -2)
        if a.shape[-1] == 1:
            product = a * b  # an outer product, which fuses with what is made of it
        else:
            # Written down in this order first, or XLA multiplies in the order in which passes brought the columns.
            product = jnp.matmul(lax.optimization_barrier(a), b, precision=lax.Precision.HIGHEST)
        terms.append(product.reshape(shape))
    return sum(terms[1:], terms[0]) if terms else None


def dense(block: Any, left: Side, o: int, right: Side, i: int, batch: tuple[int, ...]) -> Any:
    """A block with all its elements."""
    shape = (*batch, *left.shapes[o], *right.shapes[i])
    dtype = block_dtype(left.avals[o], right.avals[i])
    if block is None:
        return jnp.zeros(shape, dtype)
    if block is ONE:
        n = left.sizes[o]
        return jnp.broadcast_to(jnp.eye(n, dtype=dtype), (*batch, n, n)).reshape(shape)
    return block


def as_rows(blocks: Blocks, left: Side, right: Side, batch: tuple[int, ...], *, forward: bool) -> list[Any]:
    """A Jacobian as what passes begin with: its columns as tangents of its left side, or its rows as cotangents.

    Returns:
        An array for each of that side, with an axis of passes before its own.
    """
    filled = [[dense(b, left, o, right, i, batch) for i, b in enumerate(row)] for o, row in enumerate(blocks)]
    if forward:
        parts = [
            [b.reshape(*batch, n, m) for b, m in zip(row, right.sizes, strict=True)]
            for row, n in zip(filled, left.sizes, strict=True)
        ]
        joined = [jnp.moveaxis(jnp.concatenate(row, -1), -1, 0) for row in parts]  # passes, batch, elements
        side = left
    else:
        columns = list(zip(*filled, strict=True))
        parts = [
            [b.reshape(*batch, n, m) for b, n in zip(column, left.sizes, strict=True)]
            for column, m in zip(columns, right.sizes, strict=True)
        ]
        joined = [jnp.moveaxis(jnp.concatenate(column, -2), -2, 0) for column in parts]
        side = right
    rows = []
    for x, aval, shape, batch_axis in zip(joined, side.avals, side.shapes, side.batch_axes, strict=True):
        x = x.reshape(x.shape[0], *batch, *shape).astype(aval.dtype)
        rows.append(x if batch_axis is None else jnp.moveaxis(x, 1, batch_axis + 1))
    return rows


def elements(left: Side, right: Side) -> int:
    """Elements of all blocks, an example's where there is a batch."""
    return math.prod((left.size, right.size))
