"""Minimum vertex cuts against brute force; cuts and path splits of programs whose narrow places are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxobian._analysis import Graph, chain, minimum_cuts, narrowest, path_splits, stages, structure
from jaxobian._trace import LinearProgram, active_variables, trace
from jaxobian.testing._scenario import mlp, normal


def program_of(f: Callable[..., Any], *args: Any) -> LinearProgram:
    return trace(lambda _, xs: (jax.tree.leaves(f(*xs)), []), args)


def size(v: Any) -> int:
    return int(np.prod(v.aval.shape))


# Flow -------------------------------------------------------------------------------------------------------


def separates(graph: Graph, cut: set[int], sources: list[int], sinks: list[int]) -> bool:
    after: dict[int, list[int]] = {}
    for u, v in graph.edges:
        after.setdefault(u, []).append(v)
    seen: set[int] = set()
    todo = [s for s in sources if s not in cut]
    while todo:
        u = todo.pop()
        if u in seen:
            continue
        seen.add(u)
        todo += [v for v in after.get(u, []) if v not in cut]
    return not seen & set(sinks)


def random_graph(seed: int) -> tuple[Graph, list[int], list[int]]:
    """A small acyclic graph, some of whose vertices cannot be cut."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    weights: list[int | None] = [int(w) for w in rng.integers(1, 6, n)]
    for k in range(1, n - 1):
        if rng.random() < 0.2:
            weights[k] = None
    edges = [(u, v) for u, v in itertools.combinations(range(n), 2) if rng.random() < 0.45]
    return Graph(weights, edges), [0, 1] if n > 5 else [0], [n - 1]


@pytest.mark.parametrize("seed", range(200))
def test_cuts_are_minimum(seed: int) -> None:
    graph, sources, sinks = random_graph(seed)
    vertices = [k for k, w in enumerate(graph.weights) if w is not None]
    weight = lambda cut: sum(graph.weights[k] or 0 for k in cut)
    subsets = itertools.chain.from_iterable(itertools.combinations(vertices, r) for r in range(len(vertices) + 1))
    minimum = min(weight(c) for c in subsets if separates(graph, set(c), sources, sinks))
    width, cuts = minimum_cuts(graph, sources, sinks, 1000)
    assert width == minimum
    assert cuts
    assert len(set(cuts)) == len(cuts)
    for cut in cuts:
        assert weight(cut) == minimum
        assert separates(graph, set(cut), sources, sinks)
    # Each cut lies behind the one before: that one separates it from the sources.
    for first, second in itertools.pairwise(cuts):
        assert separates(graph, set(first), sources, sorted(second - first))


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_as_wide_as_the_bound_is_of_no_interest(seed: int) -> None:
    graph, sources, sinks = random_graph(seed)
    width, _ = minimum_cuts(graph, sources, sinks, 1000)
    assert minimum_cuts(graph, sources, sinks, width) == (width, [])
    assert minimum_cuts(graph, sources, sinks, width + 1)[0] == width


def test_capacities_do_not_overflow() -> None:
    graph = Graph([2**29, 2**40, 5, 2**29], [(0, 1), (1, 2), (2, 3)])
    assert minimum_cuts(graph, [0], [3], 2**29) == (5, [frozenset([2])])
    assert minimum_cuts(graph, [0], [3], 2**31) == (2**31, [])  # not even J would fit


# Programs ---------------------------------------------------------------------------------------------------


def of_size(program: LinearProgram, wanted: int) -> list[Any]:
    """What has `wanted` elements (how many steps tanh's derivative takes is JAX's affair)."""
    return [v for v in active_variables(program.linear, program.tangents) if size(v) == wanted]


def test_an_autoencoder_is_cut_at_its_code() -> None:
    program = program_of(mlp(40, 20, 4, 20, 40), normal(40))
    width, cuts = narrowest(program, size, 40)
    assert width == 4
    assert {sum(map(size, cut)) for cut in cuts} == {4}
    # The product, and what tanh's derivative makes of it, step by step.
    assert 2 <= len(cuts) <= len(of_size(program, 4))
    first, last = cuts[0], cuts[-1]
    assert program.segment(program.tangents, first).linear.equations[-1].primitive.name == "dot_general"
    assert program.segment(last, program.linear.outputs).linear.equations[0].primitive.name == "dot_general"


def test_cuts_of_a_chain_follow_each_other() -> None:
    program = program_of(mlp(60, 30, 4, 30, 6, 30, 60), normal(60))
    cuts, width = chain(program, size, 60)
    assert width == 4
    widths = [sum(map(size, cut)) for cut in cuts]
    assert 2 <= widths.count(4) <= len(of_size(program, 4))
    assert 6 in widths  # beside the narrowest there is another, narrower than what it lies between
    order = {v: k for k, e in enumerate(program.linear.equations) for v in e.outvars}
    places = [order[cut[0]] for cut in cuts]
    assert places == sorted(places)


