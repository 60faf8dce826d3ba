"""The list of failed clips: what comes from outside can neither steer a terminal nor become a formula."""

import csv
import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from avcli.failed_output import failed_lines, print_failed, print_failed_csv
from avcli.main import app
from avmanifest.errors import ConfigError
from avmanifest.failures import FailedClip

HOSTILE = FailedClip(
    key="k", split="train", video_id="=HYPERLINK(0)", status="net_http",
    reason="\x1b[31m[bold]red[/bold]\x07\r\n\u202e https://me:hunter2@host/a",
)  # fmt: skip


def test_a_line_has_no_control_characters_no_markup_and_no_secrets() -> None:
    console = Console(file=io.StringIO(), width=60)
    for line in failed_lines([HOSTILE]):
        console.print(line, soft_wrap=True)
    told = console.file.getvalue()
    assert told.count("\n") == 1
    assert told.rstrip("\n").isprintable()
    assert "[bold]red[/bold]" in told
    assert "hunter2" not in told


def test_the_clips_are_followed_by_what_to_do_about_each_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    others = [FailedClip(f"{number}", "train", "v", "media_corrupt", "damaged") for number in range(2)]
    unknown = FailedClip("u", "train", "v", "of_a_later_version", "?")
    print_failed([HOSTILE, *others, unknown], 9, "data")
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "media_corrupt 2 Replace the file by a whole one, or fetch it again; then try again." in lines
    assert "net_http 1 Check the address in --source and your access to it, then try again." in lines
    assert "of_a_later_version 1" in lines
    assert lines[-1] == "4 of 9 clips of data failed"


def test_a_cell_is_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    print_failed_csv([HOSTILE])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["video_id"] == "'=HYPERLINK(0)"
    assert row["reason"].isprintable()
    assert "hunter2" not in row["reason"]


@pytest.mark.parametrize(
    "words", [["--csv"], ["--failed", "--csv", "--json"], ["--failed", "--key", "k"], ["--failed", "--verify"]]
)
def test_what_does_not_go_together_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="--failed"):
        CliRunner().invoke(app, ["inspect", "data", *words], catch_exceptions=False)
