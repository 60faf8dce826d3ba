import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from avcli.end_card import print_end_card
from avcli.run_summary import print_run
from avmanifest.errors import ManifestError
from avmodel.inspect_run import read_run, run_json, run_report
from tests.runfolder import write_run

SCORE = {"mean": 74.8, "spread": 0.0, "values": [74.8], "n": 480, "interval": [70.9, 78.4]}


def results(difference: float) -> dict[str, Any]:
    """A file of results whose score is so much above random weights."""
    beside = {"mean": difference, "interval": [difference - 5, difference + 5], "within_noise": difference < 5}
    row = {"accuracy": SCORE | {"differences": {"random weights, all": beside}}}
    return {
        "headline": {"row": "all", "metric": "accuracy"},
        "scores": {"all": row},
        "baselines": {"random weights, all": {"accuracy": SCORE | {"mean": 74.8 - difference}}},
        "data": {"test": {"samples": 500}},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = write_run(tmp_path / "my run")
    (tmp_path / "set").mkdir()
    parts = [{"name": str(tmp_path / "set"), "samples": 1920}, {"name": "https://host/{0..9}.tar", "samples": 1}]
    (folder / "data.json").write_text(json.dumps({"parts": parts}))
    (folder / "evaluations" / "linear-probe").mkdir(parents=True)
    (folder / "evaluations" / "linear-probe" / "results.json").write_text(json.dumps(results(23.3)))
    line = {"step": 40, "all": 41.2, "chance": 12.5, "n": 300, "intervals": {"all": [36.0, 46.4]}}
    with (folder / "probe.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    return folder


def card(folder: Path) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_end_card(read_run(folder), folder.parent / "page.html", console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_card_has_what_was_made_the_page_and_commands_that_a_shell_takes(run: Path) -> None:
    text = card(run)
    data = run.parent / "set"
    assert f"data    {data}: 1,920 training samples\n" in text
    assert "https://host/{0..9}.tar: 1 training sample\n" in text
    assert f"run     {run}: <i>demo</i>, step 40 of 50, checkpoints/step-00000040\n" in text
    assert (
        "scores  linear-probe: accuracy of all 74.8 [70.90, 78.40] (n = 480); random weights, all: 51.5 [70.90, 78.40] "
        "(n = 480); difference +23.3 [+18.3, +28.3]\n"
    ) in text
    assert f"open\n  {run.parent / 'page.html'} in a browser\n" in text
    assert f"avkit pretrain '<i>demo</i>' --data {data} --out '{run}' --resume\n" in text
    assert f"avkit apply '{run}' YOUR_VIDEO.mp4 --task embed --out embedded\n" in text


def test_a_finished_run_is_looked_at_and_evaluated_next(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"steps": 40}))
    (run / "evaluations" / "linear-probe" / "results.json").write_text(json.dumps(results(2.0)))
    text = card(run)
    data = run.parent / "set"
    assert f"  avkit inspect {data} --html {run.parent / 'page-data.html'}\n" in text
    assert f"  avkit evaluate knn '{run}' --data {data}\n" in text
    assert "difference +2.0 [-3.0, +7.0], within noise\n" in text
    (run / "evaluations" / "linear-probe" / "results.json").unlink()
    (run / "evaluations" / "linear-probe").rmdir()
    assert f"  avkit evaluate linear-probe '{run}' --data {data} --preset small\n" in card(run)


@pytest.mark.parametrize("parts", [[1], [{"name": "x"}], [{"name": "x", "samples": "many"}]])
def test_a_damaged_list_of_data_is_named(run: Path, parts: list[Any]) -> None:
    (run / "data.json").write_text(json.dumps({"parts": parts}))
    with pytest.raises(ManifestError, match="no list of datasets"):
        card(run)


def test_the_summary_page_and_json_have_n_and_intervals(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "evaluations" / "linear-probe" / "results.json").write_text(json.dumps(results(2.0)))
    found = read_run(run)
    print_run(found)
    printed = " ".join(capsys.readouterr().out.split())
    assert "nearest neighbors, last probe all 41.2 [36.00, 46.40] (n = 300)" in printed
    assert "74.8 [70.90, 78.40] (n = 480), within noise of random weights, all" in printed
    page = run_report(found)
    assert "[36.0, 46.4], n = 300, best 50.0 %" in page
    assert "74.8 [70.90, 78.40] (n = 480), within noise of random weights, all" in page
    plain = run_json(found)
    assert plain["probed"]["intervals"] == {"all": [36.0, 46.4]}
    assert plain["scores"][0]["within_noise"] == ["random weights, all"] and plain["scores"][0]["n"] == 480


def test_a_probe_of_an_earlier_version_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_run(read_run(write_run(tmp_path / "old")))
    assert " ".join(capsys.readouterr().out.split()).count("nearest neighbors, last probe all 50") == 1


@pytest.mark.parametrize("intervals", [3, {"all": "ab"}, {"all": [1, 2, 3]}, {"all": ["x", "y"]}])
def test_a_damaged_interval_is_named(tmp_path: Path, intervals: object) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "probe.jsonl").open("a") as log:
        log.write(json.dumps({"step": 40, "all": 1.0, "intervals": intervals}) + "\n")
    with pytest.raises(ManifestError, match=r"probe\.jsonl: its last line has no score of 'all'"):
        print_run(read_run(folder))
