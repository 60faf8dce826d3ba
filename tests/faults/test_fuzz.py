"""A short turn of the fuzzer in every run of the tests; `make fuzz HOURS=1` takes a long one."""

from collections.abc import Iterator

import pytest

from tests.faults.fuzz.known import TARGETS as KNOWN
from tests.faults.fuzz.runner import Fuzzer
from tests.faults.fuzz.targets import TARGETS

SEED = 20_261
MUTANTS = 12  # of each target


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with Fuzzer() as started:
        yield started


@pytest.mark.parametrize("target", TARGETS)
def test_mutants_are_refused_with_a_typed_error_or_do_no_harm(fuzzer: Fuzzer, target: str) -> None:
    for seed in range(SEED, SEED + MUTANTS):
        outcome = fuzzer.run(target, seed)
        assert not outcome.is_finding, f"{target}, seed {seed}: {outcome.change}: {outcome.kind}\n{outcome.detail}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KNOWN)
def test_the_fuzzer_tells_findings_from_refusals(kind: str) -> None:
    with Fuzzer("tests.faults.fuzz.known:TARGETS", deadline_s=1.0) as fuzzer:
        outcome = fuzzer.run(kind, 0)
    assert outcome.kind == kind, outcome
    assert outcome.is_finding == (kind not in ("refused", "harmless"))
