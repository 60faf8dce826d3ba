"""The result of one clip on disk: its tar blocks and, beside them, a record with its row and their hash.

A run that ends early leaves the records of its finished clips. The next run takes them up instead of decoding the clips
again. A record whose blocks are missing, cut or changed does not count.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avdata.shards import ByteFile
from avmanifest.columns import Column
from avmanifest.files import open_file, read_file, sha256_of, sha256_of_file
from avmanifest.parsing import metadata_of
from avmanifest.schema import CLIP_SCHEMA

_RECORD: Final = ".json"  # suffix of a record, after the name of the blocks
_PLANNED: Final = ("key", "video_id", "labels", "split", "shard", "position")  # columns that a row has from the plan


@dataclass(frozen=True, slots=True)
class Segment:
    """The result of one clip: its manifest row and, if it became a sample, where its tar blocks are.

    The blocks are a file, an open file, or a part of one: `size` bytes from `start`. Offsets of the row's members count
    from there.
    """

    row: Mapping[str, Any]
    blocks: Path | ByteFile | None
    start: int = 0
    size: int | None = None  # None: to the end

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[ByteFile, int, int]]:
        """The file of the blocks, their first byte in it, and their number of bytes. A path is opened and closed."""
        with contextlib.ExitStack() as closing:
            file: ByteFile = self.blocks
            if isinstance(self.blocks, Path):
                file = closing.enter_context(open_file(self.blocks))
            file.seek(0, os.SEEK_END)
            yield file, self.start, file.tell() - self.start if self.size is None else self.size


def record_segment(row: Mapping[str, Any], blocks: Path) -> None:
    """Write the record of a finished clip, after its blocks are complete. Raises OSError.

    Its hash tells a record that was cut from a whole one, so it needs no temporary name.
    """
    content = json.dumps(dict(row), sort_keys=True)
    record = {"row": content, "row_sha256": sha256_of(content), "blocks_sha256": sha256_of_file(blocks)}
    record_of(blocks).write_text(json.dumps(record))


def recorded_segments(folder: Path) -> Iterator[tuple[Path, Path]]:
    """The blocks and the record of every finished clip in a folder, unchecked."""
    for record in sorted(folder.glob(f"*{_RECORD}")):
        blocks = record.with_name(record.name.removesuffix(_RECORD))
        if blocks.is_file():
            yield blocks, record


def read_segment(
    blocks: Path, planned: Mapping[str, Mapping[str, Any]], columns: Sequence[Column] = ()
) -> Segment | None:
    """The finished clip whose blocks these are; None if they or the record are damaged, or it is not planned.

    Args:
        blocks: The file of the blocks.
        planned: Rows of the plan by key.
        columns: The dataset's extra columns.
    """
    try:
        record = metadata_of(read_file(record_of(blocks)))
        content = record["row"]
        if sha256_of(content) != record["row_sha256"] or sha256_of_file(blocks) != record["blocks_sha256"]:
            return None
        row = metadata_of(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    plan = planned.get(str(row.get("key")))
    extra = {column.name for column in columns}
    if plan is None or set(row) != {*CLIP_SCHEMA.names, *extra}:
        return None
    if any(row[name] != plan[name] for name in (*_PLANNED, *(plan.keys() & extra))):
        return None
    return Segment(row, blocks)


def record_of(blocks: Path) -> Path:
    """The path of the record beside the blocks of a clip."""
    return blocks.with_name(blocks.name + _RECORD)
