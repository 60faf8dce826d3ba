"""The loop on drawn batches, in this process."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from avmanifest.errors import ConfigError, DivergedError
from avmodel.checkpoint import load_trainer_state
from avmodel.checkpoint_folder import latest_checkpoint
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.fit import is_due
from avmodel.metrics import PROBES, read_lines
from avmodel.models.avsiam import AVSiam
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.optim import schedule
from avmodel.rng import draw_masks
from avmodel.rundir import CHECKPOINTS, CONFIG_FILE, PICTURES
from avmodel.train import Listener, initial_model, train
from tests.runs import FAMILY_RUNS, TIMES, TINY, TINY_AVSIAM, DrawnBatches, assert_same_run, curve, tiny_run, weights

HERE = World(0, 1, torch.device("cpu"))


class Heard(Listener):
    def __init__(self) -> None:
        self.span: tuple[int, int, float] | None = None
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def started(self, *, step: int, steps: int, epochs: float) -> None:
        self.span = step, steps, epochs

    def stepped(self, record: Any) -> None:
        self.records.append(record)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of four samples, never stopped."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(tiny_run(), DrawnBatches(), out, HERE)
    return out


def test_a_run_leaves_what_it_says(tmp_path: Path) -> None:
    out, heard = tmp_path / "run", Heard()
    run = tiny_run(pictures_every=4, probe_every=1)
    report = train(run, DrawnBatches(), out, HERE, probed=DrawnBatches(6, 6), listener=heard)
    assert heard.span == (0, 6, 1.5)
    lines = list(read_lines(out / "metrics.jsonl"))
    assert heard.records == lines
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["epoch"] for line in lines] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_image"] + line["loss_audio"], rel=1e-6)
        assert line["samples_per_s"] > 0
        assert 0 <= line["data_wait"] <= 1
        assert line["eta_s"] >= 0
        assert line["peak_memory_mb"] > 0
        assert line["grad_norm"] > 0
    assert report == (out, 6, 6, lines[0]["loss"], lines[-1]["loss"])
    assert sorted(p.name for p in (out / PICTURES).iterdir()) == ["step-00000004.png", "step-00000006.png"]
    probes = list(read_lines(out / PROBES))
    assert [probe["step"] for probe in probes] == [4, 6]
    assert probes[0].keys() == {"step", "image", "audio", "fusion", "all", "chance", "n", "intervals"}
    assert [note.split(":")[0] for note in heard.notes] == ["step 4", "step 6"]
    assert json.loads((out / CONFIG_FILE).read_text())["name"] == "tiny"


def test_learning_rates_follow_the_schedule_of_the_scaled_peak(tmp_path: Path) -> None:
    run = tiny_run(optim=OptimConfig(base_lr=0.064, warmup=0.5))
    train(run, DrawnBatches(), tmp_path / "run", HERE)
    expected = [0.064 * 4 / 256 * schedule(step / 6, 0.5) for step in range(6)]
    assert [line["lr"] for line in curve(tmp_path / "run")] == pytest.approx(expected)
    assert max(expected) == pytest.approx(0.001)


def test_the_first_step_changes_nothing_and_later_ones_do(straight: Path, tmp_path: Path) -> None:
    train(tiny_run(steps=1), DrawnBatches(), tmp_path / "run", HERE)
    torch.manual_seed(0)
    start = DeepAVFusion(TINY).state_dict()
    assert all(torch.equal(value, start[name]) for name, value in weights(tmp_path / "run").items())
    moved = {name for name, value in weights(straight).items() if not torch.equal(value, start[name])}
    fixed = {"encoder.image.positions", "encoder.audio.positions"}
    assert moved == start.keys() - fixed


@pytest.mark.parametrize("stopped_at", [1, 4, 5])
def test_stopped_and_resumed_a_run_is_the_same_to_the_last_bit(straight: Path, tmp_path: Path, stopped_at: int) -> None:
    out, batches = tmp_path / "run", DrawnBatches()
    report = train(tiny_run(), batches, out, HERE, stop=lambda: batches.done >= 4 * stopped_at)
    assert stopped_at <= report.step < 6 or stopped_at == 5
    assert [line["step"] for line in curve(out)] == list(range(1, report.step + 1))
    heard = Heard()
    report = train(tiny_run(), DrawnBatches(), out, HERE, resume=True, listener=heard)
    assert heard.span is not None
    assert heard.span[0] >= stopped_at
    assert report.step == 6
    assert_same_run(out, straight)


def test_a_finished_run_resumed_does_nothing(straight: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(straight, out)
    report = train(tiny_run(), DrawnBatches(), out, HERE, resume=True)
    assert (report.step, report.last_loss) == (6, curve(straight)[-1]["loss"])
    assert_same_run(out, straight)


def test_dropout_is_resumed_too(tmp_path: Path) -> None:
    run = tiny_run(model=replace(TINY, drop_path=0.5))
    train(run, DrawnBatches(), tmp_path / "straight", HERE)
    batches = DrawnBatches()
    train(run, batches, tmp_path / "run", HERE, stop=lambda: batches.done >= 8)
    train(run, DrawnBatches(), tmp_path / "run", HERE, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_micro_steps_equal_one_big_step(tmp_path: Path) -> None:
    run = tiny_run(batch_size=8, device_batch_size=8, steps=4)
    train(run, DrawnBatches(8), tmp_path / "big", HERE)
    train(replace(run, device_batch_size=2), DrawnBatches(2), tmp_path / "micro", HERE)
    big, micro = curve(tmp_path / "big"), curve(tmp_path / "micro")
    assert [line["epoch"] for line in micro] == [line["epoch"] for line in big]
    for name in ("loss", "loss_image", "loss_audio", "grad_norm"):
        assert [line[name] for line in micro] == pytest.approx([line[name] for line in big], rel=2e-5)
    assert big[0]["loss"] != pytest.approx(big[-1]["loss"], rel=1e-3)


def test_clipping_bounds_the_update_not_the_reported_norm(tmp_path: Path) -> None:
    run = tiny_run(optim=OptimConfig(lr=1e-3, warmup=0.0, clip_grad=1e-9, eps=1e-2, weight_decay=0.0), steps=2)
    train(run, DrawnBatches(), tmp_path / "run", HERE)
    torch.manual_seed(0)
    start = DeepAVFusion(TINY).state_dict()
    moved = max(float((value - start[name]).abs().max()) for name, value in weights(tmp_path / "run").items())
    assert 0 < moved < 1e-6
    assert all(line["grad_norm"] > 0.01 for line in curve(tmp_path / "run"))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_with_the_keys_and_the_last_checkpoint_is_good(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = tiny_run(save_every=2)
    train(run, DrawnBatches(), tmp_path / "straight", HERE)
    with pytest.raises(DivergedError, match=r"step 4: loss nan, .*not finite\. Samples: clip-13\. Nothing"):
        train(run, DrawnBatches(spoiled=[13]), out, HERE)
    latest = latest_checkpoint(out / CHECKPOINTS)
    assert latest is not None
    assert latest.name == "step-00000002"
    assert [line["step"] for line in curve(out)] == [1, 2, 3]
    train(run, DrawnBatches(), out, HERE, resume=True)
    assert_same_run(out, tmp_path / "straight")


def test_masks_are_a_function_of_seed_epoch_and_place(tmp_path: Path) -> None:
    model = DeepAVFusion(TINY)
    image, audio = draw_masks(model, 0, DrawnBatches().draw(range(8)))
    assert (image.shape, audio.shape) == ((8, 2), (8, 4))
    assert all(len(set(row)) == len(row) for row in [*image.tolist(), *audio.tolist()])
    assert audio.max() < 24
    halves = [draw_masks(model, 0, DrawnBatches().draw(range(rank, 8, 2))) for rank in (0, 1)]
    for rank, half in enumerate(halves):
        assert torch.equal(half[0], image[rank::2])
        assert torch.equal(half[1], audio[rank::2])
    assert not torch.equal(draw_masks(model, 1, DrawnBatches().draw(range(8)))[1], audio)
    assert not torch.equal(draw_masks(model, 0, DrawnBatches().draw(range(16, 24)))[1], audio)
    many = draw_masks(model, 0, DrawnBatches(samples=2000).draw(range(2000)))[1]
    counts = many.flatten().bincount(minlength=24)
    # 2000 samples keep 4 of 24: 333 each, deviation 17.
    assert counts.min() > 333 - 6 * 17
    assert counts.max() < 333 + 6 * 17


def test_micro_batches_share_a_step_equally() -> None:
    run = RunConfig(name="any", batch_size=512, device_batch_size=64)
    assert [run.micro_batch(size) for size in (1, 2, 8, 16)] == [(64, 8), (64, 4), (64, 1), (32, 1)]
    assert replace(run, batch_size=96).micro_batch(1) == (48, 2)
    with pytest.raises(ConfigError, match="batch_size=512 doesn't divide among 3 processes"):
        run.micro_batch(3)


def test_what_is_due() -> None:
    assert [step for step in range(1, 8) if is_due(step, 3)] == [3, 6]
    assert [step for step in range(1, 8) if is_due(step * 0.4, 1, 0.4)] == [3, 5]
    assert is_due(1, 3, last=True)
    assert not is_due(3, None, last=True)


def test_weights_that_are_not_there_say_where_to_get_them(tmp_path: Path) -> None:
    run = tiny_run(image_weights=str(tmp_path / "mae.pth"))
    with pytest.raises(ConfigError, match=r"mae\.pth: no such file\. MAE's ViT \(CC-BY-NC-4\.0\).*image_weights=none"):
        initial_model(run, torch.device("cpu"), Listener())


def test_branches_with_published_weights_start_from_them_under_the_ramp(tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = DeepAVFusion(TINY).encoder.image
    state = {name: value for name, value in other.state_dict().items() if name != "positions"}
    state |= {"cls_token": torch.zeros(1, 1, 32), "pos_embed": torch.zeros(1, 5, 32)}
    torch.save({"model": state}, tmp_path / "mae.pth")
    run = tiny_run(image_weights=str(tmp_path / "mae.pth"), steps=2, optim=OptimConfig(lr=1.0, warmup=0.0, ramp=1.0))
    heard = Heard()
    train(run, DrawnBatches(), tmp_path / "run", HERE, listener=heard)
    assert "image weights from" in heard.notes[0]
    assert "license" in heard.notes[0]
    found = weights(tmp_path / "run")
    name = "blocks.0.norm1.bias"
    # AdamW's first step moves by the rate: 1 without the ramp. The second by 0.5 * (1 - cos(pi / 2)) of it.
    assert (found[f"encoder.image.{name}"] - state[name]).abs().max() < 0.6
    assert (found[f"encoder.audio.{name}"]).abs().min() > 0.6
    assert math.isclose(run.optim.peak_lr(4), 1.0)


def test_times_are_all_that_two_equal_runs_differ_in(straight: Path, tmp_path: Path) -> None:
    train(tiny_run(), DrawnBatches(), tmp_path / "run", HERE)
    assert_same_run(tmp_path / "run", straight)
    full = next(read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert set(TIMES) - {"mfu"} < full.keys()  # a short run has no mfu


@pytest.mark.parametrize("name", sorted(FAMILY_RUNS))
@pytest.mark.slow
def test_every_family_stopped_and_resumed_is_the_same_to_the_last_bit(tmp_path: Path, name: str) -> None:
    run = tiny_run(**FAMILY_RUNS[name], pictures_every=4)
    train(run, DrawnBatches(), tmp_path / "straight", HERE, probed=DrawnBatches(6, 6))
    batches = DrawnBatches()
    train(run, batches, tmp_path / "run", HERE, stop=lambda: batches.done >= 12)
    train(run, DrawnBatches(), tmp_path / "run", HERE, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    assert [p.name for p in (tmp_path / "straight" / PICTURES).iterdir()] != []
    lines = curve(tmp_path / "straight")
    assert {"loss", "loss_contrast", "loss_image", "loss_audio"} <= lines[0].keys()
    assert len({line["loss"] for line in lines}) == 6


def test_alternating_steps_are_two_optimizers_each_on_its_own_terms(tmp_path: Path) -> None:
    run = tiny_run(**FAMILY_RUNS["avsiam-alternate"], steps=2)
    train(run, DrawnBatches(), tmp_path / "run", HERE)
    state = load_trainer_state(tmp_path / "run" / CHECKPOINTS)
    first, second = state["optimizer"], *state["further_optimizers"]
    names = {len(optimizer["state"]) for optimizer in (first, second)}
    assert len(names) == 2
    model = AVSiam(run.model)
    assert len(first["state"]) == sum(1 for _ in model.encoder.parameters())
    line = curve(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(line["loss_contrast"] + line["loss_image"] + line["loss_audio"], rel=1e-6)


def test_batches_that_an_objective_cannot_do_with_are_refused(tmp_path: Path) -> None:
    run = tiny_run(model=TINY_AVSIAM, batch_size=2, device_batch_size=2)
    with pytest.raises(ConfigError, match="2 samples at once over all processes; the model needs 3"):
        train(run, DrawnBatches(2), tmp_path / "small", HERE)


def test_a_model_without_patches_to_predict_is_not_drawn(tmp_path: Path) -> None:
    run = tiny_run(model=replace(TINY_AVSIAM, reconstruction_weight=0.0), steps=2, pictures_every=1)
    train(run, DrawnBatches(), tmp_path / "run", HERE)
    assert not (tmp_path / "run" / PICTURES).exists()


@pytest.mark.parametrize("family", ["avsiam", "cavmae", "crossmae"])
def test_a_run_goes_on_on_other_data(family: str, tmp_path: Path) -> None:
    """From its weights alone: what the second run is given of images and sounds to start from is not read."""
    changes = FAMILY_RUNS[family]
    first = tiny_run(steps=2, **changes)
    train(first, DrawnBatches(), tmp_path / "first", HERE)
    heard = Heard()
    second = tiny_run(start=str(tmp_path / "first"), image_weights="weights/missing.pth", **changes)
    assert second.pretrained == []
    model = initial_model(second, HERE.device, heard)
    for name, weight in weights(tmp_path / "first").items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert heard.notes == [f"all weights from {tmp_path / 'first'}"]
    report = train(second, DrawnBatches(), tmp_path / "second", HERE)
    assert (report.step, report.steps) == (6, 6)


def test_without_steps_the_start_is_saved(tmp_path: Path) -> None:
    run, heard = tiny_run(steps=0, **FAMILY_RUNS["avsiam"]), Heard()
    report = train(run, DrawnBatches(), tmp_path / "run", HERE, listener=heard)
    assert (report.step, report.steps) == (0, 0)
    assert heard.records == heard.notes == []
    expected = initial_model(run, HERE.device, Listener()).state_dict()
    for name, weight in weights(tmp_path / "run").items():
        assert torch.equal(weight, expected[name]), name
    train(run, DrawnBatches(), tmp_path / "run", HERE, resume=True)
    assert len(list((tmp_path / "run" / CHECKPOINTS).glob("step-*"))) == 1
