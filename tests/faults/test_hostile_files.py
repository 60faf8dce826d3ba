"""Files that are made to do harm end in the error that is meant for them, in no traceback, and are not waited on."""

from pathlib import Path

import pytest

from tests.faults.fuzz.targets import TARGETS
from tests.faults.hostile_files import CASES, in_place_of_files, seen

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_ends_in_its_error(name: str, tmp_path: Path) -> None:
    assert seen(CASES[name], tmp_path / "f") == CASES[name].expected


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_no_file_is_refused(target: str, tmp_path: Path) -> None:
    found = in_place_of_files(target, tmp_path / "f")
    assert found == dict.fromkeys(found, "typed or harmless")
    assert found
