"""A damaged sample in training: the run stops by name, and goes on with skip_bad or without the sample."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from avmanifest.errors import ConfigError, ShardError
from avmodel.configs.run import RunConfig
from avmodel.inputs import listed_keys
from avmodel.rundir import CONFIG_FILE
from avmodel.train import Listener, pretrain
from tests.forks import call, call_together
from tests.pretraining import pretrain_on
from tests.runs import FAMILY_RUNS, curve, tiny_run
from tests.shards import draw_dataset

BAD = "clip-00006"
RUN = tiny_run(steps=6, save_every=1)


class Heard(Listener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def with_data(run: RunConfig, **changes: object) -> RunConfig:
    return replace(run, data=replace(run.data, **changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("whole") / "set", 12, 4, seconds=1.5, num_frames=2)


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """The dataset with one damaged sample."""
    root = Path(shutil.copytree(whole, tmp_path / "set"))
    damage(root / "train/00001.tar", BAD)
    return root


def damage(tar: Path, key: str) -> None:
    """Flip a bit in each frame of a sample."""
    content = bytearray(tar.read_bytes())
    for frame in range(2):
        content[content.index(f"{key}.frame{frame:02d}.jpg".encode()) + 512 + 200] ^= 1
    tar.write_bytes(content)


@pytest.mark.parametrize(
    "change", [{"skip_bad": True}, {"exclude_keys": (BAD,)}, {"skip_bad": True, "num_workers": 2, "max_bad_share": 0.1}]
)
def test_a_run_that_a_damaged_sample_ended_goes_on(data: Path, tmp_path: Path, change: dict) -> None:
    """Its steps are those of a run that skipped from the start."""
    out = tmp_path / "run"
    heard = Heard()
    with pytest.raises(ShardError, match=rf"{BAD}\.frame0\d\.jpg: damaged"):
        pretrain(RUN, data, out, listener=heard)
    assert "resume with --set data.skip_bad=true, or name them" in heard.notes[-1]
    pretrain(with_data(RUN, **change), data, out, resume=True)
    pretrain(with_data(RUN, **change), data, tmp_path / "straight")
    assert [line["step"] for line in curve(out)] == [1, 2, 3, 4, 5, 6]
    assert curve(out) == curve(tmp_path / "straight")
    skipped = [line.get("skipped_samples", 0) for line in curve(out)]
    assert sum(skipped) == (2 if "skip_bad" in change else 0)  # once an epoch of three steps


def test_steps_before_the_damaged_sample_are_those_of_the_whole_dataset(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    pretrain(RUN, whole, tmp_path / "whole")
    pretrain(with_data(RUN, skip_bad=True), data, tmp_path / "run")
    found, wanted = curve(tmp_path / "run"), curve(tmp_path / "whole")
    first = next(number for number, line in enumerate(found) if line.get("skipped_samples"))
    assert found[:first] == wanted[:first]


def test_what_else_the_data_settings_say_may_not_change(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(with_data(RUN, skip_bad=True), data, out)
    with pytest.raises(ConfigError, match=r"data\.min_area: 0\.5 -> 0\.25"):
        pretrain(with_data(RUN, skip_bad=True, min_area=0.25), data, out, resume=True)


def test_a_run_begun_before_these_settings_existed_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(replace(with_data(RUN, skip_bad=True), steps=6), data, out)
    config = json.loads((out / CONFIG_FILE).read_text())
    for name in ("data.max_bad_share", "data.exclude_keys"):
        del config[name]
    (out / CONFIG_FILE).write_text(json.dumps(config))
    pretrain(with_data(RUN, skip_bad=True), data, out, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepavfusion", "avsiam", "crossmae"])
def test_two_processes_skip_what_one_does(data: Path, tmp_path: Path, name: str) -> None:
    """With contrastive losses, too: each process keeps as many samples."""
    run = with_data(replace(RUN, **FAMILY_RUNS.get(name, {})), skip_bad=True)
    assert call(pretrain_on, data, tmp_path / "one", run, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    codes = call_together(pretrain_on, data, tmp_path / "two", run, log=tmp_path / "both")
    assert codes == [0, 0], (tmp_path / "both.0").read_text() + (tmp_path / "both.1").read_text()
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert sum(line.get("skipped_samples", 0) for line in one) == 2
    for key in one[0].keys() - {"skipped_samples"}:
        assert [line[key] for line in two] == pytest.approx([line[key] for line in one], rel=2e-4), key
    assert [line.get("skipped_samples") for line in two] == [line.get("skipped_samples") for line in one]


def probed(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "probe.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_damaged_sample_of_the_probe_is_left_out_of_it(whole: Path, tmp_path: Path) -> None:
    """By one process and by two, of which one has a sample less."""
    root = Path(shutil.copytree(whole, tmp_path / "set"))
    draw_dataset(root, 8, 8, split="val", first=20, seconds=1.5, num_frames=2)
    damage(root / "val/00000.tar", "clip-00023")
    run = replace(RUN, steps=1, probe_every=1)
    with pytest.raises(ShardError, match=r"clip-00023\.frame0\d\.jpg: damaged"):
        pretrain(run, root, tmp_path / "refused")
    skipping, excluding = with_data(run, skip_bad=True, max_bad_share=0.2), with_data(run, exclude_keys=("clip-00023",))
    assert call(pretrain_on, root, tmp_path / "one", skipping, log=tmp_path / "log") == 0
    assert call(pretrain_on, root, tmp_path / "without", excluding, log=tmp_path / "log") == 0
    codes = call_together(pretrain_on, root, tmp_path / "two", skipping, log=tmp_path / "both")
    assert codes == [0, 0], (tmp_path / "both.0").read_text() + (tmp_path / "both.1").read_text()
    assert probed(tmp_path / "one") == probed(tmp_path / "without") == probed(tmp_path / "two")


def test_excluded_keys_come_from_the_command_line_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("\ufeffb\n\n c \r\na\n")
    assert listed_keys(["a", f"@{tmp_path}/bad.txt", "d"]) == ("a", "b", "c", "d")
    with pytest.raises(ConfigError, match=r"data\.exclude_keys=@nope\.txt: cannot be read"):
        listed_keys(["@nope.txt"])
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as a text of keys"):
        listed_keys([f"@{tmp_path}/binary"])
