"""`avkit download`: fetch a published model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avcli.help import SETTINGS, defaulted
from avcli.options import JSON, print_json
from avmanifest.errors import CheckpointError

if TYPE_CHECKING:
    from avmodel.registry.entries import Entry
    from avmodel.registry.fetch import Fetched

EXAMPLES = """\b
Examples:
  avkit download mae-vit-b
  avkit download deepavfusion-vggsound --to weights
  avkit download deepavfusion-vggsound --offline

After an interruption the same command goes on. avkit models lists the names.
"""
DOWNLOAD = Annotated[
    bool,
    typer.Option(
        "--download",
        help="Download a published model that is named and is not here yet.",
        rich_help_panel=SETTINGS,
    ),
]


def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that avkit models lists.")],
    to: Annotated[
        Path | None, defaulted("FOLDER", "Folder of the file.", "avkit's cache folder, ~/.cache/avkit/models")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no server: only check the file that is here.")
    ] = False,
    as_json: JSON = False,
) -> None:
    """Download a published model, resumed where it broke off and checked by size and hash."""
    from avmodel.registry.entries import entry_named

    done = fetched(entry_named(name), to, offline=offline)
    if as_json:
        print_json(
            {"name": done.entry.name, "path": str(done.path), "bytes": done.bytes, "sha256": done.sha256,
             "was_there": done.was_there, "first_hash": done.first_hash, "licence": done.entry.licence}
        )  # fmt: skip
        return
    typer.echo(done.path)


def fetched(entry: "Entry", to: Path | None = None, *, offline: bool = False) -> "Fetched":
    """The model, downloaded unless it is here; what was done goes to stderr."""
    from avcli.progress import DownloadProgress
    from avmodel.registry.fetch import fetch, pin_path

    with DownloadProgress(entry.name) as progress:
        done = fetch(entry, to, offline=offline, progress=progress, say=progress.say)
    state = "was here already" if done.was_there else "downloaded"
    typer.echo(f"{entry.name}: {state}, {done.bytes:,} bytes, sha256 {done.sha256}", err=True)
    if done.first_hash:
        typer.echo(
            f"no page states its hash: this one is recorded in {pin_path(entry)}, and later downloads must equal it",
            err=True,
        )
    typer.echo(f"licence: {entry.licence}", err=True)
    return done


def download_named(values: "list[Any]") -> None:
    """Download the published models among these texts that are neither a path nor here already."""
    from avmodel.registry.fetch import here
    from avmodel.registry.named import named_entry

    for value in dict.fromkeys(str(one) for one in values if one is not None):
        entry = named_entry(value)
        if entry is None:
            continue
        try:
            found = here(entry)
        except CheckpointError:  # changed since its download
            found = None
        if found is None:
            fetched(entry)
