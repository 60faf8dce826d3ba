"""The share of one job of an array, given or read from SLURM's variables."""

import pytest

from avdata.prepare.config import Share, slurm_share
from avmanifest.errors import ConfigError


def variables(**values: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("found", "share"),
    [
        (variables(ID=3, MIN=0, COUNT=8), Share(index=3, count=8)),
        (variables(ID=1, MIN=1, COUNT=8), Share(index=0, count=8)),
        (variables(ID=8, MIN=1, COUNT=8), Share(index=7, count=8)),
        (variables(ID=14, MIN=10, COUNT=4, STEP=2), Share(index=2, count=4)),
    ],
)
def test_slurm_arrays_may_start_at_any_number(found, share):
    assert slurm_share(found) == share


def test_without_slurm_variables_the_share_has_to_be_given():
    with pytest.raises(ConfigError, match="needs --task-index and --num-tasks"):
        slurm_share({"SLURM_JOB_ID": "7"})


@pytest.mark.parametrize(
    "found", [variables(ID=9, MIN=1, COUNT=3), variables(ID=3, MIN=0, COUNT=4, STEP=2), variables(ID=0, MIN=1, COUNT=2)]
)
def test_an_array_with_holes_is_refused(found):
    with pytest.raises(ConfigError, match="Give --task-index"):
        slurm_share(found)


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_an_index_outside_of_the_array_is_refused(index, count):
    with pytest.raises(ConfigError, match="counted from 0"):
        Share(index=index, count=count)
