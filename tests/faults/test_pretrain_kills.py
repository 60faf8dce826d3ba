"""Training under kill -9: whatever moment it comes at, the resumed run is the run that was never killed."""

import signal
from pathlib import Path

import pytest

from avmanifest.files import is_unfinished
from tests.forks import call
from tests.pretraining import train_drawn, train_until_killed
from tests.runs import assert_same_run, tiny_run


@pytest.mark.slow
def test_killed_at_touches_of_files_a_run_ends_as_if_it_never_was(tmp_path: Path) -> None:
    run = tiny_run(save_every=2, keep_checkpoints=1)
    log = tmp_path / "log"
    assert call(train_drawn, tmp_path / "straight", run, log=log) == 0, log.read_text()
    out = tmp_path / "run"
    # The first is killed at its first moment, its heir five moments later, until one lives to its end.
    for moment in range(1, 200, 5):
        code = call(train_until_killed, out, run, moment, log=log)
        assert code in (0, -signal.SIGKILL), log.read_text()
        if code == 0:
            break
    assert code == 0
    assert moment > 30
    assert_same_run(out, tmp_path / "straight")
    assert [path.name for path in out.rglob("*") if is_unfinished(path.name)] == []
