"""`avkit status` prints the progress of a dataset, and draws it anew in its place with --watch."""

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from typer.testing import CliRunner

from avcli.main import app
from avcli.prepare_output import watch_progress
from avdata.prepare.progress import ActiveRun, Progress


def test_status_prints_the_progress_of_a_dataset(prepared):
    answer = CliRunner().invoke(app, ["status", str(prepared.out), "--watch"])
    assert answer.exit_code == 0, answer.output
    assert f"{prepared.ok} of {prepared.requested} clips committed" in answer.output
    assert "no run works on it" in answer.output
    answer = CliRunner().invoke(app, ["status", str(prepared.out), "--json"])
    assert json.loads(answer.output)["committed"] == {"ok": prepared.ok}


def states(refusal: str = "") -> Iterator[Progress]:
    """Two clips of four, then three, then all and no run."""
    for ended in (2, 3, 4):
        source = {
            "fetched": ended,
            "bytes": 2e6,
            "fetching": 1,
            "stopped": bool(refusal),
            "paused_s": 0.0,
            "refusal": refusal,
        }
        run = ActiveRun(
            pid=7, host="here", started=0.0, updated=2.0, to_do=4, ended={"ok": ended}, sources={"youtube": source}
        )
        yield Progress(
            out=Path("data/x"), requested=4, committed={"ok": ended // 2 * 2}, num_shards=2,
            num_committed_shards=ended // 2, runs=[run] if ended < 4 else [],
        )  # fmt: skip


def watched(found: Iterator[Progress], *, terminal: bool, stopped: threading.Event | None = None) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, height=24)
    watch_progress(lambda: next(found), 0.0, stopped or threading.Event(), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_on_a_terminal_the_progress_is_drawn_in_its_place_until_no_run_is_left():
    told = watched(states(), terminal=True)
    assert told.count("\x1b[2K") > 4  # lines that are drawn again
    assert told.rstrip().split("data/x")[-1].startswith(": 4 of 4 clips committed, 2 of 2 shards")
    assert told.count("run 7 on here: 3 of 4 clips, 1.50/s, less than a second left") == 1


def test_elsewhere_one_state_is_printed_after_the_other():
    told = watched(states(), terminal=False)
    assert "\x1b" not in told
    assert [line for line in told.splitlines() if line.startswith("data/x")] == [
        "data/x: 2 of 4 clips committed, 1 of 2 shards",
        "data/x: 2 of 4 clips committed, 1 of 2 shards",
        "data/x: 4 of 4 clips committed, 2 of 2 shards",
    ]
    assert "  youtube: 2 fetched (2.0 MB), 1 under way" in told


def test_what_a_server_says_cannot_steer_the_terminal():
    told = watched(states("\x1b]0;title\x07gone"), terminal=True)
    assert "stopped: \\x1b]0;title\\x07gone" in told


def test_asked_to_stop_it_ends_after_the_state_that_it_shows():
    stopped = threading.Event()
    stopped.set()
    assert watched(states(), terminal=False, stopped=stopped).count("data/x") == 1
