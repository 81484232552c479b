"""Random programs made of all that JAX can differentiate, in every mode and format, against JAX run op by op.

By default the same 40 on every run, 8 where no slow test is run, each in the mode that is chosen and in one that is
forced. `make fuzz N=10000` runs as many and writes what came of them to benchmarks/results/ as it goes: one in ten in
every mode and format and judged by JAX op by op, the others by JAX compiled without optimizing. What fails is judged
op by op again, made as short as it can be and printed with its seed; `JAXOBIAN_FUZZ_SEED=17 pytest
tests/whole/test_fuzz.py` runs that one again.
"""

from __future__ import annotations

import copy
import os
import traceback
from pathlib import Path

import jax
import pytest
from fuzz.check import check
from fuzz.program import Program, program
from fuzz.tally import Tally
from oracles import slow_after

pytestmark = pytest.mark.fuzz

ASKED = os.environ.get("JAXOBIAN_FUZZ")
AGAIN = os.environ.get("JAXOBIAN_FUZZ_SEED")
# Seeds of a long run begin here, or where it says; words that are left out, to go on past a defect that is known.
FIRST = int(os.environ.get("JAXOBIAN_FUZZ_FIRST", 1000))
# Whether the record that there is goes on, or a new one is begun.
GOES_ON = bool(os.environ.get("JAXOBIAN_FUZZ_GO_ON"))
WITHOUT = set(os.environ.get("JAXOBIAN_FUZZ_WITHOUT", "").split())
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / f"fuzz-jax-{jax.__version__}.json"
# Of a long run, one program in so many is looked at in every mode, and judged op by op.
THOROUGH = 10
# A compiled program that is kept takes memory, and is looked through ever again.
FORGET = 25


def failure(program: Program, *, all_modes: bool = True) -> str | None:
    """What is wrong with a program's Jacobians, if anything is."""
    try:
        check(program, Tally(), all_modes=all_modes)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return None


def shrunk(program: Program) -> Program:
    """The same program with all left out that it fails without."""
    for shorter in program.shorter():
        if shorter.steps and failure(shorter):
            return shrunk(shorter)
    return program


@pytest.mark.skipif(ASKED is not None or AGAIN is not None, reason="other programs were asked for")
@pytest.mark.parametrize("seed", slow_after(8, range(40)))
def test_random_program(seed: int) -> None:
    check(program(seed), Tally(), all_modes=False)
    if seed % FORGET == FORGET - 1:
        jax.clear_caches()


@pytest.mark.skipif(AGAIN is None, reason="JAXOBIAN_FUZZ_SEED names no program")
def test_one_program_again() -> None:
    again = program(int(AGAIN or 0))
    print(again)
    if failure(again):
        again = shrunk(again)
        print(f"made shorter: {again}")
    check(again, Tally())


@pytest.mark.skipif(ASKED is None, reason="JAXOBIAN_FUZZ does not say how many")
def test_many_random_programs(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally.read(RESULTS) if GOES_ON else Tally()
    before = list(tally.seeds)
    for seed in range(FIRST, FIRST + int(ASKED or 0)):
        tally.seeds = [*before, f"{FIRST} to {seed}"]
        drawn = program(seed)
        if WITHOUT & {step.word for step in drawn.steps}:
            continue
        try:
            _check_quickly(drawn, tally)
        except Exception as error:
            if _is_xla_s_own(error):
                tally.blame("xla", drawn, "not compiled")
                continue
            shortest = shrunk(drawn)
            words = " ".join(step.word for step in shortest.steps)
            tally.failures[str(seed)] = f"{words}: {failure(shortest) or error}"
        tally.write(RESULTS)
        if tally.programs % FORGET == 0:
            jax.clear_caches()
            with capsys.disabled():
                print(tally.programs, end=" ", flush=True)
    with capsys.disabled():
        print(f"\n{tally}")
    assert not tally.failures


def _is_xla_s_own(error: Exception) -> bool:
    """Whether an error says that XLA contradicts itself, as its FFT on CPUs does of the layout that XLA gave it.

    `jax.jit` of `jax.vjp` of such programs fails with the same words.
    """
    return isinstance(error, jax.errors.JaxRuntimeError) and "RET_CHECK failure" in str(error)


def _check_quickly(program: Program, tally: Tally) -> None:
    """As one of many; where it fails, JAX run op by op has the last word."""
    thorough, seen = program.seed % THOROUGH == 0, copy.deepcopy(tally)
    try:
        check(program, tally, all_modes=thorough, eager=thorough)
    except Exception:
        vars(tally).update(vars(seen))
        check(program, tally, all_modes=thorough)


# The fuzz itself ----------------------------------------------------------------------------------------------


def test_a_seed_says_which_program() -> None:
    assert program(5) == program(5)
    assert len({program(seed).steps for seed in range(50)}) == 50


def test_a_record_goes_on(tmp_path: Path) -> None:
    tally = Tally(seeds=["0 to 4"])
    for seed in range(2):
        check(program(seed), tally, all_modes=False)
    tally.failures["3"] = "for instance"
    tally.write(tmp_path / "record.json")
    assert Tally.read(tmp_path / "record.json") == tally


def test_a_wrong_jacobian_is_found_and_made_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    import fuzz.check

    drawn = next(p for p in map(program, range(100)) if p.kind == "real" and not p.needs("fwd") and len(p.steps) > 3)
    right = fuzz.check.by_jax
    monkeypatch.setattr(fuzz.check, "by_jax", lambda *a: jax.tree.map(lambda block: block + 0.5, right(*a)))
    found = failure(drawn, all_modes=False)
    assert found is not None
    # The judge is wrong everywhere: in its values, or by nonzeros where no pattern has any.
    assert any(words in found for words in ("from what JAX says", "not in the pattern"))
