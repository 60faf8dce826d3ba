"""The kinds of heads, each against the mean tokens that it is said to read."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from avmanifest.errors import ConfigError
from avmodel.checkpoint import load_trainer_state, save_checkpoint
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.evaluate.finetune.classifier import (
    Classifier,
    freeze_unused,
    load_classifier,
    require_joint,
    save_classifier,
)
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.training import finetune_optimizer
from avmodel.models.avsiam import AVSiam
from avmodel.models.cavmae import CAVMAE
from avmodel.models.family import Family
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import tiny_model
from tests.families import SIZES, batch

CPU = torch.device("cpu")
CLASSES = 5
BOTH = "audio-visual"


def drawn(model: Family) -> Family:
    """With weights that no longer are as they start, so that no two norms are equal."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def avsiam(**changes: object) -> AVSiam:
    torch.manual_seed(0)
    return drawn(AVSiam(AVSiamConfig(**SIZES, **changes)))  # type: ignore[return-value]


def cavmae() -> CAVMAE:
    torch.manual_seed(0)
    return drawn(CAVMAE(CAVMAEConfig(**SIZES)))  # type: ignore[return-value]


def classifier_of(model: Family, heads: str, mode: str = BOTH, **settings: object) -> Classifier:
    torch.manual_seed(1)
    made = Classifier(model, CLASSES, mode, heads=heads, **settings)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.heads.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def by_hand(classifier: Classifier, name: str, vector: Tensor) -> Tensor:
    """A head's logits, its layer norm and matrix written out."""
    head, norm = classifier.heads.heads[name], classifier.heads.norms[name]
    assert isinstance(head, nn.Linear)
    if isinstance(norm, nn.LayerNorm):
        centered = vector - vector.mean(dim=1, keepdim=True)
        vector = centered / (centered.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    return vector @ head.weight.T + head.bias


def logits(classifier: Classifier, mode: str | None = None, images_each: int = 1) -> dict[str, Tensor]:
    image, log_mel = batch(classifier.model.config, 2 * images_each)
    with torch.no_grad():
        return classifier(image, log_mel[:2], mode)


@pytest.mark.parametrize("head_norm", ["none", "layer"])
@pytest.mark.parametrize("images_each", [1, 3])
def test_concat_reads_both_means_after_the_joint_layers(head_norm: str, images_each: int) -> None:
    """Sound first, as released; with several images for a sound, each is joined with it."""
    model = avsiam()
    classifier = classifier_of(model, "concat", head_norm=head_norm, mixed=True)
    image, log_mel = batch(model.config, 2 * images_each)
    log_mel = log_mel[:2]
    with torch.no_grad():
        audio = model.encoder.encode_audio(model.encoder.audio(model.audio_input(log_mel)))
        seen = model.encoder.encode_image(model.encoder.image(model.image_input(image)))
        tokens = torch.cat([audio.repeat_interleave(images_each, dim=0), seen], dim=1)
        for layer in model.joint_layers:
            tokens = layer(tokens)
        heard = audio.shape[1]
        both = torch.cat([tokens[:, :heard].mean(dim=1), tokens[:, heard:].mean(dim=1)], dim=1)
        expected = by_hand(classifier, "both", both)
        alone = {"audio": by_hand(classifier, "audio", audio.mean(dim=1))}
        alone["image"] = by_hand(classifier, "image", seen.mean(dim=1))
    found = logits(classifier, images_each=images_each)
    assert set(found) == {"both", "all"}
    for row in found:
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
    for mode, wanted in alone.items():
        found = logits(classifier, mode, images_each)
        assert set(found) == {mode, "all"}
        torch.testing.assert_close(found["all"], wanted, atol=1e-5, rtol=1e-5)


def test_concat_without_joint_layers_reads_the_modalities_own_means() -> None:
    model = drawn(tiny_model())
    classifier = classifier_of(model, "concat")
    image, log_mel = batch(model.config, 2)
    with torch.no_grad():
        streams = model.streams(image, log_mel)
        vector = torch.cat([streams["audio"].mean(dim=1), streams["image"].mean(dim=1)], dim=1)
        expected = by_hand(classifier, "both", vector)
    torch.testing.assert_close(logits(classifier)["all"], expected, atol=1e-5, rtol=1e-5)


def test_joint_reads_the_mean_joint_token() -> None:
    model = cavmae()
    classifier = classifier_of(model, "joint", head_norm="layer")
    with torch.no_grad():
        vector = model.streams(*batch(model.config, 2))["joint"].mean(dim=1)
        expected = by_hand(classifier, "joint", vector)
    torch.testing.assert_close(logits(classifier)["all"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["audio", "image"])
def test_with_a_modality_missing_cav_mae_takes_the_mean_of_two_passes(mode: str) -> None:
    """One with the norms for both modalities, one with the modality's own; trained on it alone, only the latter."""
    model = cavmae()
    encoder = model.encoder
    image, log_mel = batch(model.config, 2)
    with torch.no_grad():
        tokens = (
            encoder.image(model.image_input(image)) if mode == "image" else encoder.audio(model.audio_input(log_mel))
        )
        plain = own = tokens
        for block in encoder.joint_blocks:
            plain, own = block(plain), block(own, mode)
        tower = encoder.image if mode == "image" else encoder.audio
        plain, own = encoder.joint_norm(plain).mean(dim=1), tower.norm(own).mean(dim=1)
        both = classifier_of(model, "joint", head_norm="layer")
        torch.testing.assert_close(logits(both, mode)["all"], by_hand(both, "joint", (plain + own) / 2))
        alone = classifier_of(model, "joint", mode, head_norm="layer")
        torch.testing.assert_close(logits(alone)["all"], by_hand(alone, "joint", own))
        assert not torch.allclose(plain, own, atol=1e-2)


def trained_names(classifier: Classifier) -> set[str]:
    return {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}


def test_joint_layers_that_pretraining_left_alone_are_trained() -> None:
    classifier = classifier_of(avsiam(reconstruction_weight=0.0), "concat", mixed=True)
    freeze_unused(classifier)
    assert trained_names(classifier) == {name for name, _ in classifier.named_parameters()}


def test_two_backbones_are_trained_with_the_same_heads() -> None:
    """AVSep: each modality's blocks by the steps that have it."""
    classifier = classifier_of(avsiam(separate=True, reconstruction_weight=0.0), "concat", mixed=True)
    freeze_unused(classifier)
    assert trained_names(classifier) == {name for name, _ in classifier.named_parameters()}
    assert set(classifier.heads.heads) == {"both", "audio", "image"}


def test_only_the_decoder_is_frozen_and_unmixed_training_has_no_heads_to_spare() -> None:
    classifier = classifier_of(avsiam(), "concat")
    freeze_unused(classifier)
    frozen = {name for name, _ in classifier.named_parameters()} - trained_names(classifier)
    assert frozen
    assert all(name.startswith("model.decoder.") for name in frozen)
    assert set(classifier.heads.heads) == {"both"}


def test_heads_and_joint_layers_have_rates_of_their_own() -> None:
    classifier = classifier_of(avsiam(), "concat", head_norm="layer", mixed=True)
    freeze_unused(classifier)
    config = FinetuneConfig(heads="concat", head_norm="layer", mixed=True, head_lr=50.0, joint_lr=8.0)
    config = replace(config, optim=replace(config.optim, layer_decay=1.0))
    optimizer = finetune_optimizer(classifier, config)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"heads.": 50.0, "model.joint_layers.": 8.0}
    for name, parameter in classifier.named_parameters():
        if parameter.requires_grad:
            wanted = next((factor for begin, factor in expected.items() if name.startswith(begin)), 1.0)
            assert scale[id(parameter)] == wanted, name


def test_without_a_factor_the_groups_are_those_of_earlier_runs() -> None:
    classifier = classifier_of(avsiam(), "per-stream")
    freeze_unused(classifier)
    names = [group["name"] for group in finetune_optimizer(classifier, FinetuneConfig()).param_groups]
    assert not any("rate" in name for name in names)
    assert len(names) == len(set(names[:-2])) + 2  # the heads' two groups come last


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (avsiam, {"heads": "concat", "head_norm": "layer", "mixed": True}),
        (cavmae, {"heads": "joint", "head_norm": "layer"}),
        (cavmae, {"heads": "joint", "mode": "audio"}),
        (tiny_model, {"heads": "per-stream", "head_norm": "layer"}),
    ],
)
def test_written_and_read_it_is_the_same_classifier(
    model: Callable[[], Family], settings: dict[str, object], tmp_path: Path
) -> None:
    made = classifier_of(model(), **settings)  # type: ignore[arg-type]
    save_classifier(tmp_path, made, list("abcde"), 1, {})
    read, classes = load_classifier(tmp_path, CPU)
    assert classes == tuple("abcde")
    assert (read.kind, read.head_norm, read.mixed, read.mode) == (made.kind, made.head_norm, made.mixed, made.mode)
    for row, found in logits(read).items():
        assert torch.equal(found, logits(made)[row])


