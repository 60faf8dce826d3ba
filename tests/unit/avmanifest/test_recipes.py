"""The recipes of avkit, and the real lists where they are available."""

import csv
import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from avmanifest.errors import ConfigError
from avmanifest.keys import clip_keys
from avmanifest.lists import read_clip_names, read_requests
from avmanifest.recipe import Recipe, canonical_label, load_recipe, recipe_names
from avmanifest.schema import KEY_PATTERN, REQUEST_SCHEMA

META = Path(__file__).parents[4] / "shared" / "data" / "meta"
real = pytest.mark.skipif(not META.is_dir(), reason="the real lists are not beside this checkout")

LOCAL = {
    ("vggsound-music", "vggmusic_train.txt"): "deepavfusion/vggmusic_train.txt",
    ("vggsound-music", "vggmusic_eval_ss.csv"): "deepavfusion/vggmusic_eval_ss.csv",
    ("vggsound-instruments", "vgginstruments_train.txt"): "deepavfusion/vgginstruments_train.txt",
    ("vggsound-instruments", "vgginstruments_test.csv"): "deepavfusion/vgginstruments_test.csv",
    ("audioset", "balanced_train_segments.csv"): "audioset/balanced_train_segments.csv",
    ("audioset", "eval_segments.csv"): "audioset/eval_segments.csv",
    ("music", "MUSIC_solo_videos.json"): "music/MUSIC_solo_videos.json",
    ("music", "MUSIC21_solo_videos.json"): "music/MUSIC21_solo_videos.json",
    ("music", "MUSIC_duet_videos.json"): "music/MUSIC_duet_videos.json",
    ("music", "clipsep_train.csv"): "music/clipsep_train.csv",
    ("music", "clipsep_val.csv"): "music/clipsep_val.csv",
    ("music", "clipsep_test.csv"): "music/clipsep_test.csv",
    ("music", "ccol_test_sep.csv"): "music/ccol_test_sep.csv",
    ("music", "music_duet.json"): "deepavfusion/music_duet.json",
    ("vgg-ss", "vggss.json"): "vggss/vggss.json",
    ("vgg-ss", "vggss_heard_test.csv"): "vggss/vggss_heard_test.csv",
    ("vgg-ss", "vggss_unheard_test.csv"): "vggss/vggss_unheard_test.csv",
    ("vggsounder", "vggsounder.csv"): "vggsounder/vggsounder.csv",
    ("flickr-soundnet", "flickr_sup_train.txt"): "flickr_soundnet/flickr_sup_train.txt",
    ("flickr-soundnet", "flickr_test.csv"): "flickr_soundnet/flickr_test.csv",
    ("avsbench-s4", "avsbench_train.txt"): "avsbench/avsbench_train.txt",
    ("avsbench-s4", "avsbench_val.csv"): "avsbench/avsbench_val.csv",
    ("avsbench-s4", "avsbench_test.csv"): "avsbench/avsbench_test.csv",
    ("avsbench-ms3", "avs1_ms3_test.csv"): "avsbench/aclssl_avs1_ms3_test.csv",
    ("msr-vtt", "MSRVTT_train.9k.csv"): "msrvtt/MSRVTT_train.9k.csv",
    ("msr-vtt", "MSRVTT_JSFUSION_test.csv"): "msrvtt/MSRVTT_JSFUSION_test.csv",
    ("msr-vtt", "test_list_full.txt"): "msrvtt/ce_test_list_full.txt",
}
"""(recipe, official name) -> path of the real list."""


def local_lists(recipe: Recipe) -> dict[str, Path]:
    return {
        spec.file: META / LOCAL[recipe.name, spec.file] for spec in recipe.lists if (recipe.name, spec.file) in LOCAL
    }


@cache
def read(name: str, *splits: str) -> pa.Table:
    recipe = load_recipe(name)
    return read_requests(recipe, local_lists(recipe), splits or None)


@cache
def vggsound(split: str = "") -> pa.Table:
    """The part of VGGSound's list that is at hand; empty: of all splits."""
    if split:
        return vggsound().filter(pc.equal(vggsound().column("split"), split))
    return read_requests(load_recipe("vggsound"), META / "vggsound" / "vggsound_partial_official_format.csv")


