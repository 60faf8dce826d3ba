import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avdata.load import LoaderConfig
from avmanifest.errors import ConfigError, DivergedError
from avmodel.checkpoint import load_trainer_state
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.data import make_loader, open_splits, scoring_view, train_view
from avmodel.evaluate.finetune.classifier import Classifier, blank, freeze_unused, load_classifier
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.task import finetune
from avmodel.evaluate.finetune.training import finetune_optimizer, predict, step_modality, trained
from avmodel.evaluate.linear_probe.task import linear_probe
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.tasks import task_config
from avmodel.evaluate.training import whole_batch
from avmodel.inputs import to_inputs
from avmodel.metrics import METRICS, read_lines
from avmodel.resuming import LOSS_SCALE
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import DATA, TEST, TRAIN, draw_splits, evaluation_of, tiny_model
from tests.shards import CLASSES, draw_dataset

CONFIG = FinetuneConfig(
    data=replace(DATA, windows=2),
    batch_size=8,
    device_batch_size=8,
    epochs=2,
    optim=OptimConfig(base_lr=0.05, warmup=0.2, ramp=0.0, betas=(0.9, 0.999), layer_decay=0.75),
    device="cpu",
    random_weights=False,
)
STEPS = replace(CONFIG, device_batch_size=4)  # each step is two micro-steps


class Stopped(Exception):
    pass


def stop_after(steps: int):
    def progress(what: str, done: int, total: int) -> None:
        if what.startswith("fine-tuning") and done == steps:
            raise Stopped

    return progress


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / METRICS)]


