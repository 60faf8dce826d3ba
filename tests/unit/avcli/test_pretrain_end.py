"""The end of a pretraining: checkpoint, picture, and the exact next command."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from avcli.pretrain_end import end_lines, evaluate_words, resumed_words
from avcli.typed import Words
from avmodel.configs.mae import MAEConfig
from avmodel.configs.run import RunConfig
from avmodel.train import Report

RUN = RunConfig(name="run")


def typed(text: str) -> Words:
    return Words(tuple(shlex.split(text)), frozenset(("--resume", "--profile", "--allow-pipe")))


def dataset(folder: Path, *splits: str) -> Path:
    (folder / "manifest").mkdir(parents=True)
    for split in splits:
        (folder / "manifest" / f"{split}.parquet").touch()
    return folder


def ended(folder: Path, step: int, data: Path) -> list[str]:
    out = folder / "my runs" / "first"
    checkpoint = out / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").touch()
    (out / "checkpoints" / "latest").write_text(checkpoint.name)
    (out / "pictures").mkdir()
    for number in (5, step):
        (out / "pictures" / f"step-{number:08d}.png").touch()
    words = typed(f"avkit pretrain demo --data '{data}' --out '{out}' --profile")
    return list(end_lines(Report(out, step, 10, 2.0, 1.0), RUN, str(data), words))


def test_a_finished_run_names_what_it_left_and_what_comes_next(tmp_path: Path) -> None:
    data = dataset(tmp_path / "my data", "train", "test")
    out = f"{tmp_path}/my runs/first"
    assert ended(tmp_path, 10, data) == [
        f"checkpoint: {out}/checkpoints/step-00000010",
        f"picture: {out}/pictures/step-00000010.png",
        f"look: avkit inspect '{out}' --html '{out}.html'",
        f"next: avkit evaluate linear-probe '{out}' --data '{data}'",
    ]


def test_a_stopped_run_names_the_command_that_goes_on(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", "train")
    *_, last = ended(tmp_path, 6, data)
    assert last == f"go on: avkit pretrain demo --data {data} --out '{tmp_path}/my runs/first' --resume"


def test_a_run_that_left_nothing_yet_says_so_by_leaving_it_out(tmp_path: Path) -> None:
    report = Report(tmp_path, 0, 10, 2.0, 1.0)
    assert list(end_lines(report, RUN, "d", typed("avkit pretrain demo --data d"))) == [
        "go on: avkit pretrain demo --data d --resume"
    ]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text("step-00000099")  # names nothing
    assert len(list(end_lines(report, RUN, "d", typed("avkit pretrain demo --data d")))) == 1


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        ("avkit pretrain x --resume-from 5 --resume --data d", {}, "avkit pretrain x --data d --resume"),
        ("avkit pretrain x --resume-from=5", {}, "avkit pretrain x --resume"),
        ("avkit pretrain x", {"WORLD_SIZE": "1"}, "avkit pretrain x --resume"),
        (
            "avkit pretrain x --data d",
            {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"},
            "torchrun --nproc-per-node 8 -m avcli.main pretrain x --data d --resume",
        ),
    ],
)
def test_the_command_that_goes_on(words: str, environment: dict[str, str], expected: str) -> None:
    assert shlex.join(resumed_words(typed(words), environment)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://bucket/set", "s3://bucket/set"),
        (["s3://bucket/a=0.7", "s3://bucket/b=0.3"], "s3://bucket/a"),
        ("https://host/{00000..00009}.tar", ""),
        ("gone", ""),
    ],
)
def test_what_is_evaluated_next(source: Any, expected: str) -> None:
    words = evaluate_words(Path("runs/a"), RUN, source)
    assert words == (["avkit", "evaluate", "linear-probe", "runs/a", "--data", expected] if expected else [])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [([], []), ([{"name": "d", "samples": 19}], ["--preset", "small"]), ([{"name": "d", "samples": 183_000}], [])],
)
def test_the_probe_of_a_run_on_few_clips_is_the_one_for_few(tmp_path: Path, parts: Any, expected: list[str]) -> None:
    (tmp_path / "data.json").write_text(json.dumps({"parts": parts}))
    words = evaluate_words(tmp_path, RUN, "s3://bucket/set")
    assert words == ["avkit", "evaluate", "linear-probe", str(tmp_path), "--data", "s3://bucket/set", *expected]


def test_a_model_of_one_modality_is_evaluated_on_it(tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", "train", "test")
    run = RunConfig(name="mae", model=MAEConfig(modalities="image"))
    assert evaluate_words(tmp_path, run, str(data))[-2:] == ["--set", "data.mode=image"]
