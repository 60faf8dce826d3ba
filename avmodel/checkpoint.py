"""Checkpoints: weights that carry their config, the trainer's state beside them, each with its hash.

    model.safetensors    weights; metadata: format_version, family, config, step, notes, and the hashes
    ema.safetensors      in runs with ema_decay: the same of a moving average of the weights
    trainer.pt           optimizer, random generators, loader: tensors and plain values

The folder of a checkpoint appears by one rename once its bytes are on the disk; `avmodel.checkpoint_folder` says which
one of a run's is taken. `content_sha256` of the metadata covers names, types, shapes and bytes of all tensors and the
rest of the metadata, `trainer_sha256` the file trainer.pt, `ema_sha256` the file ema.safetensors. They are compared at
every load. Format 1 has no hashes.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from avmanifest.errors import CheckpointError, ConfigError, DivergedError, StorageError
from avmanifest.files import open_file, remove_unfinished, replacing, require_file, sha256_of_file
from avmanifest.parsing import parse_object
from avmanifest.wording import counted
from avmodel.checkpoint_folder import (
    EMA_FILE,
    LATEST_FILE,
    MODEL_FILE,
    STEP_NAME,
    TRAINER_FILE,
    free_name,
    newest_whole,
    point_latest_to,
    prune,
)
from avmodel.configs.model import ModelConfig
from avmodel.models import FAMILIES, build_model, family_of
from avmodel.models.family import Family

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

FORMAT_VERSION: Final = "2"
UNHASHED_VERSION: Final = "1"  # of earlier versions of avkit
CONTENT_SHA256: Final = "content_sha256"
TRAINER_SHA256: Final = "trainer_sha256"
EMA_SHA256: Final = "ema_sha256"
_NAMED: Final = 4  # weights that a message names at most
_LOG: Final = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module | Mapping[str, Tensor],
    config: ModelConfig,
    trainer_state: Mapping[str, Any],
    *,
    keep: int | None = None,
    keep_every: int | None = None,
    notes: Mapping[str, str] | None = None,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint, to which `folder`/latest then points. One process writes a folder.

    Args:
        folder: The folder of the run's checkpoints.
        step: Steps that are done.
        model: The model, or its state dict (a sharded model gathers its own).
        config: The model's config.
        trainer_state: Tensors and plain values in dicts, lists and tuples.
        keep: Newest checkpoints to keep, this one included; None: all.
        keep_every: The checkpoints of each so many-th step are kept as well; None: no others.
        notes: Further metadata of the weights (`save_weights`).
        average: A moving average of the weights, under the same names.

    Returns:
        The new checkpoint's folder.

    Raises:
        DivergedError: A weight is not finite. Nothing is written.
        StorageError: It cannot be written. What was there before stays as it was.
    """
    require_plain(trainer_state, "trainer_state")
    weights = plain_weights(model)
    averaged = plain_weights(average or {})
    if bad := not_finite(weights) or not_finite(averaged):
        raise DivergedError(
            f"step {step}: {bad}. No checkpoint was written; the earlier ones are good. Begin a new run (another "
            "--out) with a lower optim.lr or optim.base_lr, or with optim.clip_grad=1."
        )
    folder.mkdir(parents=True, exist_ok=True)
    target = free_name(folder, step)
    try:
        remove_unfinished(folder)  # left by a process that died while writing
        with replacing(target, durable=True) as unfinished:
            unfinished.mkdir()
            torch.save(dict(trainer_state), unfinished / TRAINER_FILE)
            hashes = {TRAINER_SHA256: sha256_of_file(unfinished / TRAINER_FILE)}
            if averaged:
                ema = {**(notes or {}), "weights": "ema"}
                save_weights(unfinished / EMA_FILE, averaged, config, step=step, notes=ema)
                hashes[EMA_SHA256] = sha256_of_file(unfinished / EMA_FILE)
            save_weights(unfinished / MODEL_FILE, weights, config, step=step, notes={**(notes or {}), **hashes})
        point_latest_to(target)
    # A full disk is an OSError from Python, a RuntimeError from torch, a SafetensorError from safetensors.
    except (OSError, RuntimeError, SafetensorError) as error:
        raise StorageError(
            f"{target}: checkpoint not written ({error}). Earlier checkpoints are untouched; free space on that disk "
            "or give another folder, then resume."
        ) from error
    if keep is not None:
        prune(folder, keep, keep_every)
    return target


