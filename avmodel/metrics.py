"""The metrics of a run: metrics.jsonl, a line for each step or held-out loss, TensorBoard and, on request, trackers."""

import importlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from avdata.tracking import TrackedRun, Tracker, start_trackers
from avmanifest.errors import ManifestError
from avmanifest.files import read_file, replace_text, write_errors
from avmanifest.parsing import parse_object
from avmanifest.wording import counted, first_of

METRICS, PROBES, TENSORBOARD = "metrics.jsonl", "probe.jsonl", "tensorboard"
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
                lines = counted(len(damaged), "damaged line")
                say(f"{path}: {lines} left out ({first_of(damaged, _FEW)}); the file as it was is {path.name}.damaged")
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


def disk_errors(path: Path) -> AbstractContextManager[None]:
    """Raise StorageError, with the file's name, in place of OSError."""
    return write_errors(path, "The last checkpoint is good; free space, then resume.")


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


class Board:
    """The run in TensorBoard: a tracker like the others, and its settings as hyperparameters.

    Raises StorageError if the disk does not take what is logged.
    """

    def __init__(self, folder: Path, *, last_step: int, config: Mapping[str, Any]) -> None:
        self._folder = folder / TENSORBOARD
        # Imported here, because `inspect` reads metrics without torch.
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        self._board = tensorboard.SummaryWriter(str(self._folder), purge_step=last_step + 1, flush_secs=30)
        if last_step == 0 and config:
            summary = importlib.import_module("torch.utils.tensorboard.summary")
            values = {name: _hyperparameter(value) for name, value in config.items()}
            with disk_errors(self._folder):
                for part in summary.hparams(values, dict.fromkeys(("train/loss", "val/loss"), 0.0)):
                    self._board.file_writer.add_summary(part)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """See Tracker."""
        with disk_errors(self._folder):
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        """See Tracker."""
        from avdata.draw.images import decode_rgb  # noqa: PLC0415 - takes long, and only pictures need it

        if (picture := decode_rgb(read_file(path))) is not None:
            with disk_errors(self._folder):
                self._board.add_image(name, picture, step, dataformats="HWC")

    def finish(self, *, failed: bool) -> None:
        """See Tracker."""
        del failed
        with suppress(OSError):
            self._board.close()


def _hyperparameter(value: Any) -> bool | int | float | str:
    """A setting as TensorBoard takes it."""
    if isinstance(value, bool | int | float | str):
        return value
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


class MetricLog:
    """Writes the records of a run to all its logs."""

    def __init__(
        self,
        folder: Path,
        *,
        last_step: int,
        config: Mapping[str, Any],
        tracked: TrackedRun | None = None,
        say: Callable[[str], object] = _LOG.warning,
    ) -> None:
        resumed = last_step > 0
        trackers = start_trackers(tracked, folder.name, config, folder=folder, resumed=resumed, say=say)
        self._steps = JsonLines(folder / METRICS, last_step=last_step, say=say)
        self._probes = JsonLines(folder / PROBES, last_step=last_step, say=say)
        self._skipped = SkippedLog(folder, last_step=last_step, say=say)
        self._trackers: list[Tracker] = [Board(folder, last_step=last_step, config=config), *trackers]

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._steps.close()
        self._probes.close()
        self._skipped.close()
        for tracker in self._trackers:
            tracker.finish(failed=kind is not None)

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
        """Write the scores of the probe; their intervals are in probe.jsonl alone."""
        self._probes.write(record)
        self._elsewhere({name: value for name, value in record.items() if name != "intervals"}, "probe")

    def pictures(self, step: int, paths: Mapping[str, Path]) -> None:
        """Pass on the pictures that were drawn after a step, by name. A model may draw none of a kind."""
        for name, path in paths.items():
            if path.exists():
                for tracker in self._trackers:
                    tracker.picture(f"pictures/{name}", path, step)

    def flush(self) -> None:
        """Wait until the lines are on the disk. Called before a checkpoint is saved."""
        self._steps.flush()
        self._probes.flush()

    def _elsewhere(self, record: Mapping[str, Any], where: str) -> None:
        values = {f"{where}/{name}": value for name, value in record.items() if name != "step"}
        for tracker in self._trackers:
            tracker.log(values, record["step"])
