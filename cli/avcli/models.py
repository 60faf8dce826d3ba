"""`avkit models`: the published models that can be had by name."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from avcli.help import listed
from avcli.options import JSON
from avmanifest.secrets import shown_url

if TYPE_CHECKING:
    from avmodel.registry.entries import Entry

EXAMPLES = """\b
Examples:
  avkit models
  avkit models mae-vit-b
  avkit models --json
  avkit download mae-vit-b
"""


def models(
    name: Annotated[str | None, listed("Show all that is known of this model.")] = None,
    as_json: JSON = False,
) -> None:
    """List the published models that avkit can download, start from, evaluate and apply by name."""
    from avmodel.registry.entries import entries, entry_named

    if name is not None:
        entry = entry_named(name)
        _print_json(_facts(entry)) if as_json else _print_one(entry)
    elif as_json:
        _print_json([_facts(entry) for entry in entries().values()])
    else:
        _print_table(list(entries().values()))


def _print_json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))


def _facts(entry: "Entry") -> dict[str, Any]:
    """All that is known of a model, as plain data. What is not published is None."""
    from avmodel.registry.fetch import here, read_pin

    pin, path = read_pin(entry), here(entry)
    unknown = {key: value or None for key, value in asdict(entry).items() if key not in ("several", "mode")}
    return {
        **unknown,
        "url": entry.address,
        "classes_url": shown_url(entry.classes_url) or None,
        "several": entry.several,
        "mode": entry.mode if entry.classes else None,
        "starts": list(entry.starts),
        "settings": list(entry.settings),
        "used_as": list(entry.used_as),
        "path": None if path is None else str(path),
        "first_download": None if pin is None else {"sha256": pin.sha256, "bytes": pin.bytes, "time": pin.fetched},
    }


def _print_table(found: "list[Entry]") -> None:
    from rich.console import Console
    from rich.text import Text

    from avcli.tables import plain_table
    from avmodel.registry.fetch import here

    table = plain_table(("name", "<"), ("what it is", "<"), ("size", ">"), ("licence", "<"), ("here", "<"))
    for column in table.columns:
        column.no_wrap = True
    for entry in found:
        row = (entry.name, entry.kind, entry.short_size, entry.license_name, "yes" if here(entry) else "")
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
    typer.echo(
        "\nA ViT starts a branch: avkit pretrain ... --set image_weights=mae-vit-b.\n"
        "The others are whole models, under the name of the family that reads them:\n"
        "avkit evaluate TASK NAME, avkit apply NAME VIDEO, --set start=NAME.\n"
        "Classifiers are fine-tuned: avkit apply NAME VIDEO --task classify.\n"
        "?: no page states the size. avkit models NAME shows address, hash and licence;\n"
        "avkit download NAME fetches it."
    )


def _print_one(entry: "Entry") -> None:
    from avmodel.registry.fetch import here, read_pin

    pin, path = read_pin(entry), here(entry)
    not_published = "not published; recorded at the first download"
    first = f"{pin.sha256} (at the first download, {pin.fetched})" if pin else not_published
    rows = [
        ("is", entry.kind),
        ("licence", entry.licence),
        ("size", entry.size or "not published"),
        ("sha256", entry.sha256 or first),
        ("md5", f"begins with {entry.md5_prefix}" if entry.md5_prefix else ""),
        ("address", entry.address),
        ("classes at", shown_url(entry.classes_url)),
        ("page", entry.page),
        ("file", entry.file),
        ("config", ", ".join(entry.settings)),
        ("classes", f"{entry.classes}, {'several' if entry.several else 'one'} a clip" if entry.classes else ""),
        ("tuned with", entry.mode if entry.classes else ""),
        ("note", entry.note),
        ("here", str(path) if path else f"no: avkit download {entry.name}"),
    ]
    typer.echo(f"{entry.name}: {entry.title}")
    for key, value in rows:
        if value:
            typer.echo(f"  {key:<12}{value}")
    for number, use in enumerate(entry.used_as):
        typer.echo(f"  {'use' if not number else '':<12}{use}")
