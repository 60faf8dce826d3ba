"""`avkit runs`: the named runs of pretrain."""

from typing import Annotated, Any, Final

import typer

from avcli.help import listed
from avcli.options import JSON, print_json

EXAMPLES: Final = """\b
Examples:
  avkit runs
  avkit runs deepavfusion
  avkit runs --json
"""


def runs(
    name: Annotated[str | None, listed("Show all of this run.")] = None,
    as_json: JSON = False,
) -> None:
    """List the named runs of pretrain: what each trains, and in what it differs from its family's defaults."""
    from avcli.listing import print_rows
    from avmodel.presets import presets, summary

    if name is not None:
        facts = _facts(name)
        print_json(facts) if as_json else _print_one(facts)
        return
    if as_json:
        print_json([_facts(name) for name in presets()])
        return
    print_rows([(name, summary(name)) for name in presets()])
    typer.echo("\navkit runs NAME shows one whole, avkit pretrain NAME --explain all its settings.")


def _facts(name: str) -> dict[str, Any]:
    from avmanifest.settings import changed, shown
    from avmodel.models import family_of
    from avmodel.presets import defaults, describe, run_config, summary

    run = run_config(name)
    family = family_of(run.model)
    changes = changed(run, defaults(family))
    return {
        "name": name,
        "family": family,
        "summary": summary(name),
        "description": describe(name),
        "changes": {path: shown(value) for path, value in changes.items() if path != "name"},
    }


def _print_one(facts: dict[str, Any]) -> None:
    typer.echo(f"{facts['name']}, of the family {facts['family']}\n\n{facts['description']}\n")
    if facts["changes"]:
        typer.echo("Settings that differ from the family's defaults:")
    for path, value in facts["changes"].items():
        typer.echo(f"  {path}={value}")
    typer.echo(f"\navkit pretrain {facts['name']} --explain lists all settings.")
