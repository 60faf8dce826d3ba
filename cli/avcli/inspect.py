"""`avkit inspect`: what is in a dataset."""

from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.options import print_json


def inspect(
    dataset: Annotated[Path, typer.Argument(help="A prepared dataset: the --out of avkit prepare.")],
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
) -> None:
    """What a dataset holds and what failed."""
    from avdata.audit import audit

    found = audit(dataset)
    print_json(found) if as_json else _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    title = found["recipe"].get("title", "")
    console.print(f"[bold]{escape(found['root'])}[/]  {escape(title)}  subset id {found['subset_id']}", highlight=False)
    for split, content in found["splits"].items():
        console.print(
            f"\n[bold]{split}[/]  {content['samples']:,} samples of {content['requested']:,} clips, "
            f"{content['hours']:.2f} h",
            highlight=False,
        )
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=False)
        table.add_row("status", "  ".join(f"{status} {count:,}" for status, count in content["statuses"].items()))
        table.add_row("flags", "  ".join(f"{flag} {count:,}" for flag, count in content["flags"].items()))
        sizes = content["member_bytes"].items()
        table.add_row("MB", "  ".join(f"{kind} {size / 1e6:,.1f}" for kind, size in sizes))
        classes = content["classes"]
        if classes:
            rarest = "  ".join(f"{escape(label)} {n['samples']:,}" for label, n in list(classes.items())[:4])
            table.add_row("classes", f"{len(classes):,}; rarest: {rarest}")
        console.print(table, highlight=False)
        if content["measured"]:
            console.print(_measured(content["measured"]), highlight=False)


def _measured(measured: dict[str, list[float]]) -> Any:
    from rich.table import Table

    from avdata.audit import QUANTILES

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("measured")
    for share in QUANTILES:
        table.add_column({0.0: "min", 0.5: "median", 1.0: "max"}.get(share, f"{share:.0%}"), justify="right")
    for name, values in measured.items():
        table.add_row(name, *(f"{value:.2f}" for value in values))
    return table
