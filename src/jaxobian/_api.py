"""jacobian, batch_jacobian, hessian, batch_hessian, sparsity: signatures and documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._analysis import Pattern
from ._call import Options
from ._call._arguments import Argnums
from ._call._batch import Batch
from ._call._declared import as_pattern
from ._functions import JacobianFunction, SharedFunction
from ._hessians import HessianFunction, SharedHessianFunction
from ._request import Format, Mode, Request
from ._shared import shares
from ._tracebacks import entry


def jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    mode: Mode = "auto",
    format: Format = "dense",
    sparsity: Any = None,
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> JacobianFunction:
    """The Jacobian of `f`, in the mode that is predicted to be fastest for it.

    J[i, j] = dy_i / dx_j for y = f(x). The first five parameters are those of `jax.jacfwd` and `jax.jacrev`.

    Args:
        f: a function of arrays, or pytrees of them, to an array or a pytree of them.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        has_aux: f returns a pair (y, aux); aux is not differentiated and returned beside J.
        holomorphic: f is promised to be holomorphic, complex to complex.
        allow_int: let integer arguments pass; their blocks of J are zeros of their own dtype, as `jax.jacrev`'s.
        mode: "auto", or to force one: "fwd" or "forward" (a JVP for each input), "rev" or "reverse" (a VJP for each
            output), "mixed" (f is cut at its bottlenecks, and each part takes its own mode), or "colored" (columns or
            rows of a sparse J that do not overlap share a JVP or VJP; entries that do not depend on x take none).
        format: "dense"; "bcoo" for `jax.experimental.sparse.BCOO` leaves; "scipy" for one `scipy.sparse.csr_array`, the
            elements of the outputs by those of the differentiated arguments, leaf after leaf, outside of traces alone.
        sparsity: where J can be nonzero, if you know it better than what is found in f: a `Pattern`, or a matrix (BCOO,
            SciPy) of which the stored elements count, of shape (elements of the outputs, elements of the differentiated
            arguments). It is trusted, and a sparse J has these elements; the first call outside of traces compares J
            with a product.
        chunk_size: how many passes (JVPs or VJPs) run at once; None lets memory and speed decide. The answer does not
            depend on it.
        memory_budget: bytes that may be allocated, as a number or as text such as "4GB"; None means half of what
            the device has free. Copies that `jax.vmap` makes of the call share it.
        rewrite: replace slow linear operations, such as max-pooling's gradient, by faster equivalents; values may
            differ in the last digits, and where f's derivatives are infinite or NaN, more of J may be NaN.

    Returns:
        A function with f's arguments that returns J: f's output tree outside, the argument's tree inside, each leaf
        of shape `out.shape + in.shape` (or `(J, aux)` with `has_aux`). Its methods: `with_value(*args)` returns
        y too, `plan(*args)` what would run and why, `at(*args)` J as an operator. A call plans and compiles once and
        traces f every time, for what f closes over may have changed; `jax.jit(jacobian(f))`, or a plan, is what to call
        a thousand times.

    Raises:
        ValueError: an option is none of those above.
        ModeError: on a call, where the forced mode, or every mode, is impossible.
        MemoryBudgetError: on a call, where J does not fit.
        SparsityError: on the first call outside of traces, where J has a nonzero that `sparsity` has not; it names one.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> J = jb.jacobian(lambda x: jnp.stack([x[0] * x[1], x[1] ** 2]))
        >>> print(J(jnp.array([3.0, 2.0])))
        [[2. 3.]
         [0. 4.]]

    Source:
        Griewank and Walther, Evaluating Derivatives (2nd edition, 2008): forward and reverse accumulation in chapter 3,
        going beyond them in chapters 9 and 10.
    """
    request = Request(mode, holomorphic, format, chunk_size, memory_budget, rewrite, sparsity=as_pattern(sparsity))
    return JacobianFunction(f, Options(argnums, has_aux, allow_int, request=request))


def value_and_jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    mode: Mode = "auto",
    format: Format = "dense",
    sparsity: Any = None,
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> Callable[..., tuple[Any, Any]]:
    """A function that returns f's value and its Jacobian, f traced once; short for `jacobian(f, ...).with_value`.

    (y, J) with J[i, j] = dy_i / dx_j.

    Args:
        f: as for `jacobian`.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        mode: as for `jacobian`.
        format: as for `jacobian`.
        sparsity: as for `jacobian`.
        chunk_size: as for `jacobian`.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.

    Returns:
        A function with f's arguments that returns `(y, J)`, or `((y, aux), J)` with `has_aux`.

    Raises:
        ValueError: as for `jacobian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> y, J = jb.value_and_jacobian(jnp.square)(jnp.array([1.0, 3.0]))
        >>> print(y, J.diagonal())
        [1. 9.] [2. 6.]
    """
    return jacobian(
        f, argnums, has_aux, holomorphic, allow_int,
        mode=mode, format=format, sparsity=sparsity, chunk_size=chunk_size, memory_budget=memory_budget,
        rewrite=rewrite,
    ).with_value  # fmt: skip


def batch_jacobian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    mode: Mode = "auto",
    format: Format = "dense",
    sparsity: Any = None,
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
    independent: bool = False,
) -> JacobianFunction:
    """The Jacobian of every example of a batch, for a function that maps a batch to a batch.

    J[b, i, j] = dy[b]_i / dx[b]_j. All examples share a pass, so a batch takes as many passes as one example. f is
    called with the whole batch; that no example influences another is verified, or an error names what couples them.

    Args:
        f: a function of a batch to a batch, such as a model's `apply`.
        argnums: which positional argument, or arguments, to differentiate with respect to.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        in_axes: the batch axis of the differentiated arguments, as for `jax.vmap`; ignored for other arguments.
            None for a differentiated argument that all examples share, such as parameters: `in_axes=(None, 0)` for
            `apply(params, x)`. It must then say for every argument where its batch is, and f is called with one example
            at a time: it must take a batch of any size, and give each example what it gives a batch of that example
            alone. That it does is verified, too: no division by the batch size, no dropout but from keys that are an
            argument with a batch axis.
        out_axes: the batch axis of f's outputs, as for `jax.vmap`.
        mode: as for `jacobian`.
        format: "dense", or "bcoo", which is not supported with `in_axes=None` for a differentiated argument.
        sparsity: as for `jacobian`, of one example; not supported with `in_axes=None` for a differentiated argument.
        chunk_size: as for `jacobian`.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.
        independent: you assert that no example influences another, where that cannot be verified, as by parameters of
            examples that are integers. If it is wrong, so is J: each block is then the sum over the batch. With an
            `in_axes` of None you also assert that neither the batch's size nor an example's place in it matters; if
            that is wrong, J is that of batches of one.

    Returns:
        A function as `jacobian` returns it, with leaves of shape `(B, *out, *in)` for B examples.

    Raises:
        ValueError: an argument or an output has no such batch axis, or batch sizes differ; with an `in_axes` of None,
            also where the batch's size or an example's place in it matters, or may.
        BatchCouplingError: on a call, where examples influence each other, or where that they do not could not be
            verified; it names the operation and its line.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> W = jnp.ones((3, 2))
        >>> jb.batch_jacobian(lambda x: jnp.tanh(x @ W))(jnp.zeros((64, 3))).shape
        (64, 2, 3)
    """
    request = Request(
        mode, holomorphic, format, chunk_size, memory_budget, rewrite, independent, sparsity=as_pattern(sparsity)
    )
    options = Options(argnums, has_aux, allow_int, Batch(in_axes, out_axes), request)
    return SharedFunction(f, options) if shares(options) else JacobianFunction(f, options)


def hessian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    mode: Mode = "auto",
    format: Format = "dense",
    sparsity: Any = None,
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
) -> JacobianFunction:
    """The Hessian of `f`: the Jacobian of its Jacobian, the inner one in reverse mode where that is possible.

    H[i, j, k] = d2 y_i / dx_j dx_k.

    Args:
        f: as for `jacobian`; usually with one output.
        argnums: as for `jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        mode: the mode of the outer Jacobian.
        format: as for `jacobian`.
        sparsity: as for `jacobian`, of H; of one output, its lower or upper triangle is enough.
        chunk_size: as for `jacobian`, of the outer Jacobian.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.

    Returns:
        A function as `jacobian` returns it, laid out as `jax.hessian`: leaves `out.shape + in.shape + in.shape`. Its
        `with_value` returns f's value beside H.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> print(jb.hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0])))
        [[6. 2.]
         [2. 0.]]
    """
    request = Request(mode, holomorphic, format, chunk_size, memory_budget, rewrite, sparsity=as_pattern(sparsity))
    return HessianFunction(f, Options(argnums, has_aux, allow_int, request=request))


def batch_hessian(
    f: Callable[..., Any],
    argnums: Argnums = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    mode: Mode = "auto",
    format: Format = "dense",
    sparsity: Any = None,
    chunk_size: int | None = None,
    memory_budget: int | float | str | None = None,
    rewrite: bool = True,
    independent: bool = False,
) -> JacobianFunction:
    """The Hessian of every example of a batch, for a function that maps a batch to a batch.

    H[b, i, j, k] = d2 y[b]_i / dx[b]_j dx[b]_k. All examples share a pass, so a batch takes as many passes as one
    example. f is called with the whole batch; that no example influences another is verified, of f's gradient, too.

    Args:
        f: a function of a batch to a batch, such as losses `(B,)`.
        argnums: as for `batch_jacobian`.
        has_aux: as for `jacobian`.
        holomorphic: as for `jacobian`.
        allow_int: as for `jacobian`.
        in_axes: as for `batch_jacobian`; None for a differentiated argument that all examples share.
        out_axes: the batch axis of f's outputs, as for `jax.vmap`.
        mode: the mode of the outer Jacobian.
        format: as for `batch_jacobian`.
        sparsity: as for `hessian`, of one example.
        chunk_size: as for `jacobian`, of the outer Jacobian.
        memory_budget: as for `jacobian`.
        rewrite: as for `jacobian`.
        independent: as for `batch_jacobian`.

    Returns:
        A function as `hessian` returns it, with leaves of shape `(B, *out, *in, *in)` for B examples: what
        `jax.vmap(jax.hessian(one))` gives.

    Raises:
        ValueError: as for `batch_jacobian`.
        BatchCouplingError: as for `batch_jacobian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> energies = lambda x: jnp.prod(x, axis=1)
        >>> print(jb.batch_hessian(energies)(jnp.array([[1.0, 2.0], [3.0, 4.0]])))
        [[[0. 1.]
          [1. 0.]]
        <BLANKLINE>
         [[0. 1.]
          [1. 0.]]]
    """
    request = Request(
        mode, holomorphic, format, chunk_size, memory_budget, rewrite, independent, sparsity=as_pattern(sparsity)
    )
    options = Options(argnums, has_aux, allow_int, Batch(in_axes, out_axes), request)
    return SharedHessianFunction(f, options) if shares(options) else HessianFunction(f, options)


@entry
def sparsity(f: Callable[..., Any], *args: Any, argnums: Argnums = 0, **kwargs: Any) -> Pattern:
    """Which elements of f's Jacobian can be nonzero, for any values of arguments of these shapes.

    The pattern is conservative: what it leaves out is zero. It may hold more than is nonzero at one x: what depends on
    values (an index, a condition) may be any value, and unknown primitives count as dense. Index arrays and NumPy
    arrays that f closes over are a part of f; JAX arrays of real numbers are not, for weights change.

    Args:
        f: as for `jacobian`.
        *args: as for f: arrays, or `jax.ShapeDtypeStruct` in their place.
        argnums: as for `jacobian`.
        **kwargs: as for f.

    Returns:
        A `Pattern` of shape (elements of the outputs, elements of the differentiated arguments), each leaf after leaf
        in the order of `jax.tree.leaves` and row-major within a leaf, with `.nnz`, `.to_scipy()` and `.spy()`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxobian as jb
        >>> pattern = jb.sparsity(lambda x: x[1:] - x[:-1], jnp.zeros(4))
        >>> pattern
        Pattern(3 x 4, 6 nonzeros)
        >>> print(pattern.todense().astype(int))
        [[1 1 0 0]
         [0 1 1 0]
         [0 0 1 1]]
    """
    return jacobian(f, argnums, allow_int=True).sparsity(*args, **kwargs)
