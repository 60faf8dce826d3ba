"""Segmentation, AVSBench's task: the pixels that sound, or the class of each, in every frame with a mask."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from avdata.draw.audio import to_wav
from avdata.draw.examples import EXAMPLES_FILE, Example, best_and_worst, write_examples
from avdata.draw.images import draw_heat_map, draw_mask, to_png
from avdata.load import Batch, select
from avdata.waveform import SAMPLE_RATE
from avmanifest.wording import counted
from avmodel.distributed import World
from avmodel.evaluate.data import example_batches, open_splits
from avmodel.evaluate.evaluation import Evaluation, describe_view
from avmodel.evaluate.result import RANDOM_STREAM, Result, Score, compared, score_rows
from avmodel.evaluate.segmentation.baselines import baseline_masks, constant, mean_mask
from avmodel.evaluate.segmentation.config import SegmentationConfig
from avmodel.evaluate.segmentation.counts import (
    OFFICIAL,
    Frames,
    MaskedFrames,
    Method,
    Padding,
    count_methods,
    frame_score,
    masked_frames,
    scores_of,
)
from avmodel.evaluate.segmentation.scores import BinaryFrames, class_averages
from avmodel.evaluate.segmentation.segmenter import Segmenter, segment, test_view, trained_segmenter
from avmodel.evaluate.truth import masks_of
from avmodel.precision import autocast, require_precision

SEGMENTED, RANDOM = "segmented", "random weights"


def segmentation(config: SegmentationConfig, run: Evaluation) -> Result:
    """Train a decoder, and the model with it, on the training frames with a mask; test on the test split's.

    Raises as `open_splits`; ConfigError for data without masks, ShardError for a mask with a class that the dataset
    doesn't have, DivergedError for a loss that isn't finite.
    """
    require_precision(config.precision, run.world.device)
    classes = config.target == "classes"
    train_clips, test_clips = open_splits(config.data, run.test, run.train, labeled=classes)
    train = masked_frames(config, train_clips, repeats=config.repeats)
    test = masked_frames(config, test_clips)

    def segmenter_of(one: Evaluation, seed: int, folder: Path) -> Segmenter:
        return trained_segmenter(config, one, train.frames, test.frames, train.labeled, seed, folder)

    segmenters = [segmenter_of(*one) for one in run.with_seeds(config.seeds)]
    drawn = [segmenter_of(*one) for one in run.with_random_weights(config)]
    methods: dict[tuple[str, int], Method] = {
        (name, place): method_of(config, run.world, one)
        for name, found in ((SEGMENTED, segmenters), (RANDOM, drawn))
        for place, one in enumerate(found)
    }
    mean = mean_mask(config, run, train)
    methods |= {(name, 0): constant(x) for name, x in baseline_masks(mean).items()}
    found = count_methods(config, run, test, methods, len(mean))
    padding = Padding(config, run, test, methods) if classes else None
    table: dict[str, dict[str, Score]] = {}
    for name in dict.fromkeys(name for name, _ in methods):
        runs = [
            scores_of(config, test, found[name, place], None if padding is None else padding.of((name, place)))
            for own, place in methods
            if own == name
        ]
        table |= score_rows(runs, f"{name}, ", stream=RANDOM_STREAM if name == RANDOM else 0)
    drawn_first = sorted((row for row in table if not row.startswith(SEGMENTED)), key=lambda row: RANDOM not in row)
    baselines = {row: table[row] for row in drawn_first}
    left_out = len(test_clips.dataset) - test.described()["samples"]
    result = run.result(
        config,
        task="segmentation",
        headline=(f"{SEGMENTED}, {OFFICIAL}", "miou"),
        scores=compared(
            {row: x for row, x in table.items() if row.startswith(SEGMENTED)},
            baselines,
            lambda row, other: other.endswith(row.removeprefix(SEGMENTED)),
        ),
        baselines=baselines,
        mode=f"finetuned, {config.target}",
        view=describe_view(test_view(config, run.loaded)),
        data={"train": train.described(), "test": test.described()},
        notes=(
            *train_clips.notes,
            *test_clips.notes,
            f"official F of batches of {counted(config.official_batch, 'clip')}"
            if not classes
            else "background is a class",
            *((f"{counted(left_out, 'clip')} without a mask left out",) if left_out else ()),
        ),
        extra=class_rows(found[SEGMENTED, 0].official, test) | ({"examples": EXAMPLES_FILE} if config.examples else {}),
        files=(EXAMPLES_FILE,) if config.examples else (),
    )
    if run.world.is_main and config.examples:
        frames = found[SEGMENTED, 0].official
        shown = examples_of(config, run, segmenters[0], test, frames)
        count = int(frame_score(frames).isfinite().sum())
        write_examples(shown, run.out, title=f"{result.task}, {result.mode}", line=result.line(), of=count)
    return result


def method_of(config: SegmentationConfig, world: World, segmenter: Segmenter) -> Method:
    """The method that a trained segmenter is."""

    def answer(batch: Batch) -> Float[Tensor, "b c h w"]:
        with autocast(config.precision, world.device):
            return segment(segmenter, batch.images, batch.gained_log_mel())

    return answer


def class_rows(frames: Frames, test: MaskedFrames) -> dict[str, Any]:
    """`per_class`: the number of frames whose ground truth or prediction has each class, and the mean IoU over them."""
    if isinstance(frames, BinaryFrames):
        return {}
    iou, _, seen_in = class_averages(frames)
    names = ("background", *test.frames.dataset.classes)
    rows = zip(names, seen_in.tolist(), iou.tolist(), strict=True)
    return {
        "per_class": [
            {"class": name, "samples": count, "iou": 100 * value if count else None} for name, count, value in rows
        ]
    }


def examples_of(
    config: SegmentationConfig, run: Evaluation, segmenter: Segmenter, test: MaskedFrames, frames: Frames
) -> list[Example]:
    """The best and the worst frames: the image, the probability over it, the predicted and the true mask, the sound."""
    score = frame_score(frames)
    keep = np.zeros(len(score), np.bool_)
    keep[best_and_worst(score.tolist(), config.examples)] = True
    if not keep.any():
        return []
    rows: Int64[Tensor, " k"] = torch.from_numpy(np.flatnonzero(keep))
    chosen = test.frames._replace(dataset=select(test.frames.dataset, keep))
    device = run.world.device
    found = []
    for batch in example_batches(config.data, chosen, test_view(config, run.loaded), device):
        moved = batch.to(device)
        probabilities = segment(segmenter, moved.images, moved.gained_log_mel()).cpu()
        binary = probabilities.shape[1] == 1
        predicted = (probabilities[:, 0] > 0.5) if binary else probabilities.argmax(dim=1)
        foreground = probabilities[:, 0] if binary else 1 - probabilities[:, 0]
        truth = masks_of(batch, test.tables[rows])
        for place, row in enumerate(batch.sample_ids.tolist()):
            if not batch.valid[place]:
                continue
            rgb = np.ascontiguousarray(batch.images[place].movedim(0, -1).numpy())
            labels = ", ".join(batch.label_names()[place])
            found.append(
                Example(
                    key=f"{batch.keys[place]}, {float(batch.frame_time_s[place]):.2f} s",
                    title=labels or batch.keys[place],
                    score=float(score[rows[row]]),
                    metrics={"IoU (%)": 100 * float(score[rows[row]])},
                    pictures={
                        "frame": to_png(rgb),
                        f"probability, at most {float(foreground[place].max()):.2f}": to_png(
                            draw_heat_map(rgb, foreground[place].numpy())
                        ),
                        "segmented": to_png(draw_mask(rgb, predicted[place].byte().numpy())),
                        "truth": to_png(draw_mask(rgb, truth[place].numpy())),
                    },
                    sounds={}
                    if batch.waveform is None
                    else {"sound": to_wav(batch.waveform[place].numpy(), SAMPLE_RATE)},
                )
            )
    return found