@pytest.mark.slow
def test_broken_off_and_taken_up_it_is_the_same_run(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    train, test = open_splits(CONFIG.data, splits, None)
    straight = trained(STEPS, run, train, test, 0, tmp_path / "straight")
    with pytest.raises(Stopped):
        trained(STEPS, replace(run, progress=stop_after(5)), train, test, 0, tmp_path / "broken")
    again = trained(STEPS, run, train, test, 0, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "straight")
    assert len(losses(tmp_path / "straight")) == 6
    for name, x in straight.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name
    assert losses(tmp_path / "straight")[-1] != losses(tmp_path / "straight")[0]

    with pytest.raises(ConfigError, match=r"mixup: 1.0 -> 0.5"):
        trained(replace(STEPS, mixup=0.5), run, train, test, 0, tmp_path / "broken")

    loaded, classes = load_classifier(tmp_path / "straight", torch.device("cpu"))
    assert classes == train.dataset.classes
    assert not loaded.multi_label
    told = load_pretrained(tmp_path / "straight", torch.device("cpu"))
    assert (told.profile, told.window_s) == ("paper", 1.0)
    found, expected = (
        predict(CONFIG, one, run, test, scoring_view(CONFIG.data, run.loaded)) for one in (loaded, straight)
    )
    assert all(torch.equal(x, expected[row]) for row, x in found.items())


@pytest.mark.slow
def test_in_float16_it_trains_near_float32_and_resumes_with_its_scale(
    tiny_run: Path, splits: Path, tmp_path: Path
) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    train, test = open_splits(CONFIG.data, splits, None)
    half = replace(CONFIG, precision="float16")
    trained(CONFIG, run, train, test, 0, tmp_path / "exact")
    straight = trained(half, run, train, test, 0, tmp_path / "straight")
    found, exact = losses(tmp_path / "straight"), losses(tmp_path / "exact")
    assert found == pytest.approx(exact, rel=0.02)
    assert found != exact
    (line, *_) = read_lines(tmp_path / "straight" / METRICS)
    assert (line["loss_scale"], line["overflows"]) == (65536.0, 0)
    with pytest.raises(Stopped):
        trained(half, replace(run, progress=stop_after(5)), train, test, 0, tmp_path / "broken")
    again = trained(half, run, train, test, 0, tmp_path / "broken")
    assert losses(tmp_path / "broken") == found
    for name, x in straight.state_dict().items():
        assert x.dtype is torch.float32 or not x.is_floating_point()
        assert torch.equal(x, again.state_dict()[name]), name
    assert load_trainer_state(tmp_path / "broken" / CHECKPOINTS)[LOSS_SCALE]["scale"] == 65536.0


@pytest.mark.slow
def test_the_last_epochs_weights_are_averaged_broken_off_or_not(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    train, test = open_splits(CONFIG.data, splits, None)
    plain = replace(CONFIG, batch_size=TRAIN // 2, device_batch_size=TRAIN // 2, epochs=3)
    ends = []

    def noting(what: str, done: int, _steps: int) -> None:
        if what.startswith("fine-tuning") and done in (3, 5):  # the step after an epoch's last: its checkpoint is there
            ends.append(load_classifier(tmp_path / "plain", torch.device("cpu"))[0].state_dict())

    third = trained(plain, replace(run, progress=noting), train, test, 0, tmp_path / "plain").state_dict()
    _, second = ends
    averaging = replace(plain, averaged_epochs=2)
    found = trained(averaging, run, train, test, 0, tmp_path / "straight")
    assert losses(tmp_path / "straight") == losses(tmp_path / "plain")
    assert any(not torch.equal(x, third[name]) for name, x in second.items())
    for name, x in found.state_dict().items():
        torch.testing.assert_close(x, (second[name] + third[name]) / 2, msg=name)

    with pytest.raises(Stopped):
        trained(averaging, replace(run, progress=stop_after(5)), train, test, 0, tmp_path / "broken")
    again = trained(averaging, run, train, test, 0, tmp_path / "broken")
    loaded, _ = load_classifier(tmp_path / "broken", torch.device("cpu"))
    for name, x in found.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name
        assert torch.equal(x, loaded.state_dict()[name]), name


def test_a_result_has_a_row_for_each_way_of_seeing(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, epochs=1, missing=("audio", "image"), test_every=1, random_weights=True)
    result = finetune(config, run)
    heads = ("image", "audio", "fusion", "all")
    assert set(result.scores) == {
        *heads,
        *(f"{row}, audio only" for row in heads if row != "image"),
        *(f"{row}, image only" for row in heads if row != "audio"),
    }
    assert result.mode == "finetuned, audio-visual"
    assert (result.view["windows"], result.view["frames"]) == (2, 2)
    assert "random weights, all" in result.baselines
    assert sum(map(sum, result.extra["confusion"])) == TEST
    assert (run.out / "seed-0").is_dir()
    assert (run.out / "random-seed-0").is_dir()


@pytest.mark.slow
def test_it_learns_what_the_labels_say(tiny_run: Path, tmp_path: Path) -> None:
    colors = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230]], np.uint8)
    data = draw_splits(
        tmp_path / "colors", picture=lambda sample, frame: np.broadcast_to(colors[sample % 3], (40, 40, 3)).copy()
    )
    config = replace(CONFIG, epochs=6, mixup=0.0, smoothing=0.0, drop_path=0.0, data=replace(DATA, windows=1))
    result = finetune(config, evaluation_of(tiny_run, data, tmp_path))
    assert result.scores["image"]["accuracy"].mean > 90
    found = losses(tmp_path / "task" / "seed-0")
    assert found[-1] < 0.85 * found[0]


def test_decoders_and_nothing_else_are_frozen() -> None:
    classifier = Classifier(tiny_model(), 3, "audio-visual")
    freeze_unused(classifier)
    frozen = {name for name, p in classifier.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(name.startswith(("model.image_decoder.", "model.audio_decoder.")) for name in frozen)
    assert not any(
        p.requires_grad for name, p in classifier.named_parameters() if name.startswith("model.image_decoder.")
    )
    assert classifier.training


def test_rates_fall_from_the_heads_down() -> None:
    classifier = Classifier(tiny_model(), 3, "audio-visual")
    freeze_unused(classifier)
    optimizer = finetune_optimizer(classifier, replace(CONFIG, head_lr=10.0))
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: scale[id(p)] for name, p in classifier.named_parameters() if p.requires_grad}
    assert by_name["heads.heads.fusion.weight"] == 10.0
    assert by_name["model.encoder.image.norm.weight"] == 1.0
    assert by_name["model.encoder.image.blocks.1.attn.qkv.weight"] == 0.75
    assert by_name["model.encoder.image.blocks.0.attn.qkv.weight"] == 0.75**2
    assert by_name["model.encoder.image.patch_embed.proj.weight"] == 0.75**3
    assert len(by_name) == sum(p.requires_grad for p in classifier.parameters())


