"""Where results and trained models stand on disk. No torch is imported here."""

from pathlib import Path

from avmanifest.errors import ConfigError
from avmanifest.names import near_paths

EVALUATIONS = "evaluations"  # folder of the results, in a run's
SEED = "seed-"  # beginning of the name of the folder of what a task trains with a seed


def trained_folder(path: Path, task: str) -> Path:
    """The folder of the first seed: in the results that the path is, or in those of the run that it is, or itself."""
    for folder in (path, path / EVALUATIONS / task):
        if seeds := sorted(folder.glob(f"{SEED}*")):
            return seeds[0]
    return path


def require_checkpoint(path: Path) -> None:
    """Raise ConfigError, with the paths beside it that are like it, for a path that is not there."""
    if not path.exists():
        raise ConfigError(
            f"{path}: no such checkpoint. Give a run's folder, a checkpoint, or a weights file.{near_paths(path)}"
        )


def how_to_train(path: Path, task: str) -> str:
    """What to do where a trained model is missing."""
    return (
        f"This takes a model that was trained for it: avkit evaluate {task} {path} --data DATASET; then give the same "
        "checkpoint."
    )
