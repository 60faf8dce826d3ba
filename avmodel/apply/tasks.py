"""What a trained model does to a video, by name."""

import importlib
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from avmanifest.errors import ConfigError
from avmanifest.names import no_such
from avmodel.apply.refusals import require_free, require_gallery, require_trained, require_weights
from avmodel.configs.apply import TASKS, ApplyConfig, RetrieveConfig, task_config
from avmodel.evaluate.config import Progress

if TYPE_CHECKING:
    from avdata.windows import Window, WindowConfig


@runtime_checkable
class Applied(Protocol):
    """A loaded model with a task."""

    @property
    def window_config(self) -> "WindowConfig":
        """The windows that the task takes of a video."""

    @property
    def files(self) -> tuple[str, ...]:
        """What `write` writes."""

    def __call__(self, windows: "Iterable[Window]") -> Iterator[Any]:
        """Tuples of a window and what is found in it, one by one."""

    def write(self, windows: "Iterable[Window]", out: Path) -> dict[str, Any]:
        """Write the files, each whole or not at all. Returns a summary as plain data."""


@runtime_checkable
class Followed(Applied, Protocol):
    """A task that still has work to do after the last window."""

    def followed_by(self, progress: Progress) -> Applied:
        """The same, which tells how much of that is done."""


def require_possible(
    task: str, checkpoint: Path, config: ApplyConfig, *, video: Path, out: Path, overwrite: bool = False
) -> None:
    """Raise ConfigError for what can be refused before a model is loaded: see `avmodel.apply.refusals`."""
    _require_loadable(task, checkpoint, config)
    if not video.exists():
        raise ConfigError(no_such("video", video))
    if not overwrite:
        require_free(out, TASKS[task].files(config))


def _require_loadable(task: str, checkpoint: Path, config: ApplyConfig) -> None:
    """Raise ConfigError for a checkpoint or settings with which no model of the task is loaded."""
    require_weights(config.weights, TASKS[task].trained_by)
    require_trained(checkpoint, TASKS[task].trained_by)
    if isinstance(config, RetrieveConfig):
        require_gallery(config)


def load(task: str, checkpoint: Path | str, config: ApplyConfig | None = None) -> Applied:
    """A trained model, ready for a task. Raises ConfigError for an unknown task, and as the task's own loader.

    What the files' names and settings already refuse is refused before torch is imported.
    """
    config = config or task_config(task)
    _require_loadable(task, Path(checkpoint), config)
    module = importlib.import_module(f"avmodel.apply.{task}")
    return cast("Applied", module.load(Path(checkpoint), config))


def apply(
    model: Applied,
    windows: "Iterable[Window]",
    out: Path | str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write what the model makes of a video's windows into a folder; what was written, as plain data.

    Windows are taken one by one, and each file appears whole or not at all. What is refused or stopped leaves no new
    empty folder. Raises ConfigError if one is there already
    (unless `overwrite`) or without windows, StorageError if the disk doesn't take it, DecodeError for a video that
    can't be read or lacks what the task needs.
    """
    from importlib.metadata import version  # noqa: PLC0415  # takes time, and help does not need it

    folder = Path(out)
    if not overwrite:
        require_free(folder, model.files)
    if progress is not None and isinstance(model, Followed):
        model = model.followed_by(progress)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        facts = model.write(_with_progress(windows, progress), folder)
    except BaseException:
        with suppress(OSError):  # a folder has files
            for path in new:
                path.rmdir()
        raise
    return {"out": str(folder), "files": list(model.files), **facts, "avkit": version("avkit")}


def _with_progress(windows: "Iterable[Window]", progress: Progress | None) -> "Iterator[Window]":
    """The windows; reports progress after each one. Raises ConfigError if there is none."""
    window = None
    for window in windows:
        yield window
        if progress is not None:
            progress("seconds of video", math.ceil(window.end_s), math.ceil(window.duration_s))
    if window is None:
        raise ConfigError("no window is given: a video has at least one")