def test_of_mixed_steps_half_have_both_senses() -> None:
    config = replace(CONFIG, mixed=True)
    given = [step_modality(config, 0, step) for step in range(400)]
    assert 160 < given.count(None) < 240
    assert 70 < given.count("audio") < 130
    assert 70 < given.count("image") < 130
    assert given == [step_modality(config, 0, step) for step in range(400)]
    assert {step_modality(CONFIG, 0, step) for step in range(20)} == {None}


def test_mixed_training_and_a_test_of_all_frames(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, epochs=1, mixed=True, average="probabilities", data=replace(DATA, frames=2))
    result = finetune(config, run)
    assert result.mode == "finetuned, mixed modality"
    assert (result.view["windows"], result.view["frames"]) == (1, 2)
    _, test = open_splits(config.data, splits, None)
    classifier, _ = load_classifier(run.out / "seed-0", torch.device("cpu"))
    view = scoring_view(config.data, run.loaded)
    found = predict(config, classifier, run, test, view)
    torch.testing.assert_close(found["image"].sum(dim=1), torch.ones(TEST))


@pytest.mark.parametrize(
    ("samples", "world_size", "expected"), [(1000, 2, 8), (7, 1, 4), (3, 1, 3), (7, 2, 6), (9, 2, 8)]
)
def test_small_sets_take_whole_micro_steps(samples: int, world_size: int, expected: int) -> None:
    assert whole_batch(STEPS, samples, world_size) == expected


def test_several_labels_are_weighted_and_smoothed_as_set(tiny_run: Path, tmp_path: Path) -> None:
    """The loss of a step without a rate is that of the classifier that comes out, computed by hand."""
    data = draw_splits(tmp_path / "set", labels=lambda number: list(CLASSES[: number % 3 + 1]))
    config = replace(
        CONFIG,
        data=replace(DATA, mode="audio"),
        optim=replace(CONFIG.optim, lr=0.0),
        batch_size=TRAIN,
        device_batch_size=TRAIN,
        epochs=1,
        mixup=0.0,
        max_gain_db=0.0,
        drop_path=0.0,
        multi_label_smoothing=0.3,
        class_weights="inverse-share",
    )
    run = evaluation_of(tiny_run, data, tmp_path)
    train, test = open_splits(config.data, data, None)
    classifier = trained(config, run, train, test, 0, tmp_path / "run")
    assert classifier.multi_label
    # Of 24 samples all have the first class, 16 the second, 8 the third: shares of 1/2, 1/3 and 1/6 of 48 labels.
    for name in ("audio", "fusion"):
        bias = classifier.heads.heads[name].bias.detach()
        expected = [math.log((share + 1e-3) / (1 - share + 1e-3)) for share in (1 / 2, 1 / 3, 1 / 6)]
        torch.testing.assert_close(bias, torch.tensor(expected))
    view = train_view(config.data, run.loaded, max_gain_db=0.0)
    (batch,) = make_loader(LoaderConfig(batch_size=TRAIN, seed=0), config.data, train, view, run.world)
    with torch.no_grad():
        logits = classifier(*to_inputs(batch, torch.device("cpu")))["all"].double().numpy()
    targets = batch.labels.double().numpy() * 0.7 + 0.1
    losses_of = targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)
    expected_loss = (losses_of.mean(axis=0) * [2, 3, 6]).mean()
    assert losses(tmp_path / "run") == [pytest.approx(expected_loss, rel=1e-5)]


