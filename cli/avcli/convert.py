"""`avkit convert`: released weights under our names."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  avkit convert checkpoint_latest.pth --out weights/deepavfusion_vggsound.safetensors
  avkit evaluate linear-probe weights/deepavfusion_vggsound.safetensors --data data/vggsound
"""


def convert(
    file: Annotated[Path, typer.Argument(help="A released DeepAVFusion checkpoint (.pth).")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    accept_unknown: Annotated[
        bool, typer.Option("--accept-unknown", help="Though its size and sha256 are not a released file's.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="What shapes don't tell. Repeatable.")
    ] = None,
) -> None:
    """A released checkpoint as one of ours, checked byte for byte; no code of the file is run."""
    from avmodel.convert import convert as run

    published = run(file, out, accept_unknown=accept_unknown, settings=settings or [])
    typer.echo(f"{file}: {published.name}, license: {published.license}", err=True)
    typer.echo(out)
