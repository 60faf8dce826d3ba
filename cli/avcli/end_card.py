"""What `avkit inspect RUN --html PAGE` says at its end: what the run made, where it is, and what to do next."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from avcli.tables import shown_value
from avmanifest.errors import ManifestError
from avmanifest.wording import counted
from avmodel.evaluate.linear_probe.config import preset_words
from avmodel.evaluate.places import EVALUATIONS
from avmodel.inspect_run import Run
from avmodel.run_scores import read_scores
from avmodel.rundir import CHECKPOINTS, DATA_FILE, read_parts

NEXT_TASKS: Final = ("linear-probe", "knn", "embed")  # of evaluate, in this order, that the next command offers
_LONGEST: Final = 2000  # characters of a line


def print_end_card(run: Run, page: Path, console: Console | None = None) -> None:
    """Print the data, checkpoint and headlines of a run, the page to open, and the next commands, to stderr."""
    console = console or Console(stderr=True, highlight=False)
    for head, lines in (
        ("made", made(run)),
        ("open", [f"{page} in a browser"]),
        ("next", next_commands(run, page)),
    ):
        console.print(Text(head, style="bold"))
        for line in lines:
            console.print(Text(f"  {shown_value(line, _LONGEST)}"), soft_wrap=True)


def made(run: Run) -> Iterator[str]:
    """Lines of what is there: data, run and the headline of each evaluation."""
    for name, samples in parts_of(run):
        yield f"data    {name}: {counted(samples, 'training sample')}"
    latest = f", {CHECKPOINTS}/{run.checkpoints[-1]}" if run.checkpoints else ", no checkpoint yet"
    yield f"run     {run.folder!s}: {run.progress}{latest}"
    for one in read_scores(run.folder):
        if one.is_headline:
            beside = f"; {one.beside}" if one.beside else ""
            yield f"scores  {one.task}: {one.metric} of {one.row} {one.number}{beside}"


def next_commands(run: Run, page: Path) -> Iterator[str]:
    """Up to three commands that go on from here."""
    steps, folder = run.config.get("steps"), str(run.folder)
    parts = {name: samples for name, samples in parts_of(run) if Path(name).is_dir()}
    data = list(parts)
    given = [word for name in data for word in ("--data", name)]
    if isinstance(steps, int) and run.last_step < steps and data:
        yield shlex.join(["avkit", "pretrain", str(run.config.get("name")), *given, "--out", folder, "--resume"])
    elif data:
        looked = page.with_name(f"{page.stem}-data.html")
        yield shlex.join(["avkit", "inspect", data[0], "--html", str(looked)])
        there = {path.name for path in (run.folder / EVALUATIONS).glob("*")}
        for task in [task for task in NEXT_TASKS if task not in there][:1]:
            preset = preset_words(parts[data[0]]) if task == "linear-probe" else []
            yield shlex.join(["avkit", "evaluate", task, folder, "--data", data[0], *preset])
    yield shlex.join(["avkit", "apply", folder, "YOUR_VIDEO.mp4", "--task", "embed", "--out", "embedded"])


def parts_of(run: Run) -> list[tuple[str, int]]:
    """Folder or URLs, and number of samples, of each dataset that the run was trained on; none of a run without it.

    Raises ManifestError for a data.json that lists something else.
    """
    try:
        return [(str(part["name"]), int(part["samples"])) for part in read_parts(run.folder)]
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{run.folder / DATA_FILE}: no list of datasets ({type(error).__name__}: {error}). Remove the file."
        ) from error
