"""A clip of a prepared dataset, from which an operation makes the clip of a new shard."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from avdata.prepare.segments import Segment
from avdata.samples import scratch_file
from avdata.shards import BLOCK, ByteFile, Member, check_member, member_columns, members_of, write_sample

_COPY_BYTES: Final = 1 << 20


class StoredClip:
    """A clip as a shard holds it.

    Args:
        row: Its manifest row.
        planned: Its row of the plan, if the operation asks for it (NewShard.planned).
        tar: The open tar of its shard.
        name: Name of the tar for messages.
        folder: Where long members are kept while they are used.
        scratch: Closes the files of `member` and `new_file`.
    """

    def __init__(
        self,
        row: Mapping[str, Any],
        planned: Mapping[str, Any],
        tar: ByteFile,
        name: str,
        folder: Path,
        scratch: ExitStack,
    ) -> None:
        self.row = row
        self.planned = planned
        self.members = members_of(row)
        self._tar = tar
        self._name = name
        self._folder = folder
        self._scratch = scratch

    @property
    def is_sample(self) -> bool:
        """Whether the clip has members."""
        return bool(self.row["status"] == "ok")

    @property
    def folder(self) -> Path:
        """Where temporary files may be written."""
        return self._folder

    def where(self, member: str) -> str:
        """A member's name for messages."""
        return f"{self._name}: {self.row['key']}.{member}"

    def new_file(self) -> ByteFile:
        """A temporary file, which is closed when the clip is finished."""
        return self._scratch.enter_context(scratch_file(self._folder))

    def member(self, name: str) -> ByteFile:
        """A member's content as an open file, after it was compared with its hash.

        Raises:
            DamagedMember: It differs from its hash.
            KeyError: The clip has no such member.
        """
        member = {member.name: member for member in self.members}[name]
        check_member(self._tar, member, self._name, self.row["key"])
        file, left = self.new_file(), member.size
        self._tar.seek(member.offset)
        while left and (chunk := self._tar.read(min(left, _COPY_BYTES))):
            file.write(chunk)
            left -= len(chunk)
        file.seek(0)
        return file

    def kept(self, **changes: Any) -> Segment:
        """The clip with the same members, byte for byte, and these columns changed."""
        row = {**self.row, **changes}
        if not self.is_sample:
            return Segment(row, None)
        start = self.members[0].offset - BLOCK
        last = self.members[-1]
        end = last.offset + last.size + -last.size % BLOCK
        row |= member_columns([replace(member, offset=member.offset - start) for member in self.members])
        return Segment(row, self._tar, start, end - start)

    def with_members(self, members: Mapping[str, bytes | ByteFile], **changes: Any) -> Segment:
        """The clip with exactly these members, in their order, and these columns changed, which may be the key."""
        blocks, row = self.new_file(), {**self.row, **changes}
        placed: list[Member] = write_sample(blocks, row["key"], members)
        return Segment(row | member_columns(placed), blocks)
