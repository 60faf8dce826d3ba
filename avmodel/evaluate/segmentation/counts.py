"""The per-frame counts from which segmentation is scored, for each method, by one process or several."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.load import Batch
from avdata.torch_melspec import log_mel
from avmanifest.errors import ShardError
from avmanifest.wording import counted
from avmodel.bootstrap import Sampled
from avmodel.distributed import World
from avmodel.evaluate.data import Split, ordered_loader
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import gathered_parts
from avmodel.evaluate.segmentation.config import SegmentationConfig
from avmodel.evaluate.segmentation.resampled import (
    resampled_official_binary,
    resampled_official_classes,
    resampled_released_binary,
    resampled_released_classes,
)
from avmodel.evaluate.segmentation.scores import (
    OFFICIAL_LEVELS,
    BinaryFrames,
    ClassFrames,
    binary_frames,
    class_frames,
)
from avmodel.evaluate.segmentation.segmenter import frames_of, test_view
from avmodel.evaluate.truth import clips_of, mask_tables, masks_of
from avmodel.inputs import IMAGENET_MEAN

OFFICIAL, RELEASED = "official", "released"
Frames = BinaryFrames | ClassFrames
Method = Callable[[Batch], Float[Tensor, "b c h w"]]  # probabilities, for a batch on the device


class MaskedFrames(NamedTuple):
    """The frames with masks of a split, and the class of each mask value."""

    clips: Split
    frames: Split
    tables: UInt8[Tensor, "n 256"]  # of the frames
    labeled: UInt8[Tensor, "n 256"]  # the same; with config.only_labeled, only the clips' labeled classes

    def described(self) -> dict[str, Any]:
        """The description of the split that results.json keeps."""
        own = self.frames.dataset.keys.to_pylist()
        return self.clips.described() | {"samples": len(set(own)), "frames": len(own), "of": len(self.clips.dataset)}


def masked_frames(config: SegmentationConfig, clips: Split, *, repeats: int = 1) -> MaskedFrames:
    """The frames of a split that have a mask, each `repeats` times."""
    frames = frames_of(clips, repeats=repeats)
    clip_fields = clips_of(config.data, clips)
    row_of = {key: row for row, key in enumerate(clips.dataset.keys.to_pylist())}
    rows = [row_of[key] for key in frames.dataset.keys.to_pylist()]
    classes = config.target == "classes"
    tables = mask_tables(clips.dataset, clip_fields, classes=classes)[rows]
    if not config.only_labeled:
        return MaskedFrames(clips, frames, tables, tables)
    return MaskedFrames(
        clips, frames, tables, mask_tables(clips.dataset, clip_fields, classes=classes, only_labeled=True)[rows]
    )


class Counts(NamedTuple):
    """A method's counts of every test frame, by the ground truth of each evaluation."""

    official: Frames
    released: Frames


def frames_scores(probabilities: Float[Tensor, "b c h w"], truth: UInt8[Tensor, "b h w"]) -> Frames:
    """The counts of each frame."""
    if probabilities.shape[1] == 1:
        return binary_frames(probabilities[:, 0], truth > 0)
    return class_frames(probabilities.argmax(dim=1).to(torch.uint8), truth, probabilities.shape[1])


def packed(frames: Frames) -> Float[Tensor, "b w"]:
    """The counts as columns of one table."""
    return torch.cat([x.double().reshape(len(x), -1) for x in frames], dim=1)


def unpacked(table: Float[Tensor, "b w"], outputs: int) -> Frames:
    """The counts from a table that `packed` made."""
    if outputs == 1:
        empty, foreground, background, no_background, curve, best = torch.split(
            table, [1, 1, 1, 1, OFFICIAL_LEVELS, 1], dim=1
        )
        return BinaryFrames(
            empty[:, 0] > 0, foreground[:, 0], background[:, 0], no_background[:, 0] > 0, curve, best[:, 0]
        )
    iou, f, present, empty = torch.split(table, [outputs, outputs, outputs, 1], dim=1)
    return ClassFrames(iou, f, present > 0, empty[:, 0] > 0)


