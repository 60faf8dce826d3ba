"""`avkit publish`: a model with its card, as a folder or on the Hugging Face hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from avcli.help import OUTPUT
from avcli.options import JSON, MODEL_WEIGHTS, print_json, require_weights
from avmanifest.errors import ConfigError

EXAMPLES = """\b
Examples:
  avkit publish runs/first --to published/first --license cc-by-4.0
  avkit publish runs/first --to hf:me/first --license cc-by-nc-4.0
  avkit publish runs/first --to hf:me/first --license cc-by-nc-4.0 --overwrite

Then: avkit.load_model("hf:me/first"). After an interruption the same command goes on.
"""


def publish(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A run's folder, or a checkpoint.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|hf:USER/NAME",
            help="Where it goes. A repository of the hub is made if it is not there.",
            rich_help_panel=OUTPUT,
        ),
    ],
    license: Annotated[
        str | None,
        typer.Option(
            metavar="LICENCE",
            help="Licence of the weights, such as cc-by-4.0: think of that of the data, and of the weights that they "
            "started from. Required.",
        ),
    ] = None,
    weights: MODEL_WEIGHTS = "model",
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.", rich_help_panel=OUTPUT)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that differ.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: JSON = False,
) -> None:
    """Publish a model with a card: scores, data, licence, settings, and how to load it."""
    from avmanifest.extras import require_extras

    if not license:
        raise ConfigError("--license is missing: the licence of the weights, such as cc-by-4.0. avkit guesses none.")
    require_weights(weights)
    require_extras("torch")
    from avmodel.publishing import publish as run

    def say(step: str) -> None:
        typer.echo(step, err=True)

    done = run(checkpoint, to, license=license, weights=weights, private=private, overwrite=overwrite, say=say)
    if as_json:
        print_json(asdict(done))
        return
    scored = f"scores of {', '.join(done.scored)}" if done.scored else "no scores: this checkpoint was not evaluated"
    typer.echo(f"{done.place}: {', '.join(done.files)}, {done.bytes:,} bytes; the card has {scored}")
    if done.left_out:
        typer.echo(f"left out, as they are of another checkpoint: {', '.join(done.left_out)}")
    typer.echo(f'load it: avkit.load_model("{done.place}")')
