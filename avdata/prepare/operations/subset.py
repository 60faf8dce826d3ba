"""Make a dataset of some clips of another: those for which a condition holds, or those of a list of keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from avdata.prepare.append import requested_rows
from avdata.prepare.commit import Observer
from avdata.prepare.description import with_plan
from avdata.prepare.operations.build import Prepared, shards_of_plan
from avdata.prepare.operations.derive import Derived
from avdata.prepare.operations.reshard import check_shard_size, plan_anew
from avdata.where import Condition, parse_condition
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.files import sha256_of
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_schema, read_table
from avmanifest.wording import counted

_FEW: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """The clips for which `where` holds and whose keys are given; failed clips, too, whose rows are then kept.

    The new dataset has the settings of the source, and its samples have the same bytes. Shards are those of a plan of
    the chosen clips.
    """

    where: str | None = None  # an SQL condition on the columns of the merged manifest
    keys: tuple[str, ...] | None = None
    shard_size: int | None = None  # None: as in the source
    name = "subset"

    def __post_init__(self) -> None:
        if self.where is None and self.keys is None:
            raise ConfigError("subset: give --where CONDITION, --keys FILE, or both")
        check_shard_size(self.shard_size)

    def settings(self) -> dict[str, Any]:
        """The condition, and the number and the hash of the keys."""
        found: dict[str, Any] = {}
        if self.where is not None:
            found["where"] = self.where
        if self.keys is not None:
            found |= {"keys": len(self.keys), "keys_sha256": sha256_of("\n".join(sorted(self.keys)))}
        return found

    def derived(self, datasets: Sequence[Prepared], note: Observer) -> Derived:
        """The chosen clips. Raises ConfigError if there are none."""
        (source,) = datasets
        requested = requested_rows(source.layout)
        chosen = self._chosen(source, requested.column("key"), note)
        config = source.description["config"]
        size = config["shard_size"] if self.shard_size is None else self.shard_size
        rows = requested.filter(pc.is_in(requested.column("key"), value_set=chosen))
        plan = plan_anew(rows, config["seed"], size)
        description = with_plan(source.description, plan.hash) | {"config": {**config, "shard_size": size}}
        return Derived(description=description, plan=plan, shards=shards_of_plan(plan.table, source.places()))

    def _chosen(self, source: Prepared, requested: pa.ChunkedArray, note: Observer) -> pa.Array:
        root = str(source.layout.root)
        chosen = requested.combine_chunks()
        if self.where is not None:
            chosen = _where(source, parse_condition(self.where), len(requested))
        if self.keys is None:
            return chosen
        wanted = pa.array(self.keys, pa.string())
        unknown = wanted.filter(pc.invert(pc.is_in(wanted, value_set=requested.combine_chunks())))
        if len(unknown):
            few = ", ".join(unknown[:_FEW].to_pylist())
            note(f"{len(unknown):,} of {counted(len(wanted), 'key')}: of no clip of {root}, such as {few}")
        chosen = chosen.filter(pc.is_in(chosen, value_set=wanted))
        if not len(chosen):
            given = counted(len(wanted), "key")
            raise ConfigError(f"{root}: no clip is chosen by the {given} given. Take keys that avkit inspect shows.")
        return chosen


def _where(source: Prepared, condition: Condition, num_clips: int) -> pa.Array:
    """Keys of the clips for which the condition holds. Raises ConfigError if there are none."""
    layout = source.layout
    found: list[pa.Array] = []
    num_rows = 0
    for split in layout.splits():
        path = layout.manifest(split)
        names = condition.columns(read_schema(path, CLIP_SCHEMA), str(path))
        rows = read_table(path, CLIP_SCHEMA, list(dict.fromkeys([*names, "key"])))
        num_rows += len(rows)
        found.append(rows.column("key").combine_chunks().filter(condition.holds(rows, str(path))))
    if num_rows != num_clips:
        raise ManifestError(
            f"{layout.root}: its manifest has {counted(num_rows, 'clip')} and its plan {num_clips:,}. Run the same "
            "avkit prepare again, which writes the manifest."
        )
    keys = pa.concat_arrays(found)
    if not len(keys):
        raise condition.chooses_none(num_rows, str(layout.root))
    return keys
