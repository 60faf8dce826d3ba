"""Segmentation: the pixels that sound, or a class for each, in every frame with a mask; AVSBench's task."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from avdata.audit.mel_axis import to_png
from avdata.load import Batch, select
from avdata.melspec import log_mel
from avdata.waveform import SAMPLE_RATE
from avmanifest.errors import AvkitError
from avmodel.distributed import World, autocast, require_precision
from avmodel.evaluate.data import Split, open_splits, ordered_loader
from avmodel.evaluate.dense.heard import wav
from avmodel.evaluate.dense.pictures import heat_over, mask_over
from avmodel.evaluate.dense.segmenter import (
    SegmentationConfig,
    Segmenter,
    frames_of,
    outputs_of,
    segment,
    tested_view,
    trained_segmenter,
)
from avmodel.evaluate.dense.truth import clips_of, mask_tables, masks_of
from avmodel.evaluate.evaluation import Evaluation, seen, settings_of
from avmodel.evaluate.examples import EXAMPLES_FILE, Example, best_and_worst, write_examples
from avmodel.evaluate.features import gathered, parts_of
from avmodel.evaluate.localization_scores import center_prior, unit_range
from avmodel.evaluate.result import Result, Score, scored
from avmodel.evaluate.segmentation_scores import (
    BACKGROUND,
    OFFICIAL_LEVELS,
    BinaryFrames,
    ClassFrames,
    binary_frames,
    class_averages,
    class_frames,
    official_binary,
    official_classes,
    released_binary,
    released_classes,
)
from avmodel.evaluate.subject import untrained
from avmodel.inputs import IMAGENET_MEAN, Source
from avmodel.optim import OptimConfig

OFFICIAL, RELEASED = "official", "released"
SEGMENTED, RANDOM = "segmented", "random weights"


def ms3() -> SegmentationConfig:
    """AVSBench's MS3: the released code draws one of a clip's 5 frames 100 times an epoch, so each 20 times."""
    return SegmentationConfig(only_labeled=True, repeats=20)


def avss() -> SegmentationConfig:
    """AVSBench's AVSS: 71 classes, background included, one a pixel; of a clip's frames 5 are drawn in an epoch."""
    return SegmentationConfig(target="classes", loss="ce", only_labeled=True, repeats=1)


def supplement() -> SegmentationConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 20 epochs, BCE for all."""
    optim = OptimConfig(optimizer="adam", lr=1e-4, warmup=0.0, drops=(), ramp=0.0, weight_decay=0.0, betas=(0.9, 0.999))
    return SegmentationConfig(optim=optim, batch_size=128, epochs=20, drop_path=0.0, repeats=1)


class Masked(NamedTuple):
    """A split's frames with masks, and what their masks mean."""

    clips: Split
    frames: Split
    tables: UInt8[Tensor, "n 256"]  # of the frames
    labeled: UInt8[Tensor, "n 256"]  # the same, or, with config.only_labeled, what the clips are labeled with alone

    def described(self) -> dict[str, Any]:
        """What a result says of it."""
        own = self.frames.dataset.keys.to_pylist()
        return self.clips.described() | {"samples": len(set(own)), "frames": len(own), "of": len(self.clips.dataset)}


Method = Callable[[Batch], Float[Tensor, "b c h w"]]  # probabilities, of a batch on the device


