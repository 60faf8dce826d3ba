"""Remove clips that may no longer be kept. Their rows stay, without what the media and the list's own columns say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.commit import Observer
from avdata.prepare.description import frozen_hash, removed_keys
from avdata.prepare.operations.build import NewShard, Prepared
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.run import Changes
from avdata.prepare.pipeline import removed_row
from avdata.prepare.plan import hash_table, is_appended, marked_appended, without_own_columns
from avdata.prepare.segments import Segment
from avmanifest.errors import ConfigError
from avmanifest.files import read_text, sha256_of
from avmanifest.schema import FORMAT_VERSION, PLAN_SCHEMA
from avmanifest.table import read_batches, read_table
from avmanifest.wording import counted

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
            asked = f"the id {self.ids[0]!r}"
            if len(self.ids) > 1:
                asked = f"one of the {len(self.ids):,} ids, such as {self.ids[0]!r}"
            raise ConfigError(
                f"{root}: no clip has {asked}. Give keys or ids of videos as `avkit inspect` and the manifest's "
                "columns key and video_id have them."
            )
        if unknown := [one for one in self.ids if one not in known]:
            few = ", ".join(unknown[:_FEW])
            note(f"{len(unknown):,} of {counted(len(self.ids), 'id')}: of no clip of the dataset, such as {few}")
        before = removed_keys(description)
        if before.issuperset(found):
            note(f"{root}: all of these clips have been removed before")
            return None
        holding = [
            NewShard(planned.shard, planned=planned.rows)
            for planned in dataset.shards
            if pc.any(pc.is_in(planned.rows.column("key"), value_set=pa.array(list(found), pa.string()))).as_py()
        ]
        removed = before.union(found)
        plan = tuple(_cleared(part, removed) for part in dataset.layout.plan_parts())
        changed = {**description, "removed": sorted(removed)}
        if (frozen := hash_table(plan[0])) != frozen_hash(description):
            changed["frozen_plan_hash"] = frozen
        return Changes(
            description=changed,
            shards=tuple(holding),
            plan=plan,
            edit=_Without(frozenset(found)),
            forget=True,
        )

    def _planned(self, dataset: Prepared) -> tuple[set[str], set[str]]:
        """The keys of the clips, those of missing shards included, and their keys and ids."""
        asked, names = pa.array(self.ids, pa.string()), ("key", "video_id")
        found: set[str] = set()
        known: set[str] = set()
        for part in dataset.layout.plan_parts():
            for batch in read_batches(part, PLAN_SCHEMA, names):
                mine = batch.filter(pc.or_(*(pc.is_in(batch.column(name), value_set=asked) for name in names)))
                found.update(mine.column("key").to_pylist())
                known.update(*(mine.column(name).to_pylist() for name in names))
        return found, known


def _cleared(part: Path, removed: frozenset[str]) -> pa.Table:
    """The rows of a part of the plan, without the list's own columns of the removed clips."""
    table = without_own_columns(read_table(part, PLAN_SCHEMA), removed)
    return marked_appended(table) if is_appended(part) else table


@dataclass(frozen=True, slots=True)
class _Without:
    """Leaves the content of these clips out."""

    keys: frozenset[str]

    def __call__(self, clip: StoredClip) -> Segment:
        return Segment(removed_row(clip.planned), None) if clip.row["key"] in self.keys else clip.kept()
