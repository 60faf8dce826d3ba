"""Give the clips of a dataset to shards of another size, in the order of one plan of all clips. Keys, splits stay."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from avdata.prepare.append import requested_rows
from avdata.prepare.commit import Observer
from avdata.prepare.operations.run import Changes, NewShard, Prepared
from avdata.prepare.plan import hash_table, make_plan
from avmanifest.errors import ConfigError
from avmanifest.layout import ShardName
from avmanifest.schema import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class Reshard:
    """Change the number of clips of a shard. A dataset whose clips were retried gets one plan, with the latest rows."""

    shard_size: int
    name = "reshard"
    versions = (FORMAT_VERSION,)

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ConfigError(f"--shard-size {self.shard_size}: a shard holds at least one clip")

    def settings(self) -> dict[str, Any]:
        """The number of clips."""
        return {"shard_size": self.shard_size}

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """All shards anew. Raises ConfigError if some are not prepared yet."""
        layout, description = dataset.layout, dataset.description
        config = description["config"]
        if config["shard_size"] == self.shard_size and len(layout.plan_parts()) == 1:
            note(f"{layout.root}: its shards hold {self.shard_size:,} clips already")
            return None
        if dataset.num_missing:
            raise ConfigError(
                f"{layout.root}: {dataset.num_missing:,} shards are not prepared yet. Finish them with the same avkit "
                "prepare first."
            )
        plan = _plan_anew(requested_rows(layout), config["seed"], self.shard_size)
        shards = _new_shards(plan, _latest(dataset))
        names = {new.shard for new in shards}
        return Changes(
            description={
                **description,
                "config": {**config, "shard_size": self.shard_size},
                "plan_hash": hash_table(plan),
            },
            shards=shards,
            gone=tuple(planned.shard for planned in dataset.shards if planned.shard not in names),
            plan=(plan,),
        )


def _plan_anew(requested: pa.Table, seed: int, shard_size: int) -> pa.Table:
    """The plan that a run which prepares all these clips anew would make."""
    clips = requested.drop_columns(["key", "shard", "position"])
    return make_plan(clips, requested.column("key"), seed=seed, shard_size=shard_size).table


def _latest(dataset: Prepared) -> dict[str, tuple[ShardName, int]]:
    """The shard and the row of every clip, by key: of a clip that was retried, those of its last retry."""
    return {
        key: (planned.shard, number)
        for planned in dataset.shards
        for number, key in enumerate(planned.rows.column("key").to_pylist())
    }


def _new_shards(plan: pa.Table, latest: dict[str, tuple[ShardName, int]]) -> tuple[NewShard, ...]:
    clips: dict[ShardName, list[tuple[ShardName, int]]] = {}
    columns = (plan.column(name).to_pylist() for name in ("key", "split", "shard"))
    for key, split, number in zip(*columns, strict=True):
        clips.setdefault(ShardName(split, number), []).append(latest[key])
    return tuple(NewShard(shard, tuple(places)) for shard, places in clips.items())
