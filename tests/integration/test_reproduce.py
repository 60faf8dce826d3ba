"""`avkit reproduce` as a user types it: a row of a table from drawn videos to the table, stopped and resumed."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avcli.reproduce import launched
from avmanifest.errors import ConfigError
from tests.forks import avkit, call


def test_the_list_has_every_row_and_reason() -> None:
    answer = CliRunner().invoke(app, ["reproduce", "deepavfusion", "--list", "--table", "2"])
    assert answer.exit_code == 0
    assert "table 2: Segmentation on AVSBench" in answer.stdout
    assert "  DeepAVFusion:  89.94  92.34  52.05  58.29\n" in answer.stdout
    assert "  LAVISH:  80.1  -  -  -\n    not run: A method of another paper" in answer.stdout


def test_a_dry_run_shows_the_commands_and_runs_nothing(tmp_path: Path) -> None:
    words = [
        "reproduce",
        "deepavfusion",
        "--table",
        "5",
        "--row",
        "late fusion",
        "--dry-run",
        "--out",
        str(tmp_path / "o"),
    ]
    answer = CliRunner().invoke(app, words)
    assert answer.exit_code == 0
    commands = answer.stdout.splitlines()
    assert [command.split()[:2] for command in commands] == [
        ["avkit", "prepare"], ["avkit", "pretrain"], *[["avkit", "evaluate"]] * 3,
    ]  # fmt: skip
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "vggsound"], "--data 'vggsound': give NAME=PATH"),
        (["--table", "9"], "deepavfusion has no table '9'"),
        (["--scale", "paper"], "deepavfusion at the scale paper lacks:"),
        (["--launch", "'"], "not a command line"),
    ],
)
def test_misuse_is_refused(more: list[str], message: str, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["reproduce", "deepavfusion", "--out", str(tmp_path / "o"), *more])
    assert isinstance(answer.exception, ConfigError)
    assert message in str(answer.exception)
    assert not (tmp_path / "o").exists()


def test_a_launcher_gets_the_words_and_its_output_is_kept(tmp_path: Path) -> None:
    script = tmp_path / "launcher.py"
    script.write_text("import sys\nprint(*sys.argv[1:])\nsys.exit(3)\n")
    execute = launched(f"{sys.executable} '{script}' --nproc 8")
    assert execute(("pretrain", "demo"), tmp_path / "printed") == 3
    assert (tmp_path / "printed").read_text() == "--nproc 8 pretrain demo\n"
    with pytest.raises(ConfigError, match=r"--launch 'no-such-program': cannot be started \(No such file"):
        launched("no-such-program")(("pretrain", "demo"), tmp_path / "printed")


def test_a_launched_command_ends_with_this_one(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = tmp_path / "launcher.py"
    script.write_text(f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    code = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from avcli.reproduce import launched\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "launched(sys.argv[1])(('pretrain', 'demo'), Path(sys.argv[2]))\n"
    )
    words = [sys.executable, "-c", code, f"{sys.executable} {script}", tmp_path / "printed"]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.05)
        process.terminate()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.slow
def test_a_row_goes_from_drawn_videos_to_the_papers_table(tmp_path: Path) -> None:
    words = ["reproduce", "deepavfusion", "--table", "figure 3", "--out", tmp_path / "o"]
    assert call(avkit, *words, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    folder = tmp_path / "o" / "deepavfusion"
    results = folder / "runs" / "deepavfusion" / "evaluations" / "neighbors" / "results.json"
    found = json.loads(results.read_text())
    text = (folder / "table-figure-3.md").read_text()
    mean = found["scores"]["fusion"]["map"]["mean"]
    shown = f"{mean:.2f}".rstrip("0").rstrip(".")
    assert re.search(rf"\| 37 \| {re.escape(shown)} [^|]*\(n = {found['data']['test']['samples']}\)[^|]* \|", text)
    assert r"\begin{tabular}{lrrrrrr}" in (folder / "table-figure-3.tex").read_text()
    before = {path: path.stat().st_mtime_ns for path in (results, folder / "runs" / "deepavfusion" / "metrics.jsonl")}
    assert call(avkit, *words, log=tmp_path / "again") == 0
    assert "[1/" not in (tmp_path / "again").read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before
