"""Faults planted one at a time, each of which the tests must catch: `make mutants` says which they do.

    python tests/mutants.py              # all of them, each in a copy of src; some minutes
    python tests/mutants.py tie mode     # those whose names have one of these words

A test that no fault makes fail proves nothing, and a fault that no test catches is the next test to write. The folders
that a fault belongs to run first, then everything that `make test` runs, up to the first failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "jaxobian"
# Of all, so many must be caught.
CAUGHT = 34


@dataclass(frozen=True)
class Mutant:
    """A fault: text of a file replaced by other text, which is in it once.

    Attributes:
        name: what is wrong then.
        file: where, in src/jaxobian.
        right, wrong: the text as it is, and what stands in its place.
        first: the folders of the tests that are about it.
    """

    name: str
    file: str
    right: str
    wrong: str
    first: str

    def source(self) -> str:
        """The file with the fault in it."""
        text = (PACKAGE / self.file).read_text()
        assert text.count(self.right) == 1, (
            f"{self.name}: {self.right!r} is in {self.file} {text.count(self.right)} times"
        )
        return text.replace(self.right, self.wrong)


MUTANTS = [
    Mutant(
        "a tie is composed without its reflection",
        "_analysis/ties/_ties.py",
        "p.sign * q.sign, p.offset",
        "q.sign, p.offset",
        "analysis",
    ),
    Mutant(
        "ties of the second of two paths are dropped",
        "_analysis/ties/_ties.py",
        "    if first == second:\n        return first",
        "    if first != second:\n        return first",
        "analysis",
    ),
    Mutant(
        "a shift keeps its direction when ties are transposed",
        "_analysis/ties/_ties.py",
        "-tie.sign * tie.offset)",
        "tie.offset)",
        "analysis",
    ),
    Mutant(
        "examples that mix are not refused",
        "_analysis/_coupling.py",
        "Line(out_axis, in_axis or 0, 1, 0) in relation",
        "True",
        "api",
    ),
    Mutant(
        "a pattern leaves out a known factor's neighbors",
        "_analysis/pattern/_unions.py",
        "np.count_nonzero(matrix) <= 0.5 * matrix.size",
        "np.count_nonzero(matrix) > 0.5 * matrix.size",
        "analysis planning",
    ),
    Mutant(
        "columns of a color may share a row",
        "_coloring/_distance_two.py",
        "            seen |= taken[row]",
        "            seen = taken[row]",
        "coloring",
    ),
    Mutant(
        "a path of four vertices may have two colors",
        "_coloring/_star.py",
        "                    forbidden.add(colors[x])",
        "                    pass",
        "coloring",
    ),
    Mutant(
        "the last chunk begins where its neighbor ends",
        "_execute/_passes.py",
        "jnp.minimum(k * run.width, run.total - run.width)",
        "k * run.width",
        "execute",
    ),
    Mutant(
        "every run begins with the first seed",
        "_execute/_passes.py",
        "seeds.made(run.first + start, width, like)",
        "seeds.made(start, width, like)",
        "execute",
    ),
    Mutant(
        "what is pulled back is read where what is pushed stands",
        "_execute/_colored.py",
        "values, offset = [flat.astype(dtype)], flat.shape[-1]",
        "values, offset = [flat.astype(dtype)], 0",
        "planning",
    ),
    Mutant(
        "all passes are pushed",
        "_execute/_swept.py",
        "Stage(seeds, partial(linear, forward=seeds.forward), partial",
        "Stage(seeds, partial(linear, forward=True), partial",
        "execute",
    ),
    Mutant(
        "copies of x are not moved to the axis of examples",
        "_execute/_swept.py",
        "jnp.moveaxis(b, 0, a or 0)",
        "b",
        "planning",
    ),
    Mutant(
        "whether y is asked for is left out of the key",
        "_cache.py",
        "(_key(traced), options.request, value, mapped)",
        "(_key(traced), options.request, mapped)",
        "api",
    ),
    Mutant(
        "batch axes are left out of the key",
        "_cache.py",
        "ends.inputs.batch_axes, ends.outputs.batch_axes, traced.device",
        "traced.device",
        "api",
    ),
    Mutant(
        "a number in a program is left out of the key",
        "_trace/_identity.py",
        "return type(value), repr(value)  # -0.0",
        "return type(value)  # -0.0",
        "trace api",
    ),
    Mutant(
        "the slowest candidate is chosen",
        "_planning/_choose.py",
        "best = min(within, key=lambda candidate:",
        "best = max(within, key=lambda candidate:",
        "planning report",
    ),
    Mutant(
        "more passes are taken where the model cannot say",
        "_planning/_choose.py",
        "if slow.passes * _FEWER <= fast.passes:",
        "if slow.passes * _FEWER > fast.passes:",
        "planning report",
    ),
    Mutant(
        "the whole of the free memory is the budget",
        "_budget.py",
        "Budget(free // 2, free, False)",
        "Budget(free, free, False)",
        "cost",
    ),
    Mutant(
        "a batch axis is always the first",
        "_call/_batch.py",
        'found.append(axis_of(axis, leaf, path, "in_axes"))',
        "found.append(0)",
        "api",
    ),
    Mutant(
        "the input tree is outside",
        "_call/_layout.py",
        "return trees[0] if self.bare else trees",
        "return trees",
        "api",
    ),
    Mutant(
        "integers are counted as differentiated leaves",
        "_call/_arguments.py",
        "slots.append(None if array is None else len(leaves))",
        "slots.append(None if array is None else len(slots))",
        "api call",
    ),
    Mutant(
        "of the windows of a maximum the smallest element wins",
        "_rewrite/_pooling.py",
        'padded = self.padded(x, -np.inf if select.name == "ge" else np.inf)',
        'padded = self.padded(x, np.inf if select.name == "ge" else -np.inf)',
        "rewrite",
    ),
    Mutant(
        "a product of few rows contracts its first axes",
        "_rewrite/_skinny.py",
        "flat = rows.transpose(*free, *ours).reshape(-1, depth)",
        "flat = rows.reshape(-1, depth)",
        "rewrite",
    ),
    Mutant(
        "segments are multiplied in the order that costs most",
        "_planning/mixed/_brackets.py",
        "            return min(offers, key=itemgetter(0))",
        "            return max(offers, key=itemgetter(0))",
        "planning",
    ),
    Mutant(
        "cross terms of two ways are counted once in squared norms",
        "_planning/network/_closed.py",
        "times=1.0 if a == b else 2.0",
        "times=1.0",
        "planning",
    ),
    Mutant(
        "squares of terms that cancel are made one by one",
        "_planning/network/_closed.py",
        "terms[a].scale * terms[b].scale < 0 and",
        "terms[a].scale * terms[b].scale < -9 and",
        "planning",
    ),
    Mutant(
        "a product whose sides meet is taken for two halves",
        "_planning/network/_order.py",
        "            if side.get(letter, True) is False:",
        "            if side.get(letter, True) is None:",
        "planning",
    ),
    Mutant(
        "windows of axes of different sizes are taken for each other",
        "_planning/network/_terms.py",
        "range(start, start + stride * m, stride), n))",
        "range(start, start + stride * m, stride), 0))",
        "planning",
    ),
    Mutant(
        "what a window leaves out is summed as often as it is there",
        "_planning/network/_closed.py",
        " and k not in output and k not in behind]",
        " and k not in output]",
        "planning",
    ),
    Mutant(
        "a loop keeps in its steps what depends on the step before",
        "_planning/network/_loops.py",
        "if any(v in touched for v in read) or e.effects:",
        "if any(v in carried for v in read) or e.effects:",
        "planning",
    ),
    Mutant(
        "of a Gram matrix the mirrored half is not conjugated",
        "_outputs/_gram.py",
        "jnp.swapaxes(square, -1, -2).conj() if a > b else square",
        "jnp.swapaxes(square, -1, -2) if a > b else square",
        "whole",
    ),
    Mutant(
        "nonzeros of different examples meet",
        "_outputs/_products.py",
        "ours, theirs = left.example * size + left.met, right.example * size + right.met",
        "ours, theirs = left.met, right.met",
        "whole",
    ),
    Mutant(
        "a triangular form has no sign",
        "_coloring/_triangular.py",
        "Triangular(blocks, permutation_sign(row_of) if width else 1)",
        "Triangular(blocks, 1)",
        "whole/test_slogdet.py",
    ),
    Mutant(
        "the lemma does not know in which order the rows are",
        "_planning/mixed/_determinant.py",
        "sign * permutation_sign(order)",
        "sign",
        "whole/test_slogdet.py",
    ),
    Mutant(
        "the lemma divides by zeros",
        "_planning/mixed/_determinant.py",
        "jnp.min(jnp.abs(D), -1) > _SMALL * most",
        "most >= 0",
        "whole/test_slogdet.py",
    ),
]


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether no test that `make test` runs fails of a fault."""
    source = folder / "src"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    (source / "jaxobian" / mutant.file).write_text(mutant.source())
    paths = os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")])
    first = [str(ROOT / "tests" / name) for name in mutant.first.split()]
    for where in (first, [str(ROOT / "tests")]):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-m",
            "not slow and not devices",
            "-p",
            "no:cacheprovider",
        ]
        command += ["-n", os.environ.get("WORKERS", "2"), *where]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False
        )
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if done.returncode in (1, 2) and failed:  # 2: the first failure stopped the other processes
            print(f"  by {failed.group(1)}", flush=True)
            return False
        if done.returncode != 0:
            raise SystemExit(f"the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return True


def main(words: list[str]) -> None:
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    caught = 0
    for mutant in chosen:
        print(mutant.name, flush=True)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            survived = survives(mutant, Path(folder))
        caught += not survived
        print(f"  {'SURVIVED' if survived else 'caught'} in {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{caught} of {len(chosen)} caught")
    if caught < len(chosen) + CAUGHT - len(MUTANTS):
        raise SystemExit("too few")


if __name__ == "__main__":
    main(sys.argv[1:])
