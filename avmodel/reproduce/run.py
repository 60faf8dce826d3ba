"""Carrying out a plan: each command once, over any number of interruptions."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Final

from avmanifest.errors import ConfigError, ExitCode
from avmanifest.files import read_file, replace_text, write_errors
from avmanifest.parsing import parse_object
from avmodel.reproduce.plan import Plan, Step
from avmodel.rundir import CONFIG_FILE

DONE: Final = "done"  # folder of the marks of finished commands
LOGS: Final = "logs"  # folder of what the commands print


Execute = Callable[[Sequence[str], Path], int]
"""Runs `avkit WORDS`, with its stdout in a file, and returns its exit code; may raise as the command."""


def run_plan(plan: Plan, execute: Execute, say: Callable[[str], object]) -> int:
    """Run the plan's commands that are not done yet, one after the other, until one fails.

    A command that was interrupted goes on: `pretrain` with --resume, the others by being run again. A command counts as
    done by a mark that is written when it has ended well.

    Args:
        plan: What to run. Nothing may be missing.
        execute: Runs a command.
        say: Called with a line before each command.

    Returns:
        The exit code of the command that failed, or ExitCode.DONE.

    Raises:
        ConfigError: Something is missing, another process works in the folder, or a step there was made by another
            command.
        StorageError: The folder can't be written.
        AvkitError: As the commands raise.
    """
    require_complete(plan)
    with alone(plan.folder):
        waiting = [step for step in plan.steps if not is_done(plan.folder, step)]
        for number, step in enumerate(waiting, 1):
            say(f"[{number}/{len(waiting)}] {step.command}")
            printed = step.out if step.is_printed else plan.folder / LOGS / f"{_file_name(step)}.log"
            with write_errors(printed, said="cannot be written"):
                printed.parent.mkdir(parents=True, exist_ok=True)
            code = execute(resumed(step), printed)
            if code != ExitCode.DONE:
                return code
            mark_done(plan.folder, step)
    return ExitCode.DONE


def require_complete(plan: Plan) -> None:
    """Raise ConfigError, with all that has to be given, if anything is missing."""
    if plan.missing:
        lines = "\n  ".join(plan.missing)
        raise ConfigError(f"{plan.paper.name} at the scale {plan.scale} lacks:\n  {lines}")


def resumed(step: Step) -> tuple[str, ...]:
    """The command's words; with --resume for a pretraining that has begun."""
    has_begun = step.words[0] == "pretrain" and (step.out / CONFIG_FILE).exists()
    return (*step.words, "--resume") if has_begun else step.words


def is_done(folder: Path, step: Step) -> bool:
    """Whether the command has ended well before.

    Raises ConfigError if another command of this name has: its settings or its data were others.
    """
    path = _mark(folder, step)
    if not path.exists():
        return False
    words = parse_object(read_file(path), path, ConfigError, "Remove the file to run the command again").get("words")
    if words != list(step.words):
        raise ConfigError(
            f"{step.out}: was made by another command than `{step.command}`; {path} has it. Give another --out, or "
            "remove both to run it again."
        )
    return True


def mark_done(folder: Path, step: Step) -> None:
    """Note that the command has ended well. Raises StorageError if that can't be written."""
    path = _mark(folder, step)
    with write_errors(path, said="cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"words": step.words}, indent=1) + "\n", durable=True)


@contextmanager
def alone(folder: Path) -> Iterator[BufferedWriter]:
    """Hold the folder's lock, which this process's children inherit: a command that outlives a kill still holds it.

    Raises ConfigError if another process holds it, StorageError if the folder can't be written.
    """
    path = folder / "lock"
    with write_errors(path, said="cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{folder}: another process works there. Wait for it, or give another --out.") from error
        os.set_inheritable(lock.fileno(), True)
        yield lock


def _mark(folder: Path, step: Step) -> Path:
    return folder / DONE / f"{_file_name(step)}.json"


def _file_name(step: Step) -> str:
    return step.name.replace("/", ".")
