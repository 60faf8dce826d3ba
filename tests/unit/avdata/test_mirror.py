"""Commits of a shard to a bucket by several machines, interrupted at each step: one attempt is published, complete."""

import hashlib
from pathlib import Path

import pytest

from avdata.prepare.commit import EndedShard, Workspace
from avdata.prepare.mirror import BucketOutput
from avdata.prepare.segments import Segment
from avdata.retrying import RetryPolicy
from avdata.shards import pack_sample
from avdata.store import Store
from avmanifest.errors import StorageError
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA
from tests.buckets import UnreliableMemory

SHARD = ShardName("train", 0)
PLAN_HASH = "0" * 64


class Killed(BaseException):
    """Simulates the death of a machine."""


class Machine:
    """A simulated machine: its mirror, its workspace, and its own content of the one clip."""

    def __init__(self, store: UnreliableMemory, folder: Path, content: bytes, url: str = "memory://b/set") -> None:
        bucket = Store(url, store, "/b/set", RetryPolicy(attempts=1, wait_s=0.0))
        self.output = BucketOutput(bucket, Layout(folder, is_mirror=True))
        self.output.refresh(lambda text: None)
        self.content = content

    def commit(self, observe=lambda step: None):
        workspace = Workspace(self.output.layout)
        try:
            blocks, members = pack_sample("k0", {"json": self.content})
            path = workspace.file(SHARD, "clip")
            path.write_bytes(blocks)
            row = dict.fromkeys(CLIP_SCHEMA.names) | {
                "key": "k0", "video_id": "v0", "source": "", "start_s": 0.0, "labels": [], "split": "train",
                "status": "ok", "reason": "", "shard": 0, "position": 0, "frame_times_s": [], "annotations": "{}",
                "members": [{"name": m.name, "offset": m.offset, "size": m.size} for m in members], "licence": "",
            }  # fmt: skip
            return self.output.commit(EndedShard(SHARD, [Segment(row, path)], PLAN_HASH), workspace, observe)
        finally:
            workspace.close()


@pytest.fixture
def store() -> UnreliableMemory:
    store = UnreliableMemory()
    store.pipe_file("/b/set/dataset.json", b"{}")
    store.pipe_file("/b/set/plan/part-00000.parquet", b"plan")
    return store


def check(store: UnreliableMemory, stats, *machines: Machine) -> None:
    """Assert that the shard's bytes match its marker, and that every machine has this marker."""
    for part, name in (("tar", "00000.tar"), ("idx", "00000.tar.idx"), ("parquet", "00000.parquet")):
        assert hashlib.sha256(store.cat_file(f"/b/set/train/{name}")).hexdigest() == stats["files"][part]["sha256"]
    for machine in machines:
        assert machine.output.is_done(SHARD, PLAN_HASH)
        layout = machine.output.layout
        assert layout.stats(SHARD).read_bytes() == store.cat_file("/b/set/train/00000_stats.json")
        assert layout.clips(SHARD).read_bytes() == store.cat_file("/b/set/train/00000.parquet")


def steps_of_a_commit(tmp_path: Path) -> list[str]:
    steps: list[str] = []
    Machine(UnreliableMemory(), tmp_path / "steps", b"{}").commit(steps.append)
    return steps


def test_the_steps_of_a_commit_are_in_order(tmp_path):
    steps = [step.removeprefix("train/00000: ") for step in steps_of_a_commit(tmp_path)]
    parts = ("train/00000.tar", "train/00000.tar.idx", "train/00000.parquet")
    assert steps[-8:] == [
        *(f"{part} uploaded" for part in parts), "chosen", *(f"{part} published" for part in parts), "marker published"
    ]  # fmt: skip


def test_a_commit_leaves_no_temporary_objects(store, tmp_path):
    machine = Machine(store, tmp_path / "a", b'{"a":1}')
    check(store, machine.commit(), machine)
    assert not [name for name in machine.output.bucket.sizes() if name.startswith("_tmp/")]
    assert not machine.output.layout.tar(SHARD).exists(), "the mirror keeps no tars"


@pytest.mark.parametrize("moment", range(13))
def test_two_machines_that_commit_at_once_agree(moment, store, tmp_path):
    first, second = Machine(store, tmp_path / "a", b'{"a":1}'), Machine(store, tmp_path / "b", b'{"b":22222}')
    theirs = []

    def interrupt(step: str) -> None:
        nonlocal moment
        moment -= 1
        if moment == -1:
            theirs.append(second.commit())

    ours = first.commit(interrupt)
    assert theirs == [ours], "the two do not agree, or the second never ran"
    check(store, ours, first, second)


