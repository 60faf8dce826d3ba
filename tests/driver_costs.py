"""What the driver of prepare costs by the number of shards: plan, checks of what is done, manifest, catalog. A script.

    python -m tests.driver_costs FOLDER [--shards 10000 50000 100000] [--clips 4]

Draws for each number a dataset whose shards are all committed, with real plan, markers, rows and sample offsets; only
the tars are holes of the right size. A later call finds them. Each run of prepare is a process of its own: the first
one has no manifest, the second has nothing to do, the third lacks a shard of which no source has a clip. Prints a
table: processor seconds by phase, seconds and memory, and how each grows: the exponent of the last two sizes, and what
a million shards would take at that rate.
"""

import argparse
import json
import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from avdata.prepare import description
from avdata.prepare.catalog import PlannedShard, pending_rows, planned_shards
from avdata.prepare.commit import marker_bytes, marker_of
from avdata.prepare.config import PrepareConfig
from avdata.prepare.job import prepare
from avdata.prepare.plan import freeze, make_plan
from avdata.prepare.report import SilentListener
from avdata.shards import end_of_archive, index_bytes
from avmanifest.files import remove, sha256_of, sha256_of_file
from avmanifest.layout import Layout, ShardName
from avmanifest.recipe import load_recipe
from avmanifest.schema import CLIP_SCHEMA, REQUEST_SCHEMA
from avmanifest.table import write_table

MEMBERS = ("json", "logmel.npy", "frame00.jpg", "flac")
MEMBER_BYTES = 20_000
CLASSES = tuple(f"class {number:03d}" for number in range(309))  # as many as VGGSound's
LOST = "one shard lost"
PHASES = ("checks", "manifest", "catalog", "report")


def config_of(root: Path, clips: int) -> PrepareConfig:
    """The run that the drawn dataset is of. Its source has nothing."""
    empty = root.with_name("empty")
    empty.mkdir(exist_ok=True)
    return PrepareConfig(recipe=load_recipe("vggsound"), out=root, sources=(f"local:{empty}",), shard_size=clips)


def draw(root: Path, shards: int, clips: int) -> None:
    """Write the dataset, as a run leaves it that was ended before it wrote the manifest."""
    config, layout, count = config_of(root, clips), Layout(root), shards * clips
    names = [f"{number:011d}" for number in range(count)]
    values: dict[str, Any] = {
        "video_id": names,
        "start_s": np.zeros(count),
        "end_s": np.full(count, 10.0),
        "labels": pa.ListArray.from_arrays(
            pa.array(range(count + 1), pa.int32()), [CLASSES[number % len(CLASSES)] for number in range(count)]
        ),
        "split": pa.repeat("train", count),
        "path": pa.repeat("", count),
        "frame_times_s": pa.nulls(count, pa.list_(pa.float64())).fill_null([]),
        "annotations": pa.repeat("{}", count),
        "licence": pa.repeat("", count),
    }
    arrays = [pa.array(values[field.name]).cast(field.type) for field in REQUEST_SCHEMA]
    keys = pa.array([f"vgg-{name}_000000" for name in names])
    plan = make_plan(
        pa.Table.from_arrays(arrays, schema=REQUEST_SCHEMA), keys, seed=config.sample.seed, shard_size=clips
    )
    layout.root.mkdir(parents=True)
    freeze(plan, layout.plan_part(0))
    (root / "train").mkdir()
    plan_hash = plan.hash
    draw_shards(layout, planned_shards(layout), plan_hash, clips)
    description.write_description(config, layout, CLASSES, plan_hash)


def draw_shards(layout: Layout, shards: Iterable[PlannedShard], plan_hash: str, clips: int) -> None:
    """Write the files of shards of so many clips."""
    samples = clips - 1  # the last clip of each shard failed
    end = samples * len(MEMBERS) * MEMBER_BYTES
    index = index_bytes([place * len(MEMBERS) * MEMBER_BYTES for place in range(samples)], end)
    tar = {"bytes": end + len(end_of_archive(end)), "sha256": sha256_of(b"")}
    for planned in shards:
        rows, shard = _rows(planned.rows), planned.shard
        with layout.tar(shard).open("xb") as hole:
            hole.truncate(tar["bytes"])
        layout.index(shard).write_bytes(index)
        path = layout.clips(shard)
        write_table(rows, path)
        parts = {
            "tar": tar,
            "idx": {"bytes": len(index), "sha256": sha256_of(index)},
            "parquet": {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)},
        }
        marker = marker_of(rows.column("status").to_pylist(), parts, plan_hash)
        layout.stats(shard).write_bytes(marker_bytes(marker))


