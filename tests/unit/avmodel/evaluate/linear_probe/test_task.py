from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avmanifest.errors import ConfigError
from avmodel.configs.optim import REFERENCE_BATCH
from avmodel.evaluate.data import open_splits, ordered_loader, train_view
from avmodel.evaluate.evaluation import seeded
from avmodel.evaluate.features import Features, encode_batch
from avmodel.evaluate.heads import ALL, Heads, classification_loss
from avmodel.evaluate.linear_probe.config import LinearProbeConfig, small, supplement
from avmodel.evaluate.linear_probe.task import (
    STEPS_ORDER,
    few_steps,
    linear_probe,
    make_heads_optimizer,
    probe,
    train_heads,
)
from avmodel.optim import schedule
from tests.evaluating import DATA, TEST, TRAIN, evaluation_of, job

CONFIG = LinearProbeConfig(data=DATA, batch_size=8, epochs=4, train_views=2, base_lr=3.0, device="cpu")


def test_kept_features_give_the_same_heads_as_encoding_at_every_step(
    tiny_run: Path, splits: Path, tmp_path: Path
) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    train, test = open_splits(CONFIG.data, run.test, run.train)
    found = probe(CONFIG, run, train, test, seed=3)

    # The slow way: the encoder runs at each step, on the view of the epoch.
    view = train_view(CONFIG.data, run.loaded, max_gain_db=CONFIG.max_gain_db, min_area=CONFIG.min_area)
    torch.manual_seed(3)
    heads = Heads(dict.fromkeys(("image", "audio", "fusion"), 32), 3, normalize=True)
    optimizer = make_heads_optimizer(CONFIG, heads)
    steps, done = CONFIG.epochs * (TRAIN // 8), 0
    for epoch in range(CONFIG.epochs):
        loader = ordered_loader(CONFIG.data, train, view, run.world, batch_size=TRAIN, seed=0)
        loader.set_epoch(epoch % 2)
        (batch,) = loader
        order = torch.randperm(TRAIN, generator=seeded(3, STEPS_ORDER, epoch))
        for rows in order.split(8):
            for group in optimizer.param_groups:
                group["lr"] = CONFIG.base_lr * 8 / REFERENCE_BATCH * schedule(done / steps, CONFIG.warmup)
            values = {name: x[rows] for name, x in encode_batch(job(run), batch, run.world.device).items()}
            loss = classification_loss(heads(values)[ALL], batch.labels[rows].float(), multi_label=False)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
    (asked,) = ordered_loader(CONFIG.data, test, job(run).view, run.world, batch_size=TEST, seed=0)
    with torch.no_grad():
        slow = heads.eval()(encode_batch(job(run), asked, run.world.device))
    for row, logits in slow.items():
        torch.testing.assert_close(found.logits[row], logits, atol=2e-5, rtol=1e-4)


def separable(samples: int) -> Features:
    """Three classes far apart in one stream, noise in the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 3
    clear = torch.eye(3)[labels] @ torch.randn(3, 8, generator=generator) * 4
    values = {
        "image": clear + 0.1 * torch.randn(samples, 8, generator=generator),
        "audio": torch.randn(samples, 8, generator=generator),
    }
    return Features([str(row) for row in range(samples)], values, torch.eye(3, dtype=torch.bool)[labels])


@pytest.mark.parametrize(
    "config", [LinearProbeConfig(batch_size=48, base_lr=30.0), replace(supplement(), base_lr=2e-2)]
)
def test_both_recipes_learn_what_is_linear(config: LinearProbeConfig) -> None:
    features = separable(96)
    heads = train_heads(config, [features], 0, multi_label=False, device=torch.device("cpu")).eval()
    right = {row: x.argmax(1) == features.labels.int().argmax(1) for row, x in heads(features.values).items()}
    assert right["image"].float().mean() > 0.98
    assert right[ALL].float().mean() > 0.9
    assert right["audio"].float().mean() < 0.75


def confirming(samples: int) -> Features:
    """Two streams of which each alone tells the class, one much louder than the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(samples) % 3
    values = {
        name: torch.eye(3)[labels] @ torch.randn(3, 8, generator=generator) * size
        + torch.randn(samples, 8, generator=generator)
        for name, size in (("image", 0.5), ("audio", 4.0))
    }
    return Features([str(row) for row in range(samples)], values, torch.eye(3, dtype=torch.bool)[labels])


def test_each_head_by_itself_is_trained_as_if_it_were_alone() -> None:
    """By the loss of the mean, a head learns only what the other heads have not explained."""
    features, device = confirming(192), torch.device("cpu")
    config = LinearProbeConfig(optimizer="adamw", batch_size=192, base_lr=0.02, epochs=60)

    def logits(config: LinearProbeConfig, streams: Sequence[str]) -> dict[str, torch.Tensor]:
        given = Features(features.keys, {name: features.values[name] for name in streams}, features.labels)
        heads = train_heads(config, [given], 0, multi_label=False, device=device).eval()
        with torch.no_grad():
            return dict(heads(given.values))

    target = features.labels.float()

    def loss(x: torch.Tensor) -> float:
        return float(classification_loss(x, target, multi_label=False))

    alone = loss(logits(config, ["image"])["image"])
    each = logits(replace(config, head_loss="each"), ["image", "audio"])
    assert loss(each["image"]) == pytest.approx(alone, rel=0.05)
    torch.testing.assert_close(each[ALL], (each["image"] + each["audio"]) / 2)
    assert loss(logits(config, ["image", "audio"])["image"]) > 1.08 * alone


@pytest.mark.parametrize("views", [1, 2])
def test_lbfgs_finds_what_sklearn_finds(views: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (60,), generator=generator)
    given = [
        Features(
            [str(row) for row in range(60)],
            {"image": 5 + labels.unsqueeze(1) + 3 * torch.randn(60, 6, generator=generator)},
            torch.eye(3, dtype=torch.bool)[labels],
        )
        for _ in range(views)
    ]
    config = replace(small(), weight_decay=0.05)
    heads = train_heads(config, given, 0, multi_label=False, device=torch.device("cpu")).eval()
    x = torch.cat([view.values["image"] for view in given])
    # sklearn minimizes C times the sum of the losses plus half the squared norm: C = 1 / (samples * decay).
    regression = LogisticRegression(C=1 / (60 * views * 0.05), tol=1e-8, max_iter=1000)
    expected = make_pipeline(StandardScaler(), regression).fit(x.numpy(), labels.repeat(views).numpy())
    with torch.no_grad():
        found = heads({"image": x})["image"].softmax(dim=1)
    torch.testing.assert_close(found, torch.from_numpy(expected.predict_proba(x.numpy())).float(), atol=2e-3, rtol=0)


def test_of_few_samples_the_released_recipe_leaves_the_heads_where_they_were_and_small_does_not() -> None:
    features = confirming(192)

    def right(config: LinearProbeConfig) -> float:
        heads = train_heads(config, [features], 0, multi_label=False, device=torch.device("cpu")).eval()
        with torch.no_grad():
            found = heads(features.values)["image"].argmax(dim=1)
        return float((found == features.labels.int().argmax(dim=1)).float().mean())

    assert right(small()) > right(LinearProbeConfig()) + 0.1


def test_a_result_says_if_its_heads_took_few_steps() -> None:
    few = (*few_steps(LinearProbeConfig(), 2400),)
    assert few == ("the heads took only 120 steps on 2,400 training clips: --preset small says more",)
    assert few_steps(LinearProbeConfig(), 183_000) == ()
    assert few_steps(small(), 2400) == ()


def test_lars_is_momentum_on_gradients_of_a_length_that_the_weights_set() -> None:
    torch.manual_seed(0)
    heads = Heads({"image": 4}, 3, normalize=False)
    head = heads.heads["image"]
    optimizer = make_heads_optimizer(LinearProbeConfig(), heads)
    velocity = torch.zeros(3, 4)
    weight, bias, bias_velocity = head.weight.detach().clone(), head.bias.detach().clone(), torch.zeros(3)
    for step in range(3):
        features, target = torch.randn(8, 4), torch.eye(3)[torch.arange(8) % 3]
        optimizer.zero_grad()
        classification_loss(heads({"image": features})[ALL], target, multi_label=False).backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.5
        gradient, bias_gradient = head.weight.grad.clone(), head.bias.grad.clone()
        optimizer.step()
        velocity = 0.9 * velocity + gradient * 1e-3 * weight.norm() / gradient.norm()
        bias_velocity = 0.9 * bias_velocity + bias_gradient  # no trust ratio
        weight, bias = weight - 0.5 * velocity, bias - 0.5 * bias_velocity
        torch.testing.assert_close(head.weight, weight, msg=f"step {step}")
        torch.testing.assert_close(head.bias, bias)


@pytest.mark.slow
def test_a_result_has_heads_baselines_and_seeds(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, seeds=(0, 1, 2), epochs=2)
    result = linear_probe(config, run)
    assert list(result.scores) == ["image", "audio", "fusion", "all"]
    assert all(len(found["accuracy"].values) == 3 for found in result.scores.values())
    assert result.baselines["chance"]["accuracy"].mean == pytest.approx(100 / 3)
    assert result.baselines["majority"]["accuracy"].mean == pytest.approx(100 / 3)
    assert len(result.baselines["random weights, all"]["accuracy"].values) == 3
    assert sum(map(sum, result.extra["confusion"])) == TEST
    assert [row["samples"] for row in result.extra["per_class"]] == [5, 5, 5]
    assert result.data["test"]["samples"] == TEST
    assert "linear probe, frozen, audio-visual: accuracy" in result.line()
    assert "3 seeds" in result.line()
    again = linear_probe(config, run)
    assert again.scores == result.scores
    without = linear_probe(replace(config, random_weights=False), run)
    assert list(without.baselines) == ["chance", "majority"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_smoothed_targets_are_what_the_heads_come_to(multi_label: bool) -> None:
    """Of 0.3 over three classes, the label keeps 0.8 and each other class gets 0.1."""
    features = separable(48)
    image = Features(features.keys, {"image": features.values["image"]}, features.labels)
    config = LinearProbeConfig(optimizer="adamw", base_lr=0.3, batch_size=48, epochs=150, smoothing=0.3)
    heads = train_heads(config, [image], 0, multi_label=multi_label, device=torch.device("cpu")).eval()
    logits = heads(image.values)[ALL].detach()
    found = logits.sigmoid() if multi_label else logits.softmax(dim=1)
    torch.testing.assert_close(found[image.labels], torch.full((48,), 0.8), atol=0.05, rtol=0)
    torch.testing.assert_close(found[~image.labels], torch.full((96,), 0.1), atol=0.05, rtol=0)


def test_heads_that_are_named_are_the_only_ones(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, epochs=1, head_streams=("audio", "image"), random_weights=False)
    result = linear_probe(config, run)
    assert list(result.scores) == ["image", "audio", "all"]
    assert result.mode == "frozen, audio-visual, heads audio + image"
    with pytest.raises(ConfigError, match="this model has no stream 'joint'; known: image, audio, fusion"):
        linear_probe(replace(config, head_streams=("joint",)), run)


@pytest.mark.parametrize("mode", ["audio", "image"])
def test_one_sense_has_its_own_head_and_the_fusions(tiny_run: Path, splits: Path, tmp_path: Path, mode: str) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, data=replace(DATA, mode=mode), random_weights=False, train_views=0)
    result = linear_probe(config, run)
    assert list(result.scores) == [mode, "fusion", "all"]
    assert result.mode == f"frozen, {mode}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head_loss": "sum"}, "unknown head_loss 'sum'; known: mean, each"),
        ({"flip_probability": 1.5}, "flip_probability=1.5"),
        ({"optimizer": "sgd"}, "unknown optimizer 'sgd'; known: lars, adamw, lbfgs"),
        ({"batch_size": 1}, "batch_size=1: must be 2 or more"),
        ({"warmup": 1.5}, "warmup=1.5"),
        ({"smoothing": 1.0}, "smoothing=1.0"),
        ({"drops": (2.0,)}, "drops=2.0"),
        ({"head_streams": ()}, "head_streams=: name one stream or more"),
        ({"seeds": ()}, "seeds="),
        ({"seeds": (1, 1)}, "seeds="),
        ({"precision": "float64"}, "unknown precision"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
