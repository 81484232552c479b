"""LinearizedJacobian: J at a point, to multiply with."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax

from .._cache import check_independent, computed
from .._call import Options, Traced
from .._call._quantities import settled
from .._outputs import Diagonal, Rows
from .._trace import mesh_around, mesh_of
from .._tracebacks import entry
from ._linearization import Held, Linearization
from ._scipy import as_scipy
from ._vectors import Vectors

if TYPE_CHECKING:
    from lineax import AbstractLinearOperator
    from scipy.sparse.linalg import LinearOperator


@dataclass(frozen=True, eq=False, repr=False)
class LinearizedJacobian:
    """J at a point as an operator: f is linearized there, once, and nothing of J is formed.

    Made by `J.at(*args)`, where J is what `jacobian`, `batch_jacobian` or `hessian` return. It is a pytree of arrays,
    which `jax.jit` takes and returns, and `jax.vmap` maps. Products do not evaluate f again. They are compiled once for
    each function and kind of arguments, and traced where they are called in a trace.

    Vectors are trees like x, what f is differentiated by, or like y, what it returns: for a tuple of `argnums` a tuple.
    Integers that `allow_int` let in have no derivative: v takes zeros in their place, of any dtype, and u J has zeros
    of dtype float0, as `jax.vjp` gives them. Complex numbers are as `jax.jvp` and `jax.vjp` have them: u J is not
    conjugated.

    Of a batch, J is that of the whole: x and y are batches, and J is zero between examples. Of a Hessian, y is like
    f's gradient.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> op = jb.jacobian(lambda x: jnp.stack([x[0] * x[1], x[1] ** 2, x[0]])).at(jnp.array([3.0, 2.0]))
        >>> op
        LinearizedJacobian(3 x 2)
        >>> print(op @ jnp.array([1.0, 0.0]), op.rmv(jnp.array([1.0, 0.0, 0.0])))
        [2. 0. 1.] [2. 3.]
    """

    # For the library itself: the arrays, aux, what is the same for all arrays, and whether it is J^T.
    _held: Held
    _aux: Any
    _linearization: Linearization
    _transposed: bool = False

    __array_ufunc__ = None  # so that NumPy's arrays leave @ to us

    def __repr__(self) -> str:
        rows, columns = self.shape
        return f"LinearizedJacobian({rows} x {columns}{', transposed' if self._transposed else ''})"

    @property
    def shape(self) -> tuple[int, int]:
        """Elements of y and of x, integers not counted."""
        return self._rows.size, self._columns.size

    @property
    def value(self) -> Any:
        """f's value where it is linearized."""
        if not self._linearization.hessian:
            return self._linearization.like_y.as_tree(self._held.ys, ())
        return self._aux[0] if self._linearization.has_aux else self._aux

    @property
    def aux(self) -> Any:
        """What f returned beside its value, with `has_aux`; else None."""
        if not self._linearization.has_aux:
            return None
        return self._aux[1] if self._linearization.hessian else self._aux

    @property
    def T(self) -> LinearizedJacobian:
        """The transposed operator, not conjugated: its mv is this one's rmv."""
        return replace(self, _transposed=not self._transposed)

    @entry
    def mv(self, v: Any) -> Any:
        """J v: a tangent pushed forward, as `jax.jvp` does.

        Args:
            v: a tree like x.

        Returns:
            A tree like y.

        Raises:
            TypeError: v is another tree than x, or a leaf has another dtype; it names the leaf.
            ValueError: a leaf has another shape.
            ModeError: f has no forward mode; it names the operation and its line.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(jnp.square).at(jnp.array([1.0, 2.0])).mv(jnp.array([1.0, 10.0])))
            [ 2. 40.]
        """
        return self._product(v, left=False, many=False)

    @entry
    def rmv(self, u: Any) -> Any:
        """u J: a cotangent pulled back, as `jax.vjp` does; J^T u, not conjugated.

        Args:
            u: a tree like y.

        Returns:
            A tree like x.

        Raises:
            TypeError: u is another tree than y, or a leaf has another dtype; it names the leaf.
            ValueError: a leaf has another shape.
            ModeError: f has no reverse mode; it names the operation and its line.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(jnp.cumsum).at(jnp.zeros(3)).rmv(jnp.array([1.0, 10.0, 100.0])))
            [111. 110. 100.]
        """
        return self._product(u, left=True, many=False)

    @entry
    def mm(self, V: Any) -> Any:
        """J times each of several vectors, which are along a leading axis of every leaf.

        Args:
            V: a tree like x, each leaf `(k, *x)`.

        Returns:
            A tree like y, each leaf `(k, *y)`.

        Raises:
            TypeError, ValueError, ModeError: as for `mv`.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(jnp.cumsum).at(jnp.zeros(3)).mm(jnp.eye(3)))
            [[1. 1. 1.]
             [0. 1. 1.]
             [0. 0. 1.]]
        """
        return self._product(V, left=False, many=True)

    @entry
    def rmm(self, U: Any) -> Any:
        """Each of several vectors, along a leading axis of every leaf, times J.

        Args:
            U: a tree like y, each leaf `(k, *y)`.

        Returns:
            A tree like x, each leaf `(k, *x)`.

        Raises:
            TypeError, ValueError, ModeError: as for `rmv`.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(jnp.cumsum).at(jnp.zeros(3)).rmm(jnp.eye(3)))
            [[1. 0. 0.]
             [1. 1. 0.]
             [1. 1. 1.]]
        """
        return self._product(U, left=True, many=True)

    @entry
    def __matmul__(self, v: Any) -> Any:
        """`op @ v` is `op.mv(v)`."""
        return self._product(v, left=False, many=False)

    @entry
    def __rmatmul__(self, u: Any) -> Any:
        """`u @ op` is `op.rmv(u)`."""
        return self._product(u, left=True, many=False)

    @entry
    def dense(self) -> Any:
        """J itself, as `J(*args)` returns it; of a transposed operator with x's tree outside, `in.shape + out.shape`.

        It is planned as J is, in the mode that is fastest, and f is evaluated once more.

        Returns:
            J, in the format that was asked for.

        Raises:
            ModeError, MemoryBudgetError: as J raises them.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(jnp.square).at(jnp.array([1.0, 2.0])).dense())
            [[2. 0.]
             [0. 4.]]
        """
        return self._dense(self._linearization.called(self._held), self._linearization.options)

    @entry
    def diagonal(self) -> Any:
        """dy_k / dx_k where y is like x, as `J.diagonal(*args)` returns it; J is not formed.

        Raises:
            ValueError: y is not like x; it names the leaf.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> print(jb.jacobian(lambda x: x * jnp.sum(x)).at(jnp.array([1.0, 2.0])).diagonal())
            [4. 5.]
        """
        return self._diagonal(self._linearization.called(self._held), self._linearization.options)

    def to_scipy(self) -> LinearOperator:
        """The operator for SciPy, of flat vectors: leaf after leaf in the order of `jax.tree.leaves`, each row-major.

        For `scipy.sparse.linalg`: gmres, lsqr, svds, eigs, ... Its adjoint is the conjugate of u J. Vectors come and go
        as NumPy's arrays, and are cast to the dtypes of x and y.

        Returns:
            A `scipy.sparse.linalg.LinearOperator` of shape (m, n).

        Raises:
            ValueError: within a trace, or where numbers are complex and f was not promised to be holomorphic.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> import numpy as np
            >>> from scipy.sparse.linalg import gmres
            >>> op = jb.jacobian(lambda x: x**2 + jnp.sum(x)).at(jnp.array([1.0, 2.0, 3.0]))
            >>> x, _ = gmres(op.to_scipy(), np.ones(3))
            >>> print(np.round(op.dense() @ x, 3))
            [1. 1. 1.]
        """
        self._check_linear("to_scipy")
        return as_scipy(self)

    def to_lineax(self) -> AbstractLinearOperator:
        """The operator for Lineax, on trees like x; needs lineax (`pip install "jaxobian[lineax]"`).

        Its tags are proved: diagonal, tridiagonal, lower or upper triangular where zeros of J, for any values of x, say
        so; symmetric for the Hessian of a function with one real output and no derivative rules of one's own. Matrices
        that solvers ask for are made as `dense` makes them.

        Returns:
            A `lineax.AbstractLinearOperator`.

        Raises:
            ImportError: lineax is not installed.
            ValueError: an argument has integers, or numbers are complex and f was not promised to be holomorphic.

        Example:
            >>> import jax.numpy as jnp
            >>> import jaxobian as jb
            >>> import lineax as lx
            >>> op = jb.jacobian(lambda x: x**3).at(jnp.array([1.0, 2.0])).to_lineax()
            >>> lx.is_diagonal(op)
            True
            >>> print(lx.linear_solve(op, jnp.array([3.0, 12.0])).value)
            [1. 1.]
        """
        self._check_linear("to_lineax")
        if None in self._linearization.like_x.slots:
            raise ValueError(
                "to_lineax takes arguments of real or complex arrays alone, and these have integers; leave those out "
                "of argnums."
            )
        try:
            from ._lineax import as_lineax
        except ImportError as error:
            raise ImportError('to_lineax needs lineax: pip install "jaxobian[lineax]".') from error
        return as_lineax(replace(self, _aux=None))

    # For the library itself -----------------------------------------------------------------------------------

    @property
    def _rows(self) -> Vectors:
        return self._linearization.like_x if self._transposed else self._linearization.like_y

    @property
    def _columns(self) -> Vectors:
        return self._linearization.like_y if self._transposed else self._linearization.like_x

    def _product(self, vector: Any, *, left: bool, many: bool) -> Any:
        """The operator times a vector, or, where that stands `left`, a vector times the operator."""
        given, made = (self._rows, self._columns) if left else (self._columns, self._rows)
        letter = "uU"[many] if left else "vV"[many]
        seeds = given.arrays(vector, letter, many=many)
        lead = seeds[0].shape[:1] if many and seeds else ()
        forward = left == self._transposed
        return made.as_tree(self._linearization.product(self._held, seeds, forward=forward, many=many), lead)

    def _dense(self, traced: Traced, options: Options) -> Any:
        blocks, ys, aux = computed(traced, options, False)
        J = traced.deliver(blocks, ys, aux, options)[2]
        if not self._transposed:
            return J
        if options.request.format == "scipy":
            return J.T.tocsr()
        return traced.layout.assemble(_turned(blocks, traced), ("in", "out"), traced.zeros)

    def _diagonal(self, traced: Traced, options: Options) -> Any:
        hessian = self._linearization.hessian
        quantity = settled(Diagonal(), traced.layout, traced.ends, traced.names, hessian=hessian)
        options = options.asking(quantity=quantity)
        return traced.deliver(*computed(traced, options, False), options)[2]

    def _whole(self) -> Any:
        """All of J in trees, that of a batch with zeros between examples."""
        traced = self._linearization.called(self._held, batched=False)
        return self._dense(traced, self._unbatched)

    def _whole_diagonal(self) -> Any:
        """Its diagonal, like x."""
        return self._diagonal(self._linearization.called(self._held, batched=False), self._unbatched)

    @property
    def _unbatched(self) -> Options:
        """The options of all of J; a pattern that was passed may be that of one example."""
        return self._linearization.options.asking(format="dense", sparsity=None)

    def _check_linear(self, name: str) -> None:
        """Raise where J v is linear for real numbers alone, though v is complex."""
        holomorphic = self._linearization.options.request.holomorphic
        if not holomorphic and (self._rows.is_complex or self._columns.is_complex):
            raise ValueError(
                f"{name} takes real arrays, or holomorphic functions: elsewhere J is not linear over the complex "
                "numbers. If f is holomorphic, pass holomorphic=True."
            )


