"""`avkit export`: copy a prepared dataset to a folder, a bucket or the Hugging Face hub."""

from typing import Annotated

import typer

from avcli.options import print_json

EXAMPLES = """\b
Examples:
  avkit export data/vggsound --to hf:me/vggsound
  avkit export data/vggsound --to /mnt/shared/vggsound
  avkit export s3://bucket/vggsound --to data/vggsound

After an interruption the same command continues: files that are already equal are not copied again.
"""


def export(
    dataset: Annotated[str, typer.Argument(help="Folder of the dataset, or its s3://, gs:// or hf:// URL.")],
    to: Annotated[str, typer.Option(help="hf:USER/NAME, a folder, or a URL.")],
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Check a prepared dataset and copy it to a folder, a bucket or the Hugging Face hub."""
    from rich.console import Console
    from rich.text import Text

    from avdata.prepare.bucket import open_place
    from avdata.prepare.export import export as run

    talk = Console(stderr=True)
    done = run(open_place(dataset), open_place(to), lambda step: talk.print(Text(step), highlight=False))
    if as_json:
        print_json(done.as_dict())
        return
    typer.echo(
        f"{done.num_files:,} files ({done.num_bytes:,} bytes) of {done.source} are in {done.target}, "
        f"every sha256 compared; {done.num_copied:,} were copied now."
    )
