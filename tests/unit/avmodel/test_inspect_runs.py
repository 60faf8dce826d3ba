"""Runs beside each other: settings that differ, scores with their intervals, and misuse."""

import json

import pytest

from avcli.run_summary import print_comparison
from avmanifest.errors import ConfigError, ManifestError
from avmodel.inspect_run import read_run, run_report
from avmodel.inspect_runs import ABSENT, compare_runs, comparison_json, comparison_page
from avmodel.run_scores import read_scores
from tests.runfolder import write_run

HOSTILE = "</script><img src=x onerror=alert(1)>"


def write_result(folder, task="linear-probe", **changes):
    score = {"mean": 41.0, "spread": 0.0, "values": [41.0], "interval": [39.5, 42.5]}
    seeds = {"mean": 30.0, "spread": 1.5, "values": [29.0, 31.0]}
    result = {
        "headline": {"row": "fusion", "metric": "top1"},
        "scores": {"image": {"top1": seeds}, "fusion": {"top1": score, "mAP": {**score, "mean": None}}},
        "data": {"test": {"samples": 300}},
    }
    path = folder / "evaluations" / task / "results.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result | changes))


@pytest.fixture
def folders(tmp_path):
    found = [write_run(tmp_path / name) for name in ("a", "b")]
    config = json.loads((found[1] / "config.json").read_text())
    (found[1] / "config.json").write_text(json.dumps(config | {"optim.lr": 5e-4, "new": [1, 2], HOSTILE: HOSTILE}))
    write_result(found[0])
    return found


def test_what_differs_is_told(folders):
    known = comparison_json(compare_runs(folders))
    assert known["differ"] == {"optim.lr": [1e-3, 5e-4], "new": [ABSENT, [1, 2]], HOSTILE: [ABSENT, HOSTILE]}
    first, *others = known["scores"]
    assert (first["row"], first["runs"][1]) == ("fusion", None)
    assert first["runs"][0] == {
        "task": "linear-probe", "row": "fusion", "metric": "top1",
        "mean": 41.0, "spread": None, "interval": [39.5, 42.5], "n": 300, "within_noise": [],
        "test": None,
    }  # fmt: skip
    assert [(one["row"], one["runs"][0]["mean"], one["runs"][0]["spread"]) for one in others] == [
        ("image", 30.0, 1.5),
        ("fusion", None, None),
    ]


def test_the_page_has_losses_over_each_other_and_escapes_text(folders):
    page = comparison_page(compare_runs(folders))
    assert page.count('class="line l1"') == page.count('class="line l0"') == 4
    assert "[39.50, 42.50] (n = 300)" in page
    assert "<img" not in page
    same = comparison_page(compare_runs([folders[0], write_run(folders[0].parent / "c")]))
    assert "The runs have the same settings." in same


def test_other_training_data_are_told(folders):
    for folder, subset in zip(folders, ("01ab", "01ac"), strict=True):
        part = {"name": "clips", "subset_id": subset, "samples": 7}
        (folder / "data.json").write_text(json.dumps({"parts": [part]}))
    assert compare_runs(folders).settings["training data"] == [
        ["clips: 7 samples, subset 01ab"], ["clips: 7 samples, subset 01ac"],
    ]  # fmt: skip


def test_scores_of_other_clips_do_not_compare(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    def tested(name, task, **test):
        write_result(tmp_path / name, task, data={"test": {"samples": 300, "split": "x/test", **test}})

    other = write_run(tmp_path / "other")
    for task, subset in (("knn", "01ab"), ("retrieval", "01ab")):
        tested("a", task, subset_id="01ab")
        tested("other", task, subset_id=subset, **({"where": "not silent"} if task == "knn" else {}))
    found = compare_runs([folders[0], other])
    assert found.tests == {"knn": ["x/test, subset 01ab", "x/test, subset 01ab where 'not silent'"]}
    assert comparison_json(found)["other_tests"] == found.tests
    assert "not comparable, tested on" in comparison_page(found)
    print_comparison(found)
    assert capsys.readouterr().out.count("knn not comparable, tested on") == 1


def test_the_page_of_one_run_has_its_scores(folders):
    assert "[39.50, 42.50] (n = 300)" in run_report(read_run(folders[0]))


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = [write_run(tmp_path / place / "first") for place in ("x", "y")]
    assert compare_runs(folders).names == tuple(map(str, folders))


def test_misuse_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="named twice"):
        compare_runs([folders[0], folders[0] / "."])
    with pytest.raises(ConfigError, match="at most 8"):
        compare_runs([tmp_path / str(number) for number in range(9)])


@pytest.mark.parametrize("change", [{"scores": 3}, {"headline": None}, {"scores": {"a": {"b": {"mean": "x"}}}}])
def test_results_of_another_form_are_refused(change, tmp_path):
    write_result(tmp_path, **change)
    with pytest.raises(ManifestError, match="not a file of results"):
        read_scores(tmp_path)
