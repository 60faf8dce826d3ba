"""`avkit convert`: convert a published checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Examples:
  avkit convert checkpoint_latest.pth --out weights/deepavfusion_vggsound.safetensors
  avkit convert as_cav_mae_base.pth --family cavmae --out weights/cavmae.safetensors
  avkit evaluate linear-probe weights/deepavfusion_vggsound.safetensors --data data/vggsound
"""


def convert(
    file: Annotated[Path, typer.Argument(help="A published checkpoint (.pth).")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    family: Annotated[
        str | None, typer.Option(help="Its family: deepavfusion (if not given), avsiam or cavmae.")
    ] = None,
    accept_unknown: Annotated[
        bool,
        typer.Option("--accept-unknown", help="Accept a file whose size and sha256 are not those of a released one."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A config field that the weights' shapes don't determine. Repeatable."
        ),
    ] = None,
) -> None:
    """Convert a published checkpoint to .safetensors. No code from the file is run."""
    from avcli.options import given
    from avmodel.weights.convert import convert as run

    published = run(file, out, accept_unknown=accept_unknown, settings=settings or [], **given(family=family))
    typer.echo(f"{file}: {published.name}, license: {published.license}", err=True)
    typer.echo(out)
