"""What a trained model does to a video, by name."""

import importlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from avdata.windows import Window, WindowConfig
from avmanifest.errors import ConfigError
from avmodel.apply.config import (
    CLASSIFY_FILES,
    EMBED_FILES,
    LOCALIZE_FILES,
    RETRIEVE_FILES,
    SEGMENT_FILES,
    ApplyConfig,
    ClassifyConfig,
    LocalizeConfig,
    OverlayConfig,
    RetrieveConfig,
    SeparateConfig,
    SpanConfig,
)
from avmodel.apply.refusals import require_free, require_gallery, require_trained, require_weights
from avmodel.evaluate.config import Progress


@runtime_checkable
class Applied(Protocol):
    """A loaded model with a task."""

    @property
    def window_config(self) -> WindowConfig:
        """The windows that the task takes of a video."""

    @property
    def files(self) -> tuple[str, ...]:
        """What `write` writes."""

    def __call__(self, windows: Iterable[Window]) -> Iterator[Any]:
        """Tuples of a window and what is found in it, one by one."""

    def write(self, windows: Iterable[Window], out: Path) -> dict[str, Any]:
        """Write the files, each whole or not at all. Returns a summary as plain data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `avkit apply --task NAME` does. The module of its name has `load`, which imports torch."""

    config: type[ApplyConfig]
    files: Callable[[Any], tuple[str, ...]]  # what is written, of a config
    trained_by: str | None = None  # the task of `avkit evaluate` that makes what it takes; None: any checkpoint


TASKS: dict[str, Task] = {
    "embed": Task(config=SpanConfig, files=lambda _: EMBED_FILES),
    "classify": Task(config=ClassifyConfig, files=lambda _: CLASSIFY_FILES, trained_by="finetune"),
    "retrieve": Task(config=RetrieveConfig, files=lambda _: RETRIEVE_FILES),
    "localize": Task(config=LocalizeConfig, files=lambda _: LOCALIZE_FILES),
    "segment": Task(config=OverlayConfig, files=lambda _: SEGMENT_FILES, trained_by="segmentation"),
    "separate": Task(config=SeparateConfig, files=lambda config: config.files, trained_by="separation"),
}


def task_config(task: str, **settings: Any) -> ApplyConfig:
    """The task's config with these settings. Raises ConfigError, with the known, for others and for another task."""
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    known = [field.name for field in fields(TASKS[task].config)]
    if strange := [name for name in settings if name not in known]:
        raise ConfigError(f"{', '.join(strange)}: not a setting of {task}, which has {', '.join(known)}")
    return TASKS[task].config(**settings)


def require_possible(
    task: str, checkpoint: Path, config: ApplyConfig, *, video: Path, out: Path, overwrite: bool = False
) -> None:
    """Raise ConfigError for what can be refused before a model is loaded: see `avmodel.apply.refusals`."""
    require_weights(config.weights, TASKS[task].trained_by)
    require_trained(checkpoint, TASKS[task].trained_by)
    if isinstance(config, RetrieveConfig):
        require_gallery(config)
    if not video.exists():
        raise ConfigError(f"{video}: no such video")
    if not overwrite:
        require_free(out, TASKS[task].files(config))


def load(task: str, checkpoint: Path | str, config: ApplyConfig | None = None) -> Applied:
    """A trained model, ready for a task. Raises ConfigError for an unknown task, and as the task's own loader.

    What the files' names and settings already refuse is refused before torch is imported.
    """
    config = config or task_config(task)
    require_weights(config.weights, TASKS[task].trained_by)
    require_trained(Path(checkpoint), TASKS[task].trained_by)
    if isinstance(config, RetrieveConfig):
        require_gallery(config)
    module = importlib.import_module(f"avmodel.apply.{task}")
    return cast("Applied", module.load(Path(checkpoint), config))


def apply(
    model: Applied,
    windows: Iterable[Window],
    out: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write what the model makes of a video's windows into a folder; what was written, as plain data.

    Windows are taken one by one, and each file appears whole or not at all. Raises ConfigError if one is there already
    (unless `overwrite`) or without windows, StorageError if the disk doesn't take it, DecodeError for a video that
    can't be read or lacks what the task needs.
    """
    folder = Path(out)
    if not overwrite:
        require_free(folder, model.files)
    facts = model.write(_with_progress(windows, progress), folder)
    return {"out": str(folder), "files": list(model.files), **facts, "avkit": version("avkit")}


def _with_progress(windows: Iterable[Window], progress: Progress | None) -> Iterator[Window]:
    """The windows; reports progress after each one. Raises ConfigError if there is none."""
    window = None
    for window in windows:
        yield window
        if progress is not None:
            progress("seconds of video", math.ceil(window.end_s), math.ceil(window.duration_s))
    if window is None:
        raise ConfigError("no window is given: a video has at least one")
