"""`avkit prepare`: videos to verified shards."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.options import given, print_json

EXAMPLES = """\b
Examples:
  avkit prepare vggsound --list vggsound.csv --source local:videos --out data/vggsound
  avkit prepare audioset --split balanced --source 'wds:mirror/{00..19}.tar.gz' --out data/as
  avkit prepare folder --source local:my_videos --clip-seconds 3 --out data/mine
  avkit prepare table --list clips.csv --label-column class --source local:videos --out data/mine
  avkit prepare vggsound --source local:videos --source youtube --cookies-from-browser firefox --out data/vggsound
  avkit prepare vggsound --source 'http:https://mirror/{id}_{start:06d}.mp4' --out data/vggsound
  avkit prepare synth --num-clips 512 --out data/synth

Stopped or killed, the same command goes on where it was.
"""


def prepare(
    recipe: Annotated[
        str, typer.Argument(help="vggsound, audioset, folder, table, synth, ... or a .toml of your own.")
    ],
    out: Annotated[str, typer.Option(help="Folder of the dataset, or s3://, gs:// or hf:// URL of one.")],
    list_path: Annotated[
        Path | None, typer.Option("--list", help="The official list, or the folder of lists. Fetched if not given.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="local:DIR, wds:PATTERN or a tar, tar.gz of videos, http:TEMPLATE with {id} and {start}, or youtube. "
            "Repeat: tried in the order given."
        ),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split. Repeatable.")] = None,
    clip_seconds: Annotated[float | None, typer.Option(help="Keep a span of this length, drawn by the seed.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames a clip.")] = None,
    short_side: Annotated[int | None, typer.Option(help="Pixels of a stored frame's short side.")] = None,
    mel: Annotated[list[str] | None, typer.Option(help="paper, released or kaldi. Repeat to store several.")] = None,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Leave the FLAC out.")] = False,
    decoder: Annotated[str | None, typer.Option(help="pyav, or decord (an extra) for the pictures.")] = None,
    shard_size: Annotated[int | None, typer.Option(help="Clips a shard.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of shuffle, frame times and spans.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many clips, drawn over all splits.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes; all cores if not given. ray: of a task.")
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="local, ray (a cluster) or slice (an array of equal jobs).")
    ] = None,
    task_index: Annotated[int | None, typer.Option(help="slice: which task, from 0. In SLURM arrays found.")] = None,
    num_tasks: Annotated[int | None, typer.Option(help="slice: how many tasks. In SLURM arrays found.")] = None,
    deadline: Annotated[float | None, typer.Option(help="Seconds a clip may take.")] = None,
    min_success: Annotated[float | None, typer.Option(help="Share of clips below which the exit code is 3.")] = None,
    retry: Annotated[str | None, typer.Option(help="none, transient or all: try failed clips again.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
    num_clips: Annotated[int | None, typer.Option(help="synth: clips to draw.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="synth: classes to draw.")] = None,
    max_objects: Annotated[int | None, typer.Option(help="synth: sounding objects a clip, at most.")] = None,
    max_silent: Annotated[int | None, typer.Option(help="synth: silent ones beside them, at most.")] = None,
    seconds: Annotated[float | None, typer.Option(help="synth: length of a clip.")] = None,
    width: Annotated[int | None, typer.Option(help="synth: columns of a picture.")] = None,
    height: Annotated[int | None, typer.Option(help="synth: rows of a picture.")] = None,
    rate: Annotated[str | None, typer.Option(help="fetching: at most so many files, as 250/h, 10/min, 2/s.")] = None,
    proxy: Annotated[str | None, typer.Option(help="fetching: address of a proxy.")] = None,
    cookies: Annotated[Path | None, typer.Option(help="youtube: a cookies.txt. Read, never written.")] = None,
    cookies_from_browser: Annotated[
        str | None, typer.Option(help="youtube: the browser whose cookies to take, as firefox or chrome:PROFILE.")
    ] = None,
    max_height: Annotated[int | None, typer.Option(help="youtube: lines of the pictures, at most.")] = None,
    download_workers: Annotated[int | None, typer.Option(help="fetching: files at a time.")] = None,
    download_deadline: Annotated[float | None, typer.Option(help="fetching: seconds a file may take.")] = None,
    media_cache: Annotated[
        Path | None, typer.Option(help="fetching: where files are kept; in the output if not given.")
    ] = None,
    cache_gb: Annotated[float | None, typer.Option(help="fetching: how much of them, in GB.")] = None,
    id_column: Annotated[str | None, typer.Option(help="table: column of the video's id.")] = None,
    path_column: Annotated[str | None, typer.Option(help="table: column of the video's path below a source.")] = None,
    start_column: Annotated[str | None, typer.Option(help="table: column of start of the clip, seconds.")] = None,
    end_column: Annotated[str | None, typer.Option(help="table: column of end of the clip, seconds.")] = None,
    label_column: Annotated[str | None, typer.Option(help="table: column of its label or labels.")] = None,
    split_column: Annotated[str | None, typer.Option(help="table: column of its split.")] = None,
    label_separator: Annotated[str | None, typer.Option(help="table: what stands between labels of one cell.")] = None,
) -> None:
    """Videos to verified shards and a manifest."""
    from avcli.progress import PrepareProgress, print_plan, print_report
    from avdata.prepare.config import ExecutorKind, PrepareConfig, Retry, Share, slurm_share
    from avdata.prepare.download import DownloadConfig, parse_rate
    from avdata.prepare.estimate import estimate
    from avdata.prepare.job import dry_run as plan_only
    from avdata.prepare.job import prepare as run
    from avdata.prepare.pipeline import SampleConfig
    from avdata.prepare.sources import RemoteOptions
    from avdata.prepare.sources.http import HttpOptions
    from avdata.prepare.sources.synth import SynthConfig
    from avdata.prepare.sources.youtube import YoutubeOptions
    from avdata.prepare.supervise import Supervision, usable_cores
    from avmanifest.errors import ConfigError
    from avmanifest.recipe import TableOptions, load_recipe

    loaded = load_recipe(recipe)
    synth = given(num_clips=num_clips, num_classes=num_classes, max_objects=max_objects, max_silent=max_silent)
    synth |= given(seconds=seconds, width=width, height=height)
    table = given(
        id_column=id_column,
        path_column=path_column,
        start_column=start_column,
        end_column=end_column,
        label_column=label_column,
        split_column=split_column,
        label_separator=label_separator,
    )
    _refuse_strangers(loaded.name, "synth", synth)
    _refuse_strangers(loaded.name, "table", table)
    if retry not in {None, *Retry}:
        raise ConfigError(f"unknown --retry {retry!r}; known: {', '.join(Retry)}")
    if executor not in {None, *ExecutorKind}:
        raise ConfigError(f"unknown --executor {executor!r}; known: {', '.join(ExecutorKind)}")
    if (task_index is None) != (num_tasks is None):
        raise ConfigError("--task-index and --num-tasks belong together")
    share = Share(index=task_index, count=num_tasks) if task_index is not None and num_tasks is not None else None
    if executor == ExecutorKind.SLICE:
        share = share or slurm_share(os.environ)
    if executor != ExecutorKind.RAY:
        workers = workers or usable_cores()
    sample: dict[str, Any] = given(clip_seconds=clip_seconds, num_frames=frames, short_side=short_side, seed=seed)
    sample |= given(mel=tuple(mel) if mel else None, decoder=decoder)
    options = given(
        list_path=list_path,
        shard_size=shard_size,
        limit=limit,
        min_success=min_success,
        retry=retry and Retry(retry),
        executor=executor and ExecutorKind(executor),
        share=share,
        table=TableOptions(**table) if table else None,
        synth=SynthConfig(**synth, **given(seed=seed)) if loaded.name == "synth" else None,
    )
    youtube = given(max_height=max_height, cookies=cookies, cookies_from_browser=cookies_from_browser, proxy=proxy)
    downloads = given(
        num_workers=download_workers,
        deadline_s=download_deadline,
        cache_dir=media_cache,
        cache_gb=cache_gb,
        rate_per_hour=rate and parse_rate(rate),
    )
    config = PrepareConfig(
        recipe=loaded,
        out=out,
        sources=tuple(source or ()),
        remote=RemoteOptions(http=HttpOptions(**given(proxy=proxy)), youtube=YoutubeOptions(**youtube)),
        downloads=DownloadConfig(**downloads),
        splits=tuple(split) if split else None,
        sample=SampleConfig(**sample, keep_audio=not no_audio),
        supervision=Supervision(**given(num_workers=workers, deadline_s=deadline)),
        overwrite=overwrite,
        **options,
    )
    if dry_run:
        plan = plan_only(config)
        print_plan(plan, config, estimate(config, plan), as_json=as_json)
        return
    with PrepareProgress() as progress:
        report = run(config, progress)
    print_json(report.as_dict()) if as_json else print_report(report)
    raise typer.Exit(report.exit_code)


def _refuse_strangers(recipe: str, owner: str, options: dict[str, Any]) -> None:
    from avmanifest.errors import ConfigError

    if options and recipe != owner:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise ConfigError(f"{names} belong to recipe {owner}, not to {recipe}")
