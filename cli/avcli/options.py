"""What commands share: options that were given, output for people and for machines."""

import json
from typing import Any

import typer


def given(**options: Any) -> dict[str, Any]:
    """The options the user gave: a default is written where the value is used, not here."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def print_json(content: Any) -> None:
    """One JSON object on stdout."""
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
