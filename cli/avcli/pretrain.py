"""`avkit pretrain`: pretrain a model on shards."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.download import DOWNLOAD, download_named
from avcli.help import OUTPUT, SETTINGS, defaulted
from avcli.no_pandas import allow_pandas
from avcli.options import CONFIG, EXPLAIN, SET, TOML, configured, explained, given, require_explain, where_option
from avcli.typed import TYPED
from avmanifest.errors import ConfigError, ExitCode

EXAMPLES = """\b
Examples:
  avkit pretrain demo --data data/synth
  avkit pretrain avsiam-small --data data/mine
  avkit pretrain deepavfusion --data data/vggsound --out runs/first
  avkit pretrain deepavfusion --data 'data/vggsound/train/{00000..00183}.tar' --set optim.base_lr=1e-4 --set seed=1
  avkit pretrain deepavfusion --data data/vggsound=0.7 --data data/audioset=0.3 --out runs/mixed
  avkit pretrain deepavfusion --data data/vggsound --data data/music=4x --out runs/mixed
  avkit pretrain deepavfusion --data data/mine --set image_weights=mae-vit-b --set audio_weights=audiomae-vit-b
  avkit pretrain avsiam-h --explain --processes 8 --set parallel=fsdp
  avkit pretrain deepavfusion --data data/vggsound --out runs/first --resume
  avkit pretrain deepavfusion --data data/vggsound --out runs/speed --set steps=7 --profile
  torchrun --nproc-per-node 8 -m avcli.main pretrain deepavfusion --data data/vggsound --out runs/first
"""


_DATA, _RUN = "Data", "The run"  # headings of the options
DATA_WHERE = Annotated[str | None, where_option(_DATA)]


def started_processes() -> int:
    """Processes of this run, as torchrun says it; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def memory(run: Any, processes: int | None) -> str:
    """What --explain says of memory: an estimate for so many processes, or how to get one. None: not asked for."""
    if processes is None:
        return "memory of a card: --explain --processes N estimates it for N cards"
    from avmodel.memory import memory_note

    return memory_note(run, processes)


def pretrain(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="The run: demo, deepavfusion, avsiam-b or another name of avkit runs."),
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER|URL",
            help="A prepared dataset's folder, or shard URLs with brace patterns. Repeatable, each with how much of it "
            "is in an epoch: DATA=0.7 (a share), DATA=2x (each sample twice) or DATA=5000/epoch. Required.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    out: Annotated[Path | None, defaulted("FOLDER", "Folder of the run.", "runs/RUN", _RUN)] = None,
    where: DATA_WHERE = None,
    config: CONFIG = None,
    settings: SET = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in --out stopped.", rich_help_panel=_RUN)
    ] = False,
    resume_from: Annotated[
        int | None,
        typer.Option(
            metavar="STEP",
            help="Go on from the checkpoint of this step; later steps are redone.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    allow_pipe: Annotated[
        bool,
        typer.Option("--allow-pipe", help="Run the commands of pipe: URLs in --data.", rich_help_panel=_DATA),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Record three steps after the first four: a trace in OUT/profile, and a table of operations.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    fetch: DOWNLOAD = False,
    explain: EXPLAIN = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="CARDS",
            help="With --explain: estimate the memory of each of so many cards, and say how many samples they compare. "
            "Computes the model's shapes; takes seconds.",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    toml: TOML = False,
) -> None:
    """Pretrain a model on shards."""
    from avmodel.presets import describe, run_config

    require_explain(explain=explain, toml=toml)
    if processes is not None and (toml or not explain):
        raise ConfigError("--processes belongs to --explain without --toml; torchrun --nproc-per-node starts processes")
    flags = given(**{"data.where": where, "data.allow_pipe": allow_pipe or None})
    asked = configured(run_config(run), file=config, given=flags, settings=settings)
    if explain:
        contrast = asked.contrast_note(processes or started_processes())
        notes = [contrast, asked.data.unread_note, memory(asked, processes)]
        typer.echo(explained(asked, toml=toml, before=describe(run), after="\n\n".join(filter(None, notes))))
        return
    if not data and not asked.data.mix:
        raise ConfigError("--data is missing: a prepared dataset's folder, or shard URLs")
    if fetch:
        download_named([asked.start] if asked.start else [asked.image_weights, asked.audio_weights])
    out = out or Path("runs") / run
    from avdata.load.mixture import source_of
    from avdata.load.open import require_folders

    require_folders([source_of(entry) for entry in (*(data or ()), *asked.data.mix)])  # torch takes seconds to import
    from avcli.pretrain_end import end_lines
    from avcli.pretrain_output import TrainingProgress
    from avcli.stopping import asked_to_stop
    from avmodel.train import pretrain as train

    if asked.wandb_project is not None:
        allow_pandas()
    source = data[0] if data and len(data) == 1 else data
    with TrainingProgress() as progress, asked_to_stop() as stop:
        report = train(
            asked,
            source,
            out,
            resume=resume,
            resume_from=resume_from,
            profile_steps=profile,
            listener=progress,
            stop=stop,
        )
    progress.ended(report, end_lines(report, asked, source, TYPED.get()))
    if report.step < report.steps:
        raise typer.Exit(ExitCode.INCOMPLETE)
