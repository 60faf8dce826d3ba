"""`avkit status`: the progress of a prepare run, on any machine."""

import time
from pathlib import Path
from typing import Annotated

import typer

from avcli.options import JSON, print_json

EXAMPLES = """\b
Examples:
  avkit status data/vggsound
  avkit status data/vggsound --watch
  avkit status data/vggsound --json
"""


def status(
    out: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of the dataset.")],
    watch: Annotated[bool, typer.Option("--watch", help="Repeat until no run is left.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="With --watch: seconds between updates.")] = 2.0,
    as_json: JSON = False,
) -> None:
    """Show the progress of a dataset: clips by status, shards, and the runs that work on it."""
    from avcli.prepare_output import print_progress
    from avdata.prepare.progress import read_progress
    from avmanifest.layout import Layout

    while True:
        progress = read_progress(Layout(out))
        print_json(progress.as_dict()) if as_json else print_progress(progress)
        if not watch or not progress.runs:
            return
        time.sleep(interval)
