import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avmanifest.errors import ConfigError, ManifestError
from avmanifest.keys import clip_keys
from avmanifest.lists import folder_requests, read_clip_names, read_requests
from avmanifest.recipe import LIST_FORMATS, ListSpec, TableOptions, load_recipe
from avmanifest.schema import REQUEST_SCHEMA

VGG = '---g-f_I2yQ,1,people marching,test\n--9O4XZOge4,30,"female speech, woman speaking",train\n'
AUDIOSET = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=2, num_segs=2
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
AE5oZzfu2-E, 239.800, 246.800, "/m/0326g"
"""


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows_of(name: str, path: Path, *splits: str) -> list[dict[str, Any]]:
    table = read_requests(load_recipe(name), path, splits or None)
    assert table.schema.equals(REQUEST_SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def annotations(row: Mapping[str, Any]) -> Any:
    return json.loads(row["annotations"])


def test_every_format_has_a_reader_except_the_drawn_one() -> None:
    for name, form in LIST_FORMATS.items():
        module, _, reader = form.reader.partition(":")
        if name == "synth":
            assert not form.reader
        else:
            assert callable(getattr(import_module(f"avmanifest.lists.{module}"), reader))


# The official VGGSound list


def test_vggsound_is_read_whole(tmp_path: Path) -> None:
    rows = rows_of("vggsound", write(tmp_path / "any_name.csv", VGG))
    assert rows[0] == {
        "video_id": "---g-f_I2yQ",
        "start_s": 1.0,
        "end_s": 11.0,
        "labels": ["people marching"],
        "split": "test",
        "path": "",
        "frame_times_s": [],
        "annotations": "{}",
        "licence": "",
    }
    assert rows[1]["labels"] == ["female speech, woman speaking"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + VGG.encode(),
        VGG.replace("\n", "\r\n").encode(),
        VGG.rstrip("\n").encode(),
        b"\n\r\n" + VGG.replace("\n", "\n\n").encode() + b"  \n",
    ],
)
def test_marks_line_ends_and_blank_lines_make_no_difference(tmp_path: Path, content: bytes) -> None:
    assert rows_of("vggsound", write(tmp_path / "a", content)) == rows_of("vggsound", write(tmp_path / "b", VGG))


def test_a_split_is_chosen(tmp_path: Path) -> None:
    rows = rows_of("vggsound", write(tmp_path / "v.csv", VGG), "train")
    assert [row["video_id"] for row in rows] == ["--9O4XZOge4"]


def rewritten(
    delimiter: str = ",", quote: bool = False, fraction: bool = False, space: str = "", index: bool = False
) -> str:
    """VGG as another program saves it."""
    rows = [["---g-f_I2yQ", "1", "people marching", "test"]]
    rows.append(["--9O4XZOge4", "30", "female speech, woman speaking", "train"])
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = [str(number)] * index + [f"{cell}.0" if fraction and cell.isdigit() else cell for cell in row]
        quoted = [f'"{cell}"' if quote or delimiter in cell or (space and "," in cell) else cell for cell in cells]
        lines.append(f"{delimiter}{space}".join(quoted))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (rewritten(quote=True), "values separated by commas"),
        (rewritten(fraction=True), "30.0 as 30"),
        (rewritten(space="  "), "values separated by commas"),
        (rewritten("\t"), "values separated by tabs"),
        (rewritten(";", quote=True), "values separated by semicolons"),
        (rewritten("|", fraction=True), "values separated by bars, 30.0 as 30"),
        (rewritten(index=True), "columns 2, 3, 4, 5 of 5"),
        ("youtube_id,start,label,split\n" + rewritten(), "the first line as a header"),
        ('"","YTID","start_seconds","class","set"\n' + rewritten(quote=True, index=True), "columns 2, 3, 4, 5 of 5"),
        (
            "split;label;youtube id;start seconds\ntest;people marching;---g-f_I2yQ;1.0\n"
            "train;female speech, woman speaking;--9O4XZOge4;30.0\n",
            "semicolons, the first line as a header, columns 3, 4, 2, 1 of 4 in the order of their names, 30.0 as 30",
        ),
        (
            rewritten().replace("test", "TEST").replace("train", "Train"),
            "split TEST as test, split Train as train",
        ),
        (rewritten().replace(",train", ", train"), "values separated by commas"),
        (",0,1,2,3\n" + rewritten(index=True), "the first line as a header, columns 2, 3, 4, 5 of 5"),
        ("0,1,2,3\n" + rewritten(), "the first line as a header"),
        ('"V1","V2","V3","V4"\n' + rewritten(quote=True), "the first line as a header"),
        ('"","V1","V2","V3","V4"\n' + rewritten(quote=True, index=True), "the first line as a header, columns 2,"),
        ("Column1;Column2;Column3;Column4\n" + rewritten(";"), "semicolons, the first line as a header"),
        (rewritten().replace("\n", ",,\r\n"), "columns 1, 2, 3, 4 of 6"),
        (rewritten(";").replace("\n", ";\n"), "semicolons, columns 1, 2, 3, 4 of 5"),
        (rewritten() + ",,,\n;;\n" + '"","","",""\n', ""),
        (rewritten("\t").encode("utf-16"), "values separated by tabs"),
        (rewritten().encode("utf-16"), ""),
        (rewritten().encode("utf-16-le"), ""),
        (rewritten().encode("utf-16-be"), ""),
        (rewritten().encode("utf-32"), ""),
    ],
)
def test_the_list_as_other_programs_save_it(tmp_path: Path, content: str | bytes, note: str) -> None:
    notes: list[str] = []
    table = read_requests(load_recipe("vggsound"), write(tmp_path / "v.csv", content), notes=notes)
    assert table.to_pylist() == rows_of("vggsound", write(tmp_path / "plain.csv", VGG))
    *read, count = notes
    assert count == "v.csv: 2 clips, where the official list has 199,467 or 199,176"
    assert [text for text in read if note in text] == read
    assert len(read) == bool(note)


def test_a_quoted_list_of_many_rows_with_one_wrong_line_is_refused_with_the_line(tmp_path: Path) -> None:
    content = rewritten(quote=True) * 200 + '"---g-f_I2yQ","1","people marching"\n'
    with pytest.raises(ManifestError, match=r"line 401: '---g-f_I2yQ,1,people marching' is not YOUTUBE_ID,START"):
        rows_of("vggsound", write(tmp_path / "v.csv", content))


def test_a_list_of_one_clip_with_a_row_number(tmp_path: Path) -> None:
    assert [row["video_id"] for row in rows_of("vggsound", write(tmp_path / "v.csv", f"0,{VGG.splitlines()[0]}\n"))]


def test_a_value_in_a_column_that_was_empty_so_far_is_refused_with_its_line(tmp_path: Path) -> None:
    content = VGG.replace("\n", ",\n") * 150 + VGG.splitlines()[0] + ",remark\n"
    with pytest.raises(ManifestError, match=r"line 301: '---g-f_I2yQ,1,people marching,test,remark' is not"):
        rows_of("vggsound", write(tmp_path / "v.csv", content))


def test_a_first_line_that_is_neither_a_clip_nor_a_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"line 1: '---g-f_I2yQ,x,a,b' looks like a header"):
        rows_of("vggsound", write(tmp_path / "v.csv", "---g-f_I2yQ,x,a,b\n" + VGG))


def test_audioset_as_other_programs_save_it(tmp_path: Path) -> None:
    plain = rows_of("audioset", write(tmp_path / "balanced_train_segments.csv", AUDIOSET), "balanced")
    quoted = (
        'YTID,start_seconds,end_seconds,positive_labels\n"--PJHxphWEs","30.0","40.0","/m/09x0r,/t/dd00088"\n'
        '"AE5oZzfu2-E","239.8","246.8","/m/0326g"\n'
    )
    assert rows_of("audioset", write(tmp_path / "a.csv", quoted), "balanced") == plain
    tabs = quoted.replace('","', "\t").replace('"', "").replace("ds,", "ds\t").replace("ID,", "ID\t")
    assert rows_of("audioset", write(tmp_path / "a.csv", tabs), "balanced") == plain


def test_names_of_splits_that_may_be_two_splits_are_refused(tmp_path: Path) -> None:
    clips = "".join(f"youtube-{number:03d},{split}\n" for number, split in enumerate(("valid", "Test", "TRAIN")))
    form = 'format = "columns"\ncolumns = ["video_id", "split"]\nsplits = ["train", "val", "test"]\n'
    assert [row["split"] for row in own_rows(tmp_path, form, clips)] == ["val", "test", "train"]
    with pytest.raises(ManifestError, match=r"unknown split 'valid'; did you mean val\? known: train, val, test"):
        own_rows(tmp_path, form, clips + "x,validation\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("short,1,people marching,test", r"line 4: 'short,1,people marching,test' is not YOUTUBE_ID,START,LABEL,SPLIT"),
        ("---g-f_I2yQ,1.5,people marching,test", r"line 4: "),
        ("---g-f_I2yQ,1,female speech, woman speaking,test", r"line 4: .* in double quotes"),
        ("---g-f_I2yQ,1,people marching,", r"line 4: "),
        ("---g-f_I2yQ,1,people marchin,test", r"line 4: recipe vggsound: label 'people marchin'.*'people marching'"),
        ("---g-f_I2yQ,1,people marching,dev", r"line 4: unknown split 'dev'; known: train, test"),
        ("x" * 500, r"line 4: 'x{120}\.\.\.' is not"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ManifestError, match=rf"v\.csv: {message}"):
        rows_of("vggsound", write(tmp_path / "v.csv", VGG + "\n" + line + "\n" + VGG))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the list is empty"),
        (b"\n \n", "the list is empty"),
        (VGG.encode() + b"\xff\xfe\n", r"line 3 is not UTF-8 text\. Save it as UTF-8 text; a file from Windows"),
        (b"sep=,\n" + VGG.encode(), "line 1 is 'sep=,', which a spreadsheet writes for itself"),
        (VGG.encode() + b"a\x01b\n", r"line 3 contains the control character"),
        (VGG.encode() + b"a" * 9_000_000, r"line 3 is longer than"),
        (b"PAR1\x00\x00", r"line 1: "),
    ],
)
def test_a_file_that_is_not_a_text_list_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        rows_of("vggsound", write(tmp_path / "v.csv", content))


def test_a_clip_listed_twice_stays_two_rows(tmp_path: Path) -> None:
    assert len(rows_of("vggsound", write(tmp_path / "v.csv", VGG + VGG))) == 4


# Which file is which list


def test_a_missing_list_names_the_official_address_and_the_option() -> None:
    with pytest.raises(ConfigError, match=r"missing vggsound\.csv \(splits train, test\) from https://.*--list"):
        read_requests(load_recipe("vggsound"))


def test_lists_come_from_a_folder_or_by_name(tmp_path: Path) -> None:
    recipe = load_recipe("audioset")
    path = write(tmp_path / "balanced_train_segments.csv", AUDIOSET)
    found = read_requests(recipe, tmp_path, ["balanced"])
    assert read_requests(recipe, {path.name: path}, ["balanced"]).equals(found)
    assert read_requests(recipe, path, ["balanced"]).equals(found)
    with pytest.raises(ConfigError, match=r"missing eval_segments\.csv"):
        read_requests(recipe, tmp_path, ["balanced", "eval"])
    with pytest.raises(ConfigError, match=r"missing unbalanced_train_segments\.csv .*; eval_segments\.csv"):
        read_requests(recipe, path)
    with pytest.raises(ConfigError, match=r"no list is called \['x'\]; known: balanced_train_segments"):
        read_requests(recipe, {"x": path})
    with pytest.raises(ConfigError, match="no such list"):
        read_requests(recipe, tmp_path / "none")
    with pytest.raises(ConfigError, match="no such list"):
        read_requests(recipe, {path.name: tmp_path / "none"}, ["balanced"])


def test_an_unknown_split_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no split 'val'; did you mean eval\? known: balanced, unbalanced, eval"):
        read_requests(load_recipe("audioset"), tmp_path, ["val"])
    with pytest.raises(ConfigError, match="no split is selected"):
        read_requests(load_recipe("audioset"), tmp_path, [])


def test_generated_videos_have_no_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its videos are generated"):
        read_requests(load_recipe("synth"), tmp_path)


# Other lists of lines


def test_audioset_has_spaces_fractions_and_several_labels(tmp_path: Path) -> None:
    rows = rows_of("audioset", write(tmp_path / "b.csv", AUDIOSET), "balanced")
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(30.0, 40.0), (239.8, 246.8)]
    assert [row["labels"] for row in rows] == [["Speech", "Gush"], ["Flamenco"]]
    assert {row["split"] for row in rows} == {"balanced"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("/m/0326g", "/m/none", r"line 5: recipe audioset: label '/m/none'"),
        ("246.800", "239.800", r"line 5: the clip ends at 239\.8 s, which is not after its start"),
        ("246.800", "later", r"line 5: .* is not YOUTUBE_ID, START, END"),
        ('"/m/0326g"', '""', r"line 5: "),
    ],
)
def test_a_wrong_audioset_line_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ManifestError, match=rf"b\.csv: {message}"):
        rows_of("audioset", write(tmp_path / "b.csv", AUDIOSET.replace(old, new)), "balanced")


def test_a_list_of_only_comments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="lists no clips"):
        rows_of("audioset", write(tmp_path / "b.csv", "# a\n# b\n"), "balanced")


def test_unquoted_commas_belong_to_the_label(tmp_path: Path) -> None:
    content = "--G-wKyj6JQ_000030,harpsichord\n--iY3Bf4hDg_000030,violin,_fiddle"
    rows = rows_of("vggsound-instruments", write(tmp_path / "t.txt", content))
    assert [row["labels"] for row in rows] == [["playing harpsichord"], ["playing violin, fiddle"]]
    assert rows[1]["start_s"] == 30.0


def test_the_test_ids_of_vggsound_instruments_are_refused_clearly(tmp_path: Path) -> None:
    path = write(tmp_path / "vgginstruments_test.csv", "sample0000\r\nsample0001")
    with pytest.raises(ConfigError, match=r"vgginstruments_test\.csv cannot be used: .*sample0000.*do not name videos"):
        rows_of("vggsound-instruments", path, "test")
    with pytest.raises(ManifestError, match="line 1: 'sample0000' is not YOUTUBE_ID_START"):
        rows_of("vggsound-instruments", path, "train")


def test_a_clip_without_a_start_is_refused_where_clips_have_one(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 1: the name '--G-wKyj6JQ' has no start;"):
        rows_of("vggsound-instruments", write(tmp_path / "t.txt", "--G-wKyj6JQ,harpsichord"))


def test_flickr_ids_and_numbers(tmp_path: Path) -> None:
    write(tmp_path / "flickr_sup_train.txt", "10000255784\n9992947874")
    write(tmp_path / "flickr_test.csv", "10000130166,202\n10007936344,0\n")
    rows = rows_of("flickr-soundnet", tmp_path)
    assert [row["split"] for row in rows] == ["train", "train", "test", "test"]
    assert [annotations(row) for row in rows] == [{}, {}, {"list_number": 202}, {"list_number": 0}]
    assert rows[0]["end_s"] is None


def test_msrvtt_lists_and_captions(tmp_path: Path) -> None:
    write(tmp_path / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\n")
    write(
        tmp_path / "MSRVTT_JSFUSION_test.csv",
        'key,vid_key,video_id,sentence\nret0,msr9770,video9770,"a person, connecting"\n',
    )
    rows = rows_of("msr-vtt", tmp_path)
    assert [row["video_id"] for row in rows] == ["video0", "video1", "video9770"]
    assert annotations(rows[2]) == {"captions": ["a person, connecting"]}
    full = write(tmp_path / "test_list_full.txt", "video7010\nvideo7011\n")
    assert len(rows_of("msr-vtt", full, "test_full")) == 2


def test_music_paths_agree_with_their_folders(tmp_path: Path) -> None:
    line = "data/MUSIC/solo/audio/cello/VdFnyZWJAgo.wav,data/frames/cello/VdFnyZWJAgo,220,{}\n"
    rows = rows_of("music", write(tmp_path / "val.csv", line.format("cello")), "val")
    assert (rows[0]["video_id"], rows[0]["labels"], rows[0]["end_s"]) == ("VdFnyZWJAgo", ["cello"], None)
    with pytest.raises(ManifestError, match="line 1: the line has the labels 'cello' and 'tuba'"):
        rows_of("music", write(tmp_path / "val.csv", line.format("tuba")), "val")


# Lists whose form a recipe of one's own says

MINE = """\
name = "mine"
title = "Mine"
homepage = ""
licence = ""
key = "mine-{slug}_{start_ms}"
labels = ["Church bell", "Bark"]