def annotations(table: pa.Table) -> list[Any]:
    return [json.loads(text) for text in table.column("annotations").to_pylist()]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_has_a_description(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title
    assert recipe.licence
    if name not in ("folder", "table", "synth"):
        assert recipe.homepage.startswith("https://")
        assert recipe.citation.strip().startswith("@")
        assert all(spec.file and spec.url.startswith("http") and spec.splits for spec in recipe.lists)
    for label in recipe.labels:
        assert canonical_label(recipe, label) == label


def test_counts_of_the_official_lists() -> None:
    assert sum(load_recipe("vggsound").counts.values()) == 199_176
    assert load_recipe("vggsound").lists[0].official_counts == (199_467, 199_176)
    assert len(load_recipe("vggsound").labels) == 309
    assert load_recipe("audioset").counts == {"balanced": 22_160, "unbalanced": 2_041_789, "eval": 20_371}
    assert len(load_recipe("audioset").labels) == 527
    assert len(load_recipe("vggsound-music").labels) == 49
    assert len(load_recipe("vggsound-instruments").labels) == 37


def test_the_clips_of_vggsound_have_its_labels_everywhere() -> None:
    vggsound = load_recipe("vggsound").labels
    for name in ("vgg-ss", "vggsounder"):
        assert load_recipe(name).labels == vggsound
    for name in ("vggsound-music", "vggsound-instruments"):
        labels = load_recipe(name).labels
        assert [label for label in vggsound if label in labels] == list(labels)


@real
@pytest.mark.parametrize("name", sorted({name for name, _ in LOCAL}))
def test_real_lists_have_the_hash_and_the_counts_of_the_recipe(name: str) -> None:
    recipe = load_recipe(name)
    for spec in recipe.lists:
        path = META / LOCAL.get((name, spec.file), "-")
        if not path.is_file():
            continue
        assert hashlib.sha256(path.read_bytes()).hexdigest() == spec.sha256
        if spec.unusable:
            with pytest.raises(ConfigError, match="cannot be used"):
                read_requests(recipe, path, spec.splits)
            continue
        table = read_requests(recipe, path, spec.splits)
        assert table.schema.equals(REQUEST_SCHEMA)
        assert Counter(table.column("split").to_pylist()) == spec.counts
        keys = clip_keys(recipe, table).to_pylist()
        assert len(set(keys)) == table.num_rows
        assert all(KEY_PATTERN.fullmatch(key) for key in keys)


@real
def test_the_order_of_vggsound_is_that_of_stat_csv_and_of_others_indices() -> None:
    recipe = load_recipe("vggsound")
    for file, column, skip in (
        ("vggsound/stat.csv", 0, 0),
        ("vggsounder/classes.csv", 2, 1),
        ("vggsound/cavmae_class_labels_indices_vgg.csv", 2, 1),
    ):
        with (META / file).open(newline="") as lines:
            names = [row[column] for row in csv.reader(lines)][skip:]
        assert tuple(canonical_label(recipe, name) for name in names) == recipe.labels


@real
def test_the_vggsound_list() -> None:
    recipe = load_recipe("vggsound")
    table = vggsound()
    assert Counter(table.column("split").to_pylist()) == {"train": 157_144, "test": 15_446}
    labels = table.column("labels").combine_chunks()
    assert pc.all(pc.equal(pc.list_value_length(labels), 1)).as_py()
    assert set(pc.unique(labels.flatten()).to_pylist()) == set(recipe.labels)
    keys = clip_keys(recipe, table)
    assert len(pc.unique(keys)) == table.num_rows
    assert pc.all(pc.match_substring_regex(keys, rf"^(?:{KEY_PATTERN.pattern})$")).as_py()
    assert set(table.column("end_s").to_pylist()[:1]) == {11.0}
    ids = table.filter(pc.equal(table.column("split"), "train")).column("video_id")
    both = set(ids.to_pylist()) & set(
        table.filter(pc.equal(table.column("split"), "test")).column("video_id").to_pylist()
    )
    assert len(both) == 6
    assert max(Counter(table.column("video_id").to_pylist()).values()) == 3


@real
def test_other_spellings_of_vggsound_agree_with_the_official_list() -> None:
    recipe = load_recipe("vggsound")
    official = vggsound("test")
    clips = {
        (video_id, start_s): label
        for video_id, start_s, (label,) in zip(
            *(official.column(name).to_pylist() for name in ("video_id", "start_s", "labels")), strict=True
        )
    }
    for file in ("vggsound/test.csv", "deepavfusion/vggsound_test.csv"):
        path = META / file
        assert {(row["video_id"], row["start_s"]) for row in read_clip_names(path).to_pylist()} == clips.keys()
        with path.open(newline="") as lines:
            for line in lines:
                name, _, label = line.strip().partition(",")
                assert canonical_label(recipe, label.strip('"')) == clips[name[:11], float(name[12:18])]
    in_milliseconds = read_clip_names(META / "vggsound" / "specvqgan_vggsound_test.txt").to_pylist()
    assert len(in_milliseconds) == 14_512
    assert {(row["video_id"], row["start_s"]) for row in in_milliseconds} <= clips.keys()
    assert {row["end_s"] - row["start_s"] for row in in_milliseconds} == {10.0}


@real
@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("vggsound/synchformer_filtered_broken.txt", 16),
        ("vggsound/synchformer_filtered_audio_has_0_std.txt", 1_010),
        ("vggsound/synchformer_less_than_9.5s.txt", 3_551),
        ("vggsound/cavmae_vgg_test_5_per_class_for_retrieval_template.json", 1_545),
        ("audioset/cavmae_retrieval_1725.json", 1_725),
        ("vggss/vggss_test.csv", 5_158),
    ],
)
def test_lists_that_select_clips(file: str, count: int) -> None:
    table = read_clip_names(META / file)
    assert table.num_rows == count
    assert pc.all(pc.equal(pc.utf8_length(table.column("video_id")), 11)).as_py()
    assert table.column("start_s").null_count == (count if file.startswith("audioset") else 0)


