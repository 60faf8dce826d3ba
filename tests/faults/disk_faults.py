"""Disks that fail in any step of a clip and of a run of prepare: the run stops, and the same command finishes all."""

import errno
import itertools
from collections.abc import Iterator
from pathlib import Path

from avdata.prepare.job import prepare
from avdata.prepare.pipeline import ClipTask, run_clip
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.synth.source import SynthRef
from avmanifest.errors import StorageError
from avmanifest.files import DISK_ERRORS
from avmanifest.layout import ShardName
from avmanifest.schema import PLAN_SCHEMA
from tests.faults.disks import FailingDisk
from tests.faults.fault import Fault
from tests.videos import DRAWN, SMALL, draw_folder, folder_config, tree

CODES = sorted(DISK_ERRORS)
STRIDE = 5  # of the changes of a run, every fifth fails in a run of its own


def disk_faults(folder: Path) -> Iterator[Fault]:
    """Every change of a file by a clip with every error, and changes of files by a run with one error each."""
    videos = draw_folder(folder / "videos", [f"train/a/v{i}.mp4" for i in range(3)])
    path = videos / "train/a/v0.mp4"
    yield from _clip_faults("a video", MediaRef(path=str(path), source="local:videos", name=path.name), folder / "clip")
    yield from _clip_faults("a drawn clip", SynthRef(config=DRAWN, index=0), folder / "drawn")
    yield from _run_faults(videos, folder / "runs")


def _clip_faults(what: str, ref: MediaRef | SynthRef, folder: Path) -> Iterator[Fault]:
    folder.mkdir()
    row = dict.fromkeys(PLAN_SCHEMA.names) | {"key": "k", "video_id": "0", "split": "train", "start_s": 0.0}
    row |= {"labels": [], "frame_times_s": [], "annotations": "{}"}
    task = ClipTask(shard=ShardName("train", 0), place=0, row=row, ref=ref, blocks=folder / "blocks")
    assert run_clip(SMALL, task).row["status"] == "ok"
    meant = task.blocks.read_bytes()
    for fatal in itertools.count(1):
        for code in CODES:
            with FailingDisk(folder, fatal, code) as disk:
                end = run_clip(SMALL, task)
            if not disk.failed:
                return
            seen = "StorageError" if end.storage_error else str(end.row["status"])
            if disk.failed.startswith("os.mkdir") and seen == "ok":
                seen = "StorageError"  # the folder is there, so the error is none
            if run_clip(SMALL, task).row.get("status") != "ok" or task.blocks.read_bytes() != meant:
                seen += ", then other bytes"
            yield Fault(f"{errno.errorcode[code]}: {disk.failed}", f"{what}, then again", "StorageError", seen)


def _run_faults(videos: Path, folder: Path) -> Iterator[Fault]:
    prepare(folder_config(videos, folder / "calm"))
    meant = tree(folder / "calm")
    for fatal in itertools.count(1, STRIDE):
        out, code = folder / str(fatal), CODES[fatal % len(CODES)]
        seen = "nothing lost"
        with FailingDisk(out, fatal, code) as disk:
            try:
                prepare(folder_config(videos, out))
            except StorageError:
                pass
            except Exception as error:
                seen = type(error).__name__
        if not disk.failed:
            return
        report = prepare(folder_config(videos, out))
        if report.statuses != {"ok": 3} or tree(out) != meant:
            seen += f", then {report.statuses} or other bytes"
        yield Fault(f"{errno.errorcode[code]}: {disk.failed}", "a run, then the same again", "nothing lost", seen)
