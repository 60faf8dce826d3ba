"""Trackers: a run has an id of its own, goes on under it, and outlives a tracker that fails."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avdata.prepare.config import PrepareConfig
from avdata.prepare.report import SilentListener
from avdata.prepare.tracked import TrackedListener, tracked
from avdata.tracking import WANDB_RUN, TrackedRun, Tracker, start_trackers
from avmanifest.errors import ConfigError
from avmanifest.recipe import load_recipe
from avmodel.configs.run import RunConfig
from tests.trackers import FakeImage, FakeTracker, fake_tracker
from tests.videos import Notes, synth_config


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    return fake_tracker(monkeypatch, "wandb")


@pytest.fixture
def trackio(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    return fake_tracker(monkeypatch, "trackio")


def start(folder: Path, *, resumed: bool = False, say: Any = print, **how: Any) -> list[Tracker]:
    folder.mkdir(parents=True, exist_ok=True)
    run = TrackedRun(**{"wandb_project": "mine"} | how)
    return start_trackers(run, folder.name, {"seed": 1}, folder=folder, resumed=resumed, say=say)


def test_runs_of_one_name_are_runs_of_their_own_and_a_resumed_one_goes_on(tmp_path: Path, wandb: FakeTracker) -> None:
    folders = [tmp_path / "a" / "first", tmp_path / "b" / "first"]
    for folder in folders:
        start(folder)
    start(folders[0], resumed=True)
    start(folders[0])  # begun again
    ids = [given["id"] for given in wandb.started]
    assert ids[2] == ids[0]
    assert len(set(ids)) == 3
    assert {given["name"] for given in wandb.started} == {"first"}
    assert {given["resume"] for given in wandb.started} == {"allow"}
    assert json.loads((folders[0] / WANDB_RUN).read_text()) == {"id": ids[3]}


def test_a_resumed_run_does_as_wandb_resume_says(tmp_path: Path, wandb: FakeTracker) -> None:
    start(tmp_path / "run")
    for resume in ("must", "never", "allow"):
        start(tmp_path / "run", resumed=True, resume=resume)
    first, must, never, allow = wandb.started
    assert (must["id"], must["resume"]) == (first["id"], "must")
    assert (never["id"] == first["id"], never["resume"]) == (False, "allow")
    assert (allow["id"], allow["resume"]) == (never["id"], "allow")
    start(tmp_path / "other", resume="must")  # a run that begins has nothing to go on with
    assert wandb.started[-1]["resume"] == "allow"


def test_a_run_of_an_earlier_version_goes_on_under_its_id(tmp_path: Path, wandb: FakeTracker) -> None:
    (tmp_path / "old" / "wandb").mkdir(parents=True)
    start(tmp_path / "old", resumed=True)
    start(tmp_path / "plain", resumed=True)  # it did not log there before
    assert wandb.started[0]["id"] == "old"
    assert wandb.started[1]["id"] != "plain"


def test_name_group_and_tags_are_given(tmp_path: Path, wandb: FakeTracker, trackio: FakeTracker) -> None:
    start(tmp_path / "run", name="base", group="ablation", tags=("small", "vgg"), trackio_project="here")
    given = wandb.started[0]
    assert (given["project"], given["name"], given["group"]) == ("mine", "base", "ablation")
    assert (given["tags"], given["config"]) == (["small", "vgg"], {"seed": 1})
    other = trackio.started[0]
    assert (other["project"], other["group"]) == ("here", "ablation")
    # trackio finds a run by its name, so the name has the id.
    assert other["name"] == f"base-{given['id']}"
    assert other["config"] == {"seed": 1, "tags": ["small", "vgg"]}
    assert not {"id", "tags", "dir"} & other.keys()


def test_numbers_pictures_and_the_end_go_to_both(
    tmp_path: Path, wandb: FakeTracker, trackio: FakeTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    for tracker in start(tmp_path / "run", trackio_project="here"):
        tracker.log({"train/loss": 2.0}, 3)
        tracker.picture("pictures/reconstruction", tmp_path / "a.png", 3)
        tracker.finish(failed=True)
    for found in (wandb, trackio):
        assert found.logged == [
            (3, {"train/loss": 2.0}),
            (3, {"pictures/reconstruction": FakeImage(str(tmp_path / "a.png"))}),
        ]
    assert (wandb.finished, trackio.finished) == ([{"exit_code": 1}], [{}])
    told = capsys.readouterr()
    assert told.out == ""  # which may be JSON
    assert "* trackio begins" in told.err


def test_a_tracker_that_fails_is_said_once_and_ends_no_run(tmp_path: Path, wandb: FakeTracker) -> None:
    notes: list[str] = []
    (tracker,) = start(tmp_path / "run", say=notes.append)
    wandb.fails = True
    for step in range(3):
        tracker.log({"loss": 1.0}, step)
    tracker.finish(failed=False)
    assert notes == ["wandb: logging failed (ConnectionError: no network); no more is logged"]


def test_a_tracker_that_does_not_begin_is_refused_with_its_reason(tmp_path: Path, wandb: FakeTracker) -> None:
    wandb.refuses = True
    with pytest.raises(ConfigError, match=r"wandb_project='mine': wandb does not begin .*not logged in.* Log in, or"):
        start(tmp_path / "run")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_without_the_package_the_extra_is_named(tmp_path: Path, name: str) -> None:
    run = TrackedRun(**{f"{name}_project": "mine"})
    with pytest.raises(
        ConfigError, match=rf"{name}_project='mine': the package {name} .*pip install 'avkit\[{name}\]'"
    ):
        start_trackers(run, "run", {}, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    config = synth_config(tmp_path / "out", **{f"{name}_project": "mine"})
    with pytest.raises(ConfigError, match=rf"the package {name} is not installed"), tracked(config, SilentListener()):
        pass


@pytest.mark.parametrize("content", [b"{}", b'{"id": 5}', b"[1]", b"\xff", b'{"id": ""}'])
def test_a_damaged_id_is_refused_with_its_file(tmp_path: Path, wandb: FakeTracker, content: bytes) -> None:
    (tmp_path / WANDB_RUN).write_bytes(content)
    with pytest.raises(ConfigError, match=r"wandb-run\.json: .*Remove it to log to a new run"):
        start(tmp_path, resumed=True)
    assert not wandb.started


@pytest.mark.parametrize(
    "setting", [{"wandb_group": "a"}, {"wandb_tags": ("a", "b")}, {"wandb_name": "a"}, {"wandb_resume": "must"}]
)
def test_settings_of_a_run_without_a_project_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"wandb_\w+=\w.*: wandb_project is none and trackio_project is none"):
        RunConfig(name="run", **setting)
    RunConfig(name="run", wandb_project="mine", **setting)
    RunConfig(name="run", trackio_project="mine", **setting)
    if "wandb_resume" not in setting:
        with pytest.raises(ConfigError, match="wandb_project is none"):
            PrepareConfig(recipe=load_recipe("synth"), out=Path("o"), **setting)


def test_prepare_logs_statuses_speed_and_time_left(tmp_path: Path, wandb: FakeTracker) -> None:
    source = "https://me:hunter2@host/{id}.mp4?token=hunter2"
    config = PrepareConfig(
        recipe=load_recipe("vggsound"), out=tmp_path / "out", sources=(source,), wandb_project="mine", wandb_tags=("a",)
    )
    notes = Notes()
    with tracked(config, notes) as listener:
        assert not wandb.started  # nothing is begun there before the run is accepted
        assert isinstance(listener, TrackedListener)
        listener.planned(pa.table({"key": ["a", "b", "c"]}), 3)
        listener.shards(0, 2)
        for status in ("ok", "ok", "media_short"):
            listener.clip_ended(status)
        listener.shards(1, 2)
        listener.note("a note")
    assert (notes.statuses, notes.notes, notes.num_planned) == (["ok", "ok", "media_short"], ["a note"], 3)
    (given,) = wandb.started
    assert (given["name"], given["project"], given["tags"]) == ("out", "mine", ["a"])
    assert given["config"]["recipe"] == "vggsound"
    assert "hunter2" not in str(given)
    ((step, values),) = wandb.logged
    assert step == 3
    assert (values["clips"], values["shards"], values["eta_s"]) == (3, 1, 0)
    assert (values["status/ok"], values["status/media_short"]) == (2, 1)
    assert values["clips_per_s"] > 0
    assert wandb.finished == [{"exit_code": 0}]


def test_prepare_logs_as_often_as_it_is_told(wandb: FakeTracker, tmp_path: Path) -> None:
    started = start(tmp_path / "run")
    listener = TrackedListener(SilentListener(), lambda: started, every_s=0.0)
    listener.planned(pa.table({}), 2)
    listener.clip_ended("ok")
    listener.clip_ended("net_dns")
    listener.end(failed=True)
    assert [step for step, _ in wandb.logged] == [1, 2]
    assert wandb.finished == [{"exit_code": 1}]
