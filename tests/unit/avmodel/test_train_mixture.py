"""Pretraining on a mixture: from Python, by setting and by file; resumed exactly; recorded with its parts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avdata.load import described_parts
from avmanifest.errors import ConfigError
from avmanifest.settings import override, read_toml, to_toml, with_values
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.evaluate.loading import load_pretrained
from avmodel.inputs import train_loader, with_mix
from avmodel.rundir import CONFIG_FILE, DATA_FILE, read_parts
from avmodel.train import Listener, pretrain
from tests.runs import TINY, curve, tiny_run
from tests.shards import draw_dataset

HERE = World(0, 1, torch.device("cpu"))
RUN = tiny_run(steps=6, save_every=1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("sets")
    sample = {"seconds": 1.5, "num_frames": 2, "flac": False}
    return [draw_dataset(root / name, count, 4, first=100 * count, **sample) for name, count in (("a", 4), ("b", 8))]


def with_data(run: RunConfig, **changes: object) -> RunConfig:
    return replace(run, data=replace(run.data, **changes))  # type: ignore[arg-type]


def test_a_mixture_has_one_spelling_everywhere(sets: list[Path], tmp_path: Path) -> None:
    a, b = sets
    mixed = (f"{a}=0.75", f"{b}=0.25")
    by_option, source = with_mix(RUN.data, list(mixed))
    by_setting = override(RUN, [f"data.mix={mixed[0]},{mixed[1]}"])
    (tmp_path / "run.toml").write_text(to_toml(by_setting))
    by_file = with_values(RUN, read_toml(RUN, tmp_path / "run.toml"))
    assert by_option == by_setting.data == by_file.data == replace(RUN.data, mix=mixed)
    assert source == with_mix(by_setting.data, None)[1] == (str(a), str(b))
    batches = train_loader(by_option, TINY, source, HERE, batch_size=4, seed=0)
    assert [(part.name, part.drawn) for part in batches.dataset.parts] == [(str(a), 9), (str(b), 3)]
    assert with_mix(RUN.data, [str(a), str(b)]) == (RUN.data, [str(a), str(b)])
    assert with_mix(RUN.data, f"{a}=2x") == (replace(RUN.data, mix=(f"{a}=2x",)), str(a))


def test_the_length_of_an_epoch_can_be_set(sets: list[Path]) -> None:
    a, b = map(str, sets)

    def drawn(source: object, **changes: object) -> list[int]:
        batches = train_loader(replace(RUN.data, **changes), TINY, source, HERE, batch_size=4, seed=0)  # type: ignore[arg-type]
        return [part.drawn for part in batches.dataset.parts]

    assert drawn(a, epoch_samples=100) == [100]
    assert drawn([a, b], epoch_samples=30) == [10, 20]
    assert drawn([a, b], mix=(f"{a}=1", f"{b}=1"), epoch_samples=30) == [15, 15]
    assert drawn([a, b], mix=(f"{a}=1", f"{b}=1"), class_balanced=True) == [6, 6]
    with pytest.raises(ConfigError, match="3 samples, fewer than one batch of 4"):
        drawn(a, epoch_samples=3)
    with pytest.raises(ConfigError, match=r"data\.epoch_samples=0: must be 1 or more"):
        replace(RUN.data, epoch_samples=0)


def test_data_named_twice_or_not_at_all_is_refused(sets: list[Path], tmp_path: Path) -> None:
    a, b = map(str, sets)
    with pytest.raises(ConfigError, match=r"--data and data\.mix both name what to train on"):
        pretrain(with_data(RUN, mix=(f"{a}=1", f"{b}=1")), a, tmp_path / "run")
    with pytest.raises(ConfigError, match="--data is missing"):
        pretrain(RUN, None, tmp_path / "run")
    with pytest.raises(ConfigError, match="share 0 of a dataset in a mixture: must be above 0"):
        pretrain(RUN, [f"{a}=0", f"{b}=1"], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_on_a_mixture_resumes_exactly_and_is_recorded(sets: list[Path], tmp_path: Path) -> None:
    a, b = sets
    mixed = [f"{a}=0.75", f"{b}=0.25"]
    pretrain(RUN, mixed, tmp_path / "straight")
    halves = iter([False, False, False, True])
    assert pretrain(RUN, mixed, tmp_path / "run", stop=lambda: next(halves)).step < 6
    with pytest.raises(ConfigError, match="Resume with the same samples, weights"):
        pretrain(RUN, [f"{a}=0.7", f"{b}=0.3"], tmp_path / "run", resume=True)
    moved = a.rename(a.parent / "moved")
    try:
        assert pretrain(RUN, [f"{moved}=0.75", f"{b}=0.25"], tmp_path / "run", resume=True).step == 6
    finally:
        moved.rename(a)
    assert curve(tmp_path / "run") == curve(tmp_path / "straight")
    assert json.loads((tmp_path / "straight" / CONFIG_FILE).read_text())["data.mix"] == mixed
    expected = [
        {**record, "epoch_samples": drawn}
        for root, drawn in ((a, 9), (b, 3))
        for batches in [train_loader(RUN.data, TINY, str(root), HERE, batch_size=4, seed=0)]
        for record in described_parts(batches.dataset, str(root))
    ]
    assert [record["samples"] for record in expected] == [4, 8]
    assert read_parts(tmp_path / "straight") == expected
    assert load_pretrained(tmp_path / "straight", HERE.device).origin["data"] == expected


def test_a_run_on_one_dataset_is_recorded_as_one_part(sets: list[Path], tmp_path: Path) -> None:
    pretrain(replace(RUN, steps=2), sets[1], tmp_path / "run")
    (part,) = read_parts(tmp_path / "run")
    assert (part["name"], part["samples"], part["epoch_samples"]) == (str(sets[1]), 8, 8)
    (tmp_path / "run" / DATA_FILE).unlink()
    assert load_pretrained(tmp_path / "run", HERE.device).origin["data"] == []  # a run of an earlier version


def test_a_run_that_goes_on_with_other_shards_says_so(tmp_path: Path) -> None:
    class Notes(Listener):
        def __init__(self) -> None:
            self.said: list[str] = []

        def note(self, text: str) -> None:
            self.said.append(text)

    def gone_on(halves: list[bool], num_frames: int, *, resume: bool) -> list[str]:
        notes, stops = Notes(), iter(halves)
        root = tmp_path / "data"
        shutil.rmtree(root, ignore_errors=True)
        draw_dataset(root, 8, 4, seconds=1.5, num_frames=num_frames, flac=False)
        pretrain(RUN, root, tmp_path / "run", resume=resume, listener=notes, stop=lambda: next(stops, False))
        return [text for text in notes.said if "other bytes" in text]

    assert gone_on([True], 2, resume=False) == []
    assert gone_on([True], 2, resume=True) == []
    (said,) = gone_on([True], 3, resume=True)
    assert said.startswith(f"{tmp_path / 'data'}: its shards have other bytes than before")
    assert gone_on([], 3, resume=True) == []
