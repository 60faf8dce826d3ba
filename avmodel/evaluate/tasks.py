"""The tasks by name, with their presets; and one evaluation from checkpoint to results folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avdata.draw.scores import save_pictures
from avmanifest.errors import ConfigError
from avmodel.distributed import join_world, require_precision
from avmodel.evaluate.embed.task import EmbedConfig, embed
from avmodel.evaluate.evaluation import EvalConfig, Evaluation
from avmodel.evaluate.features import Progress
from avmodel.evaluate.finetune.task import avsiam, cav_mae, finetune
from avmodel.evaluate.finetune.training import FinetuneConfig
from avmodel.evaluate.knn.task import KnnConfig, knn
from avmodel.evaluate.linear_probe.task import LinearProbeConfig, linear_probe, supplement
from avmodel.evaluate.loaded import load_pretrained
from avmodel.evaluate.localization.task import LocalizationConfig, localization
from avmodel.evaluate.result import Result, write_result
from avmodel.evaluate.retrieval.task import RetrievalConfig, retrieval
from avmodel.evaluate.segmentation.segmenter import SegmentationConfig
from avmodel.evaluate.segmentation.task import avss, ms3, segmentation
from avmodel.evaluate.segmentation.task import supplement as segmentation_supplement
from avmodel.evaluate.separation.separator import SeparationConfig
from avmodel.evaluate.separation.task import released, separation, sound_of_pixels
from avmodel.evaluate.separation.task import supplement as separation_supplement
from avmodel.inputs import Source

EVALUATIONS = "evaluations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `avkit evaluate NAME` does."""

    run: Callable[[Any, Evaluation], Result]
    presets: Mapping[str, Callable[[], EvalConfig]]  # the first is the default


TASKS: dict[str, Task] = {
    "linear-probe": Task(run=linear_probe, presets={"released": LinearProbeConfig, "supplement": supplement}),
    "finetune": Task(run=finetune, presets={"released": FinetuneConfig, "cav-mae": cav_mae, "avsiam": avsiam}),
    "knn": Task(run=knn, presets={"figure-3": KnnConfig, "train-gallery": lambda: KnnConfig(gallery="train", k=20)}),
    "retrieval": Task(
        run=retrieval, presets={"zero-shot": RetrievalConfig, "aligned": lambda: RetrievalConfig(align="linear")}
    ),
    "localization": Task(
        run=localization,
        presets={"zero-shot": LocalizationConfig, "supervised": lambda: LocalizationConfig(supervised=True)},
    ),
    "segmentation": Task(
        run=segmentation,
        presets={"s4": SegmentationConfig, "ms3": ms3, "avss": avss, "supplement": segmentation_supplement},
    ),
    "separation": Task(
        run=separation,
        presets={
            "irm": SeparationConfig,
            "released": released,
            "supplement": separation_supplement,
            "sound-of-pixels": sound_of_pixels,
        },
    ),
    "embed": Task(run=embed, presets={"default": EmbedConfig}),
}


def task_config(task: str, preset: str | None = None) -> EvalConfig:
    """The config of a task's preset, the first if none is named. Raises ConfigError, with the known, for another."""
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    presets = TASKS[task].presets
    if preset is not None and preset not in presets:
        raise ConfigError(f"unknown preset {preset!r} of {task}; known: {', '.join(presets)}")
    return presets[preset or next(iter(presets))]()


def evaluate(
    task: str,
    config: EvalConfig,
    checkpoint: Path,
    test: Source,
    *,
    train: Source | None = None,
    out: Path | None = None,
    accept_unknown: bool = False,
    progress: Progress | None = None,
) -> tuple[Result, Path]:
    """Evaluate a checkpoint on a dataset, alone or under torchrun; the result, and the folder that holds it.

    `test` is a prepared dataset's folder, or shards; so is `train`, whose default is the training split of the same
    folder. `out` defaults to evaluations/TASK in the folder of the run. Raises ConfigError for what can't be evaluated
    (see `load_pretrained`, `open_splits`), and the errors of the task.
    """
    with join_world(config.device) as world:
        require_precision(config.precision, world.device)
        loaded = load_pretrained(checkpoint, world.device, accept_unknown=accept_unknown)
        folder = out or loaded.folder / EVALUATIONS / task
        run = Evaluation(loaded=loaded, test=test, train=train, out=folder, world=world, progress=progress)
        result = TASKS[task].run(config, run)
        if world.is_main:
            save_pictures(result.extra, folder)
            write_result(result, folder)
        world.barrier()
    return result, folder