def rewritten(folder: Path, **changes: object) -> None:
    """Write a classifier's checkpoint again with another trainer state; None: without that entry."""
    checkpoint = next((folder / CHECKPOINTS).glob("step-*"))
    read, _ = load_classifier(folder, CPU)
    state = load_trainer_state(checkpoint) | changes
    state = {name: value for name, value in state.items() if value is not None}
    save_checkpoint(folder / CHECKPOINTS, 2, read.model, read.model.config, state, keep=1)


def test_a_checkpoint_of_an_earlier_version_has_a_head_on_each_stream(tmp_path: Path) -> None:
    made = classifier_of(tiny_model(), "per-stream")
    save_classifier(tmp_path, made, list("abcde"), 1, {})
    rewritten(tmp_path, heads_kind=None, head_norm=None, mixed=None)
    read, _ = load_classifier(tmp_path, CPU)
    assert read.kind == "per-stream"
    assert torch.equal(logits(read)["all"], logits(made)["all"])


@pytest.mark.parametrize("changes", [{"heads_kind": "tree"}, {"head_norm": "group"}, {"mode": "smell"}])
def test_a_checkpoint_with_other_heads_is_refused(changes: dict[str, str], tmp_path: Path) -> None:
    save_classifier(tmp_path, classifier_of(tiny_model(), "per-stream"), list("abcde"), 1, {})
    rewritten(tmp_path, **changes)
    with pytest.raises(ConfigError, match="not a classifier of this version"):
        load_classifier(tmp_path, CPU)


def test_what_a_model_has_no_heads_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"heads=joint: DeepAVFusion has no joint tokens\. Set heads=concat"):
        classifier_of(tiny_model(), "joint")
    with pytest.raises(ConfigError, match="mode=audio: AVSiam has no way to read one modality"):
        logits(classifier_of(avsiam(), "joint"), "audio")
    with pytest.raises(ConfigError, match=r"mode=image: this classifier was trained with audio-visual alone"):
        logits(classifier_of(avsiam(), "concat"), "image")


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        (tiny_model, {"joint_lr": 10.0}, r"joint_lr=10: DeepAVFusion has no joint layers\. Set joint_lr=1"),
        (avsiam, {"heads": "joint", "missing": ("audio",)}, "the joint layers of AVSiam never get one modality alone"),
    ],
)
def test_settings_that_the_model_cannot_follow_are_refused(
    model: Callable[[], Family], changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        require_joint(FinetuneConfig(**changes), model())  # type: ignore[arg-type]