def test_parallel_bottlenecks_are_one_cut() -> None:
    first, second = mlp(30, 12, 2), mlp(30, 12, 3, seed=4)
    decode = mlp(5, 12, 30, seed=8)
    program = program_of(lambda x: decode(jnp.concatenate([first(x), second(x)])), normal(30))
    width, cuts = narrowest(program, size, 30)
    assert width == 5
    assert any(len(cut) == 2 for cut in cuts)
    assert any(len(cut) == 1 for cut in cuts)


def test_a_small_input_may_be_part_of_a_cut() -> None:
    f = lambda x, a: jnp.outer(jnp.tanh(x @ W), a).reshape(-1)[:20]
    W = normal(30, 2, seed=1)
    program = program_of(f, normal(30), normal(15))
    width, cuts = narrowest(program, size, 20)
    assert width == 17
    assert all(program.tangents[1] in cut or size(cut[0]) == 17 for cut in cuts[:1])


@pytest.mark.parametrize(
    ("name", "f", "n"),
    [
        ("a skip", lambda x: mlp(30, 10, 3, 10, 30)(x) + 0.5 * x, 30),
        ("a classifier", mlp(30, 20, 5), 30),
        ("elementwise", jnp.tanh, 30),
        ("a scalar", jnp.sum, 30),
    ],
)
def test_where_nothing_is_narrow_there_is_no_cut(name: str, f: Callable[[Array], Array], n: int) -> None:
    program = program_of(f, normal(n))
    ends = min(n, jax.eval_shape(f, normal(n)).size)
    assert chain(program, size, ends) == ([], ends)


SPLITS = {
    "an autoencoder beside its skip": (lambda x: mlp(30, 10, 3, 10, 30)(x) + 0.5 * x, 3),
    "beside an elementwise map": (lambda x: mlp(30, 10, 3, 10, 30)(x) * jnp.tanh(x), 3),
    "softmax": (jax.nn.softmax, 1),
    "layer norm": (lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-3), 2),
    "three residual blocks": (
        lambda x: (b := lambda k, x: x + mlp(30, 2, 30, seed=k)(x))(9, b(5, b(1, x))),
        6,
    ),
    "a flip beside it": (lambda x: mlp(30, 10, 3, 10, 30)(x) + x[::-1], 3),
    "a transposition beside it": (lambda x: jnp.outer(x.sum() * x[:5], x[:6]).reshape(5, 6).T.reshape(-1), None),
    "two shifts": (lambda x: x + jnp.roll(x, 1) * x.sum(), None),
}


@pytest.mark.parametrize("name", SPLITS)
def test_path_splits(name: str) -> None:
    f, expected = SPLITS[name]
    program = program_of(f, normal(30))
    width, cuts = path_splits(structure(program), size, [None], 30)
    if expected is None:
        assert not cuts or width >= 5
        return
    assert width == expected
    assert cuts
    for cut in cuts:
        assert sum(map(size, cut)) == expected


def test_the_parts_of_a_path_split_add_up() -> None:
    f, _ = SPLITS["three residual blocks"]
    x = normal(30)
    program = program_of(f, x)
    _, cuts = path_splits(structure(program), size, [None], 30)
    *_, residuals = program.evaluate(program.operands, (x,))

    def dense(part: Any) -> list[Array]:
        shapes = [jnp.zeros(v.aval.shape) for v in part.tangents]
        return jax.jacfwd(lambda *t: part.push(residuals, t), tuple(range(len(shapes))))(*shapes)

    for z in cuts:
        (inner,) = zip(*dense(program.segment(program.tangents, z)), strict=True)
        (outer,) = dense(program.segment(z, program.linear.outputs))
        ((direct,),) = dense(program.segment(program.tangents, program.linear.outputs, frozen=z))
        total = direct + sum(a @ b for a, b in zip(outer, inner, strict=True))
        np.testing.assert_allclose(total, jax.jacrev(f)(x), atol=1e-5)
        assert np.count_nonzero(direct) <= 30


# Stages -----------------------------------------------------------------------------------------------------


def test_stages_alternate() -> None:
    program = program_of(lambda x: jnp.exp(jnp.sin(jnp.exp(x))), normal(3))
    first, second, third = program.linear.equations
    forbidden = {"fwd": {id(first), id(third)}, "rev": {id(second)}}
    assert stages(program, forbidden, "rev") == [tuple(first.outvars), tuple(second.outvars)]
    # Forward first: nothing can be done at once but to hand x on.
    assert stages(program, forbidden, "fwd")[0] == program.tangents
    assert stages(program, {"fwd": set(), "rev": set()}, "fwd") == []
