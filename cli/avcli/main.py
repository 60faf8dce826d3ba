"""The app. Each command is a file; an AvkitError becomes one line on stderr and an exit code."""

import errno
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Final

import typer

from avcli import (
    apply,
    bench,
    convert,
    dataset,
    diff,
    download,
    evaluate,
    export,
    export_model,
    inspect,
    models,
    prepare,
    pretrain,
    publish,
    recipes,
    reproduce,
    runs,
    spectrogram,
    status,
    tasks,
    verify,
)
from avcli.help import App
from avcli.no_pandas import do_without_pandas
from avcli.stderr import ShownStderr
from avmanifest.errors import AvkitError, ExitCode, StorageError
from avmanifest.extras import naming_extras
from avmanifest.files import DISK_ERRORS, PATH_ERRORS, NotAFile


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"avkit {version('avkit')}")
        raise typer.Exit


_EPILOG: Final = f"""\b
Examples:
  avkit prepare folder --source local:my_videos --out data/mine
  avkit inspect data/mine
  avkit pretrain deepavfusion --data data/mine --out runs/first
  avkit evaluate linear-probe runs/first --data data/mine
  avkit prepare --help

\b
Exit codes:
{chr(10).join(f"  {code.value}  {code.meaning}" for code in ExitCode)}
"""

app = App(
    name="avkit",
    help="From a list of videos to a pretrained audio-visual model.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
DATA, MODELS, NAMES, TOOLS = "Data", "Models", "What there is", "Tools"  # headings of the commands


@app.callback()
def avkit(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """From a list of videos to a pretrained audio-visual model."""


app.command("prepare", epilog=prepare.EXAMPLES, rich_help_panel=DATA)(prepare.prepare)
app.command("status", epilog=status.EXAMPLES, rich_help_panel=DATA)(status.status)
app.command("inspect", epilog=inspect.EXAMPLES, rich_help_panel=DATA)(inspect.inspect)
app.command("verify", epilog=verify.EXAMPLES, rich_help_panel=DATA)(verify.verify)
app.command("diff", epilog=diff.EXAMPLES, rich_help_panel=DATA)(diff.diff)
app.add_typer(dataset.app, name="dataset", rich_help_panel=DATA)
app.command("export", epilog=export.EXAMPLES, rich_help_panel=DATA)(export.export)
app.command("pretrain", epilog=pretrain.EXAMPLES, rich_help_panel=MODELS)(pretrain.pretrain)
app.command("evaluate", epilog=evaluate.EXAMPLES, rich_help_panel=MODELS)(evaluate.evaluate)
app.command("apply", epilog=apply.EXAMPLES, rich_help_panel=MODELS)(apply.apply)
app.command("models", epilog=models.EXAMPLES, rich_help_panel=MODELS)(models.models)
app.command("download", epilog=download.EXAMPLES, rich_help_panel=MODELS)(download.download)
app.command("convert", epilog=convert.EXAMPLES, rich_help_panel=MODELS)(convert.convert)
app.command("export-model", epilog=export_model.EXAMPLES, rich_help_panel=MODELS)(export_model.export_model)
app.command("publish", epilog=publish.EXAMPLES, rich_help_panel=MODELS)(publish.publish)
app.command("reproduce", epilog=reproduce.EXAMPLES, rich_help_panel=MODELS)(reproduce.reproduce)
app.command("recipes", epilog=recipes.EXAMPLES, rich_help_panel=NAMES)(recipes.recipes)
app.command("runs", epilog=runs.EXAMPLES, rich_help_panel=NAMES)(runs.runs)
app.command("tasks", epilog=tasks.EXAMPLES, rich_help_panel=NAMES)(tasks.tasks)
app.command("spectrogram", epilog=spectrogram.EXAMPLES, rich_help_panel=TOOLS)(spectrogram.spectrogram)
app.add_typer(bench.app, name="bench", rich_help_panel=TOOLS)


_GO_ON: Final = ("prepare", "dataset", "export", "evaluate", "reproduce", "download", "publish")
"""The commands that go on after an interruption."""

_CLEANUP_S: Final = 30.0


class _Stopped(BaseException):
    """A signal asked the command to stop."""


class _Stop:
    """The handler of signals that ask the command to stop: the first one raises _Stopped.

    Later ones are ignored for _CLEANUP_S seconds, so that they do not interrupt what the first one began: closing files
    and ending processes.
    """

    def __init__(self) -> None:
        self._until_s = 0.0  # monotonic time to which signals are ignored

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s >= self._until_s:
            self._until_s = now_s + _CLEANUP_S
            raise _Stopped


def run() -> None:
    """The `avkit` command."""
    do_without_pandas()
    if not isinstance(sys.stderr, ShownStderr):
        sys.stderr = ShownStderr(sys.stderr)  # for good: Python writes the traceback of a bug after this function
    _on_signals(_Stop())
    try:
        with naming_extras():
            app()
    except _Stopped:
        _on_signals(signal.SIG_IGN)  # a signal while Python exits would kill it
        _end(f"stopped. {after_stop(sys.argv[1:])}", ExitCode.INCOMPLETE)
    except (AvkitError, OSError) as error:
        if (code := code_of(error)) is None:
            raise
        remedy = (
            "" if isinstance(error, AvkitError) else ". Give a path that is there, of the right kind, and yours to use."
        )
        _end(f"{error}{remedy}", code)


def after_stop(words: Sequence[str]) -> str:
    """What to do after a command was stopped: whether it goes on or begins anew."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command in _GO_ON:
        return "Run the same command again to continue."
    if command == "pretrain":
        return "Run the same command with --resume to continue after the last checkpoint."
    return "The same command begins anew."


def code_of(error: AvkitError | OSError) -> ExitCode | None:
    """The exit code for an error, also of the file system where no command has put it into words; None: a bug."""
    if isinstance(error, AvkitError):
        cause = error.__cause__
        if not isinstance(error, StorageError) or not isinstance(cause, OSError):
            return error.exit_code
        # If another thing stands at the path, or it may not be used, the same command cannot go on.
        is_misused = cause.filename is not None and cause.errno in PATH_ERRORS - {errno.ENOENT}
        return ExitCode.MISUSED if is_misused else error.exit_code
    if error.filename is None:
        return None
    if isinstance(error, NotAFile) or error.errno in PATH_ERRORS:
        return ExitCode.MISUSED
    return ExitCode.INCOMPLETE if error.errno in DISK_ERRORS else None


def _on_signals(handler: "_Stop | signal.Handlers") -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _end(message: str, code: ExitCode) -> None:
    typer.echo(f"avkit: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    run()