[[lists]]
file = "l.txt"
"""
AVE = """\
format = "columns"
delimiter = "&"
columns = ["label", "video_id", "quality", "start", "end"]
annotations = { quality = "text" }
skip_header = true
"""
AVE_LIST = "Category&VideoID&Quality&Start&End\nChurch bell&RUhOCu3LNXM&good&0&10\nbark&-_A__b-C_3_&bad&1.5&3.25\n"


def own_rows(tmp_path: Path, form: str, content: str, name: str = "l.txt") -> list[dict[str, Any]]:
    (tmp_path / "mine.toml").write_text(MINE + form)
    table = read_requests(load_recipe(tmp_path / "mine.toml"), write(tmp_path / name, content))
    assert table.schema.equals(REQUEST_SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_a_new_list_needs_a_recipe_and_no_python(tmp_path: Path) -> None:
    rows = own_rows(tmp_path, AVE, AVE_LIST)
    assert [(row["video_id"], row["start_s"], row["end_s"], row["labels"], annotations(row)) for row in rows] == [
        ("RUhOCu3LNXM", 0.0, 10.0, ["Church bell"], {"quality": "good"}),
        ("-_A__b-C_3_", 1.5, 3.25, ["Bark"], {"quality": "bad"}),
    ]
    pattern = """\
