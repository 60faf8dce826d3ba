"""A pretrained model with a decoder that predicts the pixels that sound, or their classes; its training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from avdata.load import Batch, EvalView, TrainView, each_frame
from avmanifest.errors import ConfigError
from avmanifest.parsing import parse_json
from avmanifest.wording import counted
from avmodel.evaluate.data import Split, one_view, varied_view
from avmodel.evaluate.decoder import segmentation_decoder
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.loaded import LoadedModel, with_settings
from avmodel.evaluate.predictor import Predictor, load_predictor, save_predictor
from avmodel.evaluate.segmentation.config import LOSSES, SegmentationConfig
from avmodel.evaluate.training import Training, tuned_optimizer
from avmodel.evaluate.training import train as train_module
from avmodel.evaluate.truth import masks_of
from avmodel.fit import Moment
from avmodel.inputs import normalize_images, reading_notes, to_inputs
from avmodel.precision import autocast

KIND = "segmenter"
TEST_ONLY = ("examples", "official_batch", "fit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenter:
    """A trained predictor and the classes of its outputs."""

    predictor: Predictor
    classes: tuple[str, ...]  # after the background; empty: one output, the foreground
    loss: str


def outputs_of(classes: tuple[str, ...]) -> int:
    """Logits of a pixel: one for each class and one for the background; one without classes."""
    return 1 + len(classes)


def segment(
    segmenter: Segmenter, images: UInt8[Tensor, "b 3 h w"], log_mel: Float[Tensor, "a mel t"]
) -> Float[Tensor, "b c h w"]:
    """Segment images.

    Args:
        segmenter: As `load_segmenter` returns it.
        images: As the loader returns them.
        log_mel: As stored, one for each image or one for all.

    Returns:
        Probabilities of every pixel: that it sounds (c = 1), or of the background and each class, which sum to 1 if
        they were trained with `ce`.
    """
    with torch.inference_mode():
        logits: Tensor = segmenter.predictor(normalize_images(images), log_mel.float().unsqueeze(1)).float()
        return logits.softmax(dim=1) if segmenter.loss == "ce" else logits.sigmoid()


def load_segmenter(path: Path | str, device: torch.device | str = "cpu") -> tuple[Segmenter, dict[str, str]]:
    """Load a trained segmenter, in evaluation mode, and its notes, from a seed's folder or a checkpoint.

    Raises as `load_predictor`, and ConfigError for a predictor of another kind.
    """
    predictor, notes = load_predictor(path, device)
    if notes.get("kind") != KIND or notes.get("loss") not in LOSSES:
        raise ConfigError(f"{path}: not a segmenter. avkit evaluate segmentation trains one.")
    names = parse_json(notes.get("classes", ""), f"{path}: its classes", ConfigError)
    if not isinstance(names, list):
        raise ConfigError(f"{path}: its classes cannot be read: a JSON {type(names).__name__}, expected a list")
    classes = tuple(map(str, names))
    if outputs_of(classes) != predictor.config.outputs:
        raise ConfigError(
            f"{path}: {counted(len(classes), 'class', 'classes')} for {counted(predictor.config.outputs, 'output')}: "
            "the file is damaged"
        )
    return Segmenter(predictor=predictor, classes=classes, loss=notes["loss"]), notes


def frames_of(split: Split, *, repeats: int = 1) -> Split:
    """A split whose samples are the frames with a mask, each `repeats` times. Raises ConfigError if there is none."""
    try:
        return split._replace(dataset=each_frame(split.dataset, masked=True, repeats=repeats))
    except ConfigError as error:
        raise ConfigError(f"{split.name}: {error}") from error


def training_view(config: SegmentationConfig, loaded: LoadedModel) -> TrainView:
    """The view of a training frame: a random crop of frame and mask, a window around its time, a random gain."""
    return replace(varied_view(config, loaded), masks=True, around_frame=True, jitter_s=config.jitter_s)


def test_view(config: SegmentationConfig, loaded: LoadedModel) -> EvalView:
    """The view of a test frame: the window around its time."""
    return replace(one_view(config.data, loaded), masks=True, around_frame=True, fit=config.fit)


def mask_loss(logits: Float[Tensor, "b c h w"], truth: UInt8[Tensor, "b h w"], loss: str) -> Float[Tensor, ""]:
    """Mean over pixels of `ce`, or of `bce` of each class; with several classes the background is one of them."""
    if loss == "ce":
        return F.cross_entropy(logits, truth.long())
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], truth.to(logits))
    classes = torch.arange(logits.shape[1], device=truth.device)[:, None, None]
    return F.binary_cross_entropy_with_logits(logits, (truth.unsqueeze(1) == classes).to(logits))


def trained_segmenter(
    config: SegmentationConfig,
    run: Evaluation,
    train: Split,
    test: Split,
    tables: UInt8[Tensor, "n 256"],
    seed: int,
    folder: Path,
) -> Segmenter:
    """The segmenter after all epochs, in evaluation mode; see `avmodel.evaluate.training.train`.

    `train`: the frames; `tables`: the class of each mask value.
    """
    world = run.world
    classes = train.dataset.classes if config.target == "classes" else ()
    view = training_view(config, run.loaded)

    def build() -> Predictor:
        model = with_settings(run.loaded, drop_path=config.drop_path).model
        decoder = segmentation_decoder(outputs_of(classes), narrowing=config.narrowing, norm=config.decoder_norm)
        predictor = Predictor(model, "image", decoder).to(world.device)
        predictor.freeze_unused()
        return predictor

    def loss(forward: nn.Module, batch: Batch, _: Moment) -> Float[Tensor, ""]:
        truth = masks_of(batch, tables).to(world.device)
        with autocast(config.precision, world.device):
            logits = forward(*to_inputs(batch, world.device)).float()
        return mask_loss(logits, truth, config.loss)

    def save(predictor: Predictor, done: int, state: Mapping[str, Any]) -> None:
        notes = {
            "kind": KIND,
            "loss": config.loss,
            "classes": json.dumps(list(classes)),
            **reading_notes(view),
        }
        save_predictor(folder, predictor, done, state, notes)

    training = Training(
        name="segmentation",
        view=view,
        build=build,
        optimizer=lambda predictor: tuned_optimizer(predictor.model, predictor.decoder, config.optim),
        loss=loss,
        save=save,
        load=lambda predictor, path: predictor.load_state_dict(load_predictor(path, world.device)[0].state_dict()),
        test_only=TEST_ONLY,
        splits={"train": train, "test": test},
    )
    predictor = train_module(config, run, training, seed, folder)
    return Segmenter(predictor=predictor, classes=classes, loss=config.loss)
