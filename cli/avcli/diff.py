"""`avkit diff`: what two datasets share and where they differ."""

from typing import Annotated, Final

import typer

from avcli.options import JSON, WHERE, print_json

EXAMPLES: Final = """\b
Examples:
  avkit diff data/mine data/theirs
  avkit diff data/mine s3://bucket/vggsound --json
"""


def diff(
    one: Annotated[str, typer.Argument(help="A dataset or its manifest: a folder, a file or a URL.", metavar="A")],
    other: Annotated[str, typer.Argument(help="The one that it is compared with.", metavar="B")],
    where: WHERE = None,
    as_json: JSON = False,
) -> None:
    """Compare two datasets: samples, splits, labels and how they were made."""
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.diff import diff as compare

    found = compare(open_audit_dataset(one, where=where), open_audit_dataset(other, where=where))
    if as_json:
        print_json(found)
        return
    from avcli.inspect_output import print_diff

    print_diff(found)