def count_methods(
    config: SegmentationConfig,
    run: Evaluation,
    test: MaskedFrames,
    methods: Mapping[tuple[str, int], Method],
    outputs: int,
) -> dict[tuple[str, int], Counts]:
    """Each method's counts of every test frame, in the dataset's order.

    Raises ShardError if frames are missing because they are damaged.
    """
    world = run.world
    view = test_view(config, run.loaded)
    loader = ordered_loader(config.data, test.frames, view, world, batch_size=config.feature_batch_size, seed=0)
    truths = {OFFICIAL: test.tables} | ({} if test.labeled is test.tables else {RELEASED: test.labeled})

    def count(batch: Batch) -> dict[str, Float[Tensor, "b w"]]:
        moved = batch.to(world.device)
        true = {how: masks_of(batch, tables).to(world.device) for how, tables in truths.items()}
        answers = {key: method(moved) for key, method in methods.items()}
        return {f"{key}, {how}": packed(frames_scores(x, true[how])) for key, x in answers.items() for how in truths}

    parts = gathered_parts(loader, world, count, run.progress, f"masks of {test.frames.name}")
    if (missing := len(test.frames.dataset) - len(parts["index"])) > 0:
        raise ShardError(
            f"{test.frames.name}: {counted(missing, 'frame is', 'frames are')} damaged. Exclude their clips, or "
            "repair the shards."
        )
    last = next(reversed(truths))
    return {key: Counts(*(unpacked(parts[f"{key}, {how}"], outputs) for how in (OFFICIAL, last))) for key in methods}


class Padding:
    """The frames with which AVSBench pads shorter clips: of ImageNet's mean color, silent, without a class."""

    def __init__(
        self, config: SegmentationConfig, run: Evaluation, test: MaskedFrames, methods: Mapping[tuple[str, int], Method]
    ) -> None:
        counts = frames_by_clip(test)
        self.count = len(counts) * max(counts) - sum(counts)
        view = test_view(config, run.loaded)
        side, columns = view.image_size, view.num_columns
        color = torch.tensor([round(255 * x) for x in IMAGENET_MEAN], dtype=torch.uint8)
        silence = log_mel(torch.zeros(view.window_samples), view.mel)[:, :columns]
        batch = next(
            iter(ordered_loader(config.data, test.frames, view, World(0, 1, run.world.device), batch_size=1, seed=0))
        )
        self.batch = replace(
            batch, images=color[:, None, None].expand(1, 3, side, side), log_mel=silence.unsqueeze(0).half()
        ).to(run.world.device)
        self.methods = methods

    def of(self, method: tuple[str, int]) -> tuple[ClassFrames, int]:
        """A method's counts of such a frame, and the number of such frames."""
        probabilities = self.methods[method](self.batch)
        truth = torch.zeros(1, *probabilities.shape[2:], dtype=torch.uint8, device=probabilities.device)
        found = frames_scores(probabilities, truth)
        assert isinstance(found, ClassFrames)
        return ClassFrames(*(x.cpu() for x in found)), self.count


def frames_by_clip(test: MaskedFrames) -> list[int]:
    """Number of frames of each clip, in the dataset's order."""
    return [len(list(frames)) for _, frames in groupby(test.frames.dataset.keys.to_pylist())]


def scores_of(
    config: SegmentationConfig, test: MaskedFrames, counts: Counts, padding: tuple[ClassFrames, int] | None
) -> dict[str, dict[str, Sampled]]:
    """The scores by evaluation: official and released."""
    official, released = counts
    clips = frames_by_clip(test)
    if isinstance(official, ClassFrames) and isinstance(released, ClassFrames):
        filler, count = padding if padding is not None else (None, 0)
        return {
            OFFICIAL: resampled_official_classes(official, filler, count, clips),
            RELEASED: resampled_released_classes(released, clips),
        }
    assert isinstance(official, BinaryFrames) and isinstance(released, BinaryFrames)
    size = config.official_batch
    batches = [sum(clips[first : first + size]) for first in range(0, len(clips), size)]
    return {
        OFFICIAL: resampled_official_binary(official, batches),
        RELEASED: resampled_released_binary(released, clips),
    }


def frame_score(frames: Frames) -> Float[Tensor, " n"]:
    """IoU of each frame's foreground or classes, by which examples are ranked; NaN without ground truth."""
    if isinstance(frames, BinaryFrames):
        return torch.where(frames.empty, torch.nan, frames.foreground)
    kept = frames.present[:, 1:]
    return torch.where(frames.empty, torch.nan, (frames.iou[:, 1:] * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1))
