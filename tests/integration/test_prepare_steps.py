"""Steps in a run of prepare: their columns, members and drops, what is recorded, and what a bad one does."""

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from avcli.main import app
from avcli.prepare_output import print_report
from avcli.remedies import advice_for
from avcli.typed import Words
from avdata.prepare.config import ExecutorKind, PrepareConfig, Retry, SampleConfig, Supervision
from avdata.prepare.job import prepare
from avdata.prepare.report import PrepareReport, SilentListener
from avdata.prepare.steps.step import Step
from avdata.shards import walk_samples
from avmanifest.errors import ConfigError
from avmanifest.recipe import load_recipe
from tests.steps import Chance, Light, Odd
from tests.videos import DRAWN


def config_of(out: Path, num_clips: int = 3, num_workers: int = 2, deadline_s: float = 60.0) -> PrepareConfig:
    return PrepareConfig(
        recipe=load_recipe("synth"),
        out=out,
        sample=SampleConfig(num_frames=2, short_side=32),
        synth=replace(DRAWN, num_clips=num_clips),
        supervision=Supervision(num_workers=num_workers, deadline_s=deadline_s, memory_bytes=2 << 30),
    )


def made(out: Path, *steps: Step, **changes: Any) -> PrepareReport:
    return prepare(config_of(out, **changes), steps=steps)


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows = [row for path in (out / "manifest").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: str(row["key"]))


def shard_files(out: Path) -> dict[str, bytes]:
    names = ("dataset.json", "train/00000.tar", "train/00000.parquet", "train/00000_stats.json", "README.md")
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def with_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("steps") / "out"
    report = made(out, Chance(), Light())
    assert report.exit_code == 0
    assert {name: step["clips"] for name, step in report.steps.items()} == {"all frames": 3, "chance": 3, "light": 3}
    return out


def test_columns_and_members_are_in_every_place(with_steps: Path) -> None:
    for row in rows_of(with_steps):
        assert 1 <= row["dice"] <= 6
        assert 0 < row["light"] < 1
        assert row["num_video_frames"] == 32
        assert row["members"][-1]["name"] == "chance.npy"
    tar = with_steps / "train" / "00000.tar"
    for _, _, members in walk_samples(tar):
        by_name = {member.name: member for member in members}
        with tar.open("rb") as file:
            file.seek(by_name["json"].offset)
            fields = json.loads(file.read(by_name["json"].size))
        assert {"light", "is_dim"} <= fields.keys()
        assert "dice" not in fields
    description = json.loads((with_steps / "dataset.json").read_text())
    assert description["config"]["steps"] == [
        {"name": "chance", "version": 3, "settings": {}},
        {"name": "light", "version": 1, "settings": {"least": 0.0}},
    ]
    assert {column["name"]: column["source"] for column in description["columns"]} == {
        "dice": "step chance", "light": "step light", "is_dim": "step light", "num_video_frames": "step light",
    }  # fmt: skip


def test_bytes_do_not_depend_on_the_number_of_processes(with_steps: Path, tmp_path: Path) -> None:
    made(tmp_path / "one", Chance(), Light(), num_workers=1)
    assert shard_files(tmp_path / "one") == shard_files(with_steps)


class StopsAfter(SilentListener):
    """Ends the run when a clip has ended."""

    def clip_ended(self, status: str) -> None:
        raise InterruptedError


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(with_steps: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, num_workers=1)
    with pytest.raises(InterruptedError):
        prepare(config, StopsAfter(), [Chance(), Light()])
    report = made(tmp_path, Chance(), Light())
    assert report.steps["light"]["clips"] == 2  # the first one is taken up as it was
    assert shard_files(tmp_path) == shard_files(with_steps)


def test_what_avkit_measures_and_stores_is_the_same_without_steps(with_steps: Path, tmp_path: Path) -> None:
    made(tmp_path / "out")
    own = {"members", "member_xxh3", "dice", "light", "is_dim", "num_video_frames"}
    for bare, row in zip(rows_of(tmp_path / "out"), rows_of(with_steps), strict=True):
        assert {name: row[name] for name in bare.keys() - own} == {name: bare[name] for name in bare.keys() - own}
        assert bare["member_xxh3"][1:] == row["member_xxh3"][1:-1]  # the json has columns of the steps


