"""Who may write into a run's folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from avmanifest.errors import ConfigError, StorageError
from avmanifest.files import unfinished_path
from avmodel.metrics import METRICS
from avmodel.rundir import CONFIG_FILE, as_json, start_run
from tests.runs import tiny_run

RUN = tiny_run()


def test_a_run_begins_in_a_new_or_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/deeper"):
        start_run(tmp_path / name, RUN, resume=False)
        stored = json.loads((tmp_path / name / CONFIG_FILE).read_text())
        assert stored == as_json(RUN)
        assert stored["model.audio_size"] == [128, 48]


def test_a_folder_with_a_run_wants_resume_and_one_without_cannot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run to resume\. Leave --resume out"):
        start_run(tmp_path / "run", RUN, resume=True)
    assert not (tmp_path / "run").exists()
    start_run(tmp_path / "run", RUN, resume=False)
    (tmp_path / "run" / METRICS).write_text("")
    with pytest.raises(ConfigError, match=r"holds a run already\. --resume goes on with it"):
        start_run(tmp_path / "run", RUN, resume=False)
    start_run(tmp_path / "run", RUN, resume=True)


def test_what_is_no_run_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"not empty and not a run"):
        start_run(tmp_path, RUN, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_came_to_no_step_may_begin_with_another_config(tmp_path: Path) -> None:
    start_run(tmp_path, replace(RUN, image_weights="missing.pth"), resume=False)
    start_run(tmp_path, RUN, resume=False)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == as_json(RUN)


def test_a_run_killed_before_its_config_was_whole_begins_again(tmp_path: Path) -> None:
    unfinished_path(tmp_path / CONFIG_FILE).write_text('{"na')
    start_run(tmp_path, RUN, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIG_FILE]


def test_a_setting_that_the_run_was_begun_without_counts_as_its_default(tmp_path: Path) -> None:
    start_run(tmp_path, RUN, resume=False)
    (tmp_path / METRICS).write_text("")
    stored = as_json(RUN)
    del stored["optim.clip_grad"], stored["data.max_gain_db"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"another config: optim\.clip_grad: None -> 1\.0\. Resume"):
        start_run(tmp_path, replace(RUN, optim=replace(RUN.optim, clip_grad=1.0)), resume=True)
    start_run(tmp_path, RUN, resume=True)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == as_json(RUN)


def test_another_config_is_refused_with_every_difference(tmp_path: Path) -> None:
    start_run(tmp_path, RUN, resume=False)
    other = replace(RUN, seed=7, model=replace(RUN.model, fusion="token"))
    with pytest.raises(ConfigError) as refused:
        start_run(tmp_path, other, resume=True)
    assert "another config: model.fusion: factorized -> token; seed: 0 -> 7. Resume with" in str(refused.value)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == as_json(RUN)


def test_a_setting_that_this_version_does_not_know_is_a_difference(tmp_path: Path) -> None:
    start_run(tmp_path, RUN, resume=False)
    stored = json.loads((tmp_path / CONFIG_FILE).read_text())
    del stored["steps"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**stored, "momentum": 1}))
    with pytest.raises(ConfigError) as refused:
        start_run(tmp_path, RUN, resume=True)
    assert "momentum: 1 -> (absent)" in str(refused.value)
    assert "steps: None -> 6" in str(refused.value)


def test_how_a_run_is_carried_out_may_change(tmp_path: Path) -> None:
    start_run(tmp_path, RUN, resume=False)
    data = replace(
        RUN.data, num_workers=3, cache_dir="elsewhere", skip_bad=True, max_bad_share=0.5, exclude_keys=("a",)
    )
    other = replace(RUN, save_every=7, device="cuda", data=data)
    start_run(tmp_path, other, resume=True)
    assert json.loads((tmp_path / CONFIG_FILE).read_text()) == as_json(other)


@pytest.mark.parametrize(("text", "said"), [("{", "not valid JSON"), ("[]", "a JSON list, expected an object")])
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(ConfigError, match=said):
        start_run(tmp_path, RUN, resume=True)


def test_a_place_that_takes_no_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"run: cannot be written \(Not a directory\)"):
        start_run(tmp_path / "file" / "run", RUN, resume=False)
