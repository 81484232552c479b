"""What is known of each of JAX's primitives: one row a primitive, which every room reads.

Nothing need be known of a primitive to be right: what has no row, or leaves a column out, is dense, and its cost a
guess. Columns are plain facts and words for kinds; the function of a kind is in the room that asks for it:

    kind      `_analysis/ties/_rules.TIES`, `_analysis/pattern` (`_unions`, `_moves`), `_rewrite/_hoisting`
    values    `_analysis/_constants`
    linear    `_trace/_linearize`
    cost      `_cost/_equations.COSTS`
    body      `_analysis/ties/_axes.BODIES`, `_analysis/pattern/_inner.BODIES`, `_cost/_equations.LOOPS`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Primitive:
    """A row.

    Attributes:
        kind: what it does to the elements of its operands. None: each result depends on all of them, or has none.
        elements: the same for single elements and for numbers, where that says more than `kind`.
        values: how NumPy computes it, by the name of a function of NumPy's or of a kind; None: as JAX does.
        linear: in which operands it is linear: in "all" together, in any "one", in a case ("cases": all but the first),
            in what follows residuals ("tangents"), or in those at some places together.
        cost: what it takes; None: what is inside it, or else a guess.
        body: what the programs inside it are to it.
        joins: whether it puts arrays next to each other, whose result XLA writes to memory.
        symmetric: whether its transpose takes as long.
        batch_major: whether its passes may stand anywhere. Convolutions and windows make one axis of passes and
            examples: theirs come first.
        hoists: whether it is made once for all where its operands are the same along an axis.
        words: what the user calls it, if not by its name.
    """

    kind: str | None = None
    elements: str | None = None
    values: str | None = None
    linear: str | tuple[int, ...] = ()
    cost: str | None = None
    body: str | None = None
    joins: bool = False
    symmetric: bool = False
    batch_major: bool = False
    hoists: bool = False
    words: str | None = None

    @property
    def of_elements(self) -> str | None:
        """What it does to single elements."""
        return self.elements or self.kind


def rows(names: str, **columns: Any) -> dict[str, Primitive]:
    """The same row for several primitives."""
    return dict.fromkeys(names.split(), Primitive(**columns))


def _elementwise(names: str, cost: str = "arithmetic", **columns: Any) -> dict[str, Primitive]:
    """y[i] = g(x1[i], x2[i], ...)."""
    return rows(names, kind="elementwise", cost=cost, **columns)


# What most linear programs are made of.
_PLAIN: dict[str, Any] = {"symmetric": True, "batch_major": True, "hoists": True}

PRIMITIVES: dict[str, Primitive] = {
    # Linear arithmetic
    **_elementwise("add", elements="sum", values="add", linear="all", **_PLAIN),
    **_elementwise("add_any", elements="sum", linear="all", **_PLAIN),
    **_elementwise("sub", elements="difference", values="subtract", linear="all", **_PLAIN),
    **_elementwise("neg", elements="negation", values="negative", linear="all", **_PLAIN),
    **_elementwise("mul", elements="product", values="multiply", linear="one", **_PLAIN),
    **_elementwise("div", elements="quotient", linear=(0,), **_PLAIN),
    **_elementwise("select_n", elements="cases", values="cases", linear="cases", batch_major=True),
    **_elementwise("copy", "move", elements="identity", values="identity", linear="all", **_PLAIN),
    **_elementwise("copy_p", "move", elements="identity", linear="all"),
    **_elementwise("convert_element_type", "move", elements="conversion", values="conversion", linear="all", **_PLAIN),
    **_elementwise("real imag", "move", linear="all", batch_major=True, hoists=True),
    **_elementwise("complex conj name", "move", linear="all"),
    **_elementwise("reduce_precision sharding_constraint reshard", linear="all"),
    **rows("optimization_barrier", kind="passed_on", linear="all", cost="move", batch_major=True),
    **rows("device_put", kind="passed_on", linear="all", cost="arithmetic"),
    # Other arithmetic
    **_elementwise("rem", values="remainder"),
    **_elementwise("sign", values="sign"),
    **_elementwise("abs", values="absolute"),
    **_elementwise("max", values="maximum"),
    **_elementwise("min", values="minimum"),
    **_elementwise("and", values="bitwise_and"),
    **_elementwise("or", values="bitwise_or"),
    **_elementwise("xor", values="bitwise_xor"),
    **_elementwise("not", values="invert"),
    **_elementwise("eq", values="equal"),
    **_elementwise("ne", values="not_equal"),
    **_elementwise("lt", values="less"),
    **_elementwise("le", values="less_equal"),
    **_elementwise("gt", values="greater"),
    **_elementwise("ge", values="greater_equal"),
    **_elementwise("eq_to lt_to le_to is_finite nextafter floor ceil round clamp mul_by_scalar pvary pcast"),
    **_elementwise("square one_minus_square integer_pow polynomial"),
    **_elementwise("mulhi clz population_count shift_left shift_right_logical shift_right_arithmetic"),
    **_elementwise("bitcast_convert_type threefry2x32"),
    **_elementwise("stop_gradient", "move"),
    # Transcendental functions
    **_elementwise("exp exp2 expm1 log log1p log2 tanh logistic erf erfc erf_inv", "exp"),
    **_elementwise("sqrt rsqrt sinh cosh asin acos atan atan2 asinh acosh atanh", "sqrt"),
    **_elementwise("sin cos tan pow cbrt lgamma digamma polygamma zeta igamma igammac igamma_grad_a", "sin"),
    **_elementwise("bessel_i0e bessel_i1e regularized_incomplete_beta random_gamma_grad", "sin"),
    # What moves elements
    **rows("broadcast_in_dim", kind="broadcast", values="broadcast", linear="all", cost="move", **_PLAIN),
    **rows("reshape squeeze", kind="reshape", values="reshape", linear="all", cost="move", **_PLAIN),
    **rows("transpose", kind="transpose", values="transpose", linear="all", cost="move", **_PLAIN),
    **rows("rev", kind="rev", values="rev", linear="all", cost="move", symmetric=True, batch_major=True),
    **rows("slice", kind="slice", values="slice", linear="all", cost="move", batch_major=True),
    **rows("split", kind="split", linear="all", cost="move", batch_major=True),
    **rows("pad", kind="pad", linear="all", cost="move", batch_major=True),
    **rows("concatenate", kind="concatenate", values="concatenate", linear="all", cost="move", joins=True,
           batch_major=True),
    **rows("stack", kind="stack", linear="all", cost="move", joins=True),
    **rows("unstack", kind="unstack", linear="all", cost="move"),
    **rows("tile", kind="tile", linear="all", cost="move"),
    **rows("iota", values="iota", cost="move"),
    # Places that indices say
    **rows("gather", kind="gather", linear=(0,), cost="gather"),
    **rows("dynamic_slice", kind="dynamic_slice", linear=(0,), cost="move"),
    **rows("dynamic_update_slice", kind="dynamic_update_slice", linear=(0, 1), cost="update"),
    **rows("scatter", kind="scatter", elements="written", linear=(0, 2), cost="scatter", body="combining"),
    **rows("scatter-add", kind="scatter", elements="added", linear=(0, 2), cost="scatter", body="combining"),
    **rows("scatter-sub", kind="scatter", elements="subtracted", linear=(0, 2), cost="scatter", body="combining"),
    **rows("scatter-mul", kind="scatter", linear=(0,), cost="scatter", body="combining"),
    **rows("scatter-min scatter-max", kind="scatter", cost="scatter", body="combining"),
    # Products
    **rows("dot_general", kind="dot", linear="one", cost="dot", **_PLAIN),
    **rows("conv_general_dilated", kind="convolution", linear="one", cost="convolution", hoists=True),
    **rows("bcoo_dot_general", cost="sparse_dot"),
    # Sums and the like
    **rows("reduce_sum", kind="reduction", elements="reduce_sum", linear="all", cost="reduction", **_PLAIN),
    **rows("reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin", kind="reduction",
           cost="reduction"),
    **rows("reduce", kind="reduction", cost="reduction", body="combining"),
    **rows("cumsum", kind="cumulative", linear="all", cost="cumulative"),
    **rows("cumprod cummax cummin cumlogsumexp", kind="cumulative", cost="cumulative"),
    **rows("reduce_window_sum", kind="windows", elements="window_sum", linear="all", cost="window"),
    **rows("reduce_window_max reduce_window_min", kind="windows", elements="each_window", cost="window"),
    **rows("reduce_window", kind="windows", cost="window", body="combining"),
    **rows("select_and_gather_add", kind="windows", elements="each_window", linear=(0,), cost="window"),
    **rows("select_and_scatter_add", kind="scattered_windows", linear=(0,), cost="scattered_window", body="combining"),
    **rows("select_and_scatter", body="combining"),
    # Sorts, transforms and solves
    **rows("sort", kind="sort", cost="sort"),
    **rows("top_k", kind="top_k", cost="sort"),
    **rows("approx_top_k", kind="approx_top_k", cost="sort"),
    **rows("fft", kind="fft", linear="all", cost="fft"),
    **rows("cholesky", kind="factorization", cost="cholesky"),
    **rows("lu", kind="factorization", cost="lu"),
    **rows("qr geqrf householder_product", kind="factorization", cost="qr"),
    **rows("hessenberg tridiagonal", kind="factorization", cost="hessenberg"),
    **rows("eigh", kind="factorization", cost="eigh"),
    **rows("svd eig schur", kind="factorization", cost="svd"),
    **rows("lu_pivots_to_permutation", kind="pivots", cost="pivots"),
    **rows("triangular_solve", kind="triangular_solve", linear=(1,), cost="triangular_solve"),
    **rows("tridiagonal_solve", kind="tridiagonal_solve", linear=(3,), cost="tridiagonal_solve"),
    # Random numbers, and what devices say to each other
    **rows("random_seed random_wrap random_unwrap random_clone random_split random_fold_in random_bits", kind="key",
           cost="arithmetic"),
    **rows("random_gamma", kind="key", cost="sin"),
    **rows("psum psum2 psum_invariant all_gather symbolic_zeros", cost="arithmetic"),
    # Programs inside: closed_call is eval_jaxpr from JAX 0.12 on, call_hi_primitive is written out by compiling alone
    **rows("jit closed_call eval_jaxpr", body="call"),
    **rows("custom_jvp_call custom_vjp_call", body="custom_rule"),
    **rows("remat2", body="block", words="jax.checkpoint"),
    **rows("custom_vmap_call", body="block", words="a custom_vmap function"),
    **rows("call_hi_primitive", body="expansion"),
    **rows("cond", body="cond", words="lax.cond"),
    **rows("while", body="loop", words="lax.while_loop"),
    **rows("scan", body="loop", words="lax.scan"),
    **rows("custom_lin", linear="tangents", cost="arithmetic", body="pullback"),
    **rows("custom_linear_solve", body="solve"),
}  # fmt: skip

_UNKNOWN = Primitive()


def row_of(equation: Any) -> Primitive:
    """What is known of an equation's primitive."""
    return PRIMITIVES.get(equation.primitive.name, _UNKNOWN)


def is_product(equation: Any) -> bool:
    """Whether it is a product of matrices, or a convolution."""
    return row_of(equation).cost in ("dot", "convolution")