def test_audiosets_presets_train_on_its_balanced_split(tiny_run: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    sample = {"labels": lambda number: list(CLASSES[: number % 3 + 1]), "seconds": 1.5, "num_frames": 2, "flac": False}
    draw_dataset(data, 12, 12, split="balanced", **sample)
    draw_dataset(data, 9, 12, split="eval", first=12, **sample)
    run = evaluation_of(tiny_run, data, tmp_path)
    small = {"epochs": 1, "batch_size": 6, "device": "cpu", "random_weights": False}
    tuning = task_config("finetune", "audioset")
    probing = replace(task_config("linear-probe", "audioset"), train_views=0)
    for task, config, found in (("fine-tuning", tuning, finetune), ("linear probe", probing, linear_probe)):
        settings = replace(config.data, windows=1, num_workers=0)
        result = found(replace(config, data=settings, **small), run)
        assert result.headline == ("all", "map")
        assert (result.data["train"]["split"], result.data["test"]["split"]) == ("drawn/balanced", "drawn/eval")
        assert result.line().startswith(f"{task}, ")


def test_a_head_is_left_out_of_training_scores_and_checkpoint(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, epochs=1, head_streams=("audio", "image"), missing=("audio",))
    result = finetune(config, run)
    assert set(result.scores) == {"image", "audio", "all", "audio, audio only", "all, audio only"}
    assert result.headline == ("all", "accuracy")
    assert "finetuned, audio-visual, heads audio + image: accuracy" in result.line()
    classifier, _ = load_classifier(run.out / "seed-0", torch.device("cpu"))
    assert set(classifier.heads.heads) == {"image", "audio"}
    _, test = open_splits(config.data, splits, None)
    found = predict(config, classifier, run, test, scoring_view(config.data, run.loaded))
    torch.testing.assert_close(found["all"], (found["image"] + found["audio"]) / 2)
    hearing = Classifier(tiny_model(), 3, "audio-visual", head_streams=("audio",))
    with pytest.raises(ConfigError, match="mode=image: this classifier has heads on audio alone"):
        hearing(*blank(hearing.model), "image")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"head_streams": ("image", "smell")},
            r"head_streams=image,smell: this model has no stream 'smell'; known: image, audio, fusion",
        ),
        (
            {"head_streams": ("image",), "missing": ("audio",)},
            "no head is left with audio alone. Name one of audio, fusion",
        ),
        ({"head_streams": ("image",), "data": replace(DATA, mode="audio")}, "no head is left with audio alone"),
        ({"class_weights": "inverse-share"}, "class_weights=inverse-share: in .* each sample has one label"),
    ],
)
def test_what_the_model_or_the_data_has_no_use_for_is_refused(
    tiny_run: Path, splits: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        finetune(replace(CONFIG, **changes), evaluation_of(tiny_run, splits, tmp_path))  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_kept(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    train, test = open_splits(CONFIG.data, splits, None)
    with torch.no_grad():
        run.loaded.model.get_parameter("encoder.audio.norm.weight")[0] = torch.inf
    with pytest.raises(DivergedError, match=r"step 1: .* No sample alone is the cause \(the step had clip-"):
        trained(CONFIG, run, train, test, 0, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_folder_without_a_classifier_is_none(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no fine-tuned classifier there"):
        load_classifier(tmp_path, torch.device("cpu"))
    with pytest.raises(ConfigError, match="without heads"):
        load_classifier(tiny_run, torch.device("cpu"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"drop_path": 1.0}, "drop_path=1.0"),
        ({"missing": ("touch",)}, "unknown missing 'touch'; known: audio, image"),
        ({"missing": ("audio",), "data": replace(DATA, mode="audio")}, "has one modality"),
        ({"mixed": True, "data": replace(DATA, mode="image")}, "has one modality"),
        ({"average": "ranks"}, "unknown average 'ranks'"),
        ({"averaged_epochs": 0}, "averaged_epochs=0"),
        ({"head_streams": ()}, "head_streams=: name one stream or more"),
        ({"head_streams": ("image", "image")}, "head_streams=image,image: name one stream or more, each once"),
        (
            {"head_streams": ("image",), "heads": "concat"},
            "head_streams=image with heads=concat: such heads read no stream",
        ),
        ({"class_weights": "share"}, "unknown class_weights 'share'; known: none, inverse-share"),
        ({"multi_label_smoothing": 1.0}, "multi_label_smoothing=1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
