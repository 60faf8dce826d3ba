"""What a trained model does to a video, by name."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from avdata.windows import Window, WindowConfig
from avmanifest.errors import ConfigError
from avmodel.apply.classify import ClassifyConfig, load_labeler
from avmodel.apply.embed import load_embedder
from avmodel.apply.inputs import ApplyConfig, OverlayConfig, SpanConfig
from avmodel.apply.localize import LocalizeConfig, load_localizer
from avmodel.apply.retrieve import RetrieveConfig, load_finder
from avmodel.apply.segment import load_outliner
from avmodel.apply.separate import SeparateConfig, load_extractor
from avmodel.distributed import choose_device
from avmodel.evaluate.features import Progress


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
        """Write the files, each whole or not at all; what is to be said of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What `avkit apply --task NAME` does."""

    config: type[ApplyConfig]
    load: Callable[[Path, Any, torch.device], Applied]


TASKS: dict[str, Task] = {
    "embed": Task(config=SpanConfig, load=load_embedder),
    "classify": Task(config=ClassifyConfig, load=load_labeler),
    "retrieve": Task(config=RetrieveConfig, load=load_finder),
    "localize": Task(config=LocalizeConfig, load=load_localizer),
    "segment": Task(config=OverlayConfig, load=load_outliner),
    "separate": Task(config=SeparateConfig, load=load_extractor),
}


def task_config(task: str, **settings: Any) -> ApplyConfig:
    """The task's config with these settings. Raises ConfigError, with the known, for others and for another task."""
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    known = [field.name for field in fields(TASKS[task].config)]
    if strange := [name for name in settings if name not in known]:
        raise ConfigError(f"{', '.join(strange)}: not a setting of {task}, which has {', '.join(known)}")
    return TASKS[task].config(**settings)


def load(task: str, checkpoint: Path | str, config: ApplyConfig | None = None) -> Applied:
    """A trained model, ready for a task. Raises ConfigError for an unknown task, and as the task's own loader."""
    config = config or task_config(task)
    return TASKS[task].load(Path(checkpoint), config, choose_device(config.device))


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
    there = [name for name in model.files if (folder / name).exists()]
    if there and not overwrite:
        raise ConfigError(f"{folder}: holds {', '.join(there)} already. Give another --out, or --overwrite.")
    facts = model.write(_told(windows, progress), folder)
    return {"out": str(folder), "files": list(model.files), **facts, "avkit": version("avkit")}


def _told(windows: Iterable[Window], progress: Progress | None) -> Iterator[Window]:
    """The windows, each told of once it is done with. Raises ConfigError if there is none."""
    window = None
    for window in windows:
        yield window
        if progress is not None:
            progress("seconds of video", math.ceil(window.end_s), math.ceil(window.duration_s))
    if window is None:
        raise ConfigError("no window is given: a video has at least one")
