"""Output of `avkit inspect DATASET --failed`: the clips that failed, a line each, as JSON or as CSV."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from avcli.options import print_json
from avcli.tables import plain_table, shown_value
from avmanifest.failures import FAILED_COLUMNS, FailedClip
from avmanifest.wording import counted

_LONGEST: Final = 2000  # characters of a reason
_LONGEST_NAME: Final = 130  # of a split and a key
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def failed_lines(clips: Sequence[FailedClip], longest: int = _LONGEST) -> Iterator[Text]:
    """A line for each clip: split and key, status, reason; of a traceback the last line. Control characters escaped."""
    names = [shown_value(f"{clip.split}/{clip.key}", _LONGEST_NAME) for clip in clips]
    wide = max(map(len, names), default=0)
    wide_status = max((len(clip.status) for clip in clips), default=0)
    for name, clip in zip(names, clips, strict=True):
        reason = clip.last_line if clip.is_bug else " ".join(clip.reason.split())
        status = shown_value(clip.status, _LONGEST_NAME)
        yield Text.assemble(
            f"{name:<{wide}}  ", (f"{status:<{wide_status}}", "yellow"), f"  {shown_value(reason, longest)}"
        )


def print_failed(clips: Sequence[FailedClip], num_requested: int, root: str) -> None:
    """Print all failed clips, a row each, then what to do about each status."""
    console = Console(highlight=False)
    if not clips:
        console.print(Text(f"{root}: none of {counted(num_requested, 'clip')} failed"), soft_wrap=True)
        return
    for line in failed_lines(clips):
        console.print(line, soft_wrap=True)
    if any(clip.is_bug for clip in clips):
        console.print("Of status internal the last line is shown; --json has the whole traceback.")
    console.print()
    table = plain_table(("status", "<"), ("clips", ">"), ("what to do", "<"))
    remedies = {clip.status: clip.remedy for clip in clips}
    for status, count in Counter(clip.status for clip in clips).most_common():
        table.add_row(Text(shown_value(status, _LONGEST_NAME), style="yellow"), f"{count:,}", Text(remedies[status]))
    console.print(table)
    console.print(Text(f"{len(clips):,} of {counted(num_requested, 'clip')} of {root} failed"), soft_wrap=True)


def print_failed_json(clips: Sequence[FailedClip], num_requested: int) -> None:
    """Print all failed clips as JSON, each with its remedy."""
    listed: list[dict[str, Any]] = [asdict(clip) | {"remedy": clip.remedy} for clip in clips]
    print_json({"requested": num_requested, "num_failed": len(clips), "failed": listed})


def print_failed_csv(clips: Sequence[FailedClip]) -> None:
    """Print all failed clips as CSV with a header. A cell that a spreadsheet would run as a formula begins with '."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow((*FAILED_COLUMNS, "remedy"))
    for clip in clips:
        reason = clip.last_line if clip.is_bug else clip.reason
        values = (clip.key, clip.split, clip.video_id, clip.status, reason, clip.remedy)
        writer.writerow([_cell(shown_value(value, _LONGEST)) for value in values])


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
