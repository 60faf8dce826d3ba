"""runs/NAME on disk: who may write there, with which config, and from where a run goes on.

config.json      the resolved config
data.json        the datasets it is trained on: name, subset id, hash of shards, samples, samples of an epoch
metrics.jsonl    one line a step, and one with val_loss and its terms for each held-out loss
probe.jsonl      one line a probe
skipped.jsonl    one line a step that was left out; there only if there are any
tensorboard/     the same, for TensorBoard
wandb-run.json   the run's id at Weights & Biases and in trackio, of runs that log there
checkpoints/     see `avmodel.checkpoint`
pictures/        reconstructions
profile/         traces of steps, of runs with --profile
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from avmanifest.errors import ConfigError
from avmanifest.files import is_unfinished, read_file, replace_text, write_errors
from avmanifest.parsing import parse_object
from avmanifest.secrets import shown_url
from avmanifest.settings import declared, flatten
from avmodel.checkpoint_folder import checkpoints_in
from avmodel.metrics import METRICS

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
CHECKPOINTS = "checkpoints"
PICTURES = "pictures"

# Settings that say how a run is carried out, not what it computes: a resumed run may have others.
FREE_SETTINGS = (
    "device",
    "parallel",
    "checkpoint_activations",
    "data.mix",  # the loader's state knows the samples and the amounts
    "data.skip_bad",
    "data.max_bad_share",
    "data.exclude_keys",
    "data.num_workers",
    "data.cache_dir",
    "data.cache_gb",
    "data.offline",
    "save_every",
    "keep_checkpoints",
    "keep_every",
    "pictures_every",
    "probe_every",
    "validation.every",
    "validation.split",
    "validation.batch_size",
    "validation.batches",
    "optim.max_skipped_steps",
    "wandb_project",
    "trackio_project",
    "wandb_name",
    "wandb_group",
    "wandb_tags",
    "wandb_resume",
)


def start_run(folder: Path, config: object, parts: Sequence[Mapping[str, Any]] = (), *, resume: bool) -> None:
    """Give the folder to a run of this config on these parts of data, which begins there or goes on.

    A run that came to no step, as its weights were missing, may begin again with another config.

    Raises ConfigError if the folder holds a run and `resume` isn't asked for, or a run of another config; or no run
    although `resume` is asked for.
    """
    values = as_json(config)
    stored = read_config(folder)
    if stored is None:
        if resume:
            raise ConfigError(f"{folder}: holds no run to resume. Leave --resume out to begin one here.")
        if folder.exists() and any(not is_unfinished(path.name) for path in folder.iterdir()):
            raise ConfigError(f"{folder}: not empty and not a run. Give another --out.")
    elif not resume and ((folder / METRICS).exists() or checkpoints_in(folder / CHECKPOINTS)):
        raise ConfigError(f"{folder}: holds a run already. --resume goes on with it; or give another --out.")
    elif resume and (changed := differences(stored, values, defaults_of(config))):
        raise ConfigError(
            f"{folder}: was begun with another config: {'; '.join(changed)}. Resume with the old settings, or give "
            "another --out."
        )
    write_config(folder, values)
    if parts:
        _write(folder / DATA_FILE, {"parts": [dict(part) for part in parts]})


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Settings that differ and may not, each as `key: stored -> wanted`.

    A setting that an earlier version did not have counts as stored with its default.
    """
    stored = {key: value for key, value in defaults.items() if key in wanted} | dict(stored)
    keys = [*stored, *(key for key in wanted if key not in stored)]
    absent = "(absent)"
    return [
        f"{key}: {stored.get(key, absent)} -> {wanted.get(key, absent)}"
        for key in keys
        if key not in FREE_SETTINGS and stored.get(key, absent) != wanted.get(key, absent)
    ]


def defaults_of(config: object) -> dict[str, Any]:
    """The defaults of a config's settings by dotted key, as JSON gives them back."""
    values = {one.path: one.default for one in declared(type(config), config=config) if one.default is not MISSING}
    found: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return found


def as_json(config: object) -> dict[str, Any]:
    """All settings by dotted key, as JSON gives them back; URLs without their secrets, which a run does not keep."""
    values: dict[str, Any] = json.loads(json.dumps(dict(flatten(config)), default=str))
    return _shown(values)


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _shown_value(value) for name, value in values.items()}


def _shown_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_shown_value(item) for item in value]
    return shown_url(value) if isinstance(value, str) else value


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in this folder, by dotted key; None without one."""
    values = _read(folder / CONFIG_FILE)
    if values is not None and isinstance(values.get("compile"), bool):  # as earlier versions wrote it
        values["compile"] = "blocks" if values["compile"] else "none"
    return None if values is None else _shown(values)  # a run of an earlier version may have kept secrets


def read_parts(folder: Path) -> list[Any]:
    """What the run in this folder is trained on, a record for each dataset; none for a run of an earlier version."""
    values = _read(folder / DATA_FILE) or {}
    parts = values.get("parts", [])
    return parts if isinstance(parts, list) else []


def other_shards(folder: Path, parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the datasets whose shards have other bytes than when the run in this folder last began or went on."""
    key = "shards_sha256"
    before = (part.get(key) if isinstance(part, dict) else None for part in read_parts(folder))
    pairs = zip(before, parts, strict=False)
    return [str(part["name"]) for old, part in pairs if old and part.get(key) and old != part[key]]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    advice = "Give another --out."
    try:
        content = read_file(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). {advice}") from error
    return parse_object(content, path, ConfigError, advice, finite=False)


def write_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Put config.json there, whole or not at all."""
    _write(folder / CONFIG_FILE, values)


def _write(path: Path, values: Mapping[str, Any]) -> None:
    with write_errors(path.parent, "Give another --out.", said="cannot be written"):
        replace_text(path, json.dumps(dict(values), indent=1) + "\n", durable=True)


def checkpoints_of(path: Path | str) -> Path:
    """The folder of checkpoints of a run or a seed; any other path as it is."""
    folder = Path(path) / CHECKPOINTS
    return folder if folder.is_dir() else Path(path)
