"""`avkit tasks`: what evaluate and apply do with a model."""

from typing import Annotated, Any, Final

import typer

from avcli.help import listed
from avcli.options import JSON, print_json

EXAMPLES: Final = """\b
Examples:
  avkit tasks
  avkit tasks finetune
  avkit tasks --json
"""


def tasks(
    name: Annotated[str | None, listed("Show this task, with its presets.")] = None,
    as_json: JSON = False,
) -> None:
    """List the tasks of evaluate, which score a model on a dataset, and of apply, which use one on a video."""
    from avcli.listing import print_rows
    from avmanifest.errors import ConfigError
    from avmanifest.names import unknown_name

    found = _tasks()
    if name is not None:
        found = [one for one in found if one["name"] == name]
        if not found:
            raise ConfigError(unknown_name("task", name, dict.fromkeys(one["name"] for one in _tasks())))
    if as_json:
        print_json(found)
    elif name is not None:
        for number, one in enumerate(found):
            typer.echo(f"{'' if not number else chr(10)}{one['command']}: {one['summary']}")
            if one["presets"]:
                typer.echo("\nPresets, of which the first is the default:")
                print_rows(list(one["presets"].items()))
            if one["headline"]:
                typer.echo(f"\nHeadline of the scores: {one['headline']}.")
            typer.echo(f"\n{one['explain']} lists all settings.")
    else:
        for number, command in enumerate(dict.fromkeys(one["of"] for one in found)):
            typer.echo(f"{'' if not number else chr(10)}Tasks of avkit {command}:")
            print_rows([(one["name"], _summary(one)) for one in found if one["of"] == command])
        typer.echo("\navkit tasks NAME shows one with its presets.")


def _summary(one: dict[str, Any]) -> str:
    """What a task does, and the metric of its headline."""
    row, _, metric = one["headline"].rpartition(": ")
    return f"{one['summary']} Headline: {metric}." if row not in ("", "none") else one["summary"]


def _tasks() -> list[dict[str, Any]]:
    """All tasks as plain data."""
    from avmodel.configs.apply import TASKS as APPLIED
    from avmodel.evaluate.tasks import TASKS, preset_summary

    evaluated = [
        {
            "name": name,
            "of": "evaluate",
            "summary": task.summary,
            "headline": task.headline,
            "presets": {preset: preset_summary(name, preset) for preset in task.presets},
            "command": f"avkit evaluate {name} CHECKPOINT --data DATA",
            "explain": f"avkit evaluate {name} --explain",
        }
        for name, task in TASKS.items()
    ]
    applied = [
        {
            "name": name,
            "of": "apply",
            "summary": f"{task.summary} Takes {task.takes}.",
            "headline": "",
            "presets": {},
            "command": f"avkit apply CHECKPOINT VIDEO --task {name} --out FOLDER",
            "explain": f"avkit apply --task {name} --explain",
        }
        for name, task in APPLIED.items()
    ]
    return [*evaluated, *applied]
