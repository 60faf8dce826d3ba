"""`avkit dataset subset`: a new dataset of clips of a prepared one, without decoding media again."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.summary import summarize
from avdata.audit.verify import verify
from avdata.prepare.job import prepare
from avdata.prepare.operations.derive import derive_dataset
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.run import run_operation
from avdata.prepare.operations.subset import Subset
from avmanifest.errors import ConfigError, ShardError
from tests.videos import draw_folder, folder_config, synth_config, tree


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """Seven drawn clips in shards of two, one of them removed. Not to be changed."""
    out = tmp_path_factory.mktemp("start") / "out"
    prepare(synth_config(out))
    run_operation(out, Remove(("synth-000001",)))
    return out


def rows(out: Path) -> dict[str, dict]:
    tables = [pq.read_table(path, partitioning=None) for path in sorted((out / "manifest").glob("*.parquet"))]
    return {row["key"]: row for table in tables for row in table.to_pylist()}


def samples(out: Path) -> dict[str, bytes]:
    """The members of all samples, with the headers between them, by key."""
    found = {}
    for key, row in rows(out).items():
        if members := row["members"]:
            tar = (out / row["split"] / f"{row['shard']:05d}.tar").read_bytes()
            found[key] = tar[members[0]["offset"] - 512 : members[-1]["offset"] + members[-1]["size"]]
    return found


def whole(out: Path) -> bool:
    return not verify(open_audit_dataset(str(out)), deep=True).faults


@pytest.mark.parametrize(("size", "num_workers"), [(None, 1), (3, 2)])
def test_a_subset_has_the_samples_that_the_condition_chooses(size, num_workers, start, tmp_path):
    before = tree(start)
    out = tmp_path / "new" / "out"
    where = "key >= 'synth-000001' and key != 'synth-000003'"
    done = derive_dataset([start], out, Subset(where=where, shard_size=size), num_workers=num_workers)
    assert done.num_clips == 5
    chosen = {key: row for key, row in rows(start).items() if key not in ("synth-000000", "synth-000003")}
    moved = ("shard", "position", "members")
    unmoved = [{k: v for k, v in row.items() if k not in moved} for row in rows(out).values()]
    meant = [{k: v for k, v in chosen[key].items() if k not in moved} for key in rows(out)]
    assert unmoved == meant
    assert samples(out) == {key: blocks for key, blocks in samples(start).items() if key in chosen}
    assert rows(out)["synth-000001"]["status"] == "removed"
    assert tree(start) == before
    assert whole(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    description = json.loads((out / "dataset.json").read_text())
    assert description["config"]["shard_size"] == (size or 2)
    (entry,) = description["operations"]
    assert entry["where"] == where
    source = summarize(open_audit_dataset(str(start)))
    assert entry["from"][0]["subset_id"] == source["subset_id"]
    assert str(tmp_path) not in (out / "dataset.json").read_text()


def test_a_subset_of_all_clips_is_the_dataset_with_another_history(start, tmp_path):
    derive_dataset([start], tmp_path / "out", Subset(where="true"))
    files, meant = tree(tmp_path / "out"), tree(start)
    assert {name for name in meant if files[name] != meant[name]} == {"dataset.json"}


def test_keys_and_a_condition_are_both_to_be_met(start, tmp_path):
    notes: list[str] = []
    keys = ("synth-000002", "synth-000001", "nothing")
    derive_dataset([start], tmp_path / "out", Subset(keys=keys, where="status = 'ok'"), note=notes.append)
    assert set(rows(tmp_path / "out")) == {"synth-000002"}
    assert "1 of 3 keys are of no clip" in notes[0]
    assert whole(tmp_path / "out")


def test_a_later_prepare_goes_on_with_the_clips_of_the_subset(start, tmp_path):
    out = tmp_path / "out"
    derive_dataset([start], out, Subset(where="key < 'synth-000004'"))
    before = tree(out)
    prepare(synth_config(out))
    assert tree(out) == before
    with pytest.raises(ConfigError, match="another configuration: shard_size 2 -> 3"):
        prepare(synth_config(out, shard_size=3))


def test_a_later_prepare_with_a_longer_list_is_refused_or_appends(tmp_path):
    videos, out = draw_folder(tmp_path / "videos", ["a.mp4", "b.mp4", "c.mp4"]), tmp_path / "out"
    prepare(folder_config(videos, tmp_path / "start"))
    derive_dataset([tmp_path / "start"], out, Subset(where="video_id != 'b'"))
    with pytest.raises(ConfigError, match="another list: 0 clips are missing and 1 are new"):
        prepare(folder_config(videos, out))
    assert len(rows(out)) == 2
    prepare(folder_config(videos, out, append=True))
    assert samples(out) == samples(tmp_path / "start")
    assert whole(out)


def test_what_cannot_be_a_subset_is_refused_and_leaves_nothing(start, tmp_path):
    out = tmp_path / "out"
    for derivation, to, reason in [
        (Subset(where="key = 'x'"), out, "true for none of the 7 clips"),
        (Subset(where="loudnes > 1"), out, "has no column 'loudnes'"),
        (Subset(keys=("x",)), out, "none of its 7 clips"),
        (Subset(where="true"), start, "exists already"),
        (Subset(where="true"), start / "part", "inside the dataset"),
        (Subset(where="true"), "s3://bucket/out", "avkit export"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            derive_dataset([start], to, derivation)
    with pytest.raises(ConfigError, match="not on this machine"):
        derive_dataset(["s3://bucket/start"], out, Subset(where="true"))
    with pytest.raises(ConfigError, match="give --where"):
        Subset()
    assert not list(tmp_path.iterdir())


def test_damage_of_a_source_is_named_and_another_command_starts_anew(start, tmp_path):
    source, out = Path(shutil.copytree(start, tmp_path / "source")), tmp_path / "out"
    tar = sorted(source.glob("train/*.tar"))[-1]
    content = tar.read_bytes()
    tar.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    with pytest.raises(ShardError, match=rf"{tar.name}.*sha256"):
        derive_dataset([source], out, Subset(where="true"))
    assert not out.exists()
    derive_dataset([start], out, Subset(where="key > 'synth-000003'"))
    assert len(rows(out)) == 3
    assert whole(out)
    assert not (tmp_path / ".out.unfinished").exists()


def test_the_command(start, tmp_path):
    keys, out = tmp_path / "keys.txt", tmp_path / "out"
    keys.write_text("synth-000002\nsynth-000004\n")
    command = ["dataset", "subset", str(start), "--keys", str(keys), "--to", str(out), "--workers", "1", "--json"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["num_clips"] == 2
    shown = CliRunner().invoke(app, ["inspect", str(out)])
    assert "subset keys 2 of synth (subset " in " ".join(shown.output.split())
