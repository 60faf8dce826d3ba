"""The tasks by name, with their presets. Torch is not imported before a task runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmanifest.settings import changed, shown
from avmodel.evaluate.config import EvalConfig
from avmodel.evaluate.embed.config import PRESETS as EMBED
from avmodel.evaluate.finetune.config import PRESETS as FINETUNE
from avmodel.evaluate.knn.config import PRESETS as KNN
from avmodel.evaluate.linear_probe.config import PRESETS as LINEAR_PROBE
from avmodel.evaluate.localization.config import PRESETS as LOCALIZATION
from avmodel.evaluate.retrieval.config import PRESETS as RETRIEVAL
from avmodel.evaluate.segmentation.config import PRESETS as SEGMENTATION
from avmodel.evaluate.separation.config import PRESETS as SEPARATION
from avmodel.models import part
from avmodel.presets import first_line

if TYPE_CHECKING:
    from avmodel.evaluate.evaluation import Evaluation
    from avmodel.evaluate.result import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task of `avkit evaluate`."""

    function: str  # (config, Evaluation) -> Result, as "module:name"; imported when it runs
    presets: Mapping[str, Callable[[], EvalConfig]]  # the first is the default
    summary: str
    headline: str  # the one row and metric that is quoted, and by what rule it is made

    def run(self, config: EvalConfig, evaluation: "Evaluation") -> "Result":
        """Evaluate. Raises the errors of the task's function."""
        return cast("Result", part(self.function)(config, evaluation))


def _task(name: str, presets: Mapping[str, Callable[[], EvalConfig]], summary: str, headline: str) -> Task:
    """The task whose function `name` is in its own folder."""
    function = f"avmodel.evaluate.{name}.task:{name}"
    return Task(function=function, presets=presets, summary=summary, headline=headline)


BY_LABELS = "accuracy, or map where clips have several labels"  # metric of a classification

TASKS: dict[str, Task] = {
    "linear-probe": _task(
        "linear_probe",
        LINEAR_PROBE,
        "Train heads on the frozen features of the training split, score them on the test split.",
        f"all, the mean of the logits of all heads: {BY_LABELS}",
    ),
    "finetune": _task(
        "finetune",
        FINETUNE,
        "Train model and heads on the training split, test on the test split, once a seed.",
        f"all, the mean of the logits of all heads, with all modalities of the training: {BY_LABELS}",
    ),
    "knn": _task(
        "knn",
        KNN,
        "Score the classes of each test clip's nearest neighbors, by the features of each stream and of all.",
        f"all, neighbors by the sum of the cosines of all streams: {BY_LABELS}",
    ),
    "retrieval": _task(
        "retrieval",
        RETRIEVAL,
        "Rank each clip's partner of the other modality: R@1, 5, 10 and median rank, in both directions.",
        "audio to image, from a sound its picture among the gallery: r@1, ties count against it",
    ),
    "localization": _task(
        "localization",
        LOCALIZATION,
        "Find the sound source in the frame nearest to each clip's middle: cIoU and its AUC, by three rules.",
        "the setting `rule` (median), or adaptive where no map could succeed by it: ciou, the share of frames of cIoU "
        "0.5 or more",
    ),
    "segmentation": _task(
        "segmentation",
        SEGMENTATION,
        "Train the model with a decoder on the training frames with a mask, test on the test frames.",
        "segmented, official, as AVSBench's evaluation counts: miou",
    ),
    "separation": _task(
        "separation",
        SEPARATION,
        "Train to separate each of several mixed sounds by its image, test on a fixed list of mixtures.",
        "separated, all mixtures: sdr in dB, as BSS-eval version 3, the mean over sources and mixtures",
    ),
    "embed": _task(
        "embed",
        EMBED,
        "Write OUT/embeddings/part-*.parquet (key, labels, a vector a stream) and OUT/map.png.",
        "none: it has no scores, and says how many rows it wrote",
    ),
}


def preset_summary(task: str, preset: str) -> str:
    """What a preset of a task is: the first line of its function, or in what it differs from the task's defaults."""
    function = TASKS[task].presets[preset]
    if getattr(function, "__name__", "") != "<lambda>":
        return first_line(function)
    config = function()
    return ", ".join(f"{path}={shown(value)}" for path, value in changed(config, type(config)()).items())


def task_config(task: str, preset: str | None = None) -> EvalConfig:
    """The config of a task's preset; None: of its first. Raises ConfigError for an unknown task or preset."""
    if task not in TASKS:
        raise ConfigError(unknown_name("task", task, TASKS))
    presets = TASKS[task].presets
    if preset is not None and preset not in presets:
        raise ConfigError(unknown_name("preset", preset, presets, owner=f" of {task}"))
    return presets[preset or next(iter(presets))]()
