"""An operator for Lineax: its matrices are made as J is planned, and its tags are proved."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree

from ._linearized import LinearizedJacobian

_PREDICATES = (
    lx.is_symmetric,
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_positive_semidefinite,
    lx.is_negative_semidefinite,
)


class JacobianOperator(lx.AbstractLinearOperator):
    """A `LinearizedJacobian` among Lineax's operators."""

    jacobian: LinearizedJacobian
    tags: frozenset[object] = eqx.field(static=True)

    def __repr__(self) -> str:
        names = sorted(name for name in dir(lx) if name.endswith("_tag") and getattr(lx, name) in self.tags)
        return f"JacobianOperator({self.jacobian!r}, {', '.join(names) or 'no tags'})"

    def mv(self, vector: Any) -> Any:
        return self.jacobian.mv(vector)

    def as_matrix(self) -> Any:
        """All of J, in the mode that is fastest, as one matrix."""
        blocks = jax.tree.leaves(self.jacobian._whole())
        rows, columns = self.jacobian._rows.sizes, self.jacobian._columns.sizes
        found = [
            [block.reshape(m, n) for n, block in zip(columns, blocks[k * len(columns) :], strict=False)]
            for k, m in enumerate(rows)
        ]
        return jnp.concatenate([jnp.concatenate(row, 1) for row in found])

    def transpose(self) -> JacobianOperator:
        if lx.symmetric_tag in self.tags:
            return self
        return JacobianOperator(self.jacobian.T, lx.transpose_tags(self.tags))

    def in_structure(self) -> Any:
        return self.jacobian._columns.structure

    def out_structure(self) -> Any:
        return self.jacobian._rows.structure


def as_lineax(jacobian: LinearizedJacobian) -> JacobianOperator:
    """The operator with the tags that are proved."""
    return JacobianOperator(jacobian, frozenset(_tags(jacobian)))


def _tags(jacobian: LinearizedJacobian) -> list[object]:
    linearization, held = jacobian._linearization, jacobian._held
    if linearization.like_x.structure != linearization.like_y.structure:
        return []  # the order of elements means nothing where the sides differ
    found: list[object] = [lx.symmetric_tag] * linearization.is_symmetric
    offsets = linearization.pattern_offsets(held)
    if offsets is None:
        return found
    low, high = offsets if not jacobian._transposed else (-offsets[1], -offsets[0])
    if low == high == 0:
        return [*found, lx.diagonal_tag]
    found += [lx.tridiagonal_tag] * (low >= -1 and high <= 1)
    return found + [lx.lower_triangular_tag] * (high <= 0) + [lx.upper_triangular_tag] * (low >= 0)


for _predicate in _PREDICATES:  # what Lineax reads off the tags of a function
    _predicate.register(JacobianOperator, _predicate.dispatch(lx.FunctionLinearOperator))
lx.conj.register(JacobianOperator, lx.conj.dispatch(lx.FunctionLinearOperator))


@lx.linearise.register(JacobianOperator)
def _linearise(operator: JacobianOperator) -> JacobianOperator:
    return operator


@lx.materialise.register(JacobianOperator)
def _materialise(operator: JacobianOperator) -> lx.AbstractLinearOperator:
    if lx.is_diagonal(operator):
        return lx.DiagonalLinearOperator(operator.jacobian._whole_diagonal())
    return lx.PyTreeLinearOperator(operator.jacobian._whole(), operator.out_structure(), operator.tags)


@lx.diagonal.register(JacobianOperator)
def _diagonal(operator: JacobianOperator) -> Any:
    if operator.in_structure() != operator.out_structure():
        return jnp.diagonal(operator.as_matrix())
    return ravel_pytree(operator.jacobian._whole_diagonal())[0]


@lx.tridiagonal.register(JacobianOperator)
def _tridiagonal(operator: JacobianOperator) -> Any:
    """Main, lower and upper diagonal; in three products where there is nothing else."""
    if lx.is_tridiagonal(operator):
        return lx.tridiagonal.dispatch(lx.FunctionLinearOperator)(operator)
    matrix = operator.as_matrix()
    return tuple(jnp.diagonal(matrix, k) for k in (0, -1, 1))
