"""A moving average of the weights: its values, its file, resumes, and the choice of it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from avmanifest.errors import CheckpointError, ConfigError
from avmodel.apply import load, task_config
from avmodel.averaging import WeightAverage
from avmodel.checkpoint import load_average, load_model
from avmodel.checkpoint_folder import EMA_FILE, MODEL_FILE, checkpoints_in
from avmodel.distributed import World
from avmodel.evaluate.loading import load_pretrained
from avmodel.rundir import CHECKPOINTS
from avmodel.train import train
from tests.runs import TINY_AVSIAM, DrawnBatches, assert_same_run, curve, tiny_run

HERE = World(0, 1, torch.device("cpu"))
CPU = torch.device("cpu")
DECAY, START = 0.75, 2
RUN = tiny_run(ema_decay=DECAY, ema_start=START, save_every=1, keep_checkpoints=None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps, a checkpoint after each."""
    out = tmp_path_factory.mktemp("ema") / "run"
    train(RUN, DrawnBatches(), out, HERE)
    return out


def test_the_average_is_that_of_the_weights_after_each_step(straight: Path) -> None:
    average: dict[str, torch.Tensor] = {}
    for step, checkpoint in enumerate(checkpoints_in(straight / CHECKPOINTS), 1):
        weights = load_file(checkpoint / MODEL_FILE)
        kept = DECAY if step > START else 0.0
        average = {name: kept * average.get(name, value) + (1 - kept) * value for name, value in weights.items()}
        found = load_file(checkpoint / EMA_FILE)
        assert found.keys() == weights.keys()
        for name, value in average.items():
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
        same = all(torch.equal(found[name], value) for name, value in weights.items())
        assert same == (step <= START)


def test_training_is_as_without_it(straight: Path, tmp_path: Path) -> None:
    train(replace(RUN, ema_decay=None, save_every=1000), DrawnBatches(), tmp_path / "run", HERE)
    assert_same_run(straight, tmp_path / "run")
    assert list((tmp_path / "run").rglob(EMA_FILE)) == []


@pytest.mark.parametrize("stopped_at", [1, 4])
def test_stopped_and_resumed_it_is_the_same_to_the_last_bit(straight: Path, tmp_path: Path, stopped_at: int) -> None:
    """Before and after its start."""
    out, batches = tmp_path / "run", DrawnBatches()
    run = replace(RUN, save_every=1000)
    train(run, batches, out, HERE, stop=lambda: batches.done >= 4 * stopped_at)
    assert len(curve(out)) < 6
    train(run, DrawnBatches(), out, HERE, resume=True)
    found, wanted = (load_file(checkpoints_in(o / CHECKPOINTS)[-1] / EMA_FILE) for o in (out, straight))
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert_same_run(out, straight)


def test_whole_numbers_are_copied() -> None:
    module = torch.nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.5)
    module(torch.randn(4, 2))
    average.update(module)
    assert int(average.weights["num_batches_tracked"]) == 1
    assert torch.equal(average.weights["running_mean"], module.running_mean / 2)


def test_evaluate_and_apply_take_the_model_unless_asked(straight: Path) -> None:
    last = checkpoints_in(straight / CHECKPOINTS)[-1]
    kinds: dict[str, Any] = {"model": {}, "ema": {"weights": "ema"}}
    for name, options in kinds.items():
        wanted = load_file(last / {"model": MODEL_FILE, "ema": EMA_FILE}[name])
        for place in (straight, straight / CHECKPOINTS, last):
            loaded = load_pretrained(place, CPU, **options)
            assert all(torch.equal(value, wanted[key]) for key, value in loaded.model.state_dict().items())
            assert (loaded.origin["step"], loaded.profile, loaded.folder) == (6, "paper", straight)
        applied: Any = load("embed", straight, task_config("embed", device="cpu", **options))
        assert all(torch.equal(value, wanted[key]) for key, value in applied.loaded.model.state_dict().items())
    # Its file is one of weights like any other.
    assert torch.equal(
        load_model(last / EMA_FILE)[0].encoder.fusion_tokens, load_file(last / EMA_FILE)["encoder.fusion_tokens"]
    )


def test_without_an_average_it_is_refused(straight: Path, tmp_path: Path) -> None:
    train(replace(RUN, ema_decay=None, steps=1), DrawnBatches(), tmp_path / "run", HERE)
    last = checkpoints_in(straight / CHECKPOINTS)[-1]
    for place in (tmp_path / "run", last / MODEL_FILE):
        with pytest.raises(
            ConfigError, match=r"no moving average of the weights here \(ema\.safetensors\)\. .*weights=mo"
        ):
            load_pretrained(place, CPU, weights="ema")
    with pytest.raises(ConfigError, match="what avkit evaluate finetune trains keeps no average"):
        load("classify", tmp_path / "finetuned", task_config("classify", weights="ema"))
    with pytest.raises(ConfigError, match="unknown weights 'mean'; known: model, ema"):
        task_config("embed", weights="mean")


@pytest.mark.parametrize("damage", ["missing", "cut", "of another step"])
def test_a_damaged_average_is_no_whole_checkpoint(straight: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    *_, before, last = checkpoints_in(out / CHECKPOINTS)
    file = last / EMA_FILE
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:-1])
        case _:
            shutil.copy(before / EMA_FILE, file)
    with pytest.raises(CheckpointError, match=EMA_FILE):
        load_average(last)
    train(RUN, DrawnBatches(), out, HERE, resume=True)  # from the checkpoint before
    again = checkpoints_in(out / CHECKPOINTS)[-1]
    assert again.name == "step-00000006-2"
    wanted = load_file(straight / CHECKPOINTS / last.name / EMA_FILE)
    assert all(torch.equal(value, wanted[name]) for name, value in load_file(again / EMA_FILE).items())


def test_an_average_of_another_model_is_refused() -> None:
    torch.manual_seed(0)
    from avmodel.models import build_model

    average = WeightAverage(build_model(TINY_AVSIAM), 0.9)
    with pytest.raises(CheckpointError, match=r"x: its weights are of another model"):
        average.fill({"a": torch.zeros(1)}, Path("x"))


@pytest.mark.parametrize(("changes", "said"), [({"ema_decay": 1.5}, "ema_decay"), ({"ema_start": -1}, "ema_start")])
def test_settings_out_of_bounds_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(RUN, **changes)