format = "pattern"
pattern = '(?P<label>[^&]*)&(?P<video_id>[^&]*)&(?P<quality>[^&]*)&(?P<start>[^&]*)&(?P<end>[^&]*)'
annotations = { quality = "text" }
header = "Category&VideoID&Quality&Start&End"
"""
    assert own_rows(tmp_path, pattern, AVE_LIST) == rows
    assert own_rows(tmp_path, AVE.replace("skip_header = true\n", ""), AVE_LIST.partition("\n")[2]) == rows


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("&good&0&10", "&good&0", r"line 2: 4 values 'Church bell&RUhOCu3LNXM&good&0', expected the 5 of label&video"),
        ("&bad&1.5", "&bad&soon", r"line 3: start is 'soon', must be a number, such as 12\.5"),
        ("&3.25", "&1.5", r"line 3: the clip ends at 1\.5 s, which is not after its start"),
        ("bark", "meow", r"line 3: recipe mine: label 'meow'.*known: Church bell, Bark"),
        ("-_A__b-C_3_", "", r"line 3: the clip has no id"),
        ("bark&", '"bark&', r"line 3: not csv text"),
    ],
)
def test_a_wrong_line_of_columns_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in AVE_LIST
    with pytest.raises(ManifestError, match=rf"l\.txt: {message}"):
        own_rows(tmp_path, AVE, AVE_LIST.replace(old, new))


def test_a_header_that_is_not_expected_or_not_there(tmp_path: Path) -> None:
    headless = AVE.replace("skip_header = true\n", "")
    rows = own_rows(tmp_path, AVE, AVE_LIST)
    assert own_rows(tmp_path, headless, AVE_LIST) == rows
    assert own_rows(tmp_path, AVE, AVE_LIST.partition("\n")[2]) == rows
    with pytest.raises(ManifestError, match=r"line 1: 'Klasse&.*' looks like a header, .* skip_header = true"):
        own_rows(tmp_path, headless, AVE_LIST.replace("Category&VideoID&Quality&Start&End", "Klasse&K&Q&Von&Bis"))
    named = headless + 'header = "Category&VideoID&Quality&Start&End"\n'
    assert own_rows(tmp_path, named, AVE_LIST) == rows
    assert own_rows(tmp_path, named, AVE_LIST.partition("\n")[2]) == rows
    with pytest.raises(ManifestError, match=r"line 1: the header is 'Category&Vid&.*, expected 'Category&VideoID"):
        own_rows(tmp_path, named, AVE_LIST.replace("VideoID", "Vid"))
    names = 'format = "pattern"\npattern = "(?P<video_id>video[0-9]+)"\nskip_header = true\n'
    assert [row["video_id"] for row in own_rows(tmp_path, names, "video_id\nvideo7\n")] == ["video7"]
    with pytest.raises(ManifestError, match=r"line 1: 'video7' is a clip, .*skip_header = false"):
        own_rows(tmp_path, names, "video7\nvideo8\n")
    headless = names.replace("skip_header = true\n", "")
    assert [row["video_id"] for row in own_rows(tmp_path, headless, "video_id\nvideo7\n")] == ["video7"]


def test_columns_as_other_programs_save_them(tmp_path: Path) -> None:
    rows = own_rows(tmp_path, AVE, AVE_LIST)
    assert own_rows(tmp_path, AVE, AVE_LIST.replace("&", ",")) == rows
    index = "".join(f"{number},{line.replace('&', ',')}\n" for number, line in enumerate(AVE_LIST.splitlines()))
    assert own_rows(tmp_path, AVE, "," + index[2:]) == rows
    order = "\n".join(";".join(reversed(line.split("&"))) for line in AVE_LIST.splitlines())
    assert own_rows(tmp_path, AVE, order) == rows


def test_a_recipe_sets_the_unit_of_the_numbers_in_names(tmp_path: Path) -> None:
    names = 'format = "pattern"\npattern = "(?P<clip>[^ ]*)"\n'
    content = f"{'a' * 11}_3000.MP4\n{'b' * 11}_000030\n"
    for unit, starts in (("", [3.0, 30.0]), ('unit = "s"\n', [3000.0, 30.0]), ('unit = "ms"\n', [3.0, 0.03])):
        assert [row["start_s"] for row in own_rows(tmp_path, names + unit, content)] == starts
    with pytest.raises(ManifestError, match=r"line 2: 'sample7' is not the name of a clip, such as YOUTUBE_ID_000030"):
        own_rows(tmp_path, names, f"{'a' * 11}_3\nsample7\n")
    columns = 'format = "columns"\ncolumns = ["path", "start", "end"]\nunit = "ms"\n'
    rows = own_rows(tmp_path, columns, "a/b.mp4,1500,2500\n")
    assert [(row["video_id"], row["path"], row["start_s"], row["end_s"]) for row in rows] == [
        ("a/b", "a/b.mp4", 1.5, 2.5)
    ]


def test_rows_of_a_clip_are_joined_in_the_order_of_the_list(tmp_path: Path) -> None:
    form = """\
