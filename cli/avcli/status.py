"""`avkit status`: how far a run is, wherever it runs."""

import time
from pathlib import Path
from typing import Annotated

import typer

from avcli.options import print_json

EXAMPLES = """\b
Examples:
  avkit status data/vggsound
  avkit status data/vggsound --watch
  avkit status data/vggsound --json
"""


def status(
    out: Annotated[Path, typer.Argument(help="Folder of the dataset.")],
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until no run is left.")] = False,
    interval: Annotated[float, typer.Option(help="With --watch: seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """How far a dataset is: clips by status, shards, and the runs that work on it."""
    from avcli.prepare_output import print_progress
    from avdata.prepare.progress import read_progress
    from avmanifest.layout import Layout

    while True:
        progress = read_progress(Layout(out))
        print_json(progress.as_dict()) if as_json else print_progress(progress)
        if not watch or not progress.runs:
            return
        time.sleep(interval)
