"""J W J^H and J^H W J: outer products of columns, or of rows, added up chunk by chunk as passes bring them back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._analysis import Relation
from .._cost import Work
from .._seeds import Run, Seeds
from .._trace import Ends, Side
from ._dense import Dense
from ._output import Block, Chunk, Reduction, Results, Rows
from ._products import Nonzeros, pair_count, product, side_by_side
from ._quantity import Quantity, SideName, dtype_of, matrix
from ._scatter import scattered
from ._selected import by_array, folded, lead_first, summed_dtype, sums

# A product of two nonzeros, gathered and added one by one, takes as long as so many in a product of matrices.
_ONE_BY_ONE = 64
_INDEX_BYTES = 4


@dataclass(frozen=True)
class Gram(Quantity):
    """J W J^H of side "out", J^H W J of side "in"; W is diagonal.

    Attributes:
        side: whose axes the result has twice.
        places: for each array of the other side, which of the weights is its; None where there are none.
        n_weights: how many there are.
        weights: their values, once there are some.
    """

    side: SideName = "out"
    places: tuple[int, ...] | None = None
    n_weights: int = 0
    weights: Sequence[Any] = field(default=(), compare=False)
    name: str = "gram"

    @property
    def sides(self) -> tuple[SideName, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The same twice."""
        return self.side, self.side

    def bound(self, weights: Sequence[Any]) -> Gram:
        """With values of the weights."""
        return replace(self, weights=tuple(weights))

    def size(self, ends: Ends, relations: Sequence[dict[int, Relation]]) -> int:
        """All pairs of rows, or columns."""
        sizes, n = self._side(ends).sizes, range(len(self._side(ends).sizes))
        return math.prod(ends.lead) * sum(sizes[a] * sizes[b] * self._dtype(ends, a, b).itemsize for a in n for b in n)

    def ends(self, ends: Ends) -> Ends:
        """Both sides of the Gram matrix: the same twice."""
        return Ends(self._side(ends), self._side(ends))

    def _side(self, ends: Ends) -> Side:
        return ends.outputs if self.side == "out" else ends.inputs

    def _dtype(self, ends: Ends, *ours: int) -> Any:
        every = range(len((ends.inputs if self.side == "out" else ends.outputs).avals))
        return dtype_of(ends, ours, every) if self.side == "out" else dtype_of(ends, every, ours)

    def keeps(self, seeds: Seeds) -> bool:
        """Whether passes bring back rows where columns are wanted, or what is put into several."""
        tied = bool(seeds.group and any(seeds.group.cells))
        return tied or seeds.classes is not None or seeds.forward != (self.side == "out")

    def work(self, ends: Ends, passes: int) -> Work:
        """A product of two matrices, whether it is summed up or made at the end."""
        side, other = self._side(ends), (ends.inputs if self.side == "out" else ends.outputs).size
        return Work(dot=2.0 * math.prod(ends.lead) * side.size**2 * other, library=1.0)

    def sums(self, ends: Ends, seeds: Seeds) -> Reduction:
        """Outer products."""
        return _Outer(self, ends, seeds)

    def of_sums(self, ends: Ends, groups: Sequence[Seeds], results: Sequence[Results]) -> Rows:
        """Those of all runs added, and mirrored."""
        found: dict[tuple[int, int], Any] = {}
        for seeds, brought in zip(groups, results, strict=True):
            for arrays in brought:
                for (a, b), array in zip(_pairs(seeds), arrays, strict=True):
                    found[a, b] = found[a, b] + array if (a, b) in found else array
        return self.of_parts(ends, found)

    def of_blocks(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> Rows:
        """Products of what J is, or of its nonzeros where few of them meet."""
        if all(block.has_known_zeros for row in blocks for block in row):
            matrices = self._nonzeros(ends, blocks)
            if self.by_pairs(ends, pair_count(matrices)):
                return self.of_parts(ends, self._multiplied(ends, matrices))
        return self.of_parts(ends, self._dense_products(ends, blocks))

    def by_pairs(self, ends: Ends, pairs: float) -> bool:
        """Whether so many products of two nonzeros are made one by one, rather than those of matrices."""
        return _ONE_BY_ONE * 2 * pairs <= self.work(ends, 0).dot

    def of_pairs(self, ends: Ends, pairs: float) -> tuple[Work, int]:
        """What so many of them take, and bytes that are held for them; or those of matrices."""
        if not self.by_pairs(ends, pairs):
            return self.work(ends, 0), Dense().size(ends, ())
        work = Work(gather=2 * pairs, arithmetic=pairs, scatter=pairs, equations=2.0)
        return work, math.ceil(pairs * (self._dtype(ends, 0).itemsize + 3 * _INDEX_BYTES))

    def _multiplied(self, ends: Ends, matrices: Sequence[Nonzeros]) -> dict[tuple[int, int], Any]:
        """Pairs of arrays, with the sums put into zeros."""
        found = {}
        for a, b in itertools.combinations_with_replacement(range(len(matrices)), 2):
            data, index = self.product(ends, matrices, a, b)
            found[a, b] = scattered(data, index, (*ends.lead, self._side(ends).sizes[a], self._side(ends).sizes[b]))
        return found

    def product(self, ends: Ends, matrices: Sequence[Nonzeros], a: int, b: int) -> tuple[Any, np.ndarray]:
        """The elements that can be nonzero between two arrays, and their flat indices."""
        dtype, sizes = self._dtype(ends, a, b), self._side(ends).sizes
        left, right = _wide(matrices[a].data.astype(dtype)), _wide(matrices[b].data.astype(dtype)).conj()
        if self.places is not None:
            left = _weighted(left, self._weight_of(ends, matrices[a]))
        return product(matrices[a].of(left), matrices[b].of(right), sizes[a], sizes[b])

    def _weight_of(self, ends: Ends, matrix: Nonzeros) -> Any:
        """Of each nonzero."""
        numbers = range(len((ends.inputs if self.side == "out" else ends.outputs).avals))
        every = jnp.concatenate([_wide(self.weight(ends, k)) for k in numbers], -1)
        return every.reshape(math.prod(ends.lead), -1)[matrix.example, matrix.met]

    def _nonzeros(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> list[Nonzeros]:
        """For each array of our side those of its rows of J, or of J^H."""
        rows = blocks if self.side == "out" else list(zip(*blocks, strict=True))
        widths = (ends.inputs if self.side == "out" else ends.outputs).sizes
        found = []
        for a, row in enumerate(rows):
            made = [self._nonzeros_of(ends, block, a, k) for k, block in enumerate(row)]
            found.append(side_by_side(made, widths))
        return found

    def _nonzeros_of(self, ends: Ends, block: Block, ours: int, other: int) -> Nonzeros:
        out, inp = (ours, other) if self.side == "out" else (other, ours)
        data, index = block.entries()
        shape = (math.prod(ends.lead), ends.outputs.sizes[out], ends.inputs.sizes[inp])
        example, row, column = np.unravel_index(index, shape) if len(index) else (np.zeros(0, int),) * 3
        return (
            Nonzeros(data, example, row, column) if self.side == "out" else Nonzeros(data.conj(), example, column, row)
        )

    def _dense_products(self, ends: Ends, blocks: Sequence[Sequence[Block]]) -> dict[tuple[int, int], Any]:
        """By pair of arrays."""
        made = [[matrix(block, ends, o, i) for i, block in enumerate(row)] for o, row in enumerate(blocks)]
        if self.side == "in":
            made = [[jnp.swapaxes(row[i], -1, -2).conj() for row in made] for i in range(len(ends.inputs.avals))]
        found: dict[tuple[int, int], Any] = {}
        for a, b in itertools.combinations_with_replacement(range(len(made)), 2):
            dtype = self._dtype(ends, a, b)
            for k, (left, right) in enumerate(zip(made[a], made[b], strict=True)):
                left, right = left.astype(dtype), jnp.swapaxes(right.astype(dtype), -1, -2).conj()
                if self.places is not None:
                    left, right = _weighted(left, self.weight(ends, k)[..., None, :]), _wide(right)
                term = jnp.matmul(left, right, preferred_element_type=summed_dtype(dtype))
                found[a, b] = found[a, b] + term if (a, b) in found else term
        return found

    def weight(self, ends: Ends, k: int) -> Any:
        """The weights of an array of the summed side: (*lead, elements)."""
        assert self.places is not None
        other = ends.inputs if self.side == "out" else ends.outputs
        weight, batch_axis = self.weights[self.places[k]], other.batch_axes[k]
        weight = weight if batch_axis is None else jnp.moveaxis(weight, batch_axis, 0)
        return weight.reshape(*ends.lead, other.sizes[k])

    def of_parts(self, ends: Ends, parts: dict[Any, Any]) -> Rows:
        """By pair, of which the mirrored ones follow."""
        side, rows = self._side(ends), []
        for a, out in enumerate(side.shapes):
            row = []
            for b, other in enumerate(side.shapes):
                shape, dtype = (*ends.lead, *out, *other), self._dtype(ends, a, b)
                square = parts.get((min(a, b), max(a, b)))
                if square is None:
                    row.append(jnp.zeros(shape, dtype))
                    continue
                square = square.reshape(*ends.lead, side.sizes[min(a, b)], side.sizes[max(a, b)])
                square = jnp.swapaxes(square, -1, -2).conj() if a > b else square
                row.append(square.reshape(shape).astype(dtype))
            rows.append(row)
        return rows


def _pairs(seeds: Seeds) -> list[tuple[int, int]]:
    return list(itertools.combinations_with_replacement(seeds.numbers, 2))


def _wide(part: Any) -> Any:
    return part.astype(summed_dtype(part.dtype))


def _weighted(part: Any, weight: Any) -> Any:
    """What is in half precision is multiplied in single, which large weights ask for."""
    part = _wide(part)
    return part * weight.astype(jnp.finfo(part.dtype).dtype)


@dataclass(frozen=True)
class _Outer:
    """For each pair of result arrays, the sum of the outer products of what passes bring back: (*lead, a, b)."""

    output: Gram
    ends: Ends
    seeds: Seeds

    def start(self, run: Run, parts: Sequence[Any]) -> list[Any]:
        sizes = [math.prod(self.seeds.result_shape(r)) for r in range(len(parts))]
        places = itertools.combinations_with_replacement(range(len(parts)), 2)
        pairs = zip(places, _pairs(self.seeds), strict=True)
        return [
            sums(parts, (*self.ends.lead, sizes[a], sizes[b]), self.output._dtype(self.ends, *numbers))
            for (a, b), numbers in pairs
        ]

    def add(self, left: Sequence[Any], chunk: Chunk, parts: Sequence[Any]) -> list[Any]:
        left = list(left)
        for passes in by_array(self.seeds, chunk, parts):
            found = [self._flat(passes, r) for r in range(len(parts))]
            for k, (a, b) in enumerate(itertools.combinations_with_replacement(range(len(parts)), 2)):
                # Columns, or rows of which the first is to be the conjugate one.
                first, second = (found[a], found[b].conj()) if self.seeds.forward else (found[a].conj(), found[b])
                if self.output.places is not None:
                    first, second = _weighted(first, self._weight(passes, len(first))), _wide(second)
                # Products of half precision are exact in single.
                left[k] += jnp.einsum("p...a,p...b->...ab", first, second, preferred_element_type=left[k].dtype)
        return left

    def _flat(self, passes: Any, r: int) -> Any:
        """What passes bring back: (passes, *lead, elements); nothing of those that were made before."""
        part = passes.masked(lead_first(passes.parts[r], self.seeds.result_batch_axis(r)))
        # The other side of J may be of a wider type.
        part = part.astype(self.output._dtype(self.ends, self.seeds.numbers[r]))
        return part.reshape(*part.shape[: 1 + len(self.ends.lead)], math.prod(self.seeds.result_shape(r)))

    def _weight(self, passes: Any, width: int) -> Any:
        """Of what passes seed: (passes, *lead, 1)."""
        weight = self.output.weight(self.ends, passes.seeded)
        weight = jax.lax.dynamic_slice_in_dim(weight, passes.start, width, weight.ndim - 1)
        return jnp.moveaxis(weight, -1, 0)[..., None]

    def joined(self, run: Run, pieces: Sequence[Sequence[Any]]) -> list[Any]:
        return folded(self, run, pieces)
