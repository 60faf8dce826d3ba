"""Models that `avkit evaluate` trained for a task: where they are, and how to get one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from avmanifest.errors import AvkitError, ConfigError
from avmodel.evaluate.loaded import EVALUATIONS

AnyModel = TypeVar("AnyModel")


def load_tuned(checkpoint: Path, task: str, load: Callable[[Path], AnyModel]) -> tuple[Path, AnyModel]:
    """The folder of a model that `avkit evaluate TASK` trained, and what `load` makes of it.

    Raises ConfigError, with the command that trains one, where there is none.
    """
    folder = tuned_folder(checkpoint, task)
    try:
        return folder, load(folder)
    except AvkitError as error:
        raise ConfigError(
            f"{error} This takes a model that was trained for it: avkit evaluate {task} {checkpoint} --data DATASET; "
            "then give the same checkpoint."
        ) from error


def tuned_folder(path: Path, task: str) -> Path:
    """The folder of the first seed: in the results that the path is, or in those of the run that it is, or itself."""
    for folder in (path, path / EVALUATIONS / task):
        if seeds := sorted(folder.glob("seed-*")):
            return seeds[0]
    return path