format = "columns"
columns = ["video_id", "text", "votes", "label"]
annotations = { text = "texts", votes = "int" }
merge = true
"""
    content = "".join(f"v{number % 300},say {number},{number},Bark\n" for number in range(600))
    rows = own_rows(tmp_path, form, content)
    assert [row["video_id"] for row in rows] == [f"v{number}" for number in range(300)]
    assert annotations(rows[7]) == {"text": ["say 7", "say 307"], "votes": 7}
    assert rows[7]["labels"] == ["Bark"]
    with pytest.raises(ManifestError, match=r"line 2: votes is 'many', must be int"):
        own_rows(tmp_path, form, "a,x,1,Bark\nb,y,many,Bark\n")


def test_a_pattern_that_re2_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe mine: pattern .* of l\.txt"):
        own_rows(tmp_path, 'format = "pattern"\npattern = "(?P<video_id>(?=a).*)"\n', "a\n")


# Lists whose rows belong together


def test_pairs_are_annotations_of_their_first_clip(tmp_path: Path) -> None:
    write(tmp_path / "vggmusic_train.txt", "--G-wKyj6JQ_000030,harpsichord\n--iY3Bf4hDg_000030,table_tennis\n")
    write(
        tmp_path / "vggmusic_eval_ss.csv",
        "source_1,source_2,class_1,class_2,sep_type\n"
        'JIemsK_0lXc_000364,D9qpDjafWRM_000030,bass_drum,"violin,_fiddle",Easy\n'
        'D9qpDjafWRM_000030,JIemsK_0lXc_000364,"violin,_fiddle",bass_drum,Hard\n'
        "RgyqhpOJFM4_000030,JIemsK_0lXc_000364,cello,bass_drum,Easy\n",
    )
    rows = rows_of("vggsound-music", tmp_path)
    assert [row["split"] for row in rows] == ["train", "train", "test", "test", "test"]
    assert rows[1]["labels"] == ["playing table tennis"]
    assert rows[3]["labels"] == ["playing violin, fiddle"]
    assert [annotations(row)["mixtures"] for row in rows[2:]] == [
        [{"index": 0, "with": ["vggm-D9qpDjafWRM_000030"], "kind": "Easy"}],
        [{"index": 1, "with": ["vggm-JIemsK_0lXc_000364"], "kind": "Hard"}],
        [{"index": 2, "with": ["vggm-JIemsK_0lXc_000364"], "kind": "Easy"}],
    ]


def test_a_clip_of_two_classes_among_the_pairs_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.csv",
        "source_1,source_2,class_1,class_2,sep_type\n"
        "JIemsK_0lXc_000364,D9qpDjafWRM_000030,bass_drum,flute,Easy\n"
        "RgyqhpOJFM4_000030,D9qpDjafWRM_000030,cello,tuba,Easy\n",
    )
    with pytest.raises(ManifestError, match="line 3: D9qpDjafWRM has the label 'tuba' here and 'flute' above"):
        rows_of("vggsound-music", path, "test")


def test_a_wrong_header_and_a_short_row_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="line 1: the header is a,b, expected source_1,"):
        rows_of("vggsound-music", write(tmp_path / "p.csv", "a,b\n1,2\n"), "test")
    with pytest.raises(ManifestError, match="line 2: 2 values, expected source_1"):
        rows_of(
            "vggsound-music", write(tmp_path / "p.csv", "source_1,source_2,class_1,class_2,sep_type\n1,2\n"), "test"
        )
    with pytest.raises(ManifestError, match="line 1 is not UTF-8 text"):
        rows_of("vggsound-music", write(tmp_path / "p.csv", b"\xff\xff\n"), "test")
    content = 'source_1,source_2,class_1,class_2,sep_type\n"a" b,1,2,3,4\n'
    with pytest.raises(ManifestError, match="line 2: not csv text"):
        rows_of("vggsound-music", write(tmp_path / "p.csv", content), "test")


def test_fixed_mixtures_of_music(tmp_path: Path) -> None:
    line = "/flute/kbTy_5o6AB4.wav, /cello/-Gdh8N_KpLY.wav, /tuba/5lm9laLSORc.wav, /erhu/2D2ALfuqDpk.wav\n"
    rows = rows_of("music", write(tmp_path / "s.csv", line), "mixtures")
    assert [row["labels"] for row in rows] == [["flute"], ["cello"], ["tuba"], ["erhu"]]
    keys = clip_keys(load_recipe("music"), read_requests(load_recipe("music"), tmp_path / "s.csv", ["mixtures"]))
    assert annotations(rows[0]) == {"mixtures": [{"index": 0, "kind": "", "with": keys.to_pylist()[1:]}]}
    assert annotations(rows[1]) == {}


def test_music_json_has_one_or_two_instruments(tmp_path: Path) -> None:
    content = {"version": 1.0, "videos": {"flute violin": ["8DHG_hVSw1o"], "tuba": ["XbOYpwFkn7o"]}}
    path = write(tmp_path / "m.json", json.dumps(content))
    rows = rows_of("music", path, "duet")
    assert [row["labels"] for row in rows] == [["flute", "violin"], ["tuba"]]
    with pytest.raises(ManifestError, match="'short' is not a YouTube id"):
        rows_of("music", write(path, '{"videos": {"tuba": ["short"]}}'), "duet")
    with pytest.raises(ManifestError, match=r"m\.json: not valid JSON: .*line 2"):
        rows_of("music", write(path, '{"videos":\n oops}'), "duet")
    with pytest.raises(ManifestError, match=r'expected \{"videos"'):
        rows_of("music", write(path, "[]"), "duet")


def test_boxes_of_duets_become_corners(tmp_path: Path) -> None:
    entry = {
        "file": "HnUOaSfTA6c_001_00037",
        "class_src1": "cello",
        "bbox_src1": [0.25, 0.25, 0.5, 0.25],
        "class_src2": "acoustic_guitar",
        "bbox_src2": [0.5, 0.5, 0.75, 0.25],
    }
    rows = rows_of("music", write(tmp_path / "d.json", json.dumps([entry])), "duet_boxes")
    assert (rows[0]["start_s"], rows[0]["end_s"], rows[0]["frame_times_s"]) == (37.0, 44.0, [0.0])
    assert annotations(rows[0]) == {
        "boxes": [[0.25, 0.25, 0.75, 0.5], [0.5, 0.5, 1.0, 0.75]],
        "box_labels": ["cello", "acoustic_guitar"],
        "num_boxes_clipped": 1,
        "num_boxes_dropped": 0,
    }


def test_vggss_boxes_are_clipped_and_those_without_area_dropped_and_counted(tmp_path: Path) -> None:
    entry = {
        "file": "zpWuikVorYg_000032",
        "class": "elk bugling",
        "bbox": [[0.5, 0.25, 1.5, 0.75], [0.375, 0.875, 0.75, -2.9e16], [0.5, 0.5, 0.5, 0.75], [0, 0, 1, 1]],
    }
    rows = rows_of("vgg-ss", write(tmp_path / "v.json", json.dumps([entry])), "test")
    assert annotations(rows[0]) == {
        "boxes": [[0.5, 0.25, 1.0, 0.75], [0.0, 0.0, 1.0, 1.0]],
        "num_boxes_clipped": 2,
        "num_boxes_dropped": 2,
    }
    assert rows[0]["frame_times_s"] == [5.0]
    assert (rows[0]["start_s"], rows[0]["end_s"]) == (32.0, 42.0)


@pytest.mark.parametrize("boxes", ["[[0, 0, 1]]", '[["a", 0, 1, 1]]', "[[NaN, 0, 1, 1]]", "null", "[3]"])
def test_an_invalid_box_is_refused(tmp_path: Path, boxes: str) -> None:
    content = f'[{{"file": "zpWuikVorYg_000032", "class": "NaN", "bbox":\n {boxes}}}]'
    with pytest.raises(ManifestError, match=r"entry 0: |v\.json: .*NaN is not a finite number \(line 2\)"):
        rows_of("vgg-ss", write(tmp_path / "v.json", content), "test")


VGGSOUNDER = """\
video_id,label,modality,background_music,static_image,voice_over
--i-y1v8Hy8_000000,child singing,AV,False,False,True
-0BIyqJj9ZU_000030,baby laughter,A,False,True,False
--i-y1v8Hy8_000000,"child speech, kid speaking",V,False,False,False
"""


def test_rows_of_one_clip_become_one_clip_of_several_labels(tmp_path: Path) -> None:
    rows = rows_of("vggsounder", write(tmp_path / "v.csv", VGGSOUNDER))
    assert [row["labels"] for row in rows] == [["child singing", "child speech, kid speaking"], ["baby laughter"]]
    assert annotations(rows[0]) == {
        "modality": {"child singing": "AV", "child speech, kid speaking": "V"},
        "background_music": False,
        "static_image": False,
        "voice_over": True,
    }
    with pytest.raises(ManifestError, match="line 3: unknown modality 'X'; known: A, V, AV"):
        rows_of("vggsounder", write(tmp_path / "v.csv", VGGSOUNDER.replace(",A,", ",X,")))
    with pytest.raises(ManifestError, match="line 2: voice_over is 'yes'"):
        rows_of("vggsounder", write(tmp_path / "v.csv", VGGSOUNDER.replace("True\n-0B", "yes\n-0B")))


S4 = "5rQzpw4J7ss_4,playing_glockenspiel\n5rQzpw4J7ss_1,playing_glockenspiel\nBhR74IRNrj4_1,race_car\n"


def test_frames_of_one_avsbench_video_become_one_clip(tmp_path: Path) -> None:
    rows = rows_of("avsbench-s4", write(tmp_path / "v.csv", S4), "val")
    assert [row["video_id"] for row in rows] == ["5rQzpw4J7ss", "BhR74IRNrj4"]
    assert rows[0]["frame_times_s"] == [0.9375, 3.9375]
    folder = "gt_masks/val/playing_glockenspiel/5rQzpw4J7ss"
    assert annotations(rows[0]) == {
        "masks": [f"{folder}/5rQzpw4J7ss_1.png", f"{folder}/5rQzpw4J7ss_4.png"],
        "mask_frames": [0, 3],
    }
    assert annotations(rows_of("avsbench-s4", tmp_path / "v.csv", "train")[0])["mask_frames"] == [0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("5rQzpw4J7ss_5,race_car", "line 4: 'race_car', but frames of the same video above are 'playing_glocken"),
        ("5rQzpw4J7ss_4,playing_glockenspiel", "line 4: frame 4 is listed twice"),
        ("5rQzpw4J7ss_0,playing_glockenspiel", "line 4: frame 0 "),
        ("5rQzpw4J7ss,race_car", "line 4: .* is not NAME_N,LABEL"),
        ("XrQzpw4J7ss_1,../x", "line 4: recipe|must lie below"),
    ],
)
def test_a_wrong_frame_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        rows_of("avsbench-s4", write(tmp_path / "v.csv", S4 + line), "val")


def test_a_frame_list_of_several_sources(tmp_path: Path) -> None:
    content = '0WxgIKuetYI_14_1,"man, piano"\nCNbSq__q-BY_1,dog\n'
    rows = rows_of("avsbench-ms3", write(tmp_path / "v.csv", content), "test_frames")
    assert [(row["video_id"], row["start_s"], row["end_s"]) for row in rows] == [
        ("0WxgIKuetYI", 14.0, 19.0),
        ("CNbSq__q-BY", 0.0, 5.0),
    ]
    assert rows[0]["labels"] == ["man", "piano"]


METADATA = """\
vid,uid,s_min,s_sec,a_obj,split,label
5rQzpw4J7ss,5rQzpw4J7ss_65000,1,5,emergency-car,train,v1s
5rQzpw4J7ss,5rQzpw4J7ss_70000,1,10,man_off-the-screen,val,v1m
BhR74IRNrj4,BhR74IRNrj4_0,0,0,man_dog,test,v2
"""


def test_avsbench_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "metadata.csv", METADATA)
    rows = rows_of("avsbench-avss", path)
    assert [(row["start_s"], row["end_s"], row["split"]) for row in rows] == [
        (65.0, 70.0, "train"),
        (70.0, 75.0, "val"),
        (0.0, 10.0, "test"),
    ]
    assert [row["labels"] for row in rows] == [["emergency-car"], ["man"], ["man", "dog"]]
    assert annotations(rows[0]) == {
        "uid": "5rQzpw4J7ss_65000",
        "subset": "v1s",
        "masks": ["v1s/5rQzpw4J7ss_65000/labels_semantic/0.png"],
        "mask_frames": [0],
    }
    assert annotations(rows[2])["mask_frames"] == list(range(10))
    assert [row["labels"] for row in rows_of("avsbench-ms3", path)] == [["man"]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("v1s", "v3", "line 2: unknown subset 'v3'; known: v1s, v1m, v2"),
        (",1,5,", ",1,x,", "line 2: 'x' is not a number"),
        (",1,5,", ",-2,5,", r"line 2: start -115\.0 is not 0 or more seconds"),
        (",1,5,", ",nan,5,", "line 2: start nan is not 0 or more seconds"),
        ("5rQzpw4J7ss_65000", "../../etc", "must lie below"),
        ("emergency-car", "hovercraft", "line 2: recipe avsbench-avss: label 'hovercraft'"),
    ],
)
def test_wrong_avsbench_metadata_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        rows_of("avsbench-avss", write(tmp_path / "metadata.csv", METADATA.replace(old, new)))


# Tables

CSV = """\
id,path,start,end,label,split,other
007,a/b.mp4,1.5,4,dog;cat,train,x
"x, y",,,,,val,
"""
SEMICOLON = TableOptions(label_separator=";")


def table_rows(path: Path, options: TableOptions | None = None, *splits: str) -> list[dict[str, Any]]:
    table = read_requests(load_recipe("table"), path, splits or None, options).select(REQUEST_SCHEMA.names)
    assert table.schema.equals(REQUEST_SCHEMA)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def expected_rows() -> list[dict[str, Any]]:
    common = {"frame_times_s": [], "annotations": "{}", "licence": ""}
    return [
        {"video_id": "007", "start_s": 1.5, "end_s": 4.0, "labels": ["dog", "cat"], "split": "train", "path": "a/b.mp4"}
        | common,
        {"video_id": "x, y", "start_s": 0.0, "end_s": None, "labels": [], "split": "val", "path": ""} | common,
    ]


def test_a_csv_table(tmp_path: Path) -> None:
    assert table_rows(write(tmp_path / "t.csv", CSV), SEMICOLON) == expected_rows()
    assert table_rows(write(tmp_path / "t.csv", b"\xef\xbb\xbf" + CSV.encode()), SEMICOLON) == expected_rows()
    assert table_rows(write(tmp_path / "t.csv", CSV.replace("\n", "\r\n").strip()), SEMICOLON) == expected_rows()
    assert table_rows(tmp_path / "t.csv")[0]["labels"] == ["dog;cat"]
    assert [row["video_id"] for row in table_rows(tmp_path / "t.csv", None, "val")] == ["x, y"]


def test_a_tsv_table(tmp_path: Path) -> None:
    content = "id\tstart\tend\tlabel\tsplit\tpath\n007\t1.5\t4\tdog;cat\ttrain\ta/b.mp4\nx, y\t\t\t\tval\t\n"
    assert table_rows(write(tmp_path / "t.tsv", content), SEMICOLON) == expected_rows()


@pytest.mark.parametrize(
    "content",
    [
        CSV.replace(",", " , ").replace('"x ,  y"', '"x, y"'),
        "".join(f"{'' if number == 0 else number - 1},{line}\n" for number, line in enumerate(CSV.splitlines())),
        CSV.encode("utf-16"),
        "\n".join(",".join(f'"{cell}"' for cell in row) for row in csv.reader(CSV.splitlines())),
        "\n".join("\t".join(row) for row in csv.reader(CSV.splitlines())),
        "\n".join("|".join(row) for row in csv.reader(CSV.splitlines())),
        CSV.replace("id,", "Video ID,").replace("start", "Start_Seconds").replace("train", "TRAIN"),
    ],
)
def test_a_table_as_other_programs_save_it(tmp_path: Path, content: str | bytes) -> None:
    assert table_rows(write(tmp_path / "t.csv", content), SEMICOLON) == expected_rows()


def test_a_jsonl_table(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "007", "start": 1.5, "end": 4, "label": ["dog", "cat"], "split": "train", "path": "a/b.mp4"},
        {"id": "x, y", "split": "val", "more": [1]},
    ]
    content = "\n\n".join(json.dumps(row) for row in rows)
    assert table_rows(write(tmp_path / "t.jsonl", content)) == expected_rows()


def test_a_line_of_a_jsonl_table_may_lack_what_later_ones_have(tmp_path: Path) -> None:
    late = {"id": "b", "start": 2, "end": 3, "label": ["dog"], "split": "test"}
    table = table_rows(write(tmp_path / "t.jsonl", f'{{"id": "a", "label": null}}\n{json.dumps(late)}\n'))
    assert [(row["start_s"], row["labels"], row["split"]) for row in table] == [
        (0.0, [], "train"),
        (2.0, ["dog"], "test"),
    ]


def test_a_parquet_table(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["007", "x, y"],
            "start": pa.array([1.5, None], pa.float32()),
            "end": pa.array([4, None], pa.int32()),
            "label": pa.array([["dog", "cat"], None], pa.large_list(pa.string())),
            "split": pa.array(["train", "val"]).dictionary_encode(),
            "path": ["a/b.mp4", None],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert table_rows(tmp_path / "t.parquet") == expected_rows()


def test_columns_by_other_names_and_ids_from_paths(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "file,from,class\na/b.c/d.mp4,2,dog\n")
    options = TableOptions(path_column="file", start_column="from", label_column="class")
    row = table_rows(path, options)[0]
    assert (row["video_id"], row["path"], row["start_s"], row["labels"]) == ("a/b.c/d", "a/b.c/d.mp4", 2.0, ["dog"])
    with pytest.raises(
        ConfigError, match=r"no column 'fil' for --path-column; did you mean file\? it has file, from, class"
    ):
        table_rows(path, TableOptions(path_column="fil"))
    by_names = table_rows(write(tmp_path / "t.csv", "file,begin,class\na/b.c/d.mp4,2,dog\n"))
    assert by_names == [row]
    with pytest.raises(ConfigError, match="no column of ids or of paths; it has fil, from, class"):
        table_rows(write(tmp_path / "t.csv", "fil,from,class\na/b.c/d.mp4,2,dog\n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "id,start\na,1\n\n\nb,x\n", "line 5: start is 'x', must be seconds"),
        ("t.csv", 'id,start\n"a\nb",1\nc,1,2\n', "line 4: 3 values for 2 columns"),
        ("t.csv", "id;start\na;1,5\n", "line 2: start is '1,5', .*: write a point in place of the comma, 1.5"),
        (
            "t.csv",
            "sep=;\nid;start\na;1\n",
            "line 1 is 'sep=;', which a spreadsheet writes for itself. Delete that line",
        ),
        ("t.csv", "id,split\na,train\nb,NA\n", "line 3: split is 'NA', which R, pandas and spreadsheets write where"),
        ("t.csv", "id,split\na,NaN\n", "line 2: split is 'NaN'.* an empty cell means train"),
        ("t.csv", "id,start\na,-1\n", r"line 2: start -1\.0 is not 0 or more seconds"),
        ("t.csv", "id,start\na,nan\n", "line 2: start nan is not 0 or more seconds"),
        ("t.csv", "id,start\na,inf\n", "line 2: start inf is not 0 or more seconds"),
        ("t.csv", "id,start,end\na,5,5\n", r"line 2: the clip ends at 5\.0 s"),
        ("t.csv", 'id,path\n"a\nb",x\n,y\n', "line 4: the clip has no id"),
        ("t.csv", "id,split\na,Train it\n", "line 2: unknown split 'train it'"),
        ("t.csv", "ytid,youtube_id\na,b\n", "ytid or youtube_id may be the column. Name one with --id-column"),
        ("t.csv", "id,path\na,/etc/passwd\n", "line 2: path '/etc/passwd' must lie below"),
        ("t.csv", "id,path\na,b/../../c\n", "line 2: path .* must lie below"),
        ("t.csv", "id,path\na,C:\\x\n", "line 2: path .* must lie below"),
        ("t.csv", "id\n", "lists no clips"),
        ("t.csv", "", "the table is empty"),
        ("t.csv", b"id\na\n\xff\n", "line 3 is not UTF-8 text. .*iconv -f cp1252 -t utf-8 t.csv > NEW"),
        ("t.csv", b"id,\xff\na,b\n", "line 1 is not UTF-8 text"),
        ("t.csv", "id,id\na,b\n", r"the header has the columns \['id'\] twice"),
        ("t.csv", "x\na\n", "it has x"),
        ("t.xls", "id\na\n", r"a table is one of \.csv, \.tsv, \.txt, \.jsonl, \.ndjson, \.parquet, not '\.xls'"),
        ("t.jsonl", '{"id": "a"}\n\n{"id": 3}\n', "line 3: id is 3, must be text"),
        ("t.jsonl", '{"id": "a", "start": 1}\n{"id": "b", "start": "1"}\n', "line 2: start is '1', must be a number"),
        ("t.jsonl", '{"id": "a"}\n{"id": \n', "line 2: not valid JSON"),
        (
            "t.jsonl",
            '{"id": "a", "start": 1}\n\n{"id": "b", "start": -2}\n',
            r"line 3: start -2\.0 is not 0 or more seconds",
        ),
        ("t.jsonl", '{"id": "a", "label": ["x", ""]}\n', "line 1: one of the labels is empty"),
        ("t.jsonl", '{"id": "a", "label": ["x", null]}\n', "line 1: one of the labels is empty"),
        ("t.jsonl", "[1]\n", "a JSON list, expected an object"),
        ("t.jsonl", "", "expected a JSON object"),
        ("t.parquet", "PAR1", "not a readable parquet file"),
    ],
)
def test_a_wrong_table_is_refused_with_the_line(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises((ManifestError, ConfigError), match=message) as raised:
        table_rows(write(tmp_path / name, content))
    assert name in str(raised.value)


def test_a_table_needs_a_file_and_known_splits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a table\. Give it with --list"):
        read_requests(load_recipe("table"))
    with pytest.raises(ConfigError, match="needs a table"):
        read_requests(load_recipe("table"), tmp_path)
    with pytest.raises(ConfigError, match=r"the list has no rows of \['test'\]; it has \['train', 'val'\]"):
        table_rows(write(tmp_path / "t.csv", CSV), None, "test")


def test_a_users_recipe_merges_rows_and_checks_labels(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\ntitle = "m"\nhomepage = ""\nlicence = ""\nkey = "{slug}_{start_ms}"\n'
        'labels = ["big dog", "cat"]\n[[lists]]\nfile = "l.csv"\nformat = "table"\nmerge = true\n'
        '[lists.options]\nid_column = "clip"\n'
    )
    lines = "clip,label,start\na,cat,0\nb,big_dog,0\na,Big-Dog,0\na,cat,0\na,cat,1\n"
    table = read_requests(load_recipe(recipe), write(tmp_path / "l.csv", lines))
    assert table.schema.equals(REQUEST_SCHEMA)
    found = [(row["video_id"], row["start_s"], row["labels"]) for row in table.to_pylist()]
    assert found == [("a", 0.0, ["cat", "big dog"]), ("b", 0.0, ["big dog"]), ("a", 1.0, ["cat"])]
    with pytest.raises(ManifestError, match=r"line 3: recipe mine: label 'cow'.*known: big dog, cat"):
        read_requests(load_recipe(recipe), write(tmp_path / "l.csv", "clip,label\na,cat\na,cow\n"))


# Folders


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_folder_is_sorted_and_labeled_by_parents(tmp_path: Path) -> None:
    touch(tmp_path, "z.mp4", "dog/b.MKV", "dog/a.webm", "val/cat/c.mov", "val/d.avi", "test/x/y/e.mp4")
    touch(tmp_path, "notes.txt", ".hidden.mp4", ".cache/f.mp4", "dog/frame.jpg")
    (tmp_path / "folder.mp4").mkdir()
    rows = folder_requests(tmp_path).to_pylist()
    assert [(row["path"], row["video_id"], row["labels"], row["split"]) for row in rows] == [
        ("dog/a.webm", "dog/a", ["dog"], "train"),
        ("dog/b.MKV", "dog/b", ["dog"], "train"),
        ("test/x/y/e.mp4", "test/x/y/e", ["y"], "test"),
        ("val/cat/c.mov", "val/cat/c", ["cat"], "val"),
        ("val/d.avi", "val/d", [], "val"),
        ("z.mp4", "z", [], "train"),
    ]
    assert {(row["start_s"], row["end_s"]) for row in rows} == {(0.0, None)}
    assert read_requests(load_recipe("folder"), tmp_path).equals(folder_requests(tmp_path))


def test_files_that_differ_only_in_their_suffix_keep_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.webm", "b.mp4")
    table = folder_requests(tmp_path)
    assert table.column("video_id").to_pylist() == ["a.mp4", "a.webm", "b"]
    assert len(set(clip_keys(load_recipe("folder"), table).to_pylist())) == 3


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "root/dog/a.mp4", "elsewhere/b.mp4")
    root = tmp_path / "root"
    (root / "dog" / "loop").symlink_to(root, target_is_directory=True)
    (root / "again").symlink_to(root / "dog", target_is_directory=True)
    (root / "far").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "broken.mp4").symlink_to(tmp_path / "none.mp4")
    assert folder_requests(root).column("path").to_pylist() == ["dog/a.mp4", "far/b.mp4"]


def test_a_folder_without_media_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")
    with pytest.raises(ManifestError, match=r"no media files; known suffixes: \.3gp \.avi .* \.wmv\. Give a folder"):
        folder_requests(tmp_path)
    with pytest.raises(ManifestError, match="no such folder"):
        folder_requests(tmp_path / "a.txt")
    with pytest.raises(ConfigError, match=r"needs the folder of media\. Give it with --list"):
        read_requests(load_recipe("folder"))


TITLES = (
    "音楽　ライブ.mp4", "no\u00a0break.mp4", "👩\u200d🎤 sings.mp4", "\u200fשלום\u200e.mp4",
    "soft\u00adhyphen.mp4", "a\u202eb.mp4",
)  # fmt: skip


def test_titles_in_any_script_are_names(tmp_path: Path) -> None:
    touch(tmp_path, *TITLES)
    assert folder_requests(tmp_path).column("path").to_pylist() == sorted(TITLES)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        (b"a\xff.mp4", "a%FF.mp4"),
        (b"a\nb.mp4", "a%0Ab.mp4"),
        (b"\x1b[31m.mp4", "%1B[31m.mp4"),
        ("a\u2028b\x85.mp4".encode(), "a%E2%80%A8b%C2%85.mp4"),
    ],
)
def test_a_name_that_cannot_be_printed_is_a_row_with_an_escaped_path(tmp_path: Path, name: bytes, escaped: str) -> None:
    touch(tmp_path, "b.mp4")
    try:
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).touch()
    except OSError:
        pytest.skip("the file system takes no such names")
    assert sorted(folder_requests(tmp_path).column("path").to_pylist()) == sorted([escaped, "b.mp4"])


# Lists that choose among clips


def test_clip_names_in_every_spelling(tmp_path: Path) -> None:
    content = "a/-_Ab3_f-I2_.mp4\n-_Ab3_f-I2__30000_40000\n-_Ab3_f-I2__000030.mp4,a label, with commas\n"
    assert read_clip_names(write(tmp_path / "n.txt", content)).to_pylist() == [
        {"video_id": "-_Ab3_f-I2_", "start_s": None, "end_s": None},
        {"video_id": "-_Ab3_f-I2_", "start_s": 30.0, "end_s": 40.0},
        {"video_id": "-_Ab3_f-I2_", "start_s": 30.0, "end_s": None},
    ]


def test_a_gallery(tmp_path: Path) -> None:
    content = {"data": [{"video_id": "glLQrEijrKg_000300", "labels": "vgg_47"}, {"video_id": "--4gqARaEJE"}]}
    table = read_clip_names(write(tmp_path / "g.json", json.dumps(content)))
    assert table.column("start_s").to_pylist() == [300.0, None]
    with pytest.raises(ManifestError, match="entry 1: 'x' is not the name of a clip"):
        read_clip_names(write(tmp_path / "g.json", '{"data": [{"video_id": "glLQrEijrKg"}, {"video_id": "x"}]}'))
    with pytest.raises(ManifestError, match=r'expected \{"data"'):
        read_clip_names(write(tmp_path / "g.json", "[]"))


def test_a_list_may_have_clips_of_another_length(tmp_path: Path) -> None:
    recipe = load_recipe("vggsound")
    shorter = dataclasses.replace(recipe.lists[0], clip_seconds=3.0)
    table = read_requests(dataclasses.replace(recipe, lists=(shorter,)), write(tmp_path / "v.csv", VGG))
    assert table.column("end_s").to_pylist() == [4.0, 33.0]
    assert isinstance(recipe.lists[0], ListSpec)
