"""`avkit apply`: apply a trained model to a video."""

from pathlib import Path
from typing import Annotated, Any

import typer

from avcli.download import DOWNLOAD, download_named
from avcli.help import OUTPUT
from avcli.options import (
    CONFIG,
    EXPLAIN,
    JSON,
    SET,
    TOML,
    configured,
    explained,
    flat_options,
    given_values,
    option_names,
    print_json,
    require_explain,
)
from avmanifest.errors import ConfigError
from avmodel.configs.apply import PANELS, TASKS, THE_TASK, require_task

EXAMPLES = """\b
Tasks, what each takes for CHECKPOINT, and what it writes:
  embed     a run            embeddings.parquet: a vector a window and stream
  classify  a finetuned run  labels.csv, labels.json: the most likely labels
  retrieve  a run            neighbors.csv: the nearest clips of --gallery
  localize  a run            overlay.mp4, maps.parquet: where the sound is
  segment   a segmenter      overlay.mp4, masks/: the mask of the sound source
  separate  a separator      separated.wav, rest.wav: the picture's sound

\b
Examples:
  avkit apply runs/first clip.mp4 --task embed --out out
  avkit apply runs/first clip.mp4 --task classify --top 3 --out out
  avkit apply runs/first clip.mp4 --task retrieve --gallery features/vggsound --query audio --target image --out out
  avkit apply runs/first clip.mp4 --task localize --fps 25 --out out
  avkit apply runs/first duet.mp4 --task separate --region 0,0,0.5,1 --region 0.5,0,1,1 --out out
  avkit apply --task localize --explain

Finetuned runs, segmenters and separators are made by avkit evaluate finetune, segmentation and separation.
"""


_CONFIGS = tuple(dict.fromkeys(task.config for task in TASKS.values()))


@flat_options(*_CONFIGS, panels=PANELS)
def apply(
    task: Annotated[
        str,
        typer.Option(metavar=f"[{'|'.join(TASKS)}]", help="What is done; see below.", rich_help_panel=THE_TASK),
    ],
    given: dict[str, Any],
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A run's folder, a checkpoint, a name of avkit models, or what the task takes: see below. Required, "
            "except with --explain.",
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Argument(metavar="VIDEO", help="Any video file, of any length. Required, except with --explain."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the results. Required.", rich_help_panel=OUTPUT),
    ] = None,
    fetch: DOWNLOAD = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing results.", rich_help_panel=OUTPUT)
    ] = False,
    config: CONFIG = None,
    settings: SET = None,
    explain: EXPLAIN = False,
    toml: TOML = False,
    as_json: JSON = False,
) -> None:
    """Apply a trained model to a video: embeddings, labels, neighbors, maps, masks or separated sound."""
    require_explain(explain=explain, toml=toml)
    require_task(task)
    kind = TASKS[task].config
    options = given_values(kind, given, f"task {task}", option_names(*_CONFIGS))
    asked = configured(kind(), file=config, given=options, settings=settings)
    if explain:
        typer.echo(explained(asked, toml=toml, before=f"{task}: {TASKS[task].summary}"))
        return
    for name, value in (("CHECKPOINT", checkpoint), ("VIDEO", video), ("--out", out)):
        if value is None:
            raise ConfigError(f"{name} is missing: avkit apply CHECKPOINT VIDEO --task {task} --out FOLDER")
    assert checkpoint is not None
    assert video is not None
    assert out is not None
    from avmodel.apply import apply as run
    from avmodel.apply import load, require_possible

    if fetch:
        download_named([checkpoint])
    require_possible(task, checkpoint, asked, video=video, out=out, overwrite=overwrite)

    from avcli.progress import EvaluationProgress
    from avdata.video_windows import iter_windows

    model = load(task, checkpoint, asked)
    with EvaluationProgress() as progress:
        said = run(model, iter_windows(video, model.window_config), out, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({"task": task, "checkpoint": str(checkpoint), "video": str(video), **said})
        return
    typer.echo(f"{said.pop('out')}: {', '.join(said.pop('files'))}")
    typer.echo(
        ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in said.items() if name != "avkit")
    )


def _shown(value: Any) -> str:
    """A fact of a result in words: `image 48, audio 48` of widths by stream, `4 x 4` of a grid."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {width}" for name, width in value.items())
    if isinstance(value, list):
        return (" x " if all(isinstance(one, int) for one in value) else ", ").join(map(str, value))
    return str(value)
