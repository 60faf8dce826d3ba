"""`avkit prepare`: make verified shards from videos."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.help import OUTPUT
from avcli.no_pandas import allow_pandas
from avcli.options import (
    CONFIG,
    EXPLAIN,
    JSON,
    SET,
    TOML,
    explained,
    flat_options,
    given_values,
    option_names,
    print_json,
    require_explain,
)
from avcli.typed import TYPED
from avdata.prepare.config import PANELS, WHAT, ExecutorKind, PrepareConfig, SynthConfig, slurm_share
from avmanifest.errors import ConfigError
from avmanifest.recipe import Recipe, TableOptions, load_recipe
from avmanifest.settings import read_settings, read_toml, with_values

EXAMPLES = """\b
Examples:
  avkit prepare vggsound --list vggsound.csv --source local:videos --out data/vggsound
  avkit prepare audioset --split balanced --source 'wds:mirror/{00..19}.tar.gz' --out data/as
  avkit prepare folder --source local:my_videos --clip-seconds 3 --out data/mine
  avkit prepare table --list clips.csv --label-column class --source local:videos --out data/mine
  avkit prepare vggsound --source local:videos --source youtube --cookies-from-browser firefox --out data/vggsound
  avkit prepare vggsound --source 'http:https://mirror/{id}_{start:06d}.mp4' --out data/vggsound
  avkit prepare folder --source local:my_videos --step cuts --step black:max_share=0.5 --out data/mine
  avkit prepare vggsound --list grown.csv --source local:videos --out data/vggsound --append
  avkit prepare synth --num-clips 512 --out data/synth

After an interruption the same command continues.
"""


@flat_options(PrepareConfig, panels=PANELS)
def prepare(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="What to prepare: vggsound, folder, table, synth or another name of avkit recipes, or a .toml file of "
            "your own.",
        ),
    ],
    given: dict[str, Any],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="Where the dataset goes: a folder, or an s3://, gs:// or hf:// URL. Required.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    config: CONFIG = None,
    settings: SET = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what is done and what is left to do, downloads, disk and time; write nothing.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    explain: EXPLAIN = False,
    toml: TOML = False,
    as_json: JSON = False,
) -> None:
    """Make verified shards and a manifest from videos."""
    require_explain(explain=explain, toml=toml)
    asked = _asked(recipe, out or ("OUT" if explain else None), config, given, settings or [])
    if explain:
        shown = replace(asked, table=asked.table or TableOptions()) if asked.recipe.name == "table" else asked
        typer.echo(explained(shown, toml=toml))
        return
    asked.require_sources()
    asked = in_array(asked, given)
    from avcli.prepare_output import PrepareProgress, nothing_found, print_plan, print_report
    from avcli.remedies import advice_for
    from avdata.prepare.dry_run import dry_run as look
    from avdata.prepare.estimate import estimate
    from avdata.prepare.job import prepare as run

    if dry_run:
        found = look(asked)
        expected = estimate(asked, found.to_do)
        print_plan(found, asked, expected, as_json=as_json)
        if expected.searched:
            raise ConfigError(nothing_found(expected))
        return
    if asked.wandb_project is not None:
        allow_pandas()
    with PrepareProgress() as progress:
        report = run(asked, progress)
    advice = advice_for(report.statuses, asked, TYPED.get())
    if as_json:
        print_json(report.as_dict() | {"advice": {one.status: one.as_dict() for one in advice}})
    else:
        print_report(report, advice)
    raise typer.Exit(report.exit_code)


def _asked(
    recipe: str, out: str | None, file: Path | None, given: dict[str, Any], settings: list[str]
) -> PrepareConfig:
    """The config of the command line."""
    loaded = load_recipe(recipe)
    if out is None:
        raise ConfigError("--out is missing: the folder of the dataset, or its s3://, gs:// or hf:// URL")
    options = given_values(PrepareConfig, given)
    return prepare_config(loaded, out, options, read_settings(PrepareConfig, settings), file=file)


def prepare_config(
    recipe: Recipe, out: str, options: Mapping[str, Any], settings: Mapping[str, Any], *, file: Path | None = None
) -> PrepareConfig:
    """The config from a file, from options and from further settings, by path; later ones override earlier ones.

    Raises ConfigError for settings that cannot be used, or that are of another recipe.
    """
    from avdata.cores import usable_cores

    options = dict(options)
    if recipe.name != "synth":
        options.pop("synth.seed", None)  # of --seed
    if ("share.index" in options) != ("share.count" in options):
        raise ConfigError("--task-index and --num-tasks belong together")
    values = {} if file is None else read_toml(PrepareConfig, file)
    values |= options | dict(settings)
    _refuse_others(recipe.name, values)
    if "supervision.num_workers" not in values and values.get("executor") is not ExecutorKind.RAY:
        values["supervision.num_workers"] = usable_cores()
    base = PrepareConfig(recipe=recipe, out=out, synth=SynthConfig() if recipe.name == "synth" else None)
    asked = with_values(base, values)
    return replace(asked, table=None) if asked.table == TableOptions() else asked


def in_array(asked: PrepareConfig, given: Mapping[str, Any]) -> PrepareConfig:
    """The config with the share of this task of a SLURM array, if it runs as an array and no share is given."""
    if asked.executor is ExecutorKind.ARRAY and asked.share.count == 1 and "share.count" not in given:
        return replace(asked, share=slurm_share(os.environ))
    return asked


def _refuse_others(recipe: str, values: dict[str, Any]) -> None:
    """Raise ConfigError for settings of another recipe."""
    names = option_names(PrepareConfig)
    for owner in ("synth", "table"):
        strange = [names.get(path, path) for path in values if path.startswith(f"{owner}.")]
        if strange and recipe != owner:
            raise ConfigError(f"{', '.join(strange)} belong to recipe {owner}, not to {recipe}")
