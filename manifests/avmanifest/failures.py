"""The clips of a dataset that failed: which they are, why, and the text file of tracebacks."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from avmanifest.files import replace_text
from avmanifest.schema import StatusClass, find_status, is_failure
from avmanifest.wording import counted

FAILED_COLUMNS: Final = ("key", "split", "video_id", "status", "reason")
"""The columns of a manifest that a FailedClip is made from."""

SHOWN_AFTER_A_RUN: Final = 10
"""Failed clips that prepare shows at its end."""

_MOST_TRACEBACKS: Final = 1000


@dataclass(frozen=True, slots=True)
class FailedClip:
    """A clip that is no sample, and why. `reason` is text from outside: media, servers, steps."""

    key: str
    split: str
    video_id: str
    status: str
    reason: str

    @property
    def remedy(self) -> str:
        """What to do about it, as a sentence; empty for a status that this version does not know."""
        found = find_status(self.status)
        return found.remedy if found else ""

    @property
    def last_line(self) -> str:
        """The last line of the reason: of a traceback, the error itself."""
        lines = self.reason.strip().splitlines()
        return lines[-1].strip() if lines else ""

    @property
    def is_bug(self) -> bool:
        """Whether the reason is a traceback."""
        found = find_status(self.status)
        return found is not None and found.status_class is StatusClass.BUG


def failed_clips(rows: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[FailedClip]:
    """The failed clips among rows that have FAILED_COLUMNS, in their order."""
    for part in rows:
        statuses = pc.unique(part.column("status")).to_pylist()
        failed = pa.array([status for status in statuses if is_failure(status)], pa.string())
        chosen = part.select(list(FAILED_COLUMNS)).filter(pc.is_in(part.column("status"), value_set=failed))
        for row in chosen.to_pylist():
            yield FailedClip(**{name: value or "" for name, value in row.items()})


def some_of_each(clips: Iterable[FailedClip], most: int = SHOWN_AFTER_A_RUN) -> tuple[FailedClip, ...]:
    """At most `most` clips, of every status as many as of the others where there are; the most frequent status first.

    Only `most` clips of each status are kept in memory.
    """
    counts: Counter[str] = Counter()
    kept: dict[str, list[FailedClip]] = {}
    for clip in clips:
        counts[clip.status] += 1
        if counts[clip.status] <= most:
            kept.setdefault(clip.status, []).append(clip)
    groups = [kept[status] for status, _ in counts.most_common()]
    chosen = set(islice(filter(None, chain.from_iterable(zip_longest(*groups))), most))
    return tuple(clip for group in groups for clip in group if clip in chosen)


def write_tracebacks(path: Path, clips: Iterable[FailedClip]) -> bool:
    """Write the tracebacks of clips that ended in a bug to a text file; without any, remove it. Whether it is there.

    Raises OSError if it cannot be written.
    """
    parts: list[str] = []
    num_found = 0
    for clip in clips:
        if clip.is_bug:
            num_found += 1
            if num_found <= _MOST_TRACEBACKS:
                parts.append(f"{clip.split}/{clip.key}\n{clip.reason.strip()}\n")
    if not parts:
        path.unlink(missing_ok=True)
        return False
    if num_found > _MOST_TRACEBACKS:
        more = counted(num_found - _MOST_TRACEBACKS, "more traceback")
        parts.append(f"{more} in the column reason of the manifest\n")
    replace_text(path, "\n".join(parts))
    return True