@pytest.mark.parametrize("moment", range(13))
def test_a_second_machine_completes_the_commit_of_one_that_died_at_any_step(moment, store, tmp_path):
    first = Machine(store, tmp_path / "a", b'{"a":1}')
    seen = 0

    def die(step: str) -> None:
        nonlocal seen
        seen += 1
        if seen == moment + 1:
            raise Killed

    with pytest.raises(Killed):
        first.commit(die)
    notes: list[str] = []
    second = Machine(store, tmp_path / "b", b'{"b":22222}')
    second.output.refresh(notes.append)
    check(store, second.commit(), second)
    second.output.clear()
    assert not [name for name in second.output.bucket.sizes() if name.startswith("_tmp/")]


@pytest.mark.parametrize("survived", range(8))
def test_a_store_that_fails_at_any_write_leaves_no_incomplete_shard(survived, store, tmp_path):
    machine = Machine(store, tmp_path / "a", b'{"a":1}')
    writes = 0

    def is_down(path: str) -> bool:
        nonlocal writes
        writes += 1
        return writes > survived

    store.is_down = is_down
    with pytest.raises(StorageError, match="run the same command again"):
        machine.commit()
    assert not store.exists("/b/set/train/00000_stats.json")
    assert not machine.output.layout.stats(SHARD).exists()
    store.is_down = lambda path: False
    machine.output.refresh(lambda text: None)
    check(store, machine.commit(), machine)


def test_without_conditional_writes_two_choices_end_as_one_shard(store, tmp_path):
    """The second choice replaces the first."""
    first, second = (
        Machine(store, tmp_path / name, content, "hf://datasets/b/set")
        for name, content in (("a", b'{"a":1}'), ("b", b'{"b":22222}'))
    )

    choice = "/b/set/_tmp/choices/train/00000_stats.json"
    held: list[bytes] = []

    def late(step: str) -> None:
        if held or not step.endswith("00000.tar published"):
            return
        held.append(store.cat_file(choice))
        store.rm_file(choice)
        with pytest.raises(Killed):
            second.commit(die_when_chosen)
        assert store.cat_file(choice) != held[0]

    def die_when_chosen(step: str) -> None:
        if step.endswith("chosen"):
            raise Killed

    check(store, first.commit(late), first)
    assert second.output.is_done(SHARD, PLAN_HASH)


def test_a_shard_whose_size_differs_from_its_marker_is_quarantined(store, tmp_path):
    machine = Machine(store, tmp_path / "a", b'{"a":1}')
    stats = machine.commit()
    store.pipe_file("/b/set/train/00000.tar", b"cut")
    notes: list[str] = []
    machine.output.refresh(notes.append)
    assert len(notes) == 1
    assert "memory://b/set/train/00000.tar: 3 bytes" in notes[0]
    assert "_quarantine/train-00000-" in notes[0]
    assert not machine.output.is_done(SHARD, PLAN_HASH)
    assert not machine.output.layout.stats(SHARD).exists()
    assert machine.commit() == stats
    check(store, stats, machine)


def test_the_mirror_removes_shards_that_are_gone_from_the_bucket(store, tmp_path):
    machine = Machine(store, tmp_path / "a", b'{"a":1}')
    machine.commit()
    machine.output.remove()
    assert list(machine.output.bucket.sizes()) == []
    assert not machine.output.layout.stats(SHARD).exists()
    assert not machine.output.layout.dataset_json.exists()


def test_refresh_returns_whether_anything_is_new(store, tmp_path):
    first, second = Machine(store, tmp_path / "a", b'{"a":1}'), Machine(store, tmp_path / "b", b'{"b":22222}')
    first.commit()
    assert not first.output.refresh(lambda text: None)
    assert second.output.refresh(lambda text: None)
    assert not second.output.refresh(lambda text: None)
    assert second.output.layout.clips(SHARD).exists()


@pytest.mark.parametrize("moment", range(8))
def test_three_machines_of_which_two_are_interrupted_agree(moment, store, tmp_path):
    """The second machine is stopped at each step of its commit; the third commits then."""
    machines = [Machine(store, tmp_path / name, f'{{"{name}":{"1" * n}}}'.encode()) for n, name in enumerate("abc", 1)]
    seen: list[dict] = []

    def inner(step: str) -> None:
        nonlocal moment
        moment -= 1
        if moment == -1:
            seen.append(machines[2].commit())

    def outer(step: str) -> None:
        if step.endswith("chosen") and len(seen) == 0:
            seen.append(machines[1].commit(inner))

    seen.append(machines[0].commit(outer))
    assert len(seen) >= 2
    assert all(stats == seen[0] for stats in seen)
    check(store, seen[0], *machines)


def test_a_retry_that_another_machine_started_replaces_the_local_one(store, tmp_path):
    machine = Machine(store, tmp_path / "a", b'{"a":1}')
    part = machine.output.layout.plan_part(1)
    part.write_bytes(b"never published")
    store.pipe_file("/b/set/plan/part-00001.parquet", b"theirs")
    machine.output.refresh(lambda text: None)
    assert part.read_bytes() == b"theirs"
    store.rm_file("/b/set/plan/part-00001.parquet")
    part.write_bytes(b"never published")
    machine.output.refresh(lambda text: None)
    assert not part.exists()