@real
def test_audioset_has_short_segments_and_fractions() -> None:
    table = read("audioset", "balanced", "eval")
    assert len(pc.unique(table.column("labels").combine_chunks().flatten())) == 527
    lengths = pc.subtract(table.column("end_s"), table.column("start_s")).to_pylist()
    assert min(lengths) < 9 < 10 == round(max(lengths), 3)
    fractions = [start for start in table.column("start_s").to_pylist() if start % 1]
    assert 239.8 in fractions
    assert len(table.column("labels").combine_chunks().flatten()) == 52_882 + 51_804


@real
def test_the_pairs_of_vggsound_music() -> None:
    table = read("vggsound-music")
    test = table.filter(pc.equal(table.column("split"), "test"))
    mixtures = [mixture for found in annotations(test) for mixture in found.get("mixtures", ())]
    assert Counter(mixture["kind"] for mixture in mixtures) == {"Easy": 910, "Hard": 291}
    assert sorted(mixture["index"] for mixture in mixtures) == list(range(1_201))
    keys = clip_keys(load_recipe("vggsound-music"), test).to_pylist()
    assert {key for mixture in mixtures for key in mixture["with"]} <= set(keys)
    labels = dict(zip(keys, test.column("labels").to_pylist(), strict=True))
    for key, found in zip(keys, annotations(test), strict=True):
        for mixture in found["mixtures"]:
            same = labels[key] == labels[mixture["with"][0]]
            assert mixture["kind"] == ("Hard" if same else "Easy")
    trained = table.filter(pc.equal(table.column("split"), "train"))
    assert ["playing table tennis"] in trained.column("labels").to_pylist()
    assert len(set(trained.column("video_id").to_pylist()) & set(test.column("video_id").to_pylist())) == 27


@real
def test_training_clips_that_are_in_the_test_split_of_vggsound() -> None:
    test = vggsound("test")
    test_clips = set(zip(test.column("video_id").to_pylist(), test.column("start_s").to_pylist(), strict=True))
    for name, count in (("vggsound-music", 1_221), ("vggsound-instruments", 1_850)):
        train = read(name, "train")
        clips = zip(train.column("video_id").to_pylist(), train.column("start_s").to_pylist(), strict=True)
        assert len(set(clips) & test_clips) == count


