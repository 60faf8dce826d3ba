"""A contrastive loss of micro-batches has the value and the gradients of one large batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from avcli.main import app
from avmanifest.errors import ConfigError, DivergedError
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.fit import Moment, gradients
from avmodel.gradient_cache import with_gradients
from avmodel.inputs import to_inputs
from avmodel.models import build_model
from avmodel.models.family import Contrast, Family, Vectors
from avmodel.objectives import info_nce
from avmodel.presets import run_config
from avmodel.rng import Part, draw_masks
from avmodel.train import pretraining, seed_dropout, train
from tests.runs import FAMILY_RUNS, TINY_AVSIAM, TINY_CROSSMAE, DrawnBatches, assert_same_run, curve, tiny_run

HERE = World(0, 1, torch.device("cpu"))
SAMPLES = 12
# Each augmentation, so that both passes must draw the same.
VARIED = AugmentConfig(roll=48, noise=0.5, mask_bins=20, mask_columns=10)


def drawn_model(run: RunConfig, drop_path: float = 0.0) -> Family:
    """The run's model; its plain blocks drop each sample's branches with this probability."""
    torch.manual_seed(0)
    model = build_model(run.model)
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = drop_path
    return model


def found(run: RunConfig, micro: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a step of all samples in micro-batches of `micro`, terms one after the other."""
    model = drawn_model(run)
    objective = pretraining(run, model, HERE)
    batches = DrawnBatches(micro, SAMPLES)
    parts = [batches.draw(range(first, first + micro)) for first in range(0, SAMPLES, micro)]
    losses: dict[str, Any] = {}
    for terms, optimizer in zip(objective.terms, objective.optimizers, strict=True):
        losses |= gradients(objective, parts, HERE, 0, terms, optimizer)[0]
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in losses.items()}, slopes


def assert_same_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """What is left is float32's rounding: 1.1e-6 of all gradients' norm at most, in CAV-MAE's patch kernels."""
    assert found.keys() == wanted.keys()
    norm = torch.stack([slope.norm() for slope in wanted.values()]).norm().item()
    for name, slope in wanted.items():
        assert (found[name] - slope).norm().item() <= 2e-6 * norm, name


@pytest.mark.parametrize(
    ("name", "micro"), [("avsiam", 2), ("avsiam-alternate", 4), ("cavmae", 4), ("crossmae", 3), ("crossmae-teacher", 6)]
)
def test_micro_batches_have_the_losses_and_gradients_of_one_batch(name: str, micro: int) -> None:
    run = tiny_run(**{**FAMILY_RUNS[name], "augment": VARIED}, batch_size=SAMPLES, device_batch_size=micro)
    cached = replace(run, gradient_cache=True)
    losses, slopes = found(cached, micro)
    whole = replace(run, device_batch_size=SAMPLES)
    expected, wanted = found(whole, SAMPLES)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert_same_gradients(slopes, wanted)
    if micro > 2:  # without the cache they are others: fewer samples are compared
        assert found(run, micro)[0]["contrast"] < expected["contrast"] - 0.1


def test_one_direction_and_the_vectors_of_the_complete_pass() -> None:
    for model in (
        replace(TINY_AVSIAM, symmetric=False),
        replace(TINY_CROSSMAE, contrast_features="complete", pool="cls", reconstruct=False),
        replace(TINY_CROSSMAE, reconstruct=False, predict_features=False),
    ):
        run = tiny_run(model=model, batch_size=SAMPLES, device_batch_size=3, gradient_cache=True)
        losses, slopes = found(run, 3)
        expected, wanted = found(replace(run, device_batch_size=SAMPLES), SAMPLES)
        assert losses == pytest.approx(expected, rel=1e-6)
        assert_same_gradients(slopes, wanted)


