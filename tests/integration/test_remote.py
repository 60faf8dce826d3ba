"""Runs of prepare with remote sources: each video is fetched once, and the samples equal those of local files."""

import hashlib
import io
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from avdata.prepare.config import BreakerConfig, RemoteOptions, Retry
from avdata.prepare.job import prepare
from avdata.prepare.report import SilentListener
from avmanifest.schema import StatusClass, status_class
from tests.drawn import draw_media, sine
from tests.faulty import failing
from tests.loopback_youtube import loopback_youtube, video_id
from tests.remote import impatient, remote_config, rows_of
from tests.videos import SMALL, Notes

pytestmark = pytest.mark.network
ROOT = Path(__file__).parents[2]
NAMES = [f"v{number}" for number in range(6)]


@pytest.fixture
def server(videos):
    with failing((videos / "train" / "a" / "v0.mp4").read_bytes()) as server:
        yield server


def tars(config) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(config.out.glob("*/*.tar"))]


def youtube(server, **changes) -> RemoteOptions:
    return RemoteOptions(youtube=loopback_youtube(server.url, **changes))


def test_fetched_videos_give_the_bytes_of_local_ones_and_each_is_fetched_once(server, tmp_path):
    clips = [*NAMES[:3], ("v0", 0.1, 3.1), ("v0", 0.2, 3.2)]
    fetched = remote_config(tmp_path / "http", clips, f"http:{server.url}/{{id}}.mp4", shard_size=2)
    report = prepare(fetched)
    assert (report.ok, report.exit_code) == (5, 0)
    assert server.asked == dict.fromkeys(NAMES[:3], 1)

    folder = tmp_path / "videos"
    folder.mkdir()
    for name in NAMES[:3]:
        (folder / f"{name}.mp4").write_bytes(server.video)
    local = remote_config(tmp_path / "local", clips, f"local:{folder}", shard_size=2)
    prepare(local)
    assert tars(fetched) == tars(local)

    prepare(replace(fetched, overwrite=True))
    assert server.asked == dict.fromkeys(NAMES[:3], 1)


def test_a_retry_fetches_only_transient_failures_again(server, tmp_path):
    server.refusing = {"v1", "v3"}
    config = remote_config(tmp_path, [*NAMES[:4], "gone404"], f"http:{server.url}/{{id}}.mp4")
    assert prepare(config).statuses == {"ok": 2, "blocked_rate": 2, "unavailable_missing": 1}
    server.refusing = set()
    report = prepare(replace(config, retry=Retry.TRANSIENT))
    assert report.statuses == {"ok": 4, "unavailable_missing": 1}
    assert {rows_of(config)[name]["shard"] for name in ("v1", "v3")} == {2}, "new shards, at the end"
    assert server.asked == {"v0": 1, "v1": 2, "v2": 1, "v3": 2, "gone404": 1}


def test_fetched_videos_are_decoded_while_others_are_still_fetched(server, tmp_path):
    class Releasing(SilentListener):
        def clip_ended(self, status):
            server.release.set()

    config = remote_config(tmp_path, ["good", "held"], f"http:{server.url}/{{id}}.mp4")
    assert prepare(config, Releasing()).statuses == {"ok": 2}
    assert server.asked["held, and released"] == 1


def test_a_retry_of_all_fetches_corrupt_media_again(server, tmp_path):
    whole, server.video = server.video, server.video[:2000]
    config = remote_config(tmp_path, ["v0"], f"http:{server.url}/{{id}}.mp4")
    assert prepare(config).statuses == {"media_corrupt": 1}
    server.video = whole
    assert prepare(replace(config, retry=Retry.TRANSIENT)).statuses == {"media_corrupt": 1}
    assert prepare(replace(config, retry=Retry.ALL)).statuses == {"ok": 1}
    assert server.asked == {"v0": 2}


