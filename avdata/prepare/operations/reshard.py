"""Give the clips of a dataset to shards of another size, in the order of one plan of all clips. Keys, splits stay."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from avdata.prepare.append import requested_rows
from avdata.prepare.commit import Observer
from avdata.prepare.description import with_plan
from avdata.prepare.operations.build import Prepared, shards_of_plan
from avdata.prepare.operations.run import Changes
from avdata.prepare.plan import Plan, make_plan
from avmanifest.errors import ConfigError
from avmanifest.schema import FORMAT_VERSION
from avmanifest.wording import counted


@dataclass(frozen=True, slots=True)
class Reshard:
    """Change the number of clips of a shard. A dataset whose clips were retried gets one plan, with the latest rows."""

    shard_size: int
    name = "reshard"
    versions = (FORMAT_VERSION,)

    def __post_init__(self) -> None:
        check_shard_size(self.shard_size)

    def settings(self) -> dict[str, Any]:
        """The number of clips."""
        return {"shard_size": self.shard_size}

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """All shards anew. Raises ConfigError if some are not prepared yet."""
        layout, description = dataset.layout, dataset.description
        config = description["config"]
        if config["shard_size"] == self.shard_size and len(layout.plan_parts()) == 1:
            note(f"{layout.root}: its shards hold {counted(self.shard_size, 'clip')} already")
            return None
        dataset.require_whole()
        plan = plan_anew(requested_rows(layout), config["seed"], self.shard_size)
        shards = shards_of_plan(plan.table, dataset.places())
        names = {new.shard for new in shards}
        return Changes(
            description=with_plan(description, plan.hash) | {"config": {**config, "shard_size": self.shard_size}},
            shards=shards,
            gone=tuple(planned.shard for planned in dataset.shards if planned.shard not in names),
            plan=(plan.table,),
        )


def check_shard_size(clips: int | None) -> None:
    """Raise ConfigError for a shard of no clip. None: as in the source."""
    if clips is not None and clips < 1:
        raise ConfigError(f"--shard-size {clips}: a shard holds at least one clip")


def plan_anew(requested: pa.Table, seed: int, shard_size: int) -> Plan:
    """The plan that a run which prepares all these clips anew would make."""
    clips = requested.drop_columns(["key", "shard", "position"])
    return make_plan(clips, requested.column("key"), seed=seed, shard_size=shard_size)
