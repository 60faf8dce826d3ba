"""`avkit pretrain`: shards to checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from avmodel.configs.run import RunConfig

EXAMPLES = """\b
Examples:
  avkit pretrain demo --data data/synth
  avkit pretrain deepavfusion --data data/vggsound --out runs/first
  avkit pretrain deepavfusion --data 'data/vggsound/train/{00000..00183}.tar' --set optim.base_lr=1e-4 --set seed=1
  avkit pretrain deepavfusion --data data/vggsound --out runs/first --resume
  torchrun --nproc-per-node 8 -m avcli.main pretrain deepavfusion --data data/vggsound --out runs/first
"""


def pretrain(
    run: Annotated[str, typer.Argument(help="demo, deepavfusion, deepavfusion-audioset, ...; --explain has them all.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="A prepared dataset's folder, or shard URLs with brace patterns. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/RUN if not given.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    allow_pipe: Annotated[bool, typer.Option("--allow-pipe", help="Run the commands of pipe: URLs in --data.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what the run is, with all settings; train nothing.")
    ] = False,
) -> None:
    """Shards to a pretrained model."""
    from avmanifest.errors import ConfigError
    from avmodel.overrides import override
    from avmodel.presets import run_config

    config = override(run_config(run), [*(settings or []), *(["data.allow_pipe=true"] if allow_pipe else [])])
    if explain:
        explain_run(run, config)
        return
    if not data:
        raise ConfigError("--data is missing: a prepared dataset's folder, or shard URLs")
    from avcli.training import TrainingProgress, asked_to_stop
    from avmodel.train import pretrain as train

    out = out or Path("runs") / run
    with TrainingProgress() as progress, asked_to_stop() as stop:
        report = train(config, data[0] if len(data) == 1 else data, out, resume=resume, listener=progress, stop=stop)
    progress.ended(report)
    if report.step < report.steps:
        raise typer.Exit(3)


def explain_run(name: str, config: "RunConfig") -> None:
    """A run's text, its settings as --set takes them, and the other runs; on stdout."""
    from avmodel.overrides import flatten
    from avmodel.presets import describe, presets

    typer.echo(describe(name) + "\n")
    for key, value in flatten(config):
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        typer.echo(f"  {key}={text.lower() if value is None or isinstance(value, bool) else text}")
    typer.echo(f"\nruns: {', '.join(sorted(presets()))}")
