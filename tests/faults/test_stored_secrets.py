"""A dataset with secrets that an earlier version stored: said, not shown, not exported; removed, whatever kills it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.repair import clean_secrets
from avdata.audit.secrets import clean
from avdata.audit.verify import verify
from avdata.prepare.bucket import open_place
from avdata.prepare.export import export
from avdata.prepare.job import prepare
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.planting import OLD_REASON, OLD_SOURCE, PASSWORD, TOKEN, URL, leaks, plant
from tests.videos import folder_config, tree


@pytest.fixture
def layout(prepared, tmp_path):
    """A dataset with secrets in `source` and `reason` of half of its rows."""
    layout = Layout(Path(shutil.copytree(prepared.out, tmp_path / "out")))
    plant(layout, {"source": OLD_SOURCE, "reason": OLD_REASON})
    assert leaks(layout.root)
    return layout


def avkit(*words: object) -> tuple[int, str]:
    ended = CliRunner().invoke(app, list(map(str, words)))
    return ended.exit_code, ended.output


def verified(layout: Layout):
    return verify(open_audit_dataset(str(layout.root)))


def test_verify_and_inspect_warn_and_show_no_secret(layout, tmp_path):
    report = verified(layout)
    assert report.faults == []
    assert report.secrets["manifest/train.parquet"] == 3
    assert report.secrets["train/00000.parquet"] == 1
    for words in (
        ["verify", layout.root],
        ["verify", layout.root, "--json"],
        ["inspect", layout.root, "--verify"],
        ["inspect", layout.root, "--verify", "--html", tmp_path / "page" / "x.html"],
        ["inspect", layout.root, "--json"],
        ["diff", layout.root, layout.root],
    ):
        (tmp_path / "page").mkdir(exist_ok=True)
        code, output = avkit(*words)
        assert code == 0, output
        assert PASSWORD not in output
        assert TOKEN not in output
        if "verify" in words or "--verify" in words:
            assert "manifest/train.parquet" in output
    assert leaks(tmp_path / "page") == []
    assert "hold a password or token" in (tmp_path / "page" / "x.html").read_text()
    key = read_table(layout.manifest("train"), CLIP_SCHEMA).column("key")[0].as_py()
    for more in ([], ["--json"]):
        code, output = avkit("inspect", layout.root, "--key", key, *more)
        assert (code, PASSWORD in output, TOKEN in output) == (0, False, False)


def test_an_export_of_secrets_is_refused_until_they_are_removed(layout, tmp_path):
    with pytest.raises(ManifestError, match=r"3 rows hold a password or token|1 row holds .*--repair"):
        export(open_place(layout.root), open_place(tmp_path / "exported"))
    assert not (tmp_path / "exported" / "dataset.json").exists()
    code, output = avkit("verify", layout.root, "--repair", "--json")
    assert code == 0, output
    said = json.loads(output[output.index("{") :])
    assert "manifest/train.parquet" in said["cleaned"]
    assert said["verification"]["secrets"] == {}
    export(open_place(layout.root), open_place(tmp_path / "exported"))
    assert leaks(tmp_path / "exported") == []


def test_cleaning_changes_nothing_but_the_secrets(layout, prepared, videos):
    assert set(clean_secrets(open_audit_dataset(str(layout.root)))) >= {"manifest/train.parquet", "croissant.json"}
    assert leaks(layout.root) == []
    report = verified(layout)
    assert (report.faults, report.secrets) == ([], {})
    for path in layout.root.glob("*/*.parquet"):
        if path.parent.name == "plan":
            continue
        rows = read_table(path, CLIP_SCHEMA).to_pylist()
        before = read_table(prepared.out / path.relative_to(layout.root), CLIP_SCHEMA).to_pylist()
        for row, old in zip(rows, before, strict=True):
            shown = {"source": row["source"], "reason": row["reason"]}
            assert row == old | shown
            if row["source"] != old["source"]:
                assert row["source"] == "wds:http://***@127.0.0.1:9/x.tar?…?…/clip.mp4"
                assert row["reason"].endswith("ValueError: http://***@127.0.0.1:9/x.tar?…: no answer")
    same = {name for name, digest in tree(prepared.out).items() if tree(layout.root).get(name) == digest}
    assert {name for name in tree(prepared.out) if name.endswith((".tar", ".idx"))} <= same
    before = tree(layout.root)
    assert clean(layout) == []
    assert prepare(folder_config(videos, layout.root)).exit_code == 0  # it has nothing to do
    shards = [name for name in before if name.startswith(("train/", "test/"))]
    assert {name: tree(layout.root)[name] for name in shards} == {name: before[name] for name in shards}


KILLED = """
import os, signal, sys
from pathlib import Path
from avdata.audit.secrets import clean
from avmanifest.layout import Layout
calls = 0
def count(event, arguments):
    global calls
    if event in ("os.rename", "os.rmdir"):
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
clean(Layout(Path(sys.argv[1])))
print(calls)
"""


@pytest.mark.slow
def test_cleaning_that_is_killed_at_any_step_is_completed_by_the_next(layout, tmp_path):
    moments = 0
    while True:
        moments += 1
        out = Layout(Path(shutil.copytree(layout.root, tmp_path / "killed")))
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, str(out.root), str(moments)], env=dict(os.environ), check=False
        )
        clean_secrets(open_audit_dataset(str(out.root)))
        assert leaks(out.root) == []
        report = verified(out)
        assert (report.faults, report.secrets) == ([], {}), f"killed at step {moments}"
        export(open_place(out.root), open_place(tmp_path / f"exported-{moments}"))
        shutil.rmtree(out.root)
        if ended.returncode != -signal.SIGKILL:
            assert ended.returncode == 0
            break
    assert moments > 10


def test_a_damaged_shard_is_not_made_good_by_cleaning(layout):
    (shard, *_) = layout.shards("train")
    stats = json.loads(layout.stats(shard).read_text())
    stats["files"]["parquet"]["sha256"] = "0" * 64
    layout.stats(shard).write_text(json.dumps(stats))
    clean_secrets(open_audit_dataset(str(layout.root)))
    assert verified(layout).bad_shards == [str(shard)]
    code, output = avkit("verify", layout.root, "--repair")
    assert code == 4, output
    assert "moved to" in output


def test_what_comes_from_the_list_is_said_and_left(prepared, tmp_path):
    layout = Layout(Path(shutil.copytree(prepared.out, tmp_path / "out")))
    plant(layout, {"video_id": URL, "annotations": json.dumps({"url": URL})})
    before = tree(layout.root)
    assert verified(layout).secrets["manifest/train.parquet"] == 3
    assert clean_secrets(open_audit_dataset(str(layout.root))) == []
    assert tree(layout.root) == before
    code, output = avkit("verify", layout.root)
    assert (code, "--overwrite" in output) == (0, True)
    with pytest.raises(ManifestError, match="--overwrite"):
        export(open_place(layout.root), open_place(tmp_path / "exported"))


def test_secrets_of_a_remote_dataset_are_not_removed_but_said(layout):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(layout.root), "/secrets/set", recursive=True)
    try:
        dataset = open_audit_dataset("memory://secrets/set")
        assert verify(dataset).secrets
        with pytest.raises(ConfigError, match="Copy or fetch"):
            clean_secrets(dataset)
    finally:
        memory.rm("/secrets", recursive=True)
