"""`avkit verify`: check a dataset for damage."""

from typing import Annotated, Final

import typer

from avcli.options import JSON, print_json
from avmanifest.errors import ExitCode

EXAMPLES: Final = """\b
Examples:
  avkit verify data/vggsound
  avkit verify data/vggsound --deep
  avkit verify data/vggsound --repair
  avkit verify 's3://bucket/shards/{00000..00009}.tar' --json

Exit code 4: damage was found.
"""


def verify(
    dataset: Annotated[
        str, typer.Argument(help="A prepared dataset, or tars with brace patterns; folders or URLs.", metavar="DATASET")
    ],
    deep: Annotated[bool, typer.Option("--deep", help="Also decode every member.")] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Move bad shards to _quarantine, so that prepare makes them again; remove passwords and tokens of "
            "URLs from the manifest.",
        ),
    ] = False,
    as_json: JSON = False,
) -> None:
    """Read every byte of a dataset and compare it with the manifest."""
    from avcli.inspect_output import print_repair, print_verification, verifying
    from avdata.audit.dataset import open_audit_dataset
    from avdata.audit.repair import clean_secrets, settle_operation
    from avdata.audit.repair import repair as put_away_bad_shards
    from avdata.audit.verify import verify as run

    audited = open_audit_dataset(dataset)
    if repair and settle_operation(audited, lambda text: typer.echo(text, err=True)):
        audited = open_audit_dataset(dataset)
    cleaned = clean_secrets(audited) if repair else []
    with verifying(audited) as on_shard:
        verification = run(audited, deep=deep, on_shard=on_shard)
    put_away = put_away_bad_shards(audited, verification.faults) if repair and verification.faults else []
    if as_json:
        moved = {"quarantined": [str(folder) for folder in put_away], "cleaned": cleaned} if repair else {}
        print_json({"verification": verification.as_dict(), **moved})
    else:
        print_verification(verification)
        if repair:
            print_repair(put_away, cleaned)
    if verification.faults:
        raise typer.Exit(ExitCode.DAMAGED)