@pytest.mark.slow
def test_a_source_that_refuses_is_paused_then_stopped_and_its_clips_can_be_retried(server, tmp_path):
    server.refusing = set(NAMES)
    breaker = BreakerConfig(threshold=2, first_pause_s=0.05, max_pauses=1)
    config = remote_config(
        tmp_path,
        [video_id(name) for name in NAMES],
        "youtube",
        remote=youtube(server, retries=0),
        shard_size=2,
        downloads=impatient(tmp_path, breaker=breaker, look_ahead=2),
    )
    notes = Notes()
    report = prepare(config, notes)
    assert report.exit_code == 3
    assert sum(server.asked.values()) - sum(server.asked[f"watch/{name}"] for name in NAMES) == 3, "2, a pause, a probe"
    rows = rows_of(config).values()
    assert {row["status"] for row in rows} == {"blocked_rate"}
    assert status_class("blocked_rate") is StatusClass.TRANSIENT
    assert all("HTTP Error 429" in row["reason"] for row in rows)
    assert any("is paused for" in note and "--cookies" in note for note in notes.notes)
    assert any("is stopped for this run" in note for note in notes.notes)

    server.refusing = set()
    report = prepare(replace(config, retry=Retry.TRANSIENT))
    assert report.statuses == {"ok": len(NAMES)}


def test_a_clip_that_one_source_lacks_comes_from_the_next(server, tmp_path):
    ids = [video_id("private"), video_id("good")]
    sources = ("youtube", f"http:{server.url}/mirror/{{id}}.mp4")
    config = remote_config(tmp_path, ids, "", sources=sources, remote=youtube(server))
    report = prepare(config)
    assert report.statuses == {"ok": 2}
    assert {name: row["source"].partition(":")[0] for name, row in rows_of(config).items()} == {
        video_id("private"): "http",
        video_id("good"): f"youtube/{video_id('good')}",
    }
    assert report.sources == {"youtube": 1, sources[1]: 1}


@pytest.mark.slow
def test_sections_of_a_long_video_give_the_same_frames_as_the_whole_video(tmp_path):
    media = draw_media(tmp_path / "long.mp4", num_frames=200, fps=5, sound=sine(40, 16_000), sound_rate=16_000)
    clips = [(video_id("long"), start, start + 3.0) for start in (6.4, 11.0, 30.2)]
    rows = {}
    with failing(media.read_bytes()) as server:
        for name, over_s in (("whole", 100.0), ("sections", 20.0)):
            options = youtube(server, sections_over_s=over_s, padding_s=1.0)
            config = remote_config(
                tmp_path / name, clips, "youtube", remote=options, sample=replace(SMALL, num_frames=4)
            )
            assert prepare(config).statuses == {"ok": 3}
            rows[name] = members(config)
        assert server.asked["watch/long"] == 2, "one extraction a run"
        held = sorted(path.stat().st_size for path in (tmp_path / "sections" / "out" / "_media").glob("*.[0-9]"))
    assert len(held) == 2 and sum(held) < len(media.read_bytes()) / 2, "two sections: 5.4 to 15 s and 29.2 to 34.2 s"
    for key, sample in rows["whole"].items():
        cut = rows["sections"][key]
        assert sample.keys() == cut.keys()
        assert all(content == cut[member] for member, content in sample.items() if member.endswith(".jpg")), key
        heard, meant = (soundfile.read(io.BytesIO(found["flac"]))[0] for found in (cut, sample))
        assert heard.shape == meant.shape
        assert np.abs(heard - meant).max() < 1e-3, "the sound is at its place to the sample"


def members(config) -> dict[str, dict[str, bytes]]:
    """Every sample's members."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(config.out.glob("*/*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                key, _, member = entry.name.partition(".")
                found.setdefault(key, {})[member] = tar.extractfile(entry).read()
    return found


KILLED = """
import os, signal, sys
from pathlib import Path
from avdata.prepare.job import prepare
from avdata.prepare.report import SilentListener
from tests.remote import remote_config
NAMES = [f"v{number}" for number in range(6)]

class Fatal(SilentListener):
    num_ended = 0
    def clip_ended(self, status):
        self.num_ended += 1
        if self.num_ended == 3:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    prepare(remote_config(Path(sys.argv[1]), NAMES, sys.argv[2]), Fatal())
"""


@pytest.mark.slow
def test_media_fetched_before_a_kill_are_not_fetched_again(server, tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    template = f"http:{server.url}/{{id}}.mp4"
    path = ":".join(str(ROOT / folder) for folder in (".", "cli", "manifests"))
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path), template],
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr[-2000:]
    here = len(list((tmp_path / "out" / "_media").glob("*.json")))
    before = server.asked.copy()
    assert here >= 3
    config = remote_config(tmp_path, NAMES, template)
    assert prepare(config).statuses == {"ok": len(NAMES)}
    assert sum((server.asked - before).values()) <= len(NAMES) - here
