"""The metrics of a run: metrics.jsonl, a line for each step or held-out loss, TensorBoard and, on request, W&B."""

import importlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from avmanifest.errors import ConfigError, ManifestError, StorageError
from avmanifest.files import read_file, read_text, replace_text
from avmanifest.parsing import parse_object
from avmanifest.wording import counted

METRICS, PROBES, TENSORBOARD = "metrics.jsonl", "probe.jsonl", "tensorboard"
WANDB_RUN = "wandb-run.json"  # the id of the run at Weights & Biases
_FEW: Final = 5  # numbers of damaged lines that a message names
_LOG: Final = logging.getLogger(__name__)
SKIPPED = "skipped.jsonl"  # steps that were left out; there only if there are any


class JsonLines:
    """A file of one JSON object a line, each with a `step`.

    Opening it removes lines after `last_step` and an incomplete last line, so that after a resume from that step every
    step is in the file once. Damaged lines are left out, too: `say` is told which, and the file as it was is kept as
    NAME.damaged.
    """

    def __init__(self, path: Path, *, last_step: int, say: Callable[[str], object] = _LOG.warning) -> None:
        damaged: list[int] = []
        kept = [line for line in read_lines(path, damaged) if line["step"] <= last_step]
        with disk_errors(path):
            if damaged:
                shutil.copyfile(path, path.with_name(f"{path.name}.damaged"))
                few = ", ".join(map(str, damaged[:_FEW])) + (", ..." if len(damaged) > _FEW else "")
                lines = counted(len(damaged), "damaged line")
                say(f"{path}: {lines} left out ({few}); the file as it was is {path.name}.damaged")
            replace_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            self._file = path.open("a", buffering=1)
        self._path = path

    def write(self, values: Mapping[str, Any]) -> None:
        """Append one object and pass it to the system. Raises StorageError if it can't be written."""
        with disk_errors(self._path):
            self._file.write(json.dumps(dict(values)) + "\n")

    def flush(self) -> None:
        """Wait until all lines are on the disk. Raises StorageError if they can't be written."""
        with disk_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        # write() has reported what it could not write.
        with suppress(OSError):
            self._file.close()


class SkippedLog:
    """skipped.jsonl, which appears with the first step that is left out."""

    def __init__(self, folder: Path, *, last_step: int, say: Callable[[str], object] = _LOG.warning) -> None:
        self._path = folder / SKIPPED
        self._lines = JsonLines(self._path, last_step=last_step, say=say) if self._path.exists() else None

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a step. Raises StorageError if the disk doesn't take it."""
        if self._lines is None:
            self._lines = JsonLines(self._path, last_step=record["step"])
        self._lines.write(record)

    def close(self) -> None:
        """End the file."""
        if self._lines is not None:
            self._lines.close()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise StorageError, with the file's name, in place of OSError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{path}: not written ({error.strerror}). The last checkpoint is good; free space, then resume."
        ) from error


