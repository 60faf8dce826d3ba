"""The app. Each command is a file; an AvkitError becomes one line on stderr and an exit code."""

import errno
import signal
import sys
import time
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
    inspect,
    models,
    prepare,
    pretrain,
    reproduce,
    spectrogram,
    status,
    verify,
)
from avcli.no_pandas import do_without_pandas
from avcli.options import PanelCommand
from avcli.stderr import ShownStderr
from avmanifest.errors import AvkitError, ExitCode, StorageError
from avmanifest.extras import naming_extras
from avmanifest.files import DISK_ERRORS, PATH_ERRORS, NotAFile


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"avkit {version('avkit')}")
        raise typer.Exit


app = typer.Typer(
    name="avkit",
    help="From a list of videos to a pretrained audio-visual model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\n".join(("\b", "Exit codes:", *(f"  {code.value}  {code.meaning}" for code in ExitCode))),
)


@app.callback()
def avkit(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """From a list of videos to a pretrained audio-visual model."""


app.command("prepare", cls=PanelCommand, epilog=prepare.EXAMPLES)(prepare.prepare)
app.command("export", epilog=export.EXAMPLES)(export.export)
app.command("status", epilog=status.EXAMPLES)(status.status)
app.command("inspect", epilog=inspect.EXAMPLES)(inspect.inspect)
app.command("verify", epilog=verify.EXAMPLES)(verify.verify)
app.command("diff", epilog=diff.EXAMPLES)(diff.diff)
app.command("spectrogram", epilog=spectrogram.EXAMPLES)(spectrogram.spectrogram)
app.command("pretrain", epilog=pretrain.EXAMPLES)(pretrain.pretrain)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("reproduce", epilog=reproduce.EXAMPLES)(reproduce.reproduce)
app.command("apply", epilog=apply.EXAMPLES)(apply.apply)
app.command("models", epilog=models.EXAMPLES)(models.models)
app.command("download", epilog=download.EXAMPLES)(download.download)
app.command("convert", epilog=convert.EXAMPLES)(convert.convert)
app.add_typer(dataset.app, name="dataset")
app.add_typer(bench.app, name="bench")


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
        _end("stopped. Run the same command again to continue.", ExitCode.INCOMPLETE)
    except (AvkitError, OSError) as error:
        if (code := code_of(error)) is None:
            raise
        remedy = (
            "" if isinstance(error, AvkitError) else ". Give a path that is there, of the right kind, and yours to use."
        )
        _end(f"{error}{remedy}", code)


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
