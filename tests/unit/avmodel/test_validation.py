"""The held-out loss: that of the objective, on the same samples and masks each time, beside the training's curve."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.configs.validation import ValidationConfig
from avmodel.distributed import World
from avmodel.inputs import HELD_OUT_SEED, to_inputs, validation_loader
from avmodel.inspect_run import read_run, run_json, run_report
from avmodel.models import build_model
from avmodel.rng import draw_masks
from avmodel.train import Listener, pretrain, train
from avmodel.validation import held_out_loss
from tests.runs import FAMILY_RUNS, TINY, DrawnBatches, curve, tiny_run
from tests.shards import draw_dataset

HERE = World(0, 1, torch.device("cpu"))


class Told(Listener):
    """Keeps the lines that a run shows."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("name", ["deepavfusion", "avsiam", "cavmae", "crossmae"])
def test_it_is_the_loss_of_whole_batches_in_however_many_parts(name: str) -> None:
    model = build_model(FAMILY_RUNS.get(name, {"model": TINY})["model"]).train()
    batches = DrawnBatches(6, 12)
    wanted: dict[str, list[float]] = {}
    model.eval()
    for batch in (batches.draw(range(6)), batches.draw(range(6, 12))):
        with torch.no_grad():
            output = model(*to_inputs(batch, HERE.device), draw_masks(model, HELD_OUT_SEED, batch))
        for term, value in output.losses.items():
            wanted.setdefault(term, []).append(value.item())
    model.train()
    means = {term: sum(values) / 2 for term, values in wanted.items()}
    for micro in (6, 2):
        batches = DrawnBatches(micro, 12)
        found = held_out_loss(model, batches, HERE, parts=6 // micro, precision="float32")
        assert found == pytest.approx(means, rel=1e-6)
        assert held_out_loss(model, batches, HERE, parts=6 // micro, precision="float32") == found
        first = held_out_loss(model, batches, HERE, parts=6 // micro, most=1, precision="float32")
        assert first == pytest.approx({term: values[0] for term, values in wanted.items()}, rel=1e-6)
        assert batches.done == 0
    assert model.training


def test_a_run_logs_it_every_so_many_epochs_and_trains_as_without(tmp_path: Path) -> None:
    run = tiny_run(**FAMILY_RUNS["avsiam"], steps=9)
    train(run, DrawnBatches(), tmp_path / "plain", HERE)
    run = replace(run, validation=ValidationConfig(every=1, batch_size=6))
    said: list[str] = []

    train(run, DrawnBatches(), tmp_path / "run", HERE, held_out=DrawnBatches(3, 12), listener=Told(said))
    lines = curve(tmp_path / "run")
    held_out = [line for line in lines if "val_loss" in line]
    assert [line for line in lines if "val_loss" not in line] == curve(tmp_path / "plain")
    assert [line["step"] for line in held_out] == [4, 8, 9]  # four steps an epoch, and the last one
    assert held_out[0].keys() == {"step", "val_loss", "val_loss_contrast", "val_loss_image", "val_loss_audio"}
    assert held_out[-1]["val_loss"] != held_out[0]["val_loss"]
    terms = [held_out[1][f"val_loss_{term}"] for term in ("contrast", "image", "audio")]
    assert held_out[1]["val_loss"] == pytest.approx(sum(terms), rel=1e-6)
    told = [text for text in said if "held-out" in text]
    assert len(told) == 3
    assert told[0].startswith(f"step 4: held-out loss {held_out[0]['val_loss']:.4f} (contrast ")


@pytest.mark.slow
def test_a_resumed_run_has_the_same_lines_and_may_begin_to_have_them(tmp_path: Path) -> None:
    run = tiny_run(steps=8, validation=ValidationConfig(every=1, batch_size=4))
    train(run, DrawnBatches(), tmp_path / "straight", HERE, held_out=DrawnBatches(4, 8))
    out = tmp_path / "run"
    batches = DrawnBatches()
    train(run, batches, out, HERE, held_out=DrawnBatches(4, 8), stop=lambda: batches.done >= 16)
    train(run, DrawnBatches(), out, HERE, held_out=DrawnBatches(4, 8), resume=True)
    assert curve(out) == curve(tmp_path / "straight")
    assert [line["step"] for line in curve(out) if "val_loss" in line] == [4, 8]

    plain, late = replace(run, validation=ValidationConfig()), tmp_path / "late"
    batches = DrawnBatches()
    train(plain, batches, late, HERE, stop=lambda: batches.done >= 24)
    train(run, DrawnBatches(), late, HERE, held_out=DrawnBatches(4, 8), resume=True)
    assert [line for line in curve(late) if "val_loss" in line] == [curve(tmp_path / "straight")[-1]]


def test_the_runs_page_has_its_curve(tmp_path: Path) -> None:
    run = tiny_run(steps=8, validation=ValidationConfig(every=1, batch_size=4))
    train(run, DrawnBatches(), tmp_path / "run", HERE, held_out=DrawnBatches(4, 8))
    found = read_run(tmp_path / "run")
    ends = run_json(found)["curves"]["val_loss"]
    assert ends["points"] == 2
    assert ends["best"] == min(ends["first"], ends["last"])
    page = run_report(found)
    assert "val_loss over steps" in page
    assert "val_loss_image over steps" in page
    assert found.last_step == 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_dataset(tmp_path_factory.mktemp("data") / "out", 8, seconds=1.5, num_frames=2, flac=False)
    return draw_dataset(root, 9, split="val", first=8, seconds=1.5, num_frames=2, flac=False)


def test_a_split_of_a_dataset_in_a_fixed_order(data: Path, tmp_path: Path) -> None:
    run = tiny_run(steps=2, validation=ValidationConfig(every=1, batch_size=4), seed=5)
    one, other = (validation_loader(replace(run, seed=seed), data, HERE) for seed in (1, 2))
    assert one is not None
    assert other is not None
    keys = [batch.keys for batch in one]
    assert len(keys) == 2
    assert len({key for batch in keys for key in batch}) == 8  # of nine: whole batches
    assert [batch.keys for batch in other] == keys
    halves = [validation_loader(run, data, World(rank, 2, torch.device("cpu"))) for rank in range(2)]
    assert [[batch.keys for batch in half or ()] for half in halves] == [
        [batch[rank::2] for batch in keys] for rank in range(2)
    ]
    pretrain(run, data, tmp_path / "run")
    assert [line["step"] for line in curve(tmp_path / "run") if "val_loss" in line] == [2]
    assert validation_loader(tiny_run(), data, HERE) is None


@pytest.mark.parametrize(
    ("validation", "size", "said"),
    [
        ({"batch_size": 16}, 1, r"validation\.batch_size=16: split 'val' has 9 samples\. Set it to at most as many"),
        ({"batch_size": 9}, 2, r"validation\.batch_size=9 doesn't divide among 2 processes"),
        ({"split": "dev", "batch_size": 4}, 1, r"(?s)no split 'dev'.*val"),
    ],
)
def test_what_cannot_be_held_out(data: Path, validation: dict, size: int, said: str) -> None:
    run = tiny_run(validation=ValidationConfig(every=1, **validation))
    with pytest.raises(ConfigError, match=said):
        validation_loader(run, data, World(0, size, torch.device("cpu")))


def test_shards_have_no_splits(data: Path) -> None:
    run = tiny_run(validation=ValidationConfig(every=2))
    with pytest.raises(ConfigError, match=r"validation\.every=2: .*00000\.tar has no splits\. Give --data the folder"):
        validation_loader(run, str(data / "train" / "00000.tar"), HERE)


@pytest.mark.parametrize(("values", "said"), [({"every": 0}, "every=0"), ({"batch_size": 1}, "batch_size=1")])
def test_settings_out_of_bounds(values: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=f"validation.{said}"):
        ValidationConfig(**values)
