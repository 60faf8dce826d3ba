"""Published fine-tuned CAV-MAE and AVSiam checkpoints as classifiers: by key names, against their forward pass."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.apply import apply, load, task_config
from avmodel.evaluate.finetune.classifier import load_classifier
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.imported import convert_classifier, listed_classes
from avmodel.evaluate.finetune.task import finetune
from avmodel.evaluate.loading import load_pretrained
from avmodel.weights.convert import convert
from tests.drawn_windows import drawn_windows
from tests.evaluating import DATA, TEST, draw_splits, evaluation_of, save_tiny
from tests.shards import CLASSES
from tests.unit.avmodel.weights.test_released import (
    DIM,
    avsiam_shapes,
    block,
    cav_mae_shapes,
    inputs,
    last_norm,
    pair,
    patches,
    save,
)

CPU = torch.device("cpu")
COUNT = len(CLASSES)


def head(name: str, width: int, classes: int = COUNT) -> dict[str, tuple[int, ...]]:
    """A head of either release: Sequential(LayerNorm, Linear)."""
    return pair(f"{name}.0", width) | pair(f"{name}.1", classes, width)


def tuned_cav_mae(path: Path, classes: int = COUNT) -> dict[str, Tensor]:
    """All modes are saved alike: which one a file was tuned with stands in its name only."""
    return save(path, cav_mae_shapes() | head("mlp_head", DIM, classes))


def tuned_avsiam(path: Path, classes: int = COUNT) -> dict[str, Tensor]:
    heads = {"mlp_head": DIM, "mlp_head_a": DIM, "mlp_head_mm": 2 * DIM, "mlp_head_mm_v2": DIM}
    shapes = {name: shape for name, shape in avsiam_shapes().items() if not name.startswith("ast_base")}
    for name, width in heads.items():
        shapes |= head(name, width, classes)
    return save(path, shapes)


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The test classes, in another order than a dataset's, for --classes."""
    path = tmp_path_factory.mktemp("classes") / "class_labels_indices.csv"
    rows = [f'{number},/m/{number},"{name}"' for number, name in enumerate(reversed(CLASSES))]
    path.write_text("\n".join(["index,mid,display_name", *rows]) + "\n")
    return f"table={path}"


