"""`avkit export`: copy a prepared dataset to a folder, a bucket or the Hugging Face hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from avcli.options import JSON, print_json
from avmanifest.wording import counted

EXAMPLES = """\b
Examples:
  avkit export data/vggsound --to hf:me/vggsound
  avkit export data/vggsound --to /mnt/shared/vggsound
  avkit export s3://bucket/vggsound --to data/vggsound
  avkit export data/vggsound --where "not silent" --to hf:me/vggsound-loud

After an interruption the same command continues: files that are already equal are not copied again.
"""


def export(
    dataset: Annotated[
        str, typer.Argument(metavar="DATASET", help="Folder of the dataset, or its s3://, gs:// or hf:// URL.")
    ],
    to: Annotated[str, typer.Option(metavar="PLACE", help="Where the copy goes: hf:USER/NAME, a folder, or a URL.")],
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help='Only clips for which this SQL condition on the manifest holds, such as "not silent". They are first '
            "written to the folder for temporary files (TMPDIR).",
        ),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Check a prepared dataset and copy it, or some of its clips, to a folder, a bucket or the Hugging Face hub."""
    from rich.console import Console
    from rich.text import Text

    from avdata.prepare.bucket import open_place
    from avdata.prepare.export import export as run

    talk = Console(stderr=True)

    def say(step: str) -> None:
        talk.print(Text(step), highlight=False)

    with chosen_clips(dataset, where) as source:
        done = run(open_place(source), open_place(to), say)
    if as_json:
        print_json(done.as_dict())
        return
    typer.echo(
        f"{counted(done.num_files, 'file')} ({counted(done.num_bytes, 'byte')}) of {done.source} in {done.target}, "
        f"every sha256 compared; copied now: {done.num_copied:,}."
    )


@contextmanager
def chosen_clips(dataset: str, where: str | None) -> Iterator[str]:
    """The dataset; with a condition, a temporary one of the clips for which it holds."""
    if where is None:
        yield dataset
        return
    import tempfile

    from avdata.cores import usable_cores
    from avdata.prepare.operations.derive import derive_dataset
    from avdata.prepare.operations.subset import Subset

    with tempfile.TemporaryDirectory(prefix="avkit-export-") as folder:
        chosen = Path(folder) / "chosen"
        derive_dataset([dataset], chosen, Subset(where=where), num_workers=usable_cores())
        yield str(chosen)
