"""AudioSet from its lists to a score: prepared by its recipe from drawn videos, trained on by its aliases."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from avdata.load import open_dataset
from avdata.prepare.config import PrepareConfig, Supervision
from avdata.prepare.job import prepare
from avdata.prepare.sources.synth import synth_clip, write_clip
from avmanifest.errors import ConfigError
from avmanifest.keys import subset_id
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from avmodel.rundir import CONFIG_FILE, DATA_FILE
from tests.forks import avkit, call
from tests.videos import DRAWN, SMALL

# Segments of each list: "# " lines, then YTID, start, end, and the labels' ids between double quotes.
LISTS = {
    "balanced": ("balanced_train_segments.csv", range(4)),
    "unbalanced": ("unbalanced_train_segments.csv", range(4, 10)),
    "eval": ("eval_segments.csv", range(10, 14)),
}
LABELS = ("/m/09x0r", "/m/05zppz,/m/09x0r", "/m/02zsn")
SETTINGS = [
    "model.size=32x2x4", "model.image_size=32,32", "model.decoder_embed_dim=16", "model.decoder_depth=1",
    "model.decoder_num_heads=4", "model.mask_ratios=0,0.25,0.5", "image_weights=none", "batch_size=8",
    "device_batch_size=8", "steps=4", "save_every=2", "precision=float32", "device=cpu", "data.num_workers=0",
    "pictures_every=none",
]  # fmt: skip


def video_id(number: int) -> str:
    return f"drawn-{number:05d}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists in AudioSet's format, a video for each segment, and the dataset `as` that the recipe makes of them."""
    root = tmp_path_factory.mktemp("audioset")
    for folder in ("lists", "videos"):
        (root / folder).mkdir()
    for name, numbers in LISTS.values():
        lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=4", "# YTID, start_seconds, ..."]
        for number in numbers:
            lines.append(f'{video_id(number)}, 0.000, 3.000, "{LABELS[number % len(LABELS)]}"')
            write_clip(DRAWN, synth_clip(DRAWN, number), root / "videos" / f"{video_id(number)}.mp4")
        (root / "lists" / name).write_text("\n".join(lines) + "\n")
    report = prepare(config(root, root / "as"))
    assert (report.ok, report.requested) == (14, 14)
    return root


def config(place: Path, out: Path, **changes: object) -> PrepareConfig:
    usual = PrepareConfig(
        recipe=load_recipe("audioset"),
        out=out,
        list_path=place / "lists",
        sources=(f"local:{place / 'videos'}",),
        sample=replace(SMALL, mel=("kaldi",)),
        shard_size=4,
        supervision=Supervision(num_workers=1),
    )
    return replace(usual, **changes)  # type: ignore[arg-type]


def run(log: Path, *command: str, settings: list[str]) -> tuple[int, str]:
    words = [word for setting in settings for word in ("--set", setting)]
    code = call(avkit, *command, *words, log=log)
    return code, " ".join(log.read_text().split())


@pytest.mark.slow
def test_the_documented_command_trains_on_both_training_lists(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ("pretrain", "avsiam-b", "--data", str(place / "as"), "--out", str(out))
    code, said = run(tmp_path / "log", *command, settings=SETTINGS)
    assert code == 0, said
    both = open_dataset(place / "as", "balanced,unbalanced")
    (record,) = json.loads((out / DATA_FILE).read_text())["parts"]
    assert record["subset_id"] == subset_id(both.keys)
    assert record["samples"] == len(both) == 10
    assert json.loads((out / CONFIG_FILE).read_text())["data.split"] == "train"

    # Heads learn on AS-20K, and eval is the test set.
    task = ("evaluate", "linear-probe", str(out), "--data", str(place / "as"))
    fast = ["epochs=1", "train_views=1", "batch_size=4", "random_weights=false", "device=cpu", "data.num_workers=0"]
    code, said = run(tmp_path / "log", *task, settings=[*fast, "data.train_split=AS-20K"])
    assert code == 0, said
    found = json.loads((out / "evaluations" / "linear-probe" / "results.json").read_text())["data"]
    assert (found["train"]["split"], found["train"]["samples"]) == ("audioset/balanced", 4)
    assert (found["test"]["split"], found["test"]["samples"]) == ("audioset/eval", 4)


@pytest.mark.slow
def test_a_split_that_is_not_there_is_answered_with_what_to_pass(place: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    prepare(config(place, few, splits=("AS-20K", "eval")))
    assert Layout(few).splits() == ["balanced", "eval"]
    assert json.loads(Layout(few).dataset_json.read_text())["config"]["splits"] == ["balanced", "eval"]
    prepare(config(place, few, splits=("eval", "balanced")))  # the same dataset, asked for in other words
    with pytest.raises(ConfigError, match=r"another configuration: splits \['balanced', 'eval'\] -> \['balanced'\]"):
        prepare(config(place, few, splits=("AS-20K",)))
    command = ("pretrain", "avsiam-b", "--data", str(few), "--out", str(tmp_path / "run"))
    code, said = run(tmp_path / "log", *command, settings=SETTINGS)
    assert code == 2
    assert "split 'train' is balanced + unbalanced, and there is no unbalanced" in said
    assert "known: balanced, eval, test (eval), as_20k (balanced)." in said
    assert "Give --set data.split=balanced." in said
