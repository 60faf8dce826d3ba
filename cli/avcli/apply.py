"""`avkit apply`: apply a trained model to a video."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\b
Tasks, what each takes for CHECKPOINT, and what it writes:
  embed     a run              embeddings.parquet: a vector for each window and stream
  classify  a finetuned run    labels.csv: the most likely of each window; labels.json: of the video
  retrieve  a run              neighbors.csv: the nearest clips of --gallery
  localize  a run              overlay.mp4: map of the sound source; maps.parquet
  segment   a segmenter        overlay.mp4: mask of the sound source; masks/: a PNG for each frame
  separate  a separator        separated.wav, rest.wav: the sound of the picture, or of a --region

\b
Examples:
  avkit apply runs/first clip.mp4 --task embed --out out
  avkit apply runs/first clip.mp4 --task classify --top 3 --out out
  avkit apply runs/first clip.mp4 --task retrieve --gallery features/vggsound --query audio --target image --out out
  avkit apply runs/first clip.mp4 --task localize --fps 25 --out out
  avkit apply runs/first duet.mp4 --task separate --region 0,0,0.5,1 --region 0.5,0,1,1 --out out

Finetuned runs, segmenters and separators are made by avkit evaluate finetune, segmentation and separation.
"""


def apply(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's folder, a checkpoint, or what the task takes: see below.")
    ],
    video: Annotated[Path, typer.Argument(help="Any video file, of any length.")],
    task: Annotated[str, typer.Option(help="embed, classify, retrieve, localize, segment or separate.")],
    out: Annotated[Path, typer.Option(help="Folder of the results.")],
    window: Annotated[float | None, typer.Option(help="Seconds of a window; as in training if not given.")] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds from one window's start to the next one's.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, for the model and in overlay.mp4.")] = None,
    short_side: Annotated[int | None, typer.Option(help="Pixels of the frames' short side.")] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            help="embed, classify, retrieve: how frames become square (crop, short-side-crop, squash); as in training "
            "if not given."
        ),
    ] = None,
    top: Annotated[int | None, typer.Option(help="classify, retrieve: labels or clips of each window.")] = None,
    gallery: Annotated[Path | None, typer.Option(help="retrieve: folder that avkit evaluate embed wrote.")] = None,
    query: Annotated[str | None, typer.Option(help="retrieve: token stream of the window, such as audio.")] = None,
    target: Annotated[str | None, typer.Option(help="retrieve: token stream of the clips, such as image.")] = None,
    encoding: Annotated[str | None, typer.Option(help="localize: modalities encoded together, or alone.")] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="separate: part of the picture, from 0 to 1. Repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The summary as JSON.")] = False,
) -> None:
    """Apply a trained model to a video: embeddings, labels, neighbors, maps, masks or separated sound."""
    from avcli.options import given, print_json
    from avmodel.apply import apply as run
    from avmodel.apply import load, parse_region, require_possible, task_config

    settings = given(
        window_s=window, hop_s=hop, fps=fps, short_side=short_side, fit=fit, top=top, gallery=gallery, query=query,
        target=target, encoding=encoding, regions=tuple(map(parse_region, region or [])) or None, device=device,
    )  # fmt: skip
    config = task_config(task, **settings)
    require_possible(task, checkpoint, config, video=video, out=out, overwrite=overwrite)

    from avcli.evaluate_output import EvaluationProgress
    from avdata.video_windows import iter_windows

    model = load(task, checkpoint, config)
    with EvaluationProgress() as progress:
        said = run(model, iter_windows(video, model.window_config), out, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({"task": task, "checkpoint": str(checkpoint), "video": str(video), **said})
        return
    typer.echo(f"{said.pop('out')}: {', '.join(said.pop('files'))}")
    typer.echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in said.items() if name != "avkit"))
