"""An operator for SciPy: flat vectors of NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._arrays import is_concrete
from ._vectors import Vectors


def as_scipy(operator: Any) -> Any:
    """A `LinearizedJacobian` as a `scipy.sparse.linalg.LinearOperator`.

    Raises:
        ValueError: within a trace.
    """
    from scipy.sparse import linalg

    if not all(map(is_concrete, jax.tree.leaves(operator._held))):
        raise ValueError("to_scipy needs values: call it outside jax.jit, jax.vmap and jax.grad.")
    rows, columns = operator._rows, operator._columns
    mv, mm = (_flat(product, columns, rows) for product in (operator.mv, operator.mm))
    rmv, rmm = (_flat(product, rows, columns) for product in (operator.rmv, operator.rmm))
    make: Any = linalg.LinearOperator  # SciPy's stubs know its subclasses alone
    return make(
        operator.shape,
        matvec=lambda v: mv(np.ravel(v)),
        rmatvec=lambda u: rmv(np.ravel(u).conj()).conj(),
        matmat=lambda V: mm(V.T).T,
        rmatmat=lambda U: rmm(U.conj().T).conj().T,
        dtype=_dtype(rows, columns),
    )


def _flat(product: Callable[[Any], Any], given: Vectors, made: Vectors) -> Callable[[Any], Any]:
    """A product with flat vectors, which are along the last axis."""

    def of_flat(vectors: Any) -> Any:
        if np.iscomplexobj(vectors) and not given.is_complex:
            return of_flat(vectors.real) + 1j * of_flat(vectors.imag)
        lead = vectors.shape[:-1]
        return made.joined(product(given.as_tree(given.split(vectors), lead)), lead)

    return of_flat


def _dtype(rows: Vectors, columns: Vectors) -> np.dtype:
    """The dtype of all of J; single precision where NumPy has none that is as short."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*(aval.dtype for aval in (*rows.avals, *columns.avals)))
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype
