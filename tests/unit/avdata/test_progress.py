"""The progress of a run as another process reads it, and the estimate of a run."""

import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from avdata.prepare.commit import Workspace
from avdata.prepare.config import PrepareConfig, SampleConfig, SynthConfig
from avdata.prepare.dry_run import dry_run
from avdata.prepare.estimate import Assumptions, estimate
from avdata.prepare.progress import ProgressWriter, read_progress
from avdata.prepare.report import SilentListener
from avmanifest.errors import ConfigError
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from tests.remote import remote_config
from tests.serving import serving

HOUR = 3600.0


def test_a_finished_dataset_has_all_its_clips_and_no_run(prepared):
    progress = read_progress(Layout(prepared.out))
    assert (progress.requested, progress.committed, progress.runs) == (prepared.requested, {"ok": prepared.ok}, [])
    assert progress.num_shards == progress.num_committed_shards == prepared.num_shards


def test_a_run_is_listed_while_it_is_in_progress(prepared, tmp_path):
    layout = Layout(tmp_path)
    layout.plan_part(0).parent.mkdir()
    layout.plan_part(0).write_bytes(Layout(prepared.out).plan_part(0).read_bytes())
    workspace = Workspace(layout)
    writer = ProgressWriter(SilentListener(), workspace.path)
    writer.sources = lambda: {"youtube": {"fetched": 3}}
    writer.planned(pa.table({}), 7)
    (run,) = read_progress(layout).runs
    assert (run.to_do, run.ended, run.left_s, run.sources) == (7, {}, None, {"youtube": {"fetched": 3}})
    assert replace(run, updated=run.started + 10, ended={"ok": 2}).left_s == 25.0
    workspace.close()
    assert read_progress(layout).runs == []


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no run of prepare .* Give the --out of an `avkit prepare`\.$"):
        read_progress(Layout(tmp_path))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"Did you mean .*/mine\?$"):
        read_progress(Layout(tmp_path / "mien"))


def test_an_estimate_counts_each_file_once_and_sends_no_request(tmp_path):
    clips = [("a", 0, 10), ("a", 20, 30), ("b", 0, 10)]
    config = remote_config(tmp_path, clips, "http:http://no-such-host.invalid/{id}.mp4")
    config = replace(config, downloads=replace(config.downloads, rate_per_hour=1.0))
    expected = estimate(config, dry_run(config).plan, Assumptions(video_s=100.0, video_bytes_per_s=10.0))
    (share,) = expected.sources.values()
    assert share is not None
    assert (share.clips, share.videos, share.bytes, share.hours) == (3, 2, 2000, 2.0)
    assert (expected.clips, expected.missing, expected.hours) == (3, 0, 2.0)
    assert not config.out.exists()


def test_an_estimate_looks_into_small_archives_and_whether_those_of_servers_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "aaaaaaaaaaa_000000.mp4").write_bytes(b"video")
    for suffix in ("tar", "tar.gz"):
        with tarfile.open(tmp_path / f"v.{suffix}", "w:gz" if suffix == "tar.gz" else "w") as tar:
            tar.add(tmp_path / "aaaaaaaaaaa_000000.mp4", "aaaaaaaaaaa_000000.mp4")

    def expected(source):
        config = remote_config(tmp_path / "run", [("aaaaaaaaaaa", 0, 10), ("b", 0, 10)], source)
        return estimate(config, dry_run(config).plan)

    found = expected(f"wds:{tmp_path}/v.tar.gz")
    assert (found.missing, [share.clips for share in found.sources.values()]) == (1, [1])
    assert not (tmp_path / "cache").exists()
    with serving(tmp_path) as server:
        assert list(expected(f"wds:{server.url}/v.tar").sources.values()) == [None]
        assert server.requests == []
        with pytest.raises(ConfigError, match=r"gone\.tar: cannot be listed"):
            expected(f"wds:{server.url}/{{v,gone}}.tar")


def test_an_estimate_counts_clips_that_no_source_has(tmp_path):
    config = remote_config(tmp_path, ["no.youtube.id"], "youtube")
    assert estimate(config, dry_run(config).plan).missing == 1


def test_the_estimated_size_of_a_drawn_dataset_is_within_15_percent(tmp_path):
    synth = SynthConfig(num_clips=10, seconds=10.0)
    config = PrepareConfig(recipe=load_recipe("synth"), out=tmp_path / "out", synth=synth, sample=SampleConfig())
    expected = estimate(config, dry_run(config).plan)
    assert np.isclose(expected.dataset_bytes / 10, 600e3, rtol=0.15), "docs/benchmarks.md, loader"
