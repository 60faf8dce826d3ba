"""`avkit spectrogram`: the log-mel of any video or audio file, made as prepare makes it."""

from pathlib import Path
from typing import Annotated, Final

import typer

from avcli.help import OUTPUT, defaulted
from avcli.options import JSON, given, print_json
from avdata.profiles import PROFILES

EXAMPLES: Final = """\b
Examples:
  avkit spectrogram clip.mp4
  avkit spectrogram clip.mp4 --mel released --png mel.png
  avkit spectrogram speech.wav --json
"""


def spectrogram(
    path: Annotated[Path, typer.Argument(help="A video or audio file.", metavar="FILE")],
    mel: Annotated[str | None, defaulted(f"[{'|'.join(PROFILES)}]", "The log-mel profile.", "paper")] = None,
    png: Annotated[
        Path | None, typer.Option("--png", metavar="FILE", help="Write a picture.", rich_help_panel=OUTPUT)
    ] = None,
    as_json: JSON = False,
) -> None:
    """Show the log-mel of a video or audio file."""
    from avdata.prepare.spectrogram import file_spectrogram

    found = file_spectrogram(path, **given(mel=mel))
    if png is not None:
        from avdata.draw.figures import draw_spectrogram, save_figure

        title = f"{path.name}   {found.profile.name}   {found.log_mel.shape[0]} x {found.log_mel.shape[1]}"
        save_figure(draw_spectrogram(found.log_mel, found.profile, title), png, "Give --png another path.")
    if as_json:
        print_json(
            {
                "file": str(path),
                "profile": found.profile.name,
                "shape": list(found.log_mel.shape),
                "seconds": found.seconds,
                "rms_dbfs": found.rms_dbfs,
                "min": float(found.log_mel.min()),
                "mean": float(found.log_mel.mean()),
                "max": float(found.log_mel.max()),
            }
        )
    elif png is None:
        from avcli.inspect_output import print_spectrogram

        print_spectrogram(path, found)
    else:
        typer.echo(f"{png}: {found.profile.name}, {found.log_mel.shape[0]} x {found.log_mel.shape[1]}", err=True)
