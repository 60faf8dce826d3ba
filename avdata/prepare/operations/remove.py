"""Remove clips that may no longer be kept. Their rows stay, with what the list says and nothing of the media."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.commit import Observer
from avdata.prepare.description import removed_keys
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.run import Changes, NewShard, Prepared
from avdata.prepare.pipeline import removed_row
from avdata.prepare.segments import Segment
from avmanifest.errors import ConfigError
from avmanifest.files import read_text, sha256_of
from avmanifest.schema import FORMAT_VERSION, PLAN_SCHEMA
from avmanifest.table import read_batches

_FEW: Final = 5


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids of a file, one a line. Raises ConfigError if it cannot be read, or has none."""
    try:
        ids = tuple(dict.fromkeys(filter(None, map(str.strip, read_text(path).splitlines()))))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable list ({error}). Give a text file with one id a line.") from error
    if not ids:
        raise ConfigError(f"{path}: has no ids. Give a text file with one id a line.")
    return ids


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the clips with these keys, and all clips of the videos with these ids."""

    ids: tuple[str, ...]
    name = "remove"
    versions = (FORMAT_VERSION,)

    def settings(self) -> dict[str, Any]:
        """The number of ids, and their hash: a history that is published does not repeat them."""
        return {"ids": len(self.ids), "ids_sha256": sha256_of("\n".join(sorted(self.ids)))}

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """The shards that hold one of the clips. Raises ConfigError if no id is of a clip of the plan."""
        root, description = dataset.layout.root, dataset.description
        found, known = self._planned(dataset)
        if not found:
            raise ConfigError(
                f"{root}: has none of the {len(self.ids):,} ids, such as {self.ids[0]!r}. Give keys or ids of videos "
                "as `avkit inspect` and the manifest's columns key and video_id have them."
            )
        if unknown := [one for one in self.ids if one not in known]:
            few = ", ".join(unknown[:_FEW])
            note(f"{len(unknown):,} of {len(self.ids):,} ids are of no clip of the dataset, such as {few}")
        before = removed_keys(description)
        if before.issuperset(found):
            note(f"{root}: all of these clips have been removed before")
            return None
        holding = [
            planned.shard
            for planned in dataset.shards
            if pc.any(pc.is_in(planned.rows.column("key"), value_set=pa.array(list(found), pa.string()))).as_py()
        ]
        return Changes(
            description={**description, "removed": sorted(before.union(found))},
            shards=tuple(map(NewShard, holding)),
            edit=_Without(found),
            forget=True,
        )

    def _planned(self, dataset: Prepared) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """The planned rows of the clips by key, those of missing shards included, and the ids that were found."""
        asked = pa.array(self.ids, pa.string())
        found: dict[str, dict[str, Any]] = {}
        for part in dataset.layout.plan_parts():
            for batch in read_batches(part, PLAN_SCHEMA):
                mine = pc.or_(*(pc.is_in(batch.column(name), value_set=asked) for name in ("key", "video_id")))
                found |= {row["key"]: row for row in batch.filter(mine).to_pylist()}
        known = {str(row[name]) for row in found.values() for name in ("key", "video_id")}
        return found, known


@dataclass(frozen=True, slots=True)
class _Without:
    """Leaves the content of these clips out."""

    planned: Mapping[str, Mapping[str, Any]]  # rows of PLAN_SCHEMA by key

    def __call__(self, clip: StoredClip) -> Segment:
        planned = self.planned.get(clip.row["key"])
        if planned is None:
            return clip.kept()
        place = {name: clip.row[name] for name in ("shard", "position")}
        return Segment(removed_row({**planned, **place}), None)
