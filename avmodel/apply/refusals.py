"""What is refused before a model is loaded: by names, settings and the runs' config.json. No torch is imported here."""

from collections.abc import Iterable
from pathlib import Path

from avmanifest.errors import ConfigError
from avmodel.configs.apply import RetrieveConfig
from avmodel.configs.choices import MODEL_WEIGHTS
from avmodel.evaluate.places import how_to_train, require_checkpoint, trained_folder
from avmodel.registry.named import located, results_place
from avmodel.rundir import CHECKPOINTS, read_config


def require_trained(checkpoint: Path, task: str | None) -> None:
    """Raise ConfigError for a checkpoint that isn't there, or the folder of a run that `task` didn't train.

    `task`: of `avkit evaluate`; None: any run. Of a published name, see `results_place`. What only the weights show is
    checked by the loader.
    """
    place = results_place(checkpoint, task)
    if place != checkpoint and not place.exists():
        raise ConfigError(
            f"{checkpoint}: a pretrained model, not one for this task. {how_to_train(checkpoint, task or '')}"
        )
    checkpoint = located(place)
    require_checkpoint(checkpoint)
    if task is None:
        return
    folder = trained_folder(checkpoint, task)
    if (folder / CHECKPOINTS).is_dir():
        settings = read_config(folder)
        if settings is not None and "run.seed" not in settings:
            raise ConfigError(f"{folder}: the run of a pretraining. {how_to_train(checkpoint, task)}")


def require_weights(weights: str, task: str | None) -> None:
    """Raise ConfigError for the moving average of a model that `task` trained, which keeps none; None: any run."""
    if weights != MODEL_WEIGHTS and task is not None:
        raise ConfigError(
            f"weights={weights}: what avkit evaluate {task} trains keeps no average. Set weights={MODEL_WEIGHTS}. "
            f"To start from a pretrained one, train with avkit evaluate {task} --set weights={weights}."
        )


def require_gallery(config: RetrieveConfig) -> None:
    """Raise ConfigError without a gallery."""
    if config.gallery is None:
        raise ConfigError("--gallery is missing: the folder that avkit evaluate embed wrote for this checkpoint")


def require_free(folder: Path, files: Iterable[str]) -> None:
    """Raise ConfigError if one of the files is in the folder already."""
    if there := [name for name in files if (folder / name).exists()]:
        raise ConfigError(f"{folder}: holds {', '.join(there)} already. Give another --out, or --overwrite.")
