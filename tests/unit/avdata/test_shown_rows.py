"""Rows of the manifest hold no secret, whatever an error or a traceback says."""

from pathlib import Path

import pytest

from avdata.prepare.pipeline import ClipTask, failed_row, run_clip
from avdata.prepare.sources.media import MediaRef
from avdata.prepare.sources.remote import FailedRef, RemoteRef, combine_failures
from avmanifest.layout import ShardName
from avmanifest.secrets import Url
from tests.planting import PASSWORD, TOKEN, URL
from tests.videos import SMALL

ROW = {
    "key": "k", "video_id": "v", "split": "train", "shard": 0, "position": 0, "labels": [], "start_s": 0.0,
    "end_s": None, "path": "", "frame_times_s": [], "annotations": "{}", "licence": "",
}  # fmt: skip


def refs() -> list[object]:
    shown = str(Url(URL))
    return [
        MediaRef(path=URL, offset=0, size=9, source=shown, name="x.mp4"),  # nothing answers there
        MediaRef(path=f"bad://{URL}", offset=0, size=9, source=shown, name="x.mp4"),
        MediaRef(path=URL.replace("http:", "s3:"), offset=0, size=9, source=shown, name="x.mp4"),
        FailedRef(status="net_http", reason=f"{URL}: HTTP 500", source=shown, name="x.mp4"),
        combine_failures([FailedRef(status="net_http", reason=f"{URL}: no", source=shown, name="x")] * 2),
    ]


@pytest.mark.network
@pytest.mark.parametrize("number", range(len(refs())))
def test_a_clip_that_fails_ends_as_a_row_without_secrets(number: int, tmp_path: Path) -> None:
    ref = refs()[number]
    assert PASSWORD not in repr(ref) or isinstance(ref, FailedRef)
    task = ClipTask(shard=ShardName("train", 0), place=0, row=ROW, ref=ref, blocks=tmp_path / "blocks")  # type: ignore[arg-type]
    row = run_clip(SMALL, task).row
    assert row["status"] != "ok"
    assert row["reason"]
    for value in row.values():
        assert PASSWORD not in str(value)
        assert TOKEN not in str(value)


def test_a_traceback_in_a_row_has_no_secrets() -> None:
    reason = f"Traceback:\n  File 'x.py', line 3\n    get('{URL}')\nKeyError: '{URL}'\nRuntimeError: Basic c2VjcmV0czo="
    row = failed_row(ROW, "internal", reason)
    assert "KeyError: 'http://***@127.0.0.1:9/x.tar?…'" in row["reason"]
    assert PASSWORD not in row["reason"]
    assert "c2VjcmV0" not in row["reason"]


def test_references_do_not_show_their_addresses() -> None:
    from avdata.prepare.sources.names import ClipRequest

    ref = RemoteRef(
        address=Url(URL), fetch_key="k", is_clip=True, source="s", name="n", request=ClipRequest("v", 0.0, None, "")
    )
    for text in (repr(ref), repr(MediaRef(path=URL, source="s", name="n"))):
        assert PASSWORD not in text
        assert TOKEN not in text
