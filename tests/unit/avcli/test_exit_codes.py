"""The table of exit codes stands in one place; --help and docs/exit-codes.md show it."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import after_stop, app
from avmanifest import errors
from avmanifest.errors import AvkitError, ExitCode

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "exit-codes.md"
TABLE = {code.value: code.meaning for code in ExitCode}


def test_help_shows_the_table() -> None:
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    rows = re.findall(r"^ +(\d)  (.+?) *$", said.partition("Exit codes:")[2], re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == TABLE


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (("prepare", "folder"), "Run the same command again to continue."),
        (("dataset", "remove"), "Run the same command again to continue."),
        (("pretrain", "demo"), "Run the same command with --resume to continue after the last checkpoint."),
        (("apply", "runs/prepare"), "The same command begins anew."),
        ((), "The same command begins anew."),
    ],
)
def test_a_stopped_command_says_whether_it_goes_on(words: tuple[str, ...], advice: str) -> None:
    assert after_stop(words) == advice


def test_the_page_shows_the_table() -> None:
    rows = re.findall(r"^\| (\d) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == TABLE


def test_only_the_base_class_stands_for_a_bug() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AvkitError)]
    assert len(kinds) > 8
    assert {kind for kind in kinds if kind.exit_code is ExitCode.BUG} == {AvkitError}


def test_only_benchmarks_raise_the_base_class() -> None:
    sources = [p for top in ("avdata", "avkit", "avmodel", "cli", "manifests") for p in (ROOT / top).rglob("*.py")]
    assert len(sources) > 200
    raising = {path.name for path in sources if "raise AvkitError(" in path.read_text()}
    assert raising == {"bench.py", "bench_sources.py"}  # what they drew themselves did not work: a bug