def segmentation(config: SegmentationConfig, run: Evaluation) -> Result:
    """Train a decoder, and the model with it, on the training frames with a mask; test on the test split's.

    Raises as `open_splits`; ConfigError for data without masks, ShardError for a mask with another class than the
    dataset's, AvkitError for a loss that isn't finite.
    """
    require_precision(config.precision, run.world.device)
    classes = config.target == "classes"
    train_clips, test_clips = open_splits(config.data, run.test, run.train, labeled=classes)
    train = masked(config, train_clips, run.test if run.train is None else run.train, repeats=config.repeats)
    test = masked(config, test_clips, run.test)

    def segmenter_of(one: Evaluation, seed: int, folder: str) -> Segmenter:
        return trained_segmenter(config, one, train.frames, test.frames, train.labeled, seed, one.out / folder)

    segmenters = [segmenter_of(run, seed, f"seed-{seed}") for seed in config.seeds]
    drawn = [
        segmenter_of(run.of(untrained(run.subject, seed)), seed, f"random-seed-{seed}")
        for seed in (config.seeds if config.random_weights else ())
    ]
    methods: dict[tuple[str, int], Method] = {
        (name, place): answer_of(config, run.world, one)
        for name, found in ((SEGMENTED, segmenters), (RANDOM, drawn))
        for place, one in enumerate(found)
    }
    mean = mean_mask(config, run, train)
    methods |= {(name, 0): constant(x) for name, x in known_masks(mean).items()}
    found = counted(config, run, test, methods, len(mean))
    padding = Padding(config, run, test, methods) if classes else None
    table: dict[str, dict[str, Score]] = {}
    for name in dict.fromkeys(name for name, _ in methods):
        runs = [
            scores_of(config, test, found[name, place], None if padding is None else padding.of((name, place)))
            for own, place in methods
            if own == name
        ]
        table |= {f"{name}, {row}": scored([one[row] for one in runs]) for row in runs[0]}
    left_out = len(test_clips.dataset) - test.described()["samples"]
    result = Result(
        task="segmentation",
        headline=(f"{SEGMENTED}, {OFFICIAL}", "miou"),
        unit="%",
        scores={row: x for row, x in table.items() if row.startswith(SEGMENTED)},
        baselines={row: x for row, x in table.items() if not row.startswith(SEGMENTED)},
        mode=f"finetuned, {config.target}",
        view=seen(tested_view(config, run.subject)) | {"fit": config.fit, "around_frame": True},
        data={"train": train.described(), "test": test.described()},
        checkpoint=run.subject.origin,
        settings=settings_of(config),
        seeds=config.seeds,
        notes=(
            *train_clips.notes,
            *test_clips.notes,
            f"official F of batches of {config.official_batch} clip(s)" if not classes else "background is a class",
            *((f"{left_out} clips without a mask were left out",) if left_out else ()),
        ),
        extra=class_rows(found[SEGMENTED, 0].official, test) | ({"examples": EXAMPLES_FILE} if config.examples else {}),
    )
    if run.world.is_main and config.examples:
        shown = examples_of(config, run, segmenters[0], test, found[SEGMENTED, 0].official)
        write_examples(shown, run.out, title=f"{result.task}, {result.mode}", line=result.line())
    return result


def masked(config: SegmentationConfig, clips: Split, source: Source, *, repeats: int = 1) -> Masked:
    """The frames of a split that have a mask."""
    frames = frames_of(clips, repeats=repeats)
    told = clips_of(config.data, clips, source)
    row_of = {key: row for row, key in enumerate(clips.dataset.keys.to_pylist())}
    rows = [row_of[key] for key in frames.dataset.keys.to_pylist()]
    classes = config.target == "classes"
    tables = mask_tables(clips.dataset, told, classes=classes)[rows]
    if not config.only_labeled:
        return Masked(clips, frames, tables, tables)
    return Masked(clips, frames, tables, mask_tables(clips.dataset, told, classes=classes, only_labeled=True)[rows])


def answer_of(config: SegmentationConfig, world: World, segmenter: Segmenter) -> Method:
    """A trained segmenter's probabilities."""

    def answer(batch: Batch) -> Float[Tensor, "b c h w"]:
        with autocast(config.precision, world.device):
            return segment(segmenter, batch.images, batch.gained_log_mel())

    return answer


def constant(probabilities: Float[Tensor, "c h w"]) -> Method:
    """The same for every frame."""
    return lambda batch: probabilities.to(batch.images.device).expand(len(batch), -1, -1, -1)


