"""`avkit reproduce`: run what the tables of a paper need, and write them beside the paper's."""

import subprocess
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from avcli.help import defaulted
from avmanifest.errors import ConfigError, ExitCode
from avmanifest.files import write_errors

if TYPE_CHECKING:
    from avmodel.reproduce.plan import Plan

EXAMPLES = """\b
Examples:
  avkit reproduce deepavfusion --list
  avkit reproduce deepavfusion --table 5 --scale tiny
  avkit reproduce deepavfusion --table 5 --row 'late fusion' --scale paper --data vggsound=data/vggsound --dry-run
  avkit reproduce crossmae --scale paper --data audioset=local:/videos/audioset --data vgg-ss=data/vgg-ss \
--launch 'torchrun --nproc-per-node 8 -m avcli.main'

After an interruption the same command continues: what is finished is not run again.
"""
CHILD_S = 60.0  # seconds that a command may take to stop when this one is stopped


def reproduce(
    context: typer.Context,
    paper: Annotated[
        str, typer.Argument(metavar="PAPER", help="The paper: deepavfusion, avsiam, crossmae or cav-mae.")
    ],
    table: Annotated[list[str] | None, defaulted("NUMBER", "A table's number. Repeatable.", "all")] = None,
    row: Annotated[list[str] | None, defaulted("NAME", "A row's name. Repeatable.", "all")] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="[tiny|paper]", help="tiny: small models on drawn videos, in minutes; paper: as published."
        ),
    ] = "tiny",
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="At the scale paper: the folder of a prepared dataset, or videos to prepare, such as local:FOLDER. "
            "Repeatable.",
        ),
    ] = None,
    out: Annotated[Path | None, defaulted("FOLDER", "Folder of all results.", "reproduced/SCALE")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show tables and rows, and why some cannot be run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the commands, and an estimate of hours and memory; run nothing.")
    ] = False,
    launch: Annotated[
        str | None,
        defaulted(
            "COMMAND",
            "Runs each command of avkit as a process of its own, such as 'torchrun --nproc-per-node 8 -m "
            "avcli.main'; prepare is run without it.",
            "all run in this process",
        ),
    ] = None,
) -> None:
    """Run the commands of a paper's tables, and write a table beside the paper's as Markdown and LaTeX."""
    from avcli.reproduce_output import print_costs, print_tables
    from avmodel.reproduce.paper import read_paper
    from avmodel.reproduce.plan import make_plan

    found = read_paper(paper)
    tables = found.chosen(table or [], row or [])
    if listed:
        print_tables(tables)
        return
    plan = make_plan(found, tables, scale, out or Path("reproduced") / scale, read_data(data or []))
    if dry_run:
        print_costs(plan)
        return
    from avmodel.reproduce.run import require_complete, run_plan

    require_complete(plan)
    execute = launched(launch) if launch else in_this_process(context.find_root().command.main)
    try:
        code = run_plan(plan, execute, lambda text: typer.echo(text, err=True))
    finally:
        _write_tables(plan)
    if code != ExitCode.DONE:
        raise typer.Exit(code)


def read_data(texts: Sequence[str]) -> dict[str, str]:
    """NAME=PATH by name. Raises ConfigError for another form."""
    found = {}
    for text in texts:
        name, is_there, path = text.partition("=")
        if not (name and is_there and path):
            raise ConfigError(f"--data {text!r}: give NAME=PATH, such as vggsound=data/vggsound")
        found[name] = path
    return found


def in_this_process(avkit: Callable[..., object]) -> Callable[[Sequence[str], Path], int]:
    """What runs a command of avkit here, with its stdout in a file. Raises as the command."""

    def execute(words: Sequence[str], printed: Path) -> int:
        with _writing(printed) as file, redirect_stdout(file):
            code = avkit(list(words), prog_name="avkit", standalone_mode=False)
        return code if isinstance(code, int) else ExitCode.DONE

    return execute


def launched(launcher: str) -> Callable[[Sequence[str], Path], int]:
    """What runs a command of avkit by a launcher, in a process that ends with this one.

    Raises ConfigError for a launcher that cannot be started.
    """
    import shlex
    import sys

    try:
        prefix = shlex.split(launcher)
    except ValueError as error:
        raise ConfigError(f"--launch {launcher!r}: not a command line ({error})") from error

    def execute(words: Sequence[str], printed: Path) -> int:
        first = [sys.executable, "-m", "avcli.main"] if words[0] == "prepare" else prefix
        with _writing(printed) as file:
            try:
                # The lock of the results is inherited: what outlives a kill of this process still holds it.
                child = subprocess.Popen([*first, *words], stdout=file, close_fds=False)  # noqa: S603  # the user's own
            except OSError as error:
                raise ConfigError(f"--launch {launcher!r}: cannot be started ({error.strerror})") from error
            try:
                return child.wait()
            except BaseException:
                child.terminate()
                try:
                    child.wait(CHILD_S)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
                raise

    return execute


def _writing(path: Path) -> TextIO:
    with write_errors(path, said="cannot be written"):
        file = path.open("w", encoding="utf-8")
    return file  # noqa: RET504 - mypy: the block may end without a file


def _write_tables(plan: "Plan") -> None:
    """Write the tables with the numbers that are there, and print them."""
    from avmodel.reproduce.report import make_reports, write_report

    for report in make_reports(plan):
        paths = write_report(report, plan.folder)
        typer.echo(report.markdown())
        typer.echo(f"{paths[0]}, {paths[1].name}", err=True)
