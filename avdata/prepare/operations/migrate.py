"""Convert a dataset of an earlier format version in place."""

from dataclasses import dataclass
from typing import Any

from avdata.prepare.commit import Observer
from avdata.prepare.operations.build import NewShard, Prepared
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.run import Changes
from avdata.prepare.segments import Segment
from avdata.shards import ByteFile, is_log_mel, pack_npy_columns, parse_npy
from avmanifest.schema import FORMAT_VERSION, READ_VERSIONS


@dataclass(frozen=True, slots=True)
class Migrate:
    """Store log-mels column after column, as version 2 does. Their values and all other members stay."""

    name = "migrate"
    versions = READ_VERSIONS

    def settings(self) -> dict[str, Any]:
        """The new version."""
        return {"format_version": FORMAT_VERSION}

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """All shards anew."""
        if dataset.description["format_version"] == FORMAT_VERSION:
            note(f"{dataset.layout.root}: has format version {FORMAT_VERSION} already")
            return None
        return Changes(
            description={**dataset.description, "format_version": FORMAT_VERSION},
            shards=tuple(NewShard(planned.shard) for planned in dataset.shards),
            edit=_by_columns,
        )


def _by_columns(clip: StoredClip) -> Segment:
    if not clip.is_sample:
        return clip.kept()
    members: dict[str, bytes | ByteFile] = {}
    for name in (member.name for member in clip.members):
        content = clip.member(name)
        is_mel = is_log_mel(name)
        members[name] = pack_npy_columns(parse_npy(content.read(), clip.where(name))) if is_mel else content
    return clip.with_members(members)