def _rows(plan: pa.Table) -> pa.Table:
    """The rows of a shard: all clips but the last became samples."""
    rows, count = pending_rows(plan), len(plan)
    samples, members = count - 1, len(MEMBERS)
    ends = pa.array([*range(0, samples * members + 1, members), samples * members], pa.int32())
    places = pa.StructArray.from_arrays(
        [
            pa.array(MEMBERS * samples),
            pa.array(np.arange(samples * members) * MEMBER_BYTES + 512),
            pa.array(np.full(samples * members, MEMBER_BYTES - 1024)),
        ],
        ["name", "offset", "size"],
    )
    hashes = pa.array(np.random.default_rng(0).integers(0, 2**63, samples * members))
    firsts = pa.array([*range(samples + 1), samples], pa.int32())
    values = {
        "status": pa.array([*["ok"] * samples, "media_corrupt"]),
        "reason": pa.array([*[""] * samples, "drawn so"]),
        "shard": plan.column("shard"),
        "position": plan.column("position"),
        "members": pa.ListArray.from_arrays(ends, places),
        "member_xxh3": pa.ListArray.from_arrays(ends, hashes),
        "mel_block_xxh3": pa.nulls(count, CLIP_SCHEMA.field("mel_block_xxh3").type),
        "frame_times_s": pa.ListArray.from_arrays(firsts, pa.array(np.full(samples, 5.0))),
        **dict.fromkeys(("silent", "still", "short"), pa.repeat(pa.scalar(value=False), count)),
    }
    for name, value in values.items():
        field = CLIP_SCHEMA.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, value.cast(field.type))
    return rows


class Clock(SilentListener):
    """Notes the processor time at which each phase of a run ended."""

    def __init__(self) -> None:
        self.used = [time.process_time()]

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        self.used.append(time.process_time())

    def step(self, name: str) -> None:
        if name in ("manifest merged", "catalog written"):
            self.used.append(time.process_time())


def run(root: Path, clips: int, num_missing: int) -> dict[str, float]:
    """Processor seconds of each phase of a run of prepare, seconds and memory of all. So many clips have no shard."""
    before, began, clock = _peak_mb(), time.perf_counter(), Clock()
    report = prepare(config_of(root, clips), clock)
    assert report.requested == report.num_shards * clips + num_missing, report
    clock.used.append(time.process_time())
    phases = dict(zip(PHASES, np.diff(clock.used).tolist(), strict=True))
    return phases | {"processor": sum(phases.values()), "s": time.perf_counter() - began, "mb": _peak_mb() - before}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def alone(work: Callable[[], Any]) -> Any:
    """The result of some work in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def _line(name: str, figures: dict[str, float]) -> str:
    return " | ".join([f"| {name}", *(f"{value:,.1f}" for value in figures.values())]) + " |"


def growth(sizes: Sequence[int], found: Sequence[dict[str, float]]) -> dict[str, float]:
    """How each figure grew from the last size but one to the last: the exponent, 1 for linear."""
    ratio = math.log(sizes[-1] / sizes[-2])
    return {name: math.log(max(value, 1e-3) / max(found[-2][name], 1e-3)) / ratio for name, value in found[-1].items()}


def at_a_million(sizes: Sequence[int], found: Sequence[dict[str, float]]) -> dict[str, float]:
    """Each figure at a million shards, on the line through the last two sizes."""
    step = sizes[-1] - sizes[-2]
    return {n: v + (v - found[-2][n]) / step * (1_000_000 - sizes[-1]) for n, v in found[-1].items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, nargs="+", default=[10_000, 50_000, 100_000])
    parser.add_argument("--clips", type=int, default=4)
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"first": [], "again": [], LOST: []}
    for number in given.shards:
        root = given.folder / f"{number}-{given.clips}"
        if not (root / "dataset.json").exists():
            remove(root)
            alone(partial(draw, root, number, given.clips))
        remove(root / "manifest")
        remove(root / "_tmp")
        lost = Layout(root).files(ShardName("train", 0))
        for name, runs in found.items():
            for path in lost if name == LOST else ():
                path.rename(given.folder / path.name)
            runs.append(alone(partial(run, root, given.clips, given.clips if name == LOST else 0)))
            for path in lost if name == LOST else ():
                (given.folder / path.name).rename(path)
            print(json.dumps({"shards": number, "run": name, **runs[-1]}), flush=True)
    for name, runs in found.items():
        print(f"\n| {name} | " + " | ".join(runs[0]) + " |\n|" + "---|" * (len(runs[0]) + 1))
        for number, figures in zip(given.shards, runs, strict=True):
            print(_line(f"{number:,}", figures))
        if len(runs) > 1:
            print(_line("1,000,000 at this rate", at_a_million(given.shards, runs)))
            print(_line("exponent", growth(given.shards, runs)))


if __name__ == "__main__":
    main()
