"""A short turn of the fuzzer in every run of the tests; `make fuzz HOURS=1` takes a long one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fuzz.runner import Fuzzer
from tests.faults.fuzz.targets import TARGETS, Target

SEED = 20_261
MUTANTS = 12  # of each target


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with Fuzzer() as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_mutants_are_refused_with_a_typed_error_or_do_no_harm(fuzzer: Fuzzer, target: str) -> None:
    for seed in range(SEED, SEED + MUTANTS):
        outcome = fuzzer.run(target, seed)
        assert not outcome.is_finding, f"{target}, seed {seed}: {outcome.change}: {outcome.kind}\n{outcome.detail}"


def _nothing(folder: Path) -> None:
    (folder / "a.bin").write_bytes(b"abc")


def _raises(error: Exception) -> Target:
    def read(folder: Path) -> object:
        if (folder / "a.bin").read_bytes() != b"abc":
            raise error
        return 1

    return Target(make=_nothing, read=read)
