"""`avkit status`: the progress of a prepare run, on any machine."""

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
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again and again until no run is left; Ctrl-C ends.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="With --watch: seconds between updates.")
    ] = 2.0,
    as_json: JSON = False,
) -> None:
    """Show the progress of a dataset: clips by status, shards, and the runs that work on it."""
    from avcli.prepare_output import print_progress, watch_progress
    from avcli.stopping import stop_event
    from avdata.prepare.progress import read_progress
    from avmanifest.layout import Layout

    layout = Layout(out)
    if not watch:
        progress = read_progress(layout)
        print_json(progress.as_dict()) if as_json else print_progress(progress)
        return
    with stop_event() as stopped:
        watch_progress(lambda: read_progress(layout), interval, stopped, as_json=as_json)