def test_both_passes_drop_the_same_branches() -> None:
    """With stochastic depth in the towers the gradients are those of one graph over all micro-batches."""
    run = tiny_run(model=TINY_CROSSMAE, batch_size=SAMPLES, device_batch_size=4, gradient_cache=True)
    batches = DrawnBatches(4, SAMPLES)
    parts = [batches.draw(range(first, first + 4)) for first in range(0, SAMPLES, 4)]
    model = drawn_model(run, drop_path=0.4)
    objective = pretraining(run, model, HERE)
    losses, _ = gradients(objective, parts, HERE, 5, None, objective.optimizers[0])
    slopes = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    model = drawn_model(run, drop_path=0.4)
    seen: list[tuple[Tensor, Vectors]] = []
    for number, batch in enumerate(parts):
        seed_dropout(run.seed, 5, 0, number)
        masks = draw_masks(model, run.seed, batch, HERE, Part(number, 3))
        output = model(*to_inputs(batch, HERE.device), masks, contrast=Contrast.APART)
        seen.append((output.losses["total"], output.vectors))
    whole = model.contrast(Vectors(*(torch.cat(rows) for rows in zip(*(vectors for _, vectors in seen), strict=True))))
    total = torch.stack([other for other, _ in seen]).mean() + run.model.contrast_weight * whole
    total.backward()
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-6)
    assert_same_gradients(slopes, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    # It is random: another step drops others.
    again = drawn_model(run, drop_path=0.4)
    objective = pretraining(run, again, HERE)
    other, _ = gradients(objective, parts, HERE, 6, None, objective.optimizers[0])
    assert other["contrast"].item() != pytest.approx(losses["contrast"].item(), rel=1e-6)


def test_parts_are_hidden_as_one_batch_would_be() -> None:
    model = drawn_model(tiny_run(model=TINY_AVSIAM))
    batches = DrawnBatches(samples=48)
    whole = draw_masks(model, 0, batches.draw(range(12, 24)))
    for rank in range(2):
        for number in range(3):
            first = 12 + 4 * number
            own = batches.draw(range(first + rank, first + 4, 2))
            part = draw_masks(model, 0, own, World(rank, 2, torch.device("cpu")), Part(number, 3))
            rows = torch.arange(first + rank, first + 4, 2) - 12
            assert torch.equal(part.audio_ids, whole.audio_ids[rows])
            for group, of_whole in zip(part.audio_groups, whole.audio_groups, strict=True):
                assert set(rows[group.rows].tolist()) == set(of_whole.rows.tolist()) & set(rows.tolist())


def test_parts_of_two_epochs_are_hidden_by_all_processes_alike() -> None:
    """A step that goes on in the next epoch: its groups are equally large over both processes of a part."""
    model = drawn_model(tiny_run(model=TINY_AVSIAM))
    batches = DrawnBatches(samples=8)
    for number, first in ((0, 4), (1, 8)):  # of epochs 0 and 1
        parts = [
            draw_masks(
                model, 0, batches.draw(range(first + rank, first + 4, 2)),
                World(rank, 2, torch.device("cpu")), Part(number, 2),
            )
            for rank in range(2)
        ]  # fmt: skip
        assert sum(len(group.rows) for part in parts for group in part.audio_groups) == 4


@pytest.mark.slow
def test_a_run_goes_on_to_the_last_bit(tmp_path: Path) -> None:
    run = tiny_run(**FAMILY_RUNS["avsiam"], device_batch_size=2, gradient_cache=True, pictures_every=3)
    train(run, DrawnBatches(2), tmp_path / "straight", HERE)
    batches = DrawnBatches(2)
    train(run, batches, tmp_path / "run", HERE, stop=lambda: batches.done >= 8)
    assert len(curve(tmp_path / "run")) < 6
    train(run, DrawnBatches(2), tmp_path / "run", HERE, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    whole = replace(run, device_batch_size=4)
    train(whole, DrawnBatches(4), tmp_path / "whole", HERE)
    for line, wanted in zip(curve(tmp_path / "run"), curve(tmp_path / "whole"), strict=True):
        assert line == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["cavmae", "avsiam-alternate"])
def test_a_sample_that_is_not_finite_is_named(tmp_path: Path, name: str) -> None:
    run = tiny_run(**FAMILY_RUNS[name], device_batch_size=2, gradient_cache=True)
    with pytest.raises(DivergedError, match=r"step 4: loss nan, .*Samples: clip-13\."):
        train(run, DrawnBatches(2, spoiled=[13]), tmp_path / "run", HERE)


def test_micro_batches_smaller_than_the_mask_ratios_need_the_cache(tmp_path: Path) -> None:
    run = tiny_run(model=TINY_AVSIAM, device_batch_size=2)
    with pytest.raises(ConfigError, match=r"2 samples at once .* the model needs 3\. .* gradient_cache=true"):
        train(run, DrawnBatches(2), tmp_path / "run", HERE)
    train(replace(run, gradient_cache=True, steps=1), DrawnBatches(2), tmp_path / "run", HERE)


def test_a_run_says_how_many_samples_it_compares() -> None:
    run = run_config("avsiam-b")
    assert run.contrast_note(1) == (
        "contrast: each sample is compared with 1,536 (96 at once on 1 device, 16 micro-steps together by "
        "gradient_cache); the paper: 1,536."
    )
    assert "compared with 1,536 (96 at once on each of 16 devices)" in str(run.contrast_note(16))
    plain = replace(run, gradient_cache=False)
    said = "compared with 192 (96 at once on each of 2 devices; with gradient_cache=true 1,536)"
    assert said in str(plain.contrast_note(2))
    assert "compared with 1,536 (24 at once on 1 device, 64 micro-steps" in str(run_config("avsiam-h").contrast_note(1))
    assert "compared with 512 (64 at once on 1 device, 8 micro-steps" in str(run_config("crossmae").contrast_note(1))
    cavmae = run_config("cavmae")
    assert "compared with 256 (64 at once on each of 4 devices)" in str(cavmae.contrast_note(4))
    released = replace(cavmae, model=replace(cavmae.model, gather=False))
    assert "compared with 64 (64 at once on each of 4 devices)" in str(released.contrast_note(4))
    assert run_config("deepavfusion").contrast_note(1) is None
    assert run_config("self-mae").contrast_note(1) is None
    assert run_config("self-mae").contrast_parts(1) == 1
    assert [run.contrast_parts(size) for size in (1, 4, 16)] == [16, 4, 1]


def test_a_value_of_many_and_gradients_of_one_part() -> None:
    """By hand: the mean over the parts of what each gives is the loss over all rows."""
    rows, columns = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    rows.requires_grad_()
    columns.requires_grad_()
    loss = info_nce(rows, columns, temperature=0.1)
    wanted = torch.autograd.grad(loss, (rows, columns))
    carried = torch.stack(
        [
            with_gradients(
                loss.detach(), Vectors(rows[part], columns[part]), Vectors(wanted[0][part], wanted[1][part]), 3
            )
            for part in (slice(0, 2), slice(2, 4), slice(4, 6))
        ]
    ).mean()
    assert carried.item() == pytest.approx(loss.item(), rel=1e-6)
    for slope, expected in zip(torch.autograd.grad(carried, (rows, columns)), wanted, strict=True):
        torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-8)


def test_moments_of_a_step_have_seeds_of_their_own() -> None:
    """The first micro-step's is the step's, as ever."""
    states = []
    for number in range(3):
        seed_dropout(7, 2, 1, number)
        states.append(torch.rand(1).item())
    seed_dropout(7, 2, 1)
    assert torch.rand(1).item() == states[0]
    assert len(set(states)) == 3
    assert Moment(7, 2, 0, 1).chance(1).random() == Moment(7, 2, 0, 1).chance(1).random()


@pytest.mark.parametrize(("processes", "said"), [("1", "64 micro-steps"), ("8", "each of 8 devices, 8 micro-steps")])
def test_explain_says_how_many_samples_are_compared_here(processes: str, said: str) -> None:
    answer = CliRunner().invoke(app, ["pretrain", "avsiam-h", "--explain"], env={"WORLD_SIZE": processes})
    assert answer.exit_code == 0, answer.output
    line = next(line for line in answer.output.splitlines() if line.startswith("contrast: "))
    assert line.startswith("contrast: each sample is compared with 1,536 (24 at once on ")
    assert said in line