jax.tree_util.register_dataclass(LinearizedJacobian, ["_held", "_aux"], ["_linearization", "_transposed"])


def linearized(traced: Traced, options: Options, code: Hashable, *, has_aux: bool, hessian: bool) -> LinearizedJacobian:
    """The operator of a call.

    Args:
        traced: the call.
        options: what was asked for.
        code: of f, so that errors name its own lines.
        has_aux: whether the user's function returns aux.
        hessian: whether f is a gradient, whose aux is the user's function's value.

    Raises:
        BatchCouplingError: examples of a batch influence each other, or may.
        ValueError: nothing is differentiated, or arrays are on a mesh with Explicit axes.
    """
    program = traced.program
    if not traced.xs:
        raise ValueError("there is no operator: no differentiated argument has a leaf with a derivative.")
    if mesh_around() is not None or any(mesh_of(jax.typeof(x)) is not None for x in (*program.operands, *traced.xs)):
        raise ValueError("an operator cannot be made on a mesh with Explicit axes yet; make its axes Auto.")
    if options.batch is not None and not options.request.independent:
        check_independent(traced)
    linearization = Linearization.of(traced, options, code, has_aux=has_aux, hessian=hessian)
    held, aux = linearization.evaluate(program.operands, traced.xs)
    return LinearizedJacobian(held, traced.aux(aux), linearization)


def _turned(blocks: Rows, traced: Traced) -> Rows:
    """The blocks of J^T: those of J with the axes of x before those of y."""
    ends = traced.ends
    first = len(ends.lead)

    def turned(o: int, i: int) -> Any:
        middle = first + len(ends.outputs.shapes[o])
        last = middle + len(ends.inputs.shapes[i])
        return blocks[o][i].transpose((*range(first), *range(middle, last), *range(first, middle)))

    return [[turned(o, i) for o in range(len(blocks))] for i in range(len(ends.inputs.shapes))]