def test_a_dataset_that_was_begun_before_there_were_steps_goes_on_without(tmp_path: Path) -> None:
    made(tmp_path, num_clips=1)
    description = json.loads((tmp_path / "dataset.json").read_text())
    del description["config"]["steps"]
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    assert made(tmp_path, num_clips=1).exit_code == 0
    with pytest.raises(ConfigError, match=r"another configuration: steps none -> light, version 1"):
        made(tmp_path, Light(), num_clips=1)


def test_a_dataset_goes_on_with_the_same_steps_only(with_steps: Path) -> None:
    before = shard_files(with_steps)
    assert made(with_steps, Chance(), Light()).exit_code == 0
    for steps in ((), (Light(), Chance()), (Chance(), Light(least=0.1))):
        with pytest.raises(ConfigError, match="was begun with another configuration: steps"):
            made(with_steps, *steps)
    assert shard_files(with_steps) == before


@pytest.mark.slow
def test_hugging_face_reads_what_steps_add(with_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    loaded = datasets.load_dataset(str(with_steps), split="train", cache_dir=str(tmp_path))
    assert loaded.features["chance.npy"] == datasets.List(datasets.Value("float32"))
    samples = list(loaded.select_columns(["chance.npy", "json"]))
    assert {len(sample["chance.npy"]) for sample in samples} == {4}
    assert {type(sample["json"]["light"]) for sample in samples} == {float}


class Statuses(SilentListener):
    """Counts what ended."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def clip_ended(self, status: str) -> None:
        self.seen.append(status)


@pytest.mark.slow
def test_a_dropped_clip_is_a_row_and_no_failure(tmp_path: Path) -> None:
    report = made(tmp_path, Light(least=1.0), Odd(("raises",)))
    assert report.statuses == {"filtered_light": 3}
    assert (report.exit_code, report.filtered) == (0, 3)
    assert report.steps["light"]["dropped"] == 3
    assert "odd" in report.steps
    assert report.steps["odd"]["clips"] == 0
    for row in rows_of(tmp_path):
        assert row["reason"].startswith("brightness 0.")
        assert (row["members"], row["num_video_frames"], row["odd"]) == ([], 32, None)
    again = Statuses()
    config = replace(config_of(tmp_path), retry=Retry.ALL)
    assert prepare(config, again, [Light(least=1.0), Odd(("raises",))]).exit_code == 0
    assert again.seen == []
    assert "dropped by the step light" in (tmp_path / "README.md").read_text()
    inspected = subprocess.run(
        [sys.executable, "-m", "avcli.main", "inspect", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "filtered_light" in inspected.stdout
    assert "light, version 1 (least=1.0)" in inspected.stdout


BAD: dict[str, tuple[str, Sequence[str]]] = {
    "nothing": ("ok", [""]),
    "raises": ("internal", ["step odd: Traceback", "RuntimeError: no more"]),
    "dies": ("decode_crash", ["died in step odd 2 times (exit code 7)"]),
    "eats": ("decode_crash", ["died in step odd 2 times"]),
    "exits": ("internal", ["step odd", "SystemExit: enough"]),
    "prints": ("ok", [""]),
    "forks": ("ok", [""]),
    "writes frames": ("internal", ["step odd", "read-only"]),
    "member of text": ("internal", ["step odd: the member odd.txt is str; a member is bytes"]),
    "list": ("internal", ["step odd: values is [0.0], not a dictionary by name"]),
    "hangs": ("decode_timeout", ["killed after 6 s in step odd. Try --deadline 12"]),
}
"""What a step does with a clip: the clip's status, and what its reason says."""


@pytest.mark.slow
def test_a_bad_step_ends_its_own_clip_alone_and_is_named(tmp_path: Path) -> None:
    report = made(tmp_path, Odd(tuple(BAD)), num_clips=len(BAD), deadline_s=6.0)
    assert report.exit_code == 1
    for row in rows_of(tmp_path):
        status, says = list(BAD.values())[int(row["key"][-6:])]
        assert row["status"] == status, row
        for part in says:
            assert part in row["reason"]
    samples = [key for tar in tmp_path.glob("*/*.tar") for key, *_ in walk_samples(tar)]
    assert sorted(samples) == ["synth-000000", "synth-000005", "synth-000006"]
    failures_are_named_and_listed(tmp_path, report)


def failures_are_named_and_listed(out: Path, report: PrepareReport) -> None:
    """At the end of the run, in _errors.txt, and by inspect --failed as lines, JSON and CSV."""
    assert [clip.status for clip in report.failed] == ["internal"] * 5 + ["decode_crash"] * 2 + ["decode_timeout"]
    assert report.tracebacks == f"{out}/_errors.txt"
    errors = (out / "_errors.txt").read_text()
    assert errors.count("synth-0000") == 5
    assert "RuntimeError: no more" in errors
    console = Console(file=io.StringIO(), width=80)
    words = Words(("avkit", "prepare", "synth", "--out", str(out)))
    print_report(report, advice_for(report.statuses, config_of(out), words), console)
    told = console.file.getvalue()
    assert "8 clips failed" in told
    assert re.search(r"/synth-000001 +internal +RuntimeError: no more\n", told)
    assert f"all of them: avkit inspect {out} --failed" in told
    assert f"tracebacks: {out}/_errors.txt" in told
    assert f"avkit prepare synth --out {out} --deadline 120 --retry transient" in told
    listed = CliRunner().invoke(app, ["inspect", str(out), "--failed"]).output
    assert listed.count("/synth-0000") == 8
    assert f"8 of 11 clips of {out} failed" in listed
    found = json.loads(CliRunner().invoke(app, ["inspect", str(out), "--failed", "--json"]).output)
    assert (found["num_failed"], found["requested"], len(found["failed"])) == (8, 11, 8)
    assert "Traceback" in next(one["reason"] for one in found["failed"] if one["key"] == "synth-000001")
    table = CliRunner().invoke(app, ["inspect", str(out), "--failed", "--csv", "--where", "status = 'decode_timeout'"])
    (row,) = csv.DictReader(io.StringIO(table.output))
    assert (row["key"], row["remedy"]) == ("synth-000010", "Try again with more time.")


@pytest.mark.slow
def test_the_command_takes_steps_and_what_they_print_is_no_result(tmp_path: Path) -> None:
    common = [
        sys.executable,
        "-m",
        "avcli.main",
        "prepare",
        "synth",
        "--num-clips",
        "2",
        "--out",
        str(tmp_path / "out"),
    ]
    common += ["--seconds", "3.2", "--width", "96", "--height", "64", "--frames", "2", "--short-side", "32"]
    steps = ["--step", "tests.steps:Odd:how=prints", "--step", "black:max_share=0.9,max_level=20", "--json"]
    planned = subprocess.run([*common, *steps, "--dry-run"], capture_output=True, text=True, check=True)
    assert [step["name"] for step in json.loads(planned.stdout)["steps"]] == ["odd", "black"]
    done = subprocess.run([*common, *steps], capture_output=True, text=True, check=True)
    assert list(json.loads(done.stdout)["steps"]) == ["all frames", "odd", "black"]
    assert "a line that is not JSON" in done.stderr
    shown = subprocess.run([*common, *steps[:-1], "--explain"], capture_output=True, text=True, check=True)
    assert "steps=tests.steps:Odd:how=prints,black:max_share=0.9,max_level=20" in shown.stdout
    refused = subprocess.run([*common, "--step", "no_such:Step"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "no module no_such on Python's path" in refused.stderr


def test_an_array_task_has_the_steps_too(tmp_path: Path) -> None:
    config = replace(config_of(tmp_path), executor=ExecutorKind.ARRAY, steps=("tests.steps:Chance",))
    assert prepare(config).steps["chance"]["clips"] == 3