def read_lines(path: Path, damaged: list[int] | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a file, in order; none if there is no file. An incomplete last line is left out.

    Args:
        path: The file.
        damaged: Receives the numbers of the lines that are not JSON objects with a step, from 1; they are left out.
            None: such a line is refused.

    Raises:
        ManifestError: The file cannot be read, or a line is damaged; the message has its number.
    """
    if not path.exists():
        return
    try:
        content = read_file(path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error}). Restore the file, or give another --out.") from error
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            yield _step_of(line, f"{path}: line {number}")
        except ManifestError:
            if damaged is None:
                raise
            damaged.append(number)


def _step_of(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line. Raises ManifestError for another text, and for an object without a step."""
    advice = "pretrain --resume leaves damaged lines out"
    fields = parse_object(line, where, advice=advice, finite=False)
    if type(fields.get("step")) is not int:
        raise ManifestError(f"{where}: no step. {advice}.")
    return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class WandbRun:
    """How a run is listed at Weights & Biases."""

    project: str
    name: str | None = None  # None: the folder's
    group: str | None = None
    tags: tuple[str, ...] = ()


class MetricLog:
    """Writes the records of a run to all its logs."""

    def __init__(
        self,
        folder: Path,
        *,
        last_step: int,
        config: Mapping[str, Any],
        wandb: WandbRun | None = None,
        say: Callable[[str], object] = _LOG.warning,
    ) -> None:
        self._folder = folder
        self._wandb = None if wandb is None else start_wandb(wandb, folder, config, resumed=last_step > 0)
        self._steps = JsonLines(folder / METRICS, last_step=last_step, say=say)
        self._probes = JsonLines(folder / PROBES, last_step=last_step, say=say)
        self._skipped = SkippedLog(folder, last_step=last_step, say=say)
        # Imported here, because `inspect` reads metrics without torch.
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._board = tensorboard.SummaryWriter(str(folder / TENSORBOARD), purge_step=last_step + 1, flush_secs=30)

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.close()
        self._probes.close()
        self._skipped.close()
        with suppress(OSError):
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=int(kind is not None))

    def step(self, record: Mapping[str, Any]) -> None:
        """Write a training step."""
        self._steps.write(record)
        self._elsewhere(record, "train")

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Write the held-out losses after a step, `total` and its terms: as val_loss and val_loss_TERM."""
        named = {"loss" if name == "total" else f"loss_{name}": value for name, value in losses.items()}
        self._steps.write({"step": step, **{f"val_{name}": value for name, value in named.items()}})
        self._elsewhere({"step": step, **named}, "val")

    def skipped(self, record: Mapping[str, Any]) -> None:
        """Write a step that was left out."""
        self._skipped.write(record)

    def probe(self, record: Mapping[str, Any]) -> None:
        """Write the scores of the probe."""
        self._probes.write(record)
        self._elsewhere(record, "probe")

    def flush(self) -> None:
        """Wait until the lines are on the disk. Called before a checkpoint is saved."""
        self._steps.flush()
        self._probes.flush()

    def _elsewhere(self, record: Mapping[str, Any], where: str) -> None:
        values = {f"{where}/{name}": value for name, value in record.items() if name != "step"}
        with disk_errors(self._folder / TENSORBOARD):
            for name, value in values.items():
                self._board.add_scalar(name, value, record["step"])
        if self._wandb is not None:
            self._wandb.log(values, step=record["step"])


def start_wandb(run: WandbRun, folder: Path, config: Mapping[str, Any], *, resumed: bool) -> Any:
    """A Weights & Biases run of this folder's run, which a resumed one goes on with.

    Raises ConfigError without the package, StorageError if the folder cannot be written.
    """
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"wandb_project={run.project!r}: the package wandb is not installed. Run pip install wandb, or leave "
            "wandb_project out: metrics.jsonl and TensorBoard have the same numbers."
        ) from error
    return wandb.init(
        project=run.project,
        name=run.name or folder.name,
        group=run.group,
        tags=list(run.tags),
        id=wandb_id(folder, resumed=resumed),
        resume="allow",
        dir=str(folder),
        config=dict(config),
    )


def wandb_id(folder: Path, *, resumed: bool) -> str:
    """The id of a folder's run at Weights & Biases: drawn when it begins, and kept in the folder.

    Folders of one name, and a folder that was deleted and begun again, have ids of their own. A run that an earlier
    version began has the folder's name as its id.
    """
    path = folder / WANDB_RUN
    if resumed and path.exists():
        advice = "Remove it to log to a new run at Weights & Biases."
        try:
            content = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}). {advice}") from error
        found = parse_object(content, path, ConfigError, advice).get("id")
        if not isinstance(found, str) or not found:
            raise ConfigError(f"{path}: no id. {advice}")
        return found
    if resumed and (folder / "wandb").is_dir():
        return folder.name
    drawn = uuid.uuid4().hex[:12]
    with disk_errors(path):
        replace_text(path, json.dumps({"id": drawn}) + "\n")
    return drawn