def load_model(path: Path | str, device: torch.device | str = "cpu") -> tuple[Family, ModelConfig]:
    """The model, in training mode, and the config inside a checkpoint.

    Args:
        path: A folder of checkpoints (its newest whole one is taken), one checkpoint, or a .safetensors file.
        device: Where the weights go.

    Raises:
        CheckpointError: The file is damaged: its hash, its types or shapes are wrong, or weights are not finite.
        ConfigError: There is no checkpoint, or one of a model that this version cannot build.
    """
    return of_weights_file(Path(path), lambda file: _load_model(file, device))[1]


def _load_model(file: Path, device: torch.device | str) -> tuple[Family, ModelConfig]:
    weights, metadata = read_weights(file, device)
    config = read_config(metadata, file)
    require_possible_size(config, weights, file)
    return filled(build_model, config, weights, file, fill_own), config


def require_possible_size(config: ModelConfig, weights: Mapping[str, Tensor], file: Path) -> None:
    """Raise CheckpointError for a config of more blocks or positions than so many weights can be of.

    Building such a model could take all time and memory.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    blocks = max(config.vit.depth, getattr(config, "decoder_depth", 0))
    width = max(config.vit.embed_dim, getattr(config, "decoder_embed_dim", 0))
    patches = max(math.prod(size) for size in (config.image_size, config.audio_size)) // config.patch_size**2
    if blocks > len(weights) or width > numbers or patches * width > 64 * numbers:
        raise CheckpointError(
            f"{file}: its weights do not fit its own config: {len(weights):,} tensors of {numbers:,} numbers for "
            f"{counted(blocks, 'block')} of width {width:,} on {counted(patches, 'patch', 'patches')}."
        )


def of_weights_file(path: Path, load: Callable[[Path], T], name: str = MODEL_FILE) -> tuple[Path, T]:
    """The file of weights that `path` means, and what `load` makes of it.

    Args:
        path: A .safetensors file, one checkpoint, or a folder of checkpoints: there the newest one is taken for which
            `load` does not raise CheckpointError.
        load: Reads one file.
        name: The file of a checkpoint: its weights, or their average.

    Raises:
        ConfigError: There is no checkpoint.
        CheckpointError: None is whole.
    """
    if path.is_file():
        return path, load(path)
    if (path / MODEL_FILE).exists() or STEP_NAME.fullmatch(path.name):
        return path / name, load(path / name)
    found = newest_whole(path, lambda checkpoint: load(checkpoint / name))
    if found is None:
        raise ConfigError(f"{path}: no checkpoint here; expected {MODEL_FILE}, or a folder with {LATEST_FILE!r}")
    return found[0] / name, found[1]


class NoRandomValues(TorchFunctionMode):
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
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def read_weights(file: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file, compared with the hash in it.

    Raises:
        ConfigError: A file outside of a checkpoint's folder cannot be opened or is no .safetensors file.
        CheckpointError: The file is damaged or missing.
    """
    if not STEP_NAME.fullmatch(file.parent.name):
        _require_safetensors(file)
    try:
        require_file(file)
        with safe_open(file, framework="pt") as opened:
            # Copied out of the mapped file: a sum's last bit depends on where in memory its numbers begin.
            weights = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118  # not a dict
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: no readable weights ({error}).") from error
    _require_content(weights, metadata, file)
    return {name: tensor.to(device) for name, tensor in weights.items()}, metadata


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a .safetensors file. Raises CheckpointError for one that is damaged or missing."""
    try:
        require_file(file)
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: no readable weights ({error}).") from error


def _require_safetensors(file: Path) -> None:
    """Raise ConfigError for a file that does not begin as .safetensors does: 8 bytes of length, then JSON."""
    try:
        with open_file(file) as opened:
            begin = opened.read(9)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}). Give a .safetensors file.") from error
    if len(begin) < 9 or begin[8:] != b"{":
        raise ConfigError(f"{file}: not a .safetensors file. Give a run's folder, a checkpoint, or a weights file.")


def _require_content(weights: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path) -> None:
    """Raise CheckpointError if a file of ours differs from its hash; say so if it is older than hashes."""
    version, expected = metadata.get("format_version"), metadata.get(CONTENT_SHA256)
    if version == UNHASHED_VERSION and expected is None:
        _LOG.warning("%s: written by an earlier avkit, without hashes: damage in it cannot be seen.", file)
    elif (expected is not None or version == FORMAT_VERSION) and expected != content_sha256(weights, metadata):
        raise CheckpointError(f"{file}: its content differs from the hash written with it: damaged.")


def content_sha256(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The SHA-256 of metadata (without the hash itself) and of names, types, shapes and bytes of all tensors."""
    noted = {key: value for key, value in metadata.items() if key != CONTENT_SHA256}
    digest = hashlib.sha256(json.dumps(noted, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_trainer_state(path: Path | str) -> dict[str, Any]:
    """What `save_checkpoint` was given as `trainer_state`, on the CPU.

    Args:
        path: One checkpoint, or a folder of checkpoints: there the newest one with a whole trainer's state is taken.

    Raises:
        CheckpointError: The file is missing or damaged.
        ConfigError: There is no checkpoint.
    """
    return of_weights_file(Path(path), lambda file: _load_trainer_state(file.parent))[1]


def load_average(checkpoint: Path) -> dict[str, Tensor]:
    """The moving average of the weights in one checkpoint, on the CPU.

    Raises:
        CheckpointError: It is missing, damaged or of another checkpoint.
    """
    file = checkpoint / EMA_FILE
    _, metadata = read_weights(checkpoint / MODEL_FILE)
    weights, _ = read_weights(file)
    if metadata.get(EMA_SHA256) != sha256_of_file(file):
        raise CheckpointError(f"{file}: its content differs from the hash in {MODEL_FILE}: damaged.")
    return weights


def _load_trainer_state(checkpoint: Path) -> dict[str, Any]:
    file = checkpoint / TRAINER_FILE
    try:
        require_file(checkpoint / MODEL_FILE)
        require_file(file)
        with safe_open(checkpoint / MODEL_FILE, framework="pt") as opened:
            metadata = opened.metadata() or {}
        if metadata.get("format_version") != UNHASHED_VERSION and metadata.get(TRAINER_SHA256) != sha256_of_file(file):
            raise CheckpointError(f"{file}: its content differs from the hash in {MODEL_FILE}: damaged.")
        state = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    # The reader of a damaged file stumbles in whatever way the damage has it: IndexError, AssertionError, struct.error.
    except Exception as error:
        raise CheckpointError(f"{file}: no readable trainer state ({error}).") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: holds a {type(state).__name__}, not a trainer state.")
    return state


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
    weights = plain_weights(model)
    metadata = {
        **(notes or {}),
        "format_version": FORMAT_VERSION,
        "family": family_of(config),
        "config": json.dumps(asdict(config)),
        "step": str(step),
    }
    save_file(weights, file, metadata={**metadata, CONTENT_SHA256: content_sha256(weights, metadata)})


def plain_weights(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a model or of its state dict, under the names without those of wrappers."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    return {
        name.replace("_orig_mod.", "").removeprefix("module."): tensor.detach().contiguous()
        for name, tensor in state.items()
    }


def read_config(metadata: Mapping[str, str], file: Path) -> ModelConfig:
    """The model's config from a file's metadata. Raises ConfigError if this version lacks the family or a setting."""
    if "family" not in metadata or "config" not in metadata:
        raise ConfigError(f"{file}: weights without a config. Released weights come in through avkit convert.")
    if (version := metadata.get("format_version")) not in (FORMAT_VERSION, UNHASHED_VERSION):
        raise ConfigError(
            f"{file}: checkpoint format {version!r}; this version reads {UNHASHED_VERSION!r} and {FORMAT_VERSION!r}"
        )
    family = metadata["family"]
    if family not in FAMILIES:
        raise ConfigError(f"{file}: unknown family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    try:
        values = parse_object(metadata["config"], f"{file}: its config cannot be used", ConfigError, finite=False)
        config_type = FAMILIES[family].config_type
        return config_from_values(config_type, config_type.of_earlier(values))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: its config cannot be used: {error}") from error


def config_from_values(config_type: type[C], values: Mapping[str, Any]) -> C:
    """The config with these values; JSON's lists become tuples again. Raises ValueError for unknown fields."""
    known = {field.name for field in fields(config_type)}  # type: ignore[arg-type]  # a dataclass
    if unknown := set(values) - known:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
    typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return config_type(**typed)


def fill_own(model: nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """As `fill_weights`, for a model that was built from the config in the same file.

    Raises:
        CheckpointError: The weights do not fit, or are not finite: the file is damaged.
    """
    try:
        fill_weights(model, weights, file)
    except ConfigError as error:
        raise CheckpointError(f"{file}: its weights do not fit its own config: {error}") from error


def fill_weights(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Give `model` these weights, in its own types; a model on the meta device takes the tensors themselves.

    Raises:
        ConfigError: Names and shapes are not exactly the model's, or whole numbers stand where floats belong.
        CheckpointError: Weights are not finite.
    """
    expected = model.state_dict()
    problems = [f"{name} is missing" for name in expected.keys() - weights.keys()]
    problems += [f"{name} is not of this model" for name in weights.keys() - expected.keys()]
    for name in expected.keys() & weights.keys():
        given, wanted = weights[name], expected[name]
        if given.shape != wanted.shape:
            problems.append(f"{name} is {list(given.shape)}, expected {list(wanted.shape)}")
        elif given.is_complex() or given.is_floating_point() != wanted.is_floating_point():
            problems.append(f"{name} is {given.dtype}, expected {wanted.dtype}")
    if problems:
        shown = "; ".join(sorted(problems)[:_NAMED])
        raise ConfigError(
            f"{source}: {len(problems)} of {len(expected)} weights don't fit: {shown}. Take weights of this model and "
            "size, or set model.size, model.patch_size, model.image_size and model.audio_size as theirs are."
        )
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    if bad := not_finite(typed):
        raise CheckpointError(f"{source}: {bad}. Take another checkpoint.")
    model.load_state_dict(typed, assign=any(tensor.is_meta for tensor in expected.values()))


def filled(
    build: Callable[[C], M],
    config: C,
    weights: Mapping[str, Tensor],
    source: Path,
    fill: Callable[[M, Mapping[str, Tensor], Path], None] = fill_weights,
) -> M:
    """The model of a config with these weights; initial values are not drawn. Raises as `fill`."""
    with torch.device("meta"), NoRandomValues():
        model = build(config)
    fill(model, weights, source)
    return model


def not_finite(weights: Mapping[str, Tensor]) -> str:
    """The weights with values that are infinite or not numbers, in words; empty if there are none."""
    bad = {name: int((~torch.isfinite(tensor)).sum()) for name, tensor in weights.items() if _has_bad(tensor)}
    if not bad:
        return ""
    shown = ", ".join(f"{name} ({counted(count, 'value')})" for name, count in sorted(bad.items())[:_NAMED])
    return f"{len(bad)} of {len(weights)} weights are not finite: {shown}"


def _has_bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())


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
