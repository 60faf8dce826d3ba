"""A model as a folder that others load, here or as a repository of the Hugging Face hub.

    model.safetensors    weights as of `avmodel.checkpoint`: its metadata has family, config, notes and a hash of it all
    config.json          the same metadata as JSON, for people and for the tools of the hub
    README.md            the model card, if there is one; it is not read here

Files of others are read as data: tensors and JSON, never pickle or code. That is why the hub's own mixin is not used:
it would hand config.json to a class unchecked, and would write weights without the metadata that holds their hash.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from avdata.urls import hub_repository
from avmanifest.errors import CheckpointError, ConfigError, StorageError
from avmanifest.files import read_file, replace_text, replacing
from avmanifest.parsing import parse_json, parse_object
from avmanifest.secrets import shown_content
from avmodel.checkpoint import CONTENT_SHA256, read_metadata, save_weights
from avmodel.checkpoint_folder import MODEL_FILE
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.loading import load_pretrained
from avmodel.registry.hub import CONFIG_FILE, FILES, LIBRARY, fetch_published

_TEXTS: Final = ("config", "data")  # entries of the metadata that are JSON themselves


def write_published(folder: Path, loaded: LoadedModel, *, license: str | None = None, overwrite: bool = False) -> None:
    """Write model.safetensors, then config.json, which `load_published` reads.

    Args:
        folder: Where they go. It is made where it is missing; other files in it stay.
        loaded: The model with what it notes of its data, by `load_pretrained`.
        license: License of the weights; None: as `loaded` notes it, or none.
        overwrite: Replace files that are there.

    Raises:
        ConfigError: One of the files is there, unless `overwrite`.
        StorageError: The disk does not take them.
    """
    if not overwrite and (there := [name for name in FILES if (folder / name).exists()]):
        raise ConfigError(f"{folder}: holds {', '.join(there)} already. Give another folder, or say to overwrite.")
    origin = loaded.origin
    noted = {
        "profile": loaded.profile,
        "window_s": loaded.window_s,
        "fit": loaded.fit,
        "around_frame": loaded.around_frame,
        "license": license or origin.get("license"),
        "run": origin.get("run"),
        "data": json.dumps(shown_content(list(origin.get("data") or []))),
    }
    notes = {name: str(value) for name, value in noted.items() if value is not None}
    try:
        with replacing(folder / MODEL_FILE, durable=True) as unfinished:
            save_weights(unfinished, loaded.model, loaded.model.config, step=origin.get("step") or 0, notes=notes)
        replace_text(folder / CONFIG_FILE, json.dumps(_described(folder), indent=1) + "\n", durable=True)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{folder}: not written ({error}). Free space, or give another folder.") from error


def load_published(
    place: Path | str, device: torch.device | str = "cpu", *, cache_dir: Path | None = None
) -> LoadedModel:
    """The model in a folder of `write_published`, in evaluation mode.

    Args:
        place: The folder, or hf:USER/NAME or hf:USER/NAME@REVISION.
        device: Where the weights go.
        cache_dir: As of `fetch_published`.

    Raises:
        ConfigError: There is no such model, or config.json says something else than the weights do.
        CheckpointError: The files are damaged.
        StorageError: The hub does not answer, or the disk does not take the files.
    """
    repository = hub_repository(str(place), revisions=True)
    folder = Path(place) if repository is None else fetch_published(str(place), cache_dir=cache_dir)
    _require_agreement(folder)
    loaded = load_pretrained(folder, torch.device(device))
    if repository is None:
        return loaded
    return replace(loaded, origin={**loaded.origin, "path": f"hf:{repository[0]}", "commit": folder.name})


def _require_agreement(folder: Path) -> None:
    """Raise ConfigError unless config.json is there and says what the metadata of the weights says."""
    where = folder / CONFIG_FILE
    advice = "Publish the model again."
    try:
        content = read_file(where)
    except OSError as error:
        raise ConfigError(
            f"{where}: cannot be read ({error.strerror}), so this is not the folder of a published model."
        ) from error
    said = parse_object(content, where, ConfigError, advice, finite=False)
    if wrong := [name for name, value in _described(folder).items() if name not in said or said[name] != value]:
        raise ConfigError(f"{where}: {', '.join(wrong)} differ from what {MODEL_FILE} beside it says. {advice}")


def _described(folder: Path) -> dict[str, Any]:
    """What config.json has to say: the library, and the metadata of the weights with its JSON texts unpacked.

    Raises ConfigError for weights without the metadata of a checkpoint, CheckpointError for a file that is damaged.
    """
    file = folder / MODEL_FILE
    metadata = read_metadata(file)
    if CONTENT_SHA256 not in metadata:
        raise ConfigError(f"{file}: weights without a hash of their content, so not published by avkit.")
    described: dict[str, Any] = {"library_name": LIBRARY, **metadata}
    for name in _TEXTS:
        if name in described:
            described[name] = parse_json(described[name], f"{file}: its {name}", CheckpointError, finite=False)
    return described