@real
def test_the_boxes_of_vggss() -> None:
    table = read("vgg-ss")
    found = annotations(table)
    assert sum(entry["num_boxes_clipped"] for entry in found) == 12
    assert sum(entry["num_boxes_dropped"] for entry in found) == 18
    boxes = [box for entry in found for box in entry["boxes"]]
    assert len(boxes) == 5_941 - 18
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in boxes)
    assert {tuple(times) for times in table.column("frame_times_s").to_pylist()} == {(5.0,)}
    assert len(pc.unique(table.column("labels").combine_chunks().flatten())) == 221


@real
def test_the_two_copies_of_the_flickr_test_list() -> None:
    recipe = load_recipe("flickr-soundnet")
    copies = [
        set(read_requests(recipe, META / "flickr_soundnet" / file, ["test"]).column("video_id").to_pylist())
        for file in ("flickr_test.csv", "lvs_flickr_test.csv")
    ]
    assert list(map(len, copies)) == [250, 249]
    assert copies[0] - copies[1] == {"3908875350"}
    assert not copies[0] & set(read("flickr-soundnet", "train").column("video_id").to_pylist())


@real
def test_the_music_lists() -> None:
    videos = {
        split: set(read("music", split).column("video_id").to_pylist())
        for split in ("solo", "music21", "duet", "train", "val", "test", "mixtures", "duet_boxes")
    }
    assert videos["solo"] < videos["music21"]
    assert videos["test"] < videos["val"] < videos["solo"]
    assert len(videos["train"] & videos["val"]) == 73
    assert len(videos["train"] & videos["test"]) == 35
    assert len(videos["mixtures"] & videos["train"]) == 18
    assert len(videos["duet_boxes"]) == 6
    assert videos["duet_boxes"] < videos["duet"]
    assert {len(labels) for labels in read("music", "duet").column("labels").to_pylist()} == {2}
    mixtures = [mixture for found in annotations(read("music", "mixtures")) for mixture in found.get("mixtures", ())]
    assert sorted(mixture["index"] for mixture in mixtures) == list(range(260))
    assert {len(mixture["with"]) for mixture in mixtures} == {3}
    boxes = annotations(read("music", "duet_boxes"))
    assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for entry in boxes for x0, y0, x1, y1 in entry["boxes"])
    assert {len(entry["boxes"]) for entry in boxes} == {2}


@real
def test_avsbench() -> None:
    table = read("avsbench-s4")
    assert Counter(table.column("split").to_pylist()) == {"train": 3_452, "val": 740, "test": 740}
    assert {len(times) for times in table.column("frame_times_s").to_pylist()} == {5}
    masks = {
        (split, len(entry["masks"]))
        for split, entry in zip(table.column("split").to_pylist(), annotations(table), strict=True)
    }
    assert masks == {("train", 1), ("val", 5), ("test", 5)}
    index = json.loads((META / "avsbench" / "ddeseg_label2idx.json").read_text())
    assert index.pop("background") == 1
    recipe = load_recipe("avsbench-avss")
    assert {name: place - 2 for name, place in index.items()} == {
        label: place for place, label in enumerate(recipe.labels)
    }
    several = read("avsbench-ms3", "test_frames")
    assert {len(labels) for labels in several.column("labels").to_pylist()} == {1, 2, 3}
    assert pc.sum(pc.equal(several.column("start_s"), 0.0)).as_py() >= 3


@real
def test_708_test_videos_of_avsbench_are_in_the_train_split_of_vggsound() -> None:
    train = set(vggsound("train").column("video_id").to_pylist())
    test = set(read("avsbench-s4", "test").column("video_id").to_pylist())
    # The list at hand is a part of the official one, of which 708 are in train.
    assert 0.8 * 708 < len(test & train) <= 708


@real
def test_451_eval_videos_of_audioset_are_in_the_train_split_of_vggsound() -> None:
    train = set(vggsound("train").column("video_id").to_pylist())
    found = set(read("audioset", "eval").column("video_id").to_pylist()) & train
    assert 0.8 * 451 < len(found) <= 451


@real
def test_msrvtt_has_captions_only_for_the_test_list() -> None:
    found = annotations(read("msr-vtt"))
    assert sum("captions" in entry for entry in found) == 1_000
    assert set(read("msr-vtt", "train").column("video_id").to_pylist()) & set(
        read("msr-vtt", "test_full").column("video_id").to_pylist()
    )
