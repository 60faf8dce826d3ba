"""What `avkit prepare` prints at its end."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from avcli.prepare_output import print_report
from avdata.prepare.report import PrepareReport


@pytest.mark.parametrize(
    ("ok", "pending", "last"),
    [
        (3, 0, "look: avkit inspect 'data/my [b]clips[/b]'"),
        (0, 0, "0 of 4 clips are samples"),
        (3, 1, "3 of 4 clips are samples"),  # the manifest is not whole yet
    ],
)
def test_the_last_line_names_the_command_that_shows_the_samples(ok: int, pending: int, last: str) -> None:
    splits = {"train": {"ok": ok, "requested": 4}}
    out = Path("data/my [b]clips[/b]")
    report = PrepareReport(
        out=out,
        recipe="folder",
        plan_hash="0" * 16,
        requested=4,
        ok=ok,
        statuses={"ok": ok},
        splits=splits,
        sources={},
        pending=pending,
        num_shards=1,
        min_success=0.0,
    )
    console = Console(file=io.StringIO(), width=80)
    print_report(report, console=console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[-1].startswith(last)
