"""`avkit bench`: what the budgets say, measured on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from avcli.options import given, print_json

app = typer.Typer(no_args_is_help=True, help="Measure avkit on this machine.")


@app.callback()
def bench() -> None:
    """Measure avkit on this machine."""


@app.command("prepare")
def bench_prepare(
    videos: Annotated[Path | None, typer.Argument(help="A folder of videos; drawn ones if not given.")] = None,
    clips: Annotated[int | None, typer.Option(help="Videos to measure speed on.")] = None,
    memory_clips: Annotated[list[int] | None, typer.Option(help="Numbers of clips to measure memory at.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Clips a second and core, beside bare decoding of the same packets and ffmpeg; memory by number of clips."""
    from avdata.prepare.bench import PrepareBench, bench_prepare

    options = given(videos=videos, num_clips=clips, memory_clips=tuple(memory_clips) if memory_clips else None)
    found = bench_prepare(PrepareBench(**options))
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:40} {value}")
