"""`avkit recipes`: the datasets that prepare knows."""

from dataclasses import asdict
from typing import Annotated, Any, Final

import typer

from avcli.help import listed
from avcli.options import JSON, print_json
from avmanifest.recipe import Recipe, load_recipe, recipe_names

EXAMPLES: Final = """\b
Examples:
  avkit recipes
  avkit recipes vggsound
  avkit recipes --json
"""


def recipes(
    name: Annotated[str | None, listed("Show all of this recipe, or of the .toml file of your own.")] = None,
    as_json: JSON = False,
) -> None:
    """List the recipes of prepare: the dataset, its licence, and the clips of its official lists."""
    from avcli.listing import print_rows

    if name is not None:
        recipe = load_recipe(name)
        print_json(_facts(recipe)) if as_json else _print_one(recipe)
        return
    found = {name: load_recipe(name) for name in recipe_names()}
    if as_json:
        print_json([_facts(recipe) for recipe in found.values()])
        return
    print_rows([(name, _line(recipe)) for name, recipe in found.items()])
    typer.echo("\navkit recipes NAME shows one whole; avkit prepare NAME prepares it.")


def _line(recipe: Recipe) -> str:
    clips = ", ".join(f"{split} {count:,}" for split, count in recipe.counts.items())
    return f"{recipe.title}. {f'Clips: {clips}. ' if clips else ''}Licence: {recipe.licence}."


def _facts(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, without what is derived."""
    facts = asdict(recipe)
    del facts["spellings"]
    return {**facts, "splits": list(recipe.splits), "counts": recipe.counts}


def _print_one(recipe: Recipe) -> None:
    from avcli.listing import print_rows, printable
    from avmanifest.recipe import LIST_FORMATS
    from avmanifest.secrets import shown_url

    typer.echo(f"{recipe.name}: {printable(recipe.title)}\n")
    aliases = "; ".join(f"{alias}: {', '.join(splits)}" for alias, splits in recipe.split_aliases.items())
    seconds = "the whole file" if recipe.clip_seconds is None else f"{recipe.clip_seconds:g} s"
    print_rows(
        [
            ("page", shown_url(recipe.homepage)),
            ("licence", recipe.licence),
            ("published", recipe.published),
            ("note", " ".join(recipe.note.split())),
            ("a clip", seconds),
            ("labels", f"{len(recipe.labels):,}, such as {', '.join(recipe.labels[:3])}" if recipe.labels else ""),
            ("splits", ", ".join(recipe.splits)),
            ("by default", ", ".join(recipe.default_splits)),
            ("aliases", aliases),
            ("key", recipe.key),
        ]
    )
    for spec in recipe.lists:
        counts = ", ".join(f"{split} {count:,}" for split, count in spec.counts.items())
        typer.echo(f"\nlist {printable(spec.file) or 'of any name'}")
        print_rows(
            [
                ("form", LIST_FORMATS[spec.format].looks),
                ("url", shown_url(spec.url)),
                ("sha256", spec.sha256),
                ("clips", counts),
                ("not usable", spec.unusable),
            ]
        )
    source = "" if recipe.name == "synth" else " --source local:FOLDER"
    typer.echo(f"\navkit prepare {recipe.name}{source} --out data/{recipe.name}")
    if recipe.citation:
        typer.echo(f"\n{printable(recipe.citation.strip())}")