def linear(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = F.layer_norm(x, x.shape[-1:], weights[f"{name}.0.weight"], weights[f"{name}.0.bias"])
    return x @ weights[f"{name}.1.weight"].T + weights[f"{name}.1.bias"]


def cav_mae_logits(weights: dict[str, Tensor], mode: str, tuned_with: str) -> Tensor:
    """The released forward pass of that mode: multimodal, audioonly, videoonly, missingaudioonly, missingvideoonly."""
    image, log_mel = inputs()
    towers = {}
    for letter, given in (("v", image), ("a", (log_mel + 5.081) / 4.4849)):
        x = patches(weights, f"patch_embed_{letter}", given) + weights[f"pos_embed_{letter}"]
        x = x + weights[f"modality_{letter}"]
        for layer in range(2):
            x = block(weights, f"blocks_{letter}.{layer}", x)
        towers[letter] = x

    def together(x: Tensor) -> Tensor:
        return last_norm(weights, "norm", block(weights, "blocks_u.0", x), 1e-5).mean(dim=1)

    if mode == "audio-visual":
        return linear(weights, "mlp_head", together(torch.cat([towers["a"], towers["v"]], dim=1)))
    letter = {"audio": "a", "image": "v"}[mode]
    x = towers[letter]
    own = last_norm(weights, f"norm_{letter}", block(weights, "blocks_u.0", x, f"_{letter}"), 1e-5).mean(dim=1)
    return linear(weights, "mlp_head", own if tuned_with == mode else (together(x) + own) / 2)


def avsiam_logits(weights: dict[str, Tensor], mode: str, _: str) -> Tensor:
    """The released forward pass of mm_grad, audioonly or videoonly."""
    image, log_mel = inputs()
    a = 2 * (patches(weights, "vit_base.patch_embed_a", (log_mel + 5.081) / 4.4849) + weights["vit_base.pos_embed_a"])
    v = 2 * (patches(weights, "vit_base.patch_embed", image) + weights["vit_base.pos_embed"][:, 1:])
    for layer in range(3):
        a, v = block(weights, f"vit_base.blocks.{layer}", a, "_a"), block(weights, f"vit_base.blocks.{layer}", v, "_v")
    a, v = last_norm(weights, "vit_base.norm_a", a, 1e-6), last_norm(weights, "vit_base.norm", v, 1e-6)
    if mode == "audio":
        return linear(weights, "mlp_head_a", a.mean(dim=1))
    if mode == "image":
        return linear(weights, "mlp_head", v.mean(dim=1))
    x = torch.cat([a, v], dim=1)
    for number in (1, 2):
        x = block(weights, f"mm_layer_{number}", x, "_a")
    heard = a.shape[1]
    return linear(weights, "mlp_head_mm", torch.cat([x[:, :heard].mean(dim=1), x[:, heard:].mean(dim=1)], dim=1))


ALL_MODES = ("audio-visual", "audio", "image")


@pytest.mark.parametrize(
    ("family", "make", "expected", "tuned_with", "modes"),
    [
        ("cavmae", tuned_cav_mae, cav_mae_logits, "audio-visual", ALL_MODES),
        ("cavmae", tuned_cav_mae, cav_mae_logits, "audio", ("audio",)),
        ("cavmae", tuned_cav_mae, cav_mae_logits, "image", ("image",)),
        ("avsiam", tuned_avsiam, avsiam_logits, "audio-visual", ALL_MODES),
        ("avsiam", tuned_avsiam, avsiam_logits, "audio", ("audio",)),
    ],
)
def test_logits_are_those_of_the_released_forward_pass(
    family: str,
    make: Callable[[Path], dict[str, Tensor]],
    expected: Callable[[dict[str, Tensor], str, str], Tensor],
    tuned_with: str,
    modes: tuple[str, ...],
    listed: str,
    tmp_path: Path,
) -> None:
    weights = make(tmp_path / "tuned.pth")
    found = convert_classifier(
        tmp_path / "tuned.pth", tmp_path / "ours", family=family, classes=listed, mode=tuned_with, several=True
    )
    assert "(" in found.license
    classifier, classes = load_classifier(tmp_path / "ours", CPU)
    assert classes == tuple(reversed(CLASSES))
    assert (classifier.mode, classifier.multi_label) == (tuned_with, True)
    for mode in modes:
        with torch.no_grad():
            logits = classifier(*inputs(), mode)["all"]
        torch.testing.assert_close(logits, expected(weights, mode, tuned_with), atol=1e-4, rtol=1e-4)


def test_the_folder_says_what_was_heard_and_seen(listed: str, tmp_path: Path) -> None:
    tuned_cav_mae(tmp_path / "tuned.pth")
    convert_classifier(tmp_path / "tuned.pth", tmp_path / "ours", family="cavmae", classes=listed)
    loaded = load_pretrained(tmp_path / "ours", CPU)
    assert (loaded.profile, loaded.window_s, loaded.fit) == ("kaldi", None, "short-side-crop")
    assert str(loaded.origin["license"]).startswith("BSD-2-Clause")
    assert loaded.model.config.reconstruction_weight == 0
    assert not any("decoder" in name for name, _ in loaded.model.named_parameters())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_splits(tmp_path_factory.mktemp("clips") / "set", mel=("kaldi",))


@pytest.mark.parametrize(("family", "make"), [("cavmae", tuned_cav_mae), ("avsiam", tuned_avsiam)])
def test_it_is_evaluated_as_it_is(
    family: str, make: Callable[[Path], dict[str, Tensor]], listed: str, clips: Path, tmp_path: Path
) -> None:
    """Its classes stand in another order than the dataset's; what it predicts is compared by name."""
    make(tmp_path / "tuned.pth")
    convert_classifier(tmp_path / "tuned.pth", tmp_path / "ours", family=family, classes=listed)
    run = evaluation_of(tmp_path / "ours", clips, tmp_path)
    config = FinetuneConfig(
        data=replace(DATA, frames=2), train=False, missing=("audio",), average="probabilities", device="cpu"
    )
    result = finetune(config, run)
    assert {"all", "all, audio only"} <= set(result.scores)
    assert set(result.baselines) == {"chance"}
    assert (result.mode, result.view["frames"]) == ("finetuned before, audio-visual", 2)
    confusion = torch.tensor(result.extra["confusion"])
    assert int(confusion.sum()) == TEST
    # Turned so that its first class is the dataset's: what it says of each class must turn with it.
    other = tmp_path / "other.csv"
    other.write_text("\n".join(CLASSES) + "\n")
    convert_classifier(tmp_path / "tuned.pth", tmp_path / "turned", family=family, classes=f"table={other}")
    turned = finetune(config, evaluation_of(tmp_path / "turned", clips, tmp_path / "again"))
    assert torch.equal(torch.tensor(turned.extra["confusion"]), confusion.flip(1))


def test_it_labels_a_video(listed: str, tmp_path: Path) -> None:
    tuned_cav_mae(tmp_path / "tuned.pth")
    convert_classifier(tmp_path / "tuned.pth", tmp_path / "ours", family="cavmae", classes=listed)
    model = load("classify", tmp_path / "ours", task_config("classify", device="cpu", window_s=0.5))
    apply(model, drawn_windows(model.window_config), tmp_path / "out")
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]
    assert {entry["label"] for entry in labels} == set(CLASSES)
    assert sum(entry["probability"] for entry in labels) == pytest.approx(1, abs=1e-4)


