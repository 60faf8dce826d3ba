"""Preparing a dataset: the command `avkit prepare` as a function, with the same settings."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avcli.options import keyword_values, keywords_of
from avcli.prepare import in_array, prepare_config
from avdata.prepare.config import PrepareConfig
from avdata.prepare.report import PrepareReport
from avmanifest.recipe import load_recipe
from avmanifest.settings import read_values


def prepare(
    recipe: str | Path,
    *,
    out: str | Path,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> PrepareReport:
    """Make verified shards and a manifest from videos. An interrupted run goes on with the same call.

    Args:
        recipe: vggsound, audioset, folder, table, synth, ... or a .toml of your own.
        out: Folder of the dataset, or s3://, gs:// or hf:// URL of one.
        config: Settings from a TOML file, as `avkit prepare RECIPE --explain --toml` writes it.
        settings: Any settings of `avkit prepare RECIPE --explain` by their name: {"sample.jpeg_quality": 95}.
        progress: Show the progress on stderr.
        options: The options of `avkit prepare` by name, with _ for -: source="local:my_videos", list="clips.csv",
            clip_seconds=3, frames=4, workers=8, step=["black", "cuts"], no_audio=True. An option that may be repeated
            takes a list. `help(avkit.prepare)` lists them; None is as if it were not given.

    Returns:
        Counts of clips by status and split, and `failed`: failed clips by name, with the reason of each. Clips that
        fail raise nothing: see `report.ok`, `report.requested` and `report.summary`.

    Raises:
        ConfigError: An option is unknown, or settings cannot be used.
        ManifestError: The list cannot be read.
        StorageError: The disk or the bucket does not take the files. The same call goes on.

    Example:
        ```python
        report = avkit.prepare("folder", source="local:my_videos", out="data/mine", clip_seconds=3)
        print(report.summary)
        ```
    """
    given = keyword_values(PrepareConfig, options)
    further = read_values(PrepareConfig, settings or {})
    file = None if config is None else Path(config)
    asked = prepare_config(load_recipe(str(recipe)), str(out), given, further, file=file)
    asked.require_sources()
    asked = in_array(asked, {**given, **further})
    from avdata.prepare.job import prepare as run  # noqa: PLC0415 - takes time to import

    if not progress:
        return run(asked)
    from avcli.prepare_output import PrepareProgress  # noqa: PLC0415

    with PrepareProgress() as shown:
        return run(asked, shown)


def _signature() -> inspect.Signature:
    """The function's own parameters, and the options of the command in place of **options."""
    own = list(inspect.signature(prepare).parameters.values())[:-1]
    for name, setting in keywords_of(PrepareConfig).items():
        default = False if setting.kind is bool else None
        own.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=setting.kind))
    return inspect.Signature(own, return_annotation=PrepareReport)


prepare.__signature__ = _signature()  # type: ignore[attr-defined]  # what help() and notebooks show
