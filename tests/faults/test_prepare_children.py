"""A shard with clips whose decoder dies, hangs or raises: each ends as a failed row, the others as samples."""

import os
import signal
import time

import pytest

from avdata.prepare.commit import Workspace
from avdata.prepare.config import Supervision
from avdata.prepare.executors import LocalExecutor, ShardTask
from avdata.prepare.output import FolderOutput
from avdata.prepare.pipeline import ClipResult, manifest_row
from avdata.prepare.sources.media import MediaRef
from avdata.shards import pack_sample, walk_samples
from avmanifest.layout import Layout, ShardName
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table

SHARD = ShardName("train", 0)
STATUS = {"good": "ok", "abort": "decode_crash", "kill": "decode_crash", "sleep": "decode_timeout", "bug": "internal"}


def act(task) -> ClipResult:
    """A fake decoder that acts by the name of the video; runs in the child process."""
    match task.row["video_id"].split("-")[0]:
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sleep":
            while True:
                time.sleep(60)
        case "bug":
            raise RuntimeError("a fault of ours")
    blocks, members = pack_sample(task.row["key"], {"json": b"{}"})
    task.blocks.write_bytes(blocks)
    return ClipResult(manifest_row(task.row, "ok", "", task.ref, {}, members))


def plan_rows(names):
    return tuple(
        {
            "key": f"k{place}", "video_id": f"{name}-{place}", "start_s": 0.0, "end_s": 1.0, "labels": [],
            "split": "train", "path": "", "frame_times_s": [], "annotations": "{}", "licence": "",
            "shard": 0, "position": place,
        }
        for place, name in enumerate(names)
    )  # fmt: skip


def locate(row):
    return MediaRef(path="/nowhere", source="local:drawn", name=row["video_id"])


@pytest.mark.slow
def test_every_clip_ends_as_a_row_however_its_child_process_ends(tmp_path):
    names = ["good", "abort", "good", "sleep", "bug", "kill", "good"]
    layout = Layout(tmp_path)
    workspace = Workspace(layout)
    told = []
    executor = LocalExecutor(
        output=FolderOutput(layout),
        workspace=workspace,
        clip=act,
        locate=locate,
        supervision=Supervision(num_workers=3, deadline_s=10.0),
        plan_hash="0" * 64,
        on_clip=told.append,
    )
    (result,) = executor.run([ShardTask(SHARD, plan_rows(names))])
    workspace.close()
    rows = read_table(layout.clips(SHARD), CLIP_SCHEMA).to_pylist()
    assert [row["status"] for row in rows] == [STATUS[name] for name in names]
    assert sorted(told) == sorted(row["status"] for row in rows)
    reasons = {row["status"]: row["reason"] for row in rows}
    assert "died 2 times (exit code -" in reasons["decode_crash"]
    assert "killed after 10 s. Try --deadline 20" in reasons["decode_timeout"]
    assert "RuntimeError: a fault of ours" in reasons["internal"]
    assert [key for key, _, _ in walk_samples(layout.tar(SHARD))] == ["k0", "k2", "k6"]
    assert result.stats["status_dict"] == {"decode_crash": 2, "decode_timeout": 1, "internal": 1, "ok": 3}
    assert list(layout.temporary.iterdir()) == [layout.temporary / "publish.lock"]