def test_a_fine_tuned_file_is_a_model_without_decoder_too(tmp_path: Path) -> None:
    for family, make in (("cavmae", tuned_cav_mae), ("avsiam", tuned_avsiam)):
        make(tmp_path / f"{family}.pth")
        convert(tmp_path / f"{family}.pth", tmp_path / f"{family}.safetensors", family=family)
        loaded = load_pretrained(tmp_path / f"{family}.safetensors", CPU)
        assert {"image", "audio", "joint"} == set(loaded.model.streams(*inputs()))


def test_what_is_no_such_file_is_refused(listed: str, tmp_path: Path) -> None:
    tuned_cav_mae(tmp_path / "tuned.pth")
    save(tmp_path / "plain.pth", cav_mae_shapes())

    def converted(name: str, out: str = "ours", **changes: object) -> None:
        given = {"family": "cavmae", "classes": listed} | changes
        convert_classifier(tmp_path / f"{name}.pth", tmp_path / out, **given)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="no heads of a fine-tuned cavmae in it"):
        converted("plain")
    with pytest.raises(ConfigError, match=f"heads of {COUNT} classes; vggsound lists 309"):
        converted("tuned", classes="vggsound")
    with pytest.raises(ConfigError, match="unknown mode 'video'; known: audio-visual, audio, image"):
        converted("tuned", mode="video")
    with pytest.raises(ConfigError, match="no fine-tuned checkpoints of deepavfusion are imported"):
        converted("tuned", family="deepavfusion")
    for out in ("ours.safetensors", "tuned.pth"):
        with pytest.raises(ConfigError, match="give the name of a folder that isn't there"):
            converted("tuned", out)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no classes"),
        ("a\nb\na\n", "lists 'a' twice"),
        ("index,mid,display_name\n0,/m/0\n", "line 2 has no column display_name"),
        (None, "cannot be read as a text of class names"),
    ],
)
def test_lists_that_are_none_are_refused(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        listed_classes(f"table={path}")


def test_classes_are_a_recipes_or_a_lists_in_the_recipes_spelling(tmp_path: Path) -> None:
    assert listed_classes("audioset")[0] == "Speech"
    assert len(listed_classes("vggsound")) == 309
    path = tmp_path / "some.txt"
    path.write_text("helicopter\n\nAmbulance siren\n")
    assert listed_classes(f"vggsound={path}") == ("helicopter", "ambulance siren")
    with pytest.raises(ConfigError, match="this recipe has no classes of its own"):
        listed_classes("table")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": replace(DATA, mode="audio")}, r"data\.mode=audio: .* was tuned with audio-visual"),
        ({"data": DATA}, "classifies 3 classes, .* has 3; only in one of them: "),
    ],
)
def test_data_that_it_does_not_fit_is_refused(
    changes: dict[str, object], said: str, listed: str, clips: Path, tmp_path: Path
) -> None:
    classes = listed
    if changes["data"] is DATA:
        (tmp_path / "others.txt").write_text("one\ntwo\nthree\n")
        classes = f"table={tmp_path / 'others.txt'}"
    tuned_cav_mae(tmp_path / "tuned.pth")
    convert_classifier(tmp_path / "tuned.pth", tmp_path / "ours", family="cavmae", classes=classes)
    config = FinetuneConfig(train=False, device="cpu", **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        finetune(config, evaluation_of(tmp_path / "ours", clips, tmp_path))


def test_a_model_without_heads_cannot_be_tested_as_it_is(clips: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(data=DATA, train=False, device="cpu")
    with pytest.raises(ConfigError, match="a pretrained model without heads"):
        finetune(config, evaluation_of(save_tiny(tmp_path / "run"), clips, tmp_path))
