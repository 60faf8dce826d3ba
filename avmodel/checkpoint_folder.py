"""The folder of a run's checkpoints: its names, the newest one that is whole, and which ones are kept.

    step-00001000/     one checkpoint (`avmodel.checkpoint` has its files); a step saved again is step-00001000-2
    latest             the name of the checkpoint to go on from

No torch is imported here.
"""

import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from avmanifest.errors import CheckpointError, ConfigError
from avmanifest.files import read_text, replace_text
from avmanifest.wording import counted

T = TypeVar("T")

MODEL_FILE: Final = "model.safetensors"
EMA_FILE: Final = "ema.safetensors"  # an average of the weights, where a run keeps one
TRAINER_FILE: Final = "trainer.pt"
LATEST_FILE: Final = "latest"
STEP_NAME: Final = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_LOG: Final = logging.getLogger(__name__)


def place_of(checkpoint: Path) -> tuple[int, int]:
    """Step of a checkpoint, and how often the step had been saved by then, from its folder's name."""
    match = STEP_NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ConfigError(f"{checkpoint}: not the name of a checkpoint, such as step-00001000")
    return int(match[1]), int(match[2] or 1)


def checkpoints_in(folder: Path) -> list[Path]:
    """All checkpoints of the folder, whole or not, from the first step to the last; empty without the folder."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if STEP_NAME.fullmatch(path.name)), key=place_of)


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint that `folder`/latest names, or None if there is no such file.

    Raises:
        CheckpointError: The file names no checkpoint of this folder, or cannot be read.
    """
    pointer = folder / LATEST_FILE
    if not pointer.exists():
        return None
    try:
        name = read_text(pointer).strip()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{pointer}: cannot be read ({error}). Name a checkpoint of the folder instead."
        ) from error
    if not STEP_NAME.fullmatch(name) or not (folder / name / MODEL_FILE).exists():
        raise CheckpointError(f"{pointer}: names {name!r}, which is no checkpoint in this folder")
    return folder / name


def newest_whole(
    folder: Path,
    load: Callable[[Path], T],
    *,
    step: int | None = None,
    say: Callable[[str], object] = _LOG.warning,
) -> tuple[Path, T] | None:
    """The checkpoint to go on from and what `load` makes of it; None if the folder has no checkpoint.

    The checkpoint of `latest` comes first, then the ones before it, from new to old, then the ones after it: those are
    left of a run that went back to an earlier step. A checkpoint for which `load` raises CheckpointError is passed
    over, and `say` is told so. It is also told if `latest` is missing or wrong.

    Args:
        folder: The folder of checkpoints.
        load: Reads one checkpoint. Raises CheckpointError for one that is damaged.
        step: Only the checkpoint of this step, the newest if it was saved several times; None: the newest whole one.
        say: Gets a message for the user.

    Raises:
        ConfigError: There is no checkpoint of `step`.
        CheckpointError: There are checkpoints, and none that was tried is whole; or `latest` is there without any.
    """
    found = checkpoints_in(folder)
    if step is not None:
        asked = [path for path in found if place_of(path)[0] == step]
        if not asked:
            known = ", ".join(dict.fromkeys(str(place_of(path)[0]) for path in found)) or "none"
            raise ConfigError(f"{folder}: no checkpoint of step {step}; there are: {known}.")
        order = asked[::-1]
    else:
        latest, wrong = _pointed_to(folder)
        if not found:
            if wrong is not None:
                raise wrong
            return None
        if latest is None:
            say(f"{wrong or f'{folder}: {LATEST_FILE!r} is missing'}. The newest whole checkpoint is taken.")
            order = found[::-1]
        else:
            order = [latest, *(p for p in found[::-1] if place_of(p) < place_of(latest))]
            order += [p for p in found[::-1] if place_of(p) > place_of(latest)]
    damaged: list[str] = []
    for checkpoint in order:
        try:
            loaded = load(checkpoint)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        if damaged:
            say(f"{' '.join(damaged)} {checkpoint.name} is taken in place of {order[0].name}.")
        return checkpoint, loaded
    raise CheckpointError(
        f"{folder}: none of {counted(len(order), 'checkpoint')} is whole. {' '.join(damaged)} Restore one from a "
        "copy, or begin a new run in another folder."
    )


def _pointed_to(folder: Path) -> tuple[Path | None, CheckpointError | None]:
    try:
        return latest_checkpoint(folder), None
    except CheckpointError as error:
        return None, error


def free_name(folder: Path, step: int) -> Path:
    """Where this step's checkpoint goes: a step saved again gets a new folder, so that the old one stays whole."""
    target = folder / f"step-{step:08d}"
    again = 1
    while target.exists():
        again += 1
        target = folder / f"step-{step:08d}-{again}"
    return target


def point_latest_to(target: Path, say: Callable[[str], object] = _LOG.warning) -> None:
    """Make `latest` name this checkpoint, in one rename. Raises OSError if the disk does not take it.

    A folder of that name is renamed to `latest-folder`, with a number if there is one; `say` is told so.
    """
    pointer = target.parent / LATEST_FILE
    if pointer.is_dir() and not pointer.is_symlink():
        aside, again = pointer.with_name(f"{LATEST_FILE}-folder"), 1
        while aside.exists():
            again += 1
            aside = pointer.with_name(f"{LATEST_FILE}-folder-{again}")
        pointer.rename(aside)
        say(f"{pointer}: was a folder, where a file belongs; it is {aside.name} now.")
    replace_text(pointer, target.name + "\n", durable=True)


def prune(folder: Path, keep: int, keep_every: int | None = None) -> None:
    """Remove all checkpoints up to the latest one but the newest `keep` and those of each `keep_every`-th step.

    Later checkpoints than the latest are left of a run that went back to an earlier step, and stay.
    """
    latest = latest_checkpoint(folder)
    if latest is None:
        return
    found = [path for path in checkpoints_in(folder) if place_of(path) <= place_of(latest)]
    for path in found[: max(len(found) - keep, 0)]:
        if keep_every is None or place_of(path)[0] % keep_every:
            shutil.rmtree(path)
