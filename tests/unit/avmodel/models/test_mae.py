"""Masked autoencoders without fusion: each is DeepAVFusion's branch, alone, and refuses the modality that it lacks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.checkpoint import save_checkpoint
from avmodel.configs.mae import MAEConfig
from avmodel.costs import count_flop
from avmodel.distributed import World
from avmodel.evaluate.finetune.classifier import Classifier
from avmodel.evaluate.knn.config import KnnConfig
from avmodel.evaluate.knn.task import knn
from avmodel.evaluate.retrieval.config import RetrievalConfig
from avmodel.evaluate.retrieval.task import retrieval
from avmodel.evaluate.run import evaluate
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.models.mae import MAE
from avmodel.rundir import CHECKPOINTS
from avmodel.train import train
from avmodel.weights.starting import start_from_weights
from tests.evaluating import DATA, draw_splits, evaluation_of
from tests.families import draws_for, masks_for
from tests.runs import TINY, TINY_MAE, DrawnBatches, assert_same_run, curve, tiny_run

BOTH = TINY_MAE
IMAGE, AUDIO = (replace(BOTH, modalities=modality) for modality in ("image", "audio"))
HERE = World(0, 1, torch.device("cpu"))


def inputs(size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 32, 32, generator=generator), torch.randn(size, 1, 128, 48, generator=generator)


def drawn(config: MAEConfig) -> MAE:
    torch.manual_seed(0)
    return MAE(config).eval()


def test_two_alone_are_both_beside_each_other() -> None:
    both, image, audio = drawn(BOTH), drawn(IMAGE), drawn(AUDIO)
    image.load_state_dict({name: x for name, x in both.state_dict().items() if ".image." in name})
    audio.load_state_dict({name: x for name, x in both.state_dict().items() if ".audio." in name})
    assert image.num_draws + audio.num_draws == both.num_draws
    seen, heard = inputs()
    masks = masks_for(both, 3)
    losses = both(seen, heard, masks).losses
    alone = image(seen, heard, masks), audio(seen, heard, masks)
    assert alone[0].losses == {"total": losses["image"], "image": losses["image"]}
    assert alone[1].losses == {"total": losses["audio"], "audio": losses["audio"]}
    assert losses["total"] == losses["image"] + losses["audio"]
    assert (alone[0].audio_pred, alone[1].image_pred) == (None, None)
    streams = both.streams(seen, heard)
    assert torch.equal(streams["image"], image.streams(seen, None)["image"])
    assert torch.equal(streams["audio"], audio.streams(seen, heard)["audio"])
    assert both.pictures(seen, heard, both(seen, heard, masks)) is not None
    assert image.pictures(seen, heard, alone[0]) is None


def test_a_branch_is_that_of_deepavfusion_without_fusion() -> None:
    """Same weights, no fusion layer: the same tokens. Decoders differ, as those of DeepAVFusion read fusion tokens."""
    torch.manual_seed(1)
    fused = DeepAVFusion(replace(TINY, fusion_layers="none")).eval()
    both = drawn(BOTH)
    both.encoder.load_state_dict(
        {name: x for name, x in fused.encoder.state_dict().items() if name.startswith(("image.", "audio."))}
    )
    seen, heard = inputs()
    theirs, ours = fused.streams(seen, heard), both.streams(seen, heard)
    for modality in ("image", "audio"):
        torch.testing.assert_close(ours[modality], theirs[modality], rtol=0, atol=1e-6)
    (first, *_), (other, *_) = both.forward_intermediates(seen, heard), fused.forward_intermediates(seen, heard)
    torch.testing.assert_close(first.image, other.image, rtol=0, atol=1e-6)
    torch.testing.assert_close(first.audio, other.audio, rtol=0, atol=1e-6)


def test_ratios_hide_what_they_say() -> None:
    both = drawn(replace(BOTH, audio_mask_ratio=0.75))
    kept = both.choose(draws_for(both, 3))
    assert {modality: ids.shape for modality, ids in kept.items()} == {"image": (3, 2), "audio": (3, 6)}
    with pytest.raises(ValueError, match="leaves nothing to see"):
        replace(BOTH, image_mask_ratio=0.99)
    with pytest.raises(ValueError, match=r"unknown model\.modalities 'video'; known: audio, audio-visual, image"):
        replace(BOTH, modalities="video")


def test_an_absent_modality_has_no_branch() -> None:
    image = drawn(IMAGE)
    seen, heard = inputs()
    assert image.modalities == ("image",)
    assert image.modality_vit("audio") is None
    with pytest.raises(ValueError, match="encodes image, and neither is given"):
        image.streams(None, heard)
    with pytest.raises(ValueError, match="of image alone has no audio branch"):
        image.forward_intermediates(seen, heard)
    assert count_flop(BOTH) == count_flop(IMAGE) + count_flop(AUDIO)


def test_branches_start_from_published_weights_and_from_own_runs(tmp_path: Path) -> None:
    """Of the modality that the model learns from; the other is refused."""
    both = drawn(BOTH)
    save_checkpoint(tmp_path / "both" / CHECKPOINTS, 1, both, BOTH, {"step": 1})
    torch.manual_seed(5)
    image = MAE(IMAGE)
    start_from_weights(image, "image", tmp_path / "both")
    for name, tensor in both.encoder["image"].state_dict().items():
        assert torch.equal(image.encoder["image"].state_dict()[name], tensor)
    with pytest.raises(ConfigError, match="MAE has no separate audio ViT"):
        start_from_weights(image, "audio", tmp_path / "both")
    vit = {name: x for name, x in both.encoder["image"].state_dict().items() if name != "positions"}
    vit["pos_embed"] = torch.zeros(1, 5, 32)
    torch.save({"model": vit}, tmp_path / "vit.pth")
    torch.manual_seed(5)
    fresh = MAE(IMAGE)
    start_from_weights(fresh, "image", tmp_path / "vit.pth")
    assert torch.equal(fresh.encoder["image"].blocks[1].mlp.fc1.weight, both.encoder["image"].blocks[1].mlp.fc1.weight)
    with pytest.raises(ConfigError, match="of image alone has no audio branch"):
        start_from_weights(fresh, "audio", tmp_path / "vit.pth")


@pytest.mark.parametrize("config", [AUDIO, BOTH], ids=["audio", "both"])
def test_a_run_is_trained_and_resumed_to_the_last_bit(tmp_path: Path, config: MAEConfig) -> None:
    run = tiny_run(model=config, pictures_every=4)
    train(run, DrawnBatches(), tmp_path / "straight", HERE, probed=DrawnBatches(6, 6))
    batches = DrawnBatches()
    train(run, batches, tmp_path / "run", HERE, stop=lambda: batches.done >= 12)
    train(run, DrawnBatches(), tmp_path / "run", HERE, resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    named = {name for name in curve(tmp_path / "straight")[0] if name.startswith("loss_")}
    assert named == ({"loss_audio"} if config is AUDIO else {"loss_audio", "loss_image"})


def test_one_modality_is_evaluated_as_what_it_is(tmp_path: Path) -> None:
    data = draw_splits(tmp_path / "set")
    notes = {"profile": "paper", "window_s": "1.0"}
    save_checkpoint(tmp_path / "run" / CHECKPOINTS, 1, drawn(IMAGE), IMAGE, {"step": 1}, notes=notes)
    alone = replace(DATA, mode="image")
    config = KnnConfig(data=alone, device="cpu", random_weights=False)
    result, _ = evaluate("knn", config, tmp_path / "run", data)
    assert set(result.scores) == {"image", "all"}
    for mode in ("audio-visual", "audio"):
        with pytest.raises(
            ConfigError, match=rf"mode={mode}: this MAE has learned from image alone. Set data.mode=image"
        ):
            evaluate("knn", replace(config, data=replace(DATA, mode=mode)), tmp_path / "run", data)
    run = evaluation_of(tmp_path / "run", data, tmp_path)
    with pytest.raises(ConfigError, match=r"mode=audio: .* tasks on both modalities need another model"):
        retrieval(RetrievalConfig(data=alone, device="cpu", random_weights=False), run)
    assert set(knn(config, run).scores) == {"image", "all"}
    assert Classifier(run.loaded.model, 3, "image").heads is not None
    with pytest.raises(ConfigError, match="mode=audio"):
        Classifier(run.loaded.model, 3, "audio")
