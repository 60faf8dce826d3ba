"""Loading of the model to evaluate, and a check that its fusion was trained."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from avdata.fits import FITS
from avmanifest.errors import ConfigError
from avmanifest.files import replacing, sha256_of_file
from avmanifest.parsing import parse_json
from avmodel.checkpoint import load_model, of_weights_file, read_metadata
from avmodel.checkpoint_folder import EMA_FILE, MODEL_FILE, checkpoints_in
from avmodel.configs.choices import EMA_WEIGHTS, MODEL_WEIGHTS
from avmodel.evaluate.finetune.imported import convert_classifier
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.places import how_to_train, require_checkpoint, trained_folder
from avmodel.models import family_of
from avmodel.models.family import Family
from avmodel.registry.fetch import classes_path
from avmodel.registry.hub import hub_name
from avmodel.registry.named import RUNS, hub_folder, located, named_entry, results_place
from avmodel.rundir import CHECKPOINTS, checkpoints_of, read_config, read_parts
from avmodel.weights.convert import read_published
from avmodel.weights.files import TORCH_SUFFIXES


def load_pretrained(
    path: Path | str, device: torch.device, *, accept_unknown: bool = False, weights: str = MODEL_WEIGHTS
) -> LoadedModel:
    """The model of a run's folder, a checkpoint, a .safetensors file of ours, a released file, a name, or hf:USER/NAME.

    In evaluation mode. A released .pth file is recognized by its hash; one that is not known is read as DeepAVFusion's.
    A name of `avmodel.registry` stands for its downloaded file; hf:USER/NAME is fetched. `weights=ema` takes the moving
    average of the weights from a checkpoint of a run with ema_decay. Raises ConfigError for a model whose fusion was
    never trained (`require_trained_fusion`), for a .pth file that is not released unless `accept_unknown`, for
    `weights=ema` where there is none, as `located`, and as `load_model`.
    """
    entry, named, path = named_entry(path), path, checkpoint_path(path)
    if weights == EMA_WEIGHTS:
        require_average(path)
    if path.suffix in TORCH_SUFFIXES:
        released, published, notes = read_published(path, accept_unknown=accept_unknown)
        origin = {"path": str(path), "sha256": sha256_of_file(path), "step": None, "license": published.license}
        loaded = replace(of_notes(released, path.parent, notes), origin=origin)
    else:
        loaded = _own(path, EMA_FILE if weights == EMA_WEIGHTS else MODEL_FILE)
    if entry is not None:
        loaded = replace(loaded, folder=RUNS / entry.name, origin={**loaded.origin, "published": entry.name})
    if (folder := hub_folder(named)) is not None:
        loaded = replace(
            loaded, folder=folder, origin={**loaded.origin, "path": f"hf:{hub_name(named)}", "commit": path.name}
        )
    require_trained_fusion(loaded.model, path)
    model = loaded.model.to(device).eval()
    family = {"family": family_of(model.config), "config": asdict(model.config)}
    return replace(loaded, model=model, origin={**loaded.origin, **family})


def checkpoint_path(path: Path | str) -> Path:
    """The path, or of a published name its downloaded file; of a fine-tuned one the folder that it is converted to.

    Raises as `located`, and as `convert_classifier`.
    """
    entry, file = named_entry(path), located(path)
    if entry is None or not entry.classes:
        return file
    folder = file.with_name(f"{file.stem}.classifier")
    if not folder.exists():
        classes = f"{entry.classes}={classes_path(file)}" if entry.classes_url else entry.classes
        with replacing(folder, shared=True) as unfinished:
            convert_classifier(
                file,
                unfinished,
                family=entry.family,
                classes=classes,
                mode=entry.mode,
                several=entry.several,
                settings=entry.settings,
            )
    return folder


def require_average(path: Path) -> None:
    """Raise ConfigError unless there are checkpoints with a moving average of the weights in this place."""
    where = checkpoints_of(path)
    if path.is_file() or not any((folder / EMA_FILE).is_file() for folder in (where, *checkpoints_in(where))):
        raise ConfigError(
            f"{path}: no moving average of the weights here ({EMA_FILE}). Give a run trained with ema_decay, or "
            f"one of its checkpoints; or set weights={MODEL_WEIGHTS}."
        )


def _own(path: Path, name: str) -> LoadedModel:
    path = checkpoints_of(path)
    require_checkpoint(path)
    file, (model, _) = of_weights_file(path, load_model, name)
    run = next((folder for folder in file.parents[:3] if (folder / CHECKPOINTS).is_dir()), None)
    settings = (read_config(run) if run is not None else None) or {}
    notes = read_metadata(file)
    origin = {
        "path": str(file),
        "sha256": sha256_of_file(file),
        "step": int(_number(notes.get("step", "0"), file)) or None,
        "license": notes.get("license"),
        "run": settings.get("name", notes.get("run")),
        "data": _parts(notes, file) if run is None else read_parts(run),
    }
    read = {name.removeprefix("data."): value for name, value in settings.items() if name.startswith("data.")}
    return LoadedModel(model=model, origin=origin, folder=run or file.parent, **_reading({**read, **notes}, file))


def _parts(notes: Mapping[str, str], file: Path) -> list[Any]:
    """The datasets that a file of weights notes. Raises ConfigError for something else."""
    parts = parse_json(notes.get("data", "[]"), f"{file}: its notes of data", ConfigError)
    return parts if isinstance(parts, list) else []


def require_trained_fusion(model: Family, source: Path) -> None:
    """Raise ConfigError if the fusion blocks are as initialized: only the two encoders' weights were loaded.

    Initialization leaves every bias at 0 and every norm at 1; one step of training moves them all. The released code
    silently evaluates such models.
    """
    fusion = {name: p for name, p in model.named_parameters() if ".fusion_blocks." in name and p.ndim == 1}
    if fusion and all(
        bool((p == (1.0 if "norm" in n and n.endswith("weight") else 0.0)).all()) for n, p in fusion.items()
    ):
        raise ConfigError(
            f"{source}: its fusion weights are as initialized, never trained or never loaded: the score would "
            "be of random fusion. Take a checkpoint of the whole pretrained model."
        )


def _one_of(known: Sequence[str], name: str, noted: Any, where: Path) -> str | None:
    """One of the known texts that a checkpoint notes under a name; None: none. Raises ConfigError for something else.

    A fit says how frames became square; around_frame is a yes or no.
    """
    if noted is not None and str(noted) not in known:
        raise ConfigError(
            f"{where}: its notes have {name}={repr(noted)[:80]}; known: {', '.join(known)}. It is damaged, or of a "
            "later version."
        )
    return None if noted is None else str(noted)


def _reading(notes: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """The fields of LoadedModel that say how samples were read, as a checkpoint notes them or a run's settings.

    Raises ConfigError for a note that cannot be one.
    """
    window = notes.get("window_s")
    return {
        "profile": notes.get("profile"),
        "window_s": None if window in (None, "None") else _number(window, where),
        "fit": _one_of(FITS, "fit", notes.get("fit"), where),
        "around_frame": _one_of(("True", "False"), "around_frame", notes.get("around_frame"), where) == "True",
    }


def _number(text: Any, where: Path) -> float:
    """A number that a checkpoint notes. Raises ConfigError for something else."""
    try:
        value = float(text)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: its notes have {repr(text)[:80]} in place of a number. It is damaged.") from error
    if not math.isfinite(value):
        raise ConfigError(f"{where}: its notes have {value} in place of a number. It is damaged.")
    return value


AnyModel = TypeVar("AnyModel")


def load_trained(path: Path, task: str, load: Callable[[Path], AnyModel]) -> tuple[Path, AnyModel]:
    """The folder of a model that `avkit evaluate TASK` trained, and what `load` makes of it; see `trained_folder`.

    Raises ConfigError, with the command that trains one, where there is none.
    """
    folder = trained_folder(checkpoint_path(results_place(path, task)), task)
    try:
        return folder, load(folder)
    except ConfigError as error:
        raise ConfigError(f"{error} {how_to_train(path, task)}") from error


def of_notes(model: Family, folder: Path, notes: Mapping[str, str]) -> LoadedModel:
    """A model that was trained for a task, with what its checkpoint notes of the spectrograms."""
    return LoadedModel(model=model, origin={}, folder=folder, **_reading(notes, folder))
