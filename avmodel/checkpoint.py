"""Checkpoints: weights that carry their config, the trainer's state beside them, written so that none ever breaks.

    checkpoints/
      step-00001000/model.safetensors    weights; metadata: format_version, family, config, step, notes
      step-00001000/trainer.pt           optimizer, random generators, loader: tensors and plain values
      latest                             the name of the newest folder

A folder appears by one rename once its bytes are on the disk; `latest` moves to it afterwards.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from avmanifest.errors import AvkitError, ConfigError, StorageError
from avmanifest.files import remove_unfinished, replace_text, replacing
from avmodel.configs.model import ModelConfig
from avmodel.models import FAMILIES, build_model, family_of
from avmodel.models.family import Family

C = TypeVar("C")

FORMAT_VERSION = "1"
MODEL_FILE = "model.safetensors"
TRAINER_FILE = "trainer.pt"
LATEST_FILE = "latest"
STEP_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module | Mapping[str, Tensor],
    config: ModelConfig,
    trainer_state: Mapping[str, Any],
    *,
    keep: int | None = None,
    notes: Mapping[str, str] | None = None,
) -> Path:
    """The new checkpoint's folder, to which `folder`/latest now points.

    `model` may be a state dict (a sharded model gathers its own). `trainer_state` holds tensors and plain values
    in dicts, lists and tuples; `notes` are further metadata of the weights (`save_weights`). Of the older
    checkpoints the newest are kept, `keep` in all; None keeps every one.

    Raises StorageError if it cannot be written; what was there before stays as it was. One process writes a folder.
    """
    require_plain(trainer_state, "trainer_state")
    folder.mkdir(parents=True, exist_ok=True)
    target = free_name(folder, step)
    try:
        remove_unfinished(folder)  # left by a process that died while writing
        with replacing(target, durable=True) as unfinished:
            unfinished.mkdir()
            save_weights(unfinished / MODEL_FILE, model, config, step=step, notes=notes)
            torch.save(dict(trainer_state), unfinished / TRAINER_FILE)
        point_latest_to(target)
    # A full disk is an OSError from Python, a RuntimeError from torch, a SafetensorError from safetensors.
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StorageError(
            f"{target}: checkpoint not written ({error}). Earlier checkpoints are untouched; free space on that disk "
            "or give another folder, then resume."
        ) from error
    if keep is not None:
        prune(folder, keep)
    return target


def load_model(path: Path | str, device: torch.device | str = "cpu") -> tuple[Family, ModelConfig]:
    """The model, in training mode, and the config inside a checkpoint.

    `path`: a folder of checkpoints (its latest is taken), one checkpoint, or a .safetensors file.
    Raises AvkitError for a file that cannot be read, ConfigError for a model this version cannot build.
    """
    path = Path(path)
    file = path if path.is_file() else checkpoint_folder(path) / MODEL_FILE
    weights, metadata = read_weights(file, device)
    config = read_config(metadata, file)
    with torch.device("meta"), _NoRandomValues():
        model = build_model(config)
    fill_weights(model, weights, file)
    return model, config


class _NoRandomValues(TorchFunctionMode):
    """Leaves out the draws of initial values: on the meta device they have no effect and import torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__ or func in (
            Tensor.normal_,
            Tensor.uniform_,
            Tensor.erfinv_,
        ):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def read_weights(file: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file. Raises AvkitError for one that cannot be read."""
    try:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
            return weights, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise AvkitError(f"{file}: no readable weights ({error}). Take another checkpoint.") from error


def load_trainer_state(path: Path | str) -> dict[str, Any]:
    """What `save_checkpoint` was given as `trainer_state`, on the CPU. `path` as in `load_model`, no single file."""
    file = checkpoint_folder(Path(path)) / TRAINER_FILE
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    # The reader of a damaged file stumbles in whatever way the damage has it: IndexError, AssertionError, struct.error.
    except Exception as error:
        raise AvkitError(f"{file}: no readable trainer state ({error}). Resume from another checkpoint.") from error
    if not isinstance(state, dict):
        raise AvkitError(f"{file}: holds a {type(state).__name__}, not a trainer state")
    return state


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `folder`/latest names, or None before the first one.

    Raises AvkitError for a pointer that names no checkpoint here.
    """
    pointer = folder / LATEST_FILE
    if not pointer.exists():
        return None
    name = pointer.read_text().strip()
    if not STEP_NAME.fullmatch(name) or not (folder / name / MODEL_FILE).exists():
        raise AvkitError(f"{pointer}: names {name!r}, which is no checkpoint in this folder")
    return folder / name


def checkpoint_folder(path: Path) -> Path:
    """The single checkpoint that `path` means: itself, or its latest."""
    if (path / MODEL_FILE).exists():
        return path
    latest = latest_checkpoint(path)
    if latest is None:
        raise AvkitError(f"{path}: no checkpoint here; expected {MODEL_FILE}, or a folder with {LATEST_FILE!r}")
    return latest


def save_weights(
    file: Path,
    model: nn.Module | Mapping[str, Tensor],
    config: ModelConfig,
    *,
    step: int = 0,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write one .safetensors file of weights that carries its family and config.

    `notes` say what shapes don't: `profile` and `window_s` of the spectrograms, `license`.

    The names that wrappers add (torch.compile, DistributedDataParallel) are taken off.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    weights = {
        name.replace("_orig_mod.", "").removeprefix("module."): tensor.detach().contiguous()
        for name, tensor in state.items()
    }
    metadata = {
        **(notes or {}),
        "format_version": FORMAT_VERSION,
        "family": family_of(config),
        "config": json.dumps(asdict(config)),
        "step": str(step),
    }
    save_file(weights, file, metadata=metadata)


def read_config(metadata: Mapping[str, str], file: Path) -> ModelConfig:
    """The model's config from a file's metadata. Raises ConfigError if this version lacks the family or a setting."""
    if "family" not in metadata or "config" not in metadata:
        raise ConfigError(f"{file}: weights without a config. Released weights come in through avkit convert.")
    if (version := metadata.get("format_version")) != FORMAT_VERSION:
        raise ConfigError(f"{file}: checkpoint format {version!r}; this version reads {FORMAT_VERSION!r}")
    family = metadata["family"]
    if family not in FAMILIES:
        raise ConfigError(f"{file}: unknown family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    try:
        values = json.loads(metadata["config"])
        return config_from_values(FAMILIES[family].config_type, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: its config cannot be used: {error}") from error


def config_from_values(config_type: type[C], values: Mapping[str, Any]) -> C:
    """The config with these values; JSON's lists become tuples again. Raises ValueError for unknown fields."""
    known = {field.name for field in fields(config_type)}  # type: ignore[arg-type]  # a dataclass
    if unknown := set(values) - known:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return config_type(**typed)


def fill_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Give `model` these weights; a model on the meta device takes the tensors themselves.

    Raises ConfigError unless names and shapes are exactly the model's.
    """
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    problems += [f"{name} is not of this model" for name in weights.keys() - expected.keys()]
    problems += [
        f"{name} is {list(weights[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:4])
        raise ConfigError(
            f"{source}: {len(problems)} of {len(expected)} weights don't fit: {shown}. Take weights of this model and "
            "size, or set size, patch_size, image_size and audio_size as theirs are."
        )
    model.load_state_dict(weights, assign=any(tensor.is_meta for tensor in expected.values()))


def require_plain(value: object, where: str) -> None:
    """Raise ConfigError for anything that could not be read back without running code."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            require_plain(key, f"{where} key")
            require_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            require_plain(item, f"{where}[{index}]")
    elif type(value) not in (int, float, bool, str, bytes, type(None)) and not isinstance(value, Tensor):
        raise ConfigError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def free_name(folder: Path, step: int) -> Path:
    """Where this step's checkpoint goes: a step saved again gets a new folder, so that the old one stays whole."""
    target = folder / f"step-{step:08d}"
    again = 1
    while target.exists():
        again += 1
        target = folder / f"step-{step:08d}-{again}"
    return target


def point_latest_to(target: Path) -> None:
    """Swap the pointer in one rename."""
    replace_text(target.parent / LATEST_FILE, target.name + "\n", durable=True)


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`, never the latest."""
    latest = latest_checkpoint(folder)
    found = sorted(
        (int(match[1]), int(match[2] or 1), path)
        for path in folder.iterdir()
        if (match := STEP_NAME.fullmatch(path.name))
    )
    for _, _, path in found[: max(len(found) - keep, 0)]:
        if path != latest:
            shutil.rmtree(path)