def mean_mask(config: SegmentationConfig, run: Evaluation, train: Masked) -> Float[Tensor, "c h w"]:
    """How often each pixel of the training frames sounds, or has each class."""
    world = run.world
    frames, tables = frames_of(train.clips), train.labeled[: len(train.labeled) // config.repeats]
    view = tested_view(config, run.subject)
    outputs = outputs_of(frames.dataset.classes if config.target == "classes" else ())
    total = torch.zeros(outputs, view.image_size, view.image_size, dtype=torch.float64)
    count = 0
    for batch in ordered_loader(config.data, frames, view, world, batch_size=config.feature_batch_size, seed=0):
        truth = masks_of(batch, tables)[batch.valid]
        count += len(truth)
        for value in range(outputs):
            total[value] += (truth == (value if outputs > 1 else 1)).sum(dim=0)
    summed = world.mean(torch.cat([total.flatten(), torch.tensor([float(count)])]).to(world.device)).cpu()
    return (summed[:-1] / summed[-1].clamp(min=1e-9)).reshape(total.shape).float()


def known_masks(mean: Float[Tensor, "c h w"]) -> dict[str, Float[Tensor, "c h w"]]:
    """What knows nothing of a frame, given how often each pixel is what in training.

    Of several classes the foreground is the one that training has most of.
    """
    prior = unit_range(center_prior(mean.shape[1]).unsqueeze(0))
    if len(mean) == 1:
        return {
            "all background": torch.zeros_like(mean),
            "all foreground": torch.ones_like(mean),
            "center prior": prior,
            "mean training mask": mean,
        }
    common = 1 + int(mean[1:].sum(dim=(1, 2)).argmax())

    def of(foreground: Float[Tensor, "1 h w"]) -> Float[Tensor, "c h w"]:
        found = torch.zeros_like(mean)
        found[BACKGROUND], found[common] = 1 - foreground[0], foreground[0]
        return found

    return {
        "all background": of(torch.zeros_like(prior)),
        "all foreground": of(torch.ones_like(prior)),
        "center prior": of(prior),
        "mean training mask": mean,
    }


Frames = BinaryFrames | ClassFrames


class Counts(NamedTuple):
    """What the scores of a method need of every test frame, by each evaluation's truth."""

    official: Frames
    released: Frames


def frames_scores(probabilities: Float[Tensor, "b c h w"], truth: UInt8[Tensor, "b h w"]) -> Frames:
    """Count each frame."""
    if probabilities.shape[1] == 1:
        return binary_frames(probabilities[:, 0], truth > 0)
    return class_frames(probabilities.argmax(dim=1).to(torch.uint8), truth, probabilities.shape[1])


def packed(frames: Frames) -> Float[Tensor, "b w"]:
    """The counts side by side."""
    return torch.cat([x.double().reshape(len(x), -1) for x in frames], dim=1)


def unpacked(table: Float[Tensor, "b w"], outputs: int) -> Frames:
    """The counts that `packed` has put side by side."""
    if outputs == 1:
        empty, foreground, background, no_background, curve, best = torch.split(
            table, [1, 1, 1, 1, OFFICIAL_LEVELS, 1], dim=1
        )
        return BinaryFrames(
            empty[:, 0] > 0, foreground[:, 0], background[:, 0], no_background[:, 0] > 0, curve, best[:, 0]
        )
    iou, f, present, empty = torch.split(table, [outputs, outputs, outputs, 1], dim=1)
    return ClassFrames(iou, f, present > 0, empty[:, 0] > 0)


def counted(
    config: SegmentationConfig, run: Evaluation, test: Masked, methods: Mapping[tuple[str, int], Method], outputs: int
) -> dict[tuple[str, int], Counts]:
    """What the scores of each method need of every test frame, in the dataset's order.

    Raises AvkitError if frames are missing because they are damaged.
    """
    world = run.world
    view = tested_view(config, run.subject)
    loader = ordered_loader(config.data, test.frames, view, world, batch_size=config.feature_batch_size, seed=0)
    truths = {OFFICIAL: test.tables} | ({} if test.labeled is test.tables else {RELEASED: test.labeled})

    def count(batch: Batch) -> dict[str, Float[Tensor, "b w"]]:
        moved = batch.to(world.device)
        true = {how: masks_of(batch, tables).to(world.device) for how, tables in truths.items()}
        answers = {key: method(moved) for key, method in methods.items()}
        return {f"{key}, {how}": packed(frames_scores(x, true[how])) for key, x in answers.items() for how in truths}

    tables: list[Tensor] = []
    widths: dict[str, int] = {}
    for table, widths in gathered(loader, world, count):  # noqa: B007  # the last one's are everyone's
        tables.append(table)
        if run.progress is not None and world.is_main:
            run.progress(f"masks of {test.frames.name}", sum(map(len, tables)), len(test.frames.dataset))
    whole = torch.cat(tables)
    if (missing := len(test.frames.dataset) - len(whole)) > 0:
        raise AvkitError(f"{test.frames.name}: {missing} frames are damaged. Leave their clips out, or repair.")
    parts = parts_of(whole, widths)
    last = next(reversed(truths))
    return {key: Counts(*(unpacked(parts[f"{key}, {how}"], outputs) for how in (OFFICIAL, last))) for key in methods}


class Padding:
    """The frames with which AVSBench fills shorter clips up: of ImageNet's mean color, silent, without a class."""

    def __init__(
        self, config: SegmentationConfig, run: Evaluation, test: Masked, methods: Mapping[tuple[str, int], Method]
    ) -> None:
        counts = frames_by_clip(test)
        self.count = len(counts) * max(counts) - sum(counts)
        view = tested_view(config, run.subject)
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
        """What a method makes of such a frame, and how many there are."""
        probabilities = self.methods[method](self.batch)
        truth = torch.zeros(1, *probabilities.shape[2:], dtype=torch.uint8, device=probabilities.device)
        found = frames_scores(probabilities, truth)
        assert isinstance(found, ClassFrames)
        return ClassFrames(*(x.cpu() for x in found)), self.count


def frames_by_clip(test: Masked) -> list[int]:
    """How many frames each clip has, in the dataset's order."""
    return [len(list(frames)) for _, frames in groupby(test.frames.dataset.keys.to_pylist())]


def scores_of(
    config: SegmentationConfig, test: Masked, counts: Counts, padding: tuple[ClassFrames, int] | None
) -> dict[str, dict[str, float]]:
    """Both evaluations' scores."""
    official, released = counts
    if isinstance(official, ClassFrames) and isinstance(released, ClassFrames):
        filler, count = padding if padding is not None else (None, 0)
        return {OFFICIAL: official_classes(official, filler, count), RELEASED: released_classes(released)}
    assert isinstance(official, BinaryFrames) and isinstance(released, BinaryFrames)
    clips = frames_by_clip(test)
    size = config.official_batch
    batches = [sum(clips[first : first + size]) for first in range(0, len(clips), size)]
    return {OFFICIAL: official_binary(official, batches), RELEASED: released_binary(released)}


def class_rows(frames: Frames, test: Masked) -> dict[str, Any]:
    """`per_class`: the frames that truth or prediction have of each class, and its mean IoU over them."""
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


def frame_score(frames: Frames) -> Float[Tensor, " n"]:
    """What a frame is ranked by: the IoU of its foreground, or of its classes; nothing where there is no truth."""
    if isinstance(frames, BinaryFrames):
        return torch.where(frames.empty, torch.nan, frames.foreground)
    kept = frames.present[:, 1:]
    return torch.where(frames.empty, torch.nan, (frames.iou[:, 1:] * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1))


def examples_of(
    config: SegmentationConfig, run: Evaluation, segmenter: Segmenter, test: Masked, frames: Frames
) -> list[Example]:
    """The best and the worst frames: as they are, under the probability, the mask and the true one, and their sound."""
    score = frame_score(frames)
    keep = np.zeros(len(score), np.bool_)
    keep[best_and_worst(score.tolist(), config.examples)] = True
    if not keep.any():
        return []
    rows: Int64[Tensor, " k"] = torch.from_numpy(np.flatnonzero(keep))
    chosen = test.frames._replace(dataset=select(test.frames.dataset, keep))
    sound = bool((chosen.dataset.waveform.size > 0).all())
    view = replace(tested_view(config, run.subject), waveform=sound)
    device = run.world.device
    found = []
    for batch in ordered_loader(config.data, chosen, view, World(0, 1, device), batch_size=8, seed=0):
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
                        f"probability, at most {float(foreground[place].max()):.2f}": heat_over(
                            rgb, foreground[place].numpy()
                        ),
                        "segmented": mask_over(rgb, predicted[place].byte().numpy()),
                        "truth": mask_over(rgb, truth[place].numpy()),
                    },
                    sounds={} if batch.waveform is None else {"sound": wav(batch.waveform[place], SAMPLE_RATE)},
                )
            )
    return found
