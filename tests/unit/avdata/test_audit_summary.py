"""What a dataset is said to hold: counted by hand on small ones, found again in every form it may come in."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from avcli.inspect_output import print_summary
from avdata.audit.dataset import member_kind, open_audit_dataset
from avdata.audit.diff import diff
from avdata.audit.overlaps import overlaps
from avdata.audit.summary import summarize
from avmanifest.errors import ConfigError, ManifestError
from avmanifest.keys import subset_id
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table, table_from_rows, write_table
from tests.shards import draw_dataset, sample_key

META = Path(__file__).parents[4] / "shared" / "data" / "meta"


def row(number: int, **changes):
    usual = dict.fromkeys(CLIP_SCHEMA.names) | {
        "key": f"k{number}", "video_id": f"v{number}", "source": f"local/{number}.mp4", "start_s": 0.0, "end_s": 10.0,
        "labels": ["rain"], "split": "train", "status": "ok", "reason": "", "shard": 0, "position": number,
        "members": [{"name": "flac", "offset": 512, "size": 100}], "frame_times_s": [], "duration_s": 10.0, "fps": 25.0,
        "height": 240, "audio_video_offset_s": 0.0, "num_bad_packets": 0, "rms_dbfs": -20.0, "silent": False,
        "still": False, "short": False, "source_sha256": f"{number:064x}", "annotations": "{}", "licence": "",
    }  # fmt: skip
    return usual | changes


def failed(number: int, status: str, **changes):
    return row(number, status=status, reason="so", members=[], shard=0, **changes) | dict.fromkeys(
        ("duration_s", "fps", "rms_dbfs", "silent", "still", "short", "source_sha256", "height", "num_bad_packets")
    )


def manifest(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table_from_rows(rows, CLIP_SCHEMA), path)
    return path


def found_in(tmp_path: Path, rows):
    return summarize(open_audit_dataset(str(manifest(tmp_path / "m.parquet", rows))))


def test_what_was_asked_for_is_no_failure(tmp_path, capsys):
    rows = [row(0), failed(1, "media_short"), failed(2, "removed"), failed(3, "filtered_black")]
    print_summary(found_in(tmp_path, rows))
    parts = capsys.readouterr().out.split("\n\n")
    statuses = {part.splitlines()[0]: [line.split()[0] for line in part.splitlines()[2:]] for part in parts}
    assert statuses["failures"] == ["media_short"]
    assert statuses["left out as asked"] == ["filtered_black", "removed"]


def test_counts_coverage_flags_and_hours(tmp_path):
    rows = [
        row(0, silent=True),
        row(1, labels=["rain", "hail"]),
        failed(2, "media_short", labels=["hail"]),
        failed(3, "unavailable_missing", labels=["snow"]),
        row(4, split="test", duration_s=26.0, still=True),
    ]
    found = found_in(tmp_path, rows)
    assert (found["requested"], found["samples"], found["kind"]) == (5, 3, "manifest")
    assert found["hours"] == pytest.approx(46 / 3600)
    assert found["splits"]["train"]["statuses"] == {"ok": 2, "media_short": 1, "unavailable_missing": 1}
    assert found["splits"]["test"]["flags"] == {"silent": 0, "still": 1, "short": 0}
    assert found["flagged"]["silent"] == {"clips": 1, "examples": [{"key": "k0", "split": "train"}]}
    assert found["classes"]["counts"] == {
        "hail": {"samples": 1, "requested": 2},
        "rain": {"samples": 3, "requested": 3},
        "snow": {"samples": 0, "requested": 1},
    }
    assert found["splits"]["test"]["measured"]["duration_s"] == [26.0] * 5
    assert sum(found["histograms"]["duration_s"]["counts"]) == 3


def test_the_summary_has_the_recipes_official_count_note_and_missing_classes(tmp_path):
    manifest(
        tmp_path / "manifest" / "train.parquet", [row(0, labels=["raining"]), failed(1, "net_dns", labels=["hail"])]
    )
    description = {"recipe": {"name": "vggsound", "title": "VGGSound"}, "labels": ["hail", "raining", "air horn"]}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    found = summarize(open_audit_dataset(str(tmp_path)))
    assert found["splits"]["train"]["official"] == 183_730
    assert "AudioSet" in found["recipe"]["note"]
    assert found["classes"]["listed"] == 3
    assert found["classes"]["absent"] == ["air horn"]
    assert list(found["classes"]["counts"]) == ["hail", "raining"]  # in the recipe's order


def test_the_subset_id_is_of_the_sorted_keys_of_the_samples(tmp_path):
    rows = [row(2), failed(1, "internal"), row(10)]
    expected = hashlib.sha256(b"k10\nk2\n").hexdigest()[:16]
    assert found_in(tmp_path, rows)["subset_id"] == expected
    assert found_in(tmp_path, [row(10, split="test"), row(2)])["subset_id"] == expected
    assert found_in(tmp_path, [row(2)])["subset_id"] != expected
    assert subset_id(pa.array([], pa.string())) == hashlib.sha256().hexdigest()[:16]


def test_duplicates_are_found_and_other_spans_of_a_video_are_not(tmp_path):
    one, other = "a" * 64, "b" * 64
    rows = [
        row(0, source_sha256=one, source="local/x.mp4"),
        row(1, source_sha256=one, source="local/y.mp4"),  # the same bytes under another name
        row(2, source_sha256=other, source="local/z.mp4"),
        row(3, source_sha256=other, source="local/z.mp4", start_s=20.0, end_s=30.0),  # another span
        row(4, source_sha256=other, source="local/z.mp4", start_s=20.0, end_s=30.0),  # the same span again
        row(5),
        row(5, position=6),
    ]
    found = found_in(tmp_path, rows)["duplicates"]
    assert (found["keys"]["groups"], found["keys"]["clips"]) == (1, 2)
    assert [[clip["key"] for clip in group["clips"]] for group in found["contents"]["examples"]] == [
        ["k0", "k1"],
        ["k3", "k4"],
        ["k5", "k5"],
    ]


def test_what_several_splits_share_is_a_leak(tmp_path):
    rows = [
        row(0, video_id="same"),
        row(1, video_id="same", split="test", start_s=20.0),
        row(2, source_sha256="c" * 64),
        row(3, source_sha256="c" * 64, split="test"),
        row(4),
        row(4, split="val"),
        row(5),
        row(6, video_id="same", split="test", start_s=40.0),
    ]
    found = found_in(tmp_path, rows)["leaks"]
    assert found["keys"]["clips"] == 2
    assert (found["videos"]["groups"], found["videos"]["clips"]) == (2, 5)
    assert found["videos"]["by_splits"] == {"test and train": 1, "test and val": 0, "train and val": 1}
    assert found["contents"]["groups"] == 2


def test_members_are_summed_by_kind(tmp_path):
    members = [
        {"name": name, "offset": 0, "size": size}
        for name, size in (("frame00.jpg", 5), ("frame01.jpg", 7), ("json", 1))
    ]
    found = found_in(tmp_path, [row(0, members=members), row(1, members=members[:1])])
    assert found["member_bytes"] == {"frame.jpg": {"files": 3, "bytes": 17}, "json": {"files": 1, "bytes": 1}}
    assert [member_kind(name) for name in ("frame07.jpg", "logmel.npy", "flac", "stem00.flac", "7.jpg")] == [
        "frame.jpg", "logmel.npy", "flac", "stem.flac", ".jpg",
    ]  # fmt: skip


def test_a_dataset_its_manifest_and_its_shards_tell_the_same(drawn):
    whole = summarize(open_audit_dataset(str(drawn)))
    alone = summarize(open_audit_dataset(str(drawn / "manifest" / "train.parquet")))
    folder = summarize(open_audit_dataset(str(drawn / "manifest")))
    tars = summarize(open_audit_dataset(f"{drawn}/train/{{00000..00003}}.tar"))
    assert [found["kind"] for found in (whole, alone, folder, tars)] == ["dataset", "manifest", "manifest", "shards"]
    for name in ("subset_id", "samples", "member_bytes", "hours"):
        assert whole[name] == alone[name] == folder[name] == tars[name], name


def test_tars_without_anything_beside_them_are_walked(drawn, tmp_path):
    for tar in (drawn / "train").glob("*.tar"):
        shutil.copyfile(tar, tmp_path / tar.name)
    found = summarize(open_audit_dataset(str(tmp_path)))
    assert found["kind"] == "shards"
    assert found["subset_id"] == summarize(open_audit_dataset(str(drawn)))["subset_id"]
    assert found["member_bytes"] == summarize(open_audit_dataset(str(drawn)))["member_bytes"]
    assert list(found["splits"]) == ["shards"]
    assert not found["has_failures"]


def test_samples_before_the_end_of_a_truncated_tar_are_counted(drawn, tmp_path):
    content = (drawn / "train" / "00000.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[: len(content) // 2])
    found = summarize(open_audit_dataset(str(tmp_path / "a.tar")))
    assert 0 < found["samples"] < 6
    assert [name.rsplit("/", 1)[-1] for name in found["damaged"]] == ["a.tar"]


@pytest.mark.parametrize("given", ["dataset", "manifest/train.parquet", "train/{00000..00003}.tar"])
def test_remote_is_the_same_as_local(drawn, given):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(drawn), "/audited/set", recursive=True)
    try:
        remote = summarize(open_audit_dataset(f"memory://audited/set/{given}".removesuffix("/dataset")))
        local = summarize(open_audit_dataset(f"{drawn}/{given}".removesuffix("/dataset")))
        assert {**remote, "root": ""} == {**local, "root": ""}
    finally:
        memory.rm("/audited", recursive=True)


def test_sources_without_a_dataset_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="no manifest in it, and no shards"):
        open_audit_dataset(str(tmp_path))
    (tmp_path / "mine").mkdir()
    with pytest.raises(ManifestError, match=r"0009}\.tar'\. Did you mean .*/mine\?$"):
        open_audit_dataset(str(tmp_path / "mien"))
    with pytest.raises(ConfigError, match="Unpack it"):
        open_audit_dataset("shards.tar.gz")
    with pytest.raises(ConfigError, match="no such shard"):
        open_audit_dataset(str(tmp_path / "{00..01}.tar"))
    (tmp_path / "other.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ManifestError, match="not a readable parquet"):
        open_audit_dataset(str(tmp_path / "other.parquet"))


def test_overlaps_with_lists_are_counted_by_video_and_clip(tmp_path):
    lists = tmp_path / "lists" / "deep"
    lists.mkdir(parents=True)
    entries = [{"file": f"{name}_000010", "class": "hail", "bbox": [[0, 0, 1, 1]]} for name in ("a" * 11, "b" * 11)]
    (lists / "vggss.json").write_text(json.dumps(entries))
    (lists / "flickr_test.csv").write_text("")
    rows = [
        row(0, video_id="a" * 11, start_s=10.0),
        row(1, video_id="a" * 11, start_s=60.0),
        row(2),
        failed(3, "net_dns", video_id="b" * 11),
    ]
    table = table_from_rows(rows, CLIP_SCHEMA)
    found = overlaps({"train": table}, [str(tmp_path / "lists")])
    by_set = {entry["test_set"]: entry for entry in found}
    assert by_set["vgg-ss"] == {
        "test_set": "vgg-ss", "test_split": "test", "split": "train", "test_videos": 2, "videos": 2,
        "sampled_videos": 1, "clips": 3, "sampled_clips": 2, "same_clips": 1,
    }  # fmt: skip
    assert overlaps({"test": table}, [str(tmp_path / "lists")], "vgg-ss")[-1]["test_set"] != "vgg-ss"
    with pytest.raises(ConfigError, match="no such folder"):
        overlaps({}, ["nowhere"])
    with pytest.raises(ConfigError, match="no such list"):
        overlaps({}, ["vggsound=nowhere.csv"])


@pytest.mark.skipif(not META.exists(), reason="needs the real lists beside the checkout")
def test_the_published_leaks_are_found_in_the_real_lists():
    from avmanifest.lists import read_requests
    from avmanifest.recipe import load_recipe

    official = META / "vggsound" / "vggsound_partial_official_format.csv"
    known = {}
    for name in ("vggsound-music", "vggsound-instruments"):
        listed = read_requests(load_recipe(name), META / "deepavfusion", ["train"])
        table = listed.append_column("status", pa.repeat("unavailable_missing", len(listed)))
        for entry in overlaps({"train": table}, [f"vggsound={official}"], name):
            known[name, entry["test_split"]] = entry["same_clips"]
    assert known == {("vggsound-music", "test"): 1221, ("vggsound-instruments", "test"): 1850}


def test_a_difference_is_of_keys_statuses_labels_and_config(tmp_path):
    a = draw_dataset(tmp_path / "a", 6, 3, num_frames=1, flac=False, failed=[1])
    b = draw_dataset(
        tmp_path / "b", 6, 3, first=2, num_frames=1, flac=False, labels=lambda n: ["rain"] if n == 3 else ["x"]
    )
    description = json.loads((b / "dataset.json").read_text())
    (b / "dataset.json").write_text(json.dumps(description | {"config": {"mel": ["kaldi"], "seed": 1}}))
    found = diff(open_audit_dataset(str(a)), open_audit_dataset(str(b)))
    assert found["clips"] == {"both": 4, "only_a": 2, "only_b": 2}
    assert found["samples"] == {"both": 4, "only_a": 1, "only_b": 2}
    assert found["only_b"] == [sample_key(6), sample_key(7)]
    assert found["changed"]["status"]["clips"] == 0
    assert found["changed"]["labels"]["clips"] == 4
    assert {"a": "dog barking", "b": "rain", "clips": 1, "such_as": sample_key(3)} in found["changed"]["labels"][
        "kinds"
    ]
    assert found["config"] == {"mel": [["paper"], ["kaldi"]], "seed": [None, 1]}
    assert not found["same"]
    same = diff(open_audit_dataset(str(a)), open_audit_dataset(str(a / "manifest")))
    assert same["same"]
    assert same["a"]["subset_id"] == same["b"]["subset_id"]


def test_a_status_that_changed_is_counted(tmp_path):
    a = manifest(tmp_path / "a.parquet", [row(0), row(1), failed(2, "net_dns")])
    b = manifest(tmp_path / "b.parquet", [row(1), failed(0, "media_short"), row(2, split="test")])
    found = diff(open_audit_dataset(str(a)), open_audit_dataset(str(b)))
    kinds = {(kind["a"], kind["b"]): kind["such_as"] for kind in found["changed"]["status"]["kinds"]}
    assert kinds == {("ok", "media_short"): "k0", ("net_dns", "ok"): "k2"}
    assert found["changed"]["split"]["clips"] == 1


def test_members_of_many_batches_add_up(tmp_path):
    """More rows than one batch holds."""
    count = 70_000
    names = pa.array(["json", "flac"] * count)
    sizes = pa.array(np.tile([1, 2], count))
    members = pa.ListArray.from_arrays(
        pa.array(np.arange(0, 2 * count + 1, 2), pa.int32()),
        pa.StructArray.from_arrays([names, pa.array(np.zeros(2 * count, np.int64)), sizes], ["name", "offset", "size"]),
    )
    columns = {name: pa.nulls(count, CLIP_SCHEMA.field(name).type) for name in CLIP_SCHEMA.names}
    columns |= {"key": pa.array([f"k{n}" for n in range(count)]), "members": members, "status": pa.repeat("ok", count)}
    columns |= {"split": pa.repeat("train", count)}
    path = tmp_path / "m.parquet"
    write_table(pa.table(columns, schema=CLIP_SCHEMA), path)
    assert len(read_table(path, CLIP_SCHEMA, ["key"])) == count
    found = summarize(open_audit_dataset(str(path)))
    assert found["member_bytes"] == {
        "flac": {"files": count, "bytes": 2 * count},
        "json": {"files": count, "bytes": count},
    }
    assert (found["samples"], found["hours"], found["splits"]["train"]["measured"]) == (count, 0.0, {})
