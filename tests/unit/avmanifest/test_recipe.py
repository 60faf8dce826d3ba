import pickle
from pathlib import Path

import pytest

from avmanifest.errors import ConfigError
from avmanifest.recipe import Recipe, TableOptions, load_recipe, recipe_names

GOOD = """\
name = "mine"
title = "Mine"
homepage = "https://example.org"
licence = "CC0-1.0"
key = "mine-{video_id}_{start}"
clip_seconds = 10
labels = ["a b", "c"]

[aliases]
"bee" = "a b"

[[lists]]
file = "mine.csv"
format = "table"
splits = ["train", "val"]
counts = { train = 3 }
merge = true

[lists.options]
id_column = "clip"
label_separator = ";"
"""


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def test_a_users_recipe_is_loaded_by_path(tmp_path: Path) -> None:
    recipe = load(tmp_path, GOOD)
    assert (recipe.name, recipe.clip_seconds, recipe.labels) == ("mine", 10.0, ("a b", "c"))
    assert recipe.splits == ("train", "val")
    assert recipe.counts == {"train": 3}
    assert recipe.lists[0].options == TableOptions(id_column="clip", label_separator=";")
    assert load_recipe(str(tmp_path / "mine.toml")) == recipe


def test_a_recipe_is_picklable() -> None:
    recipe = load_recipe("audioset")
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_an_unknown_name_lists_the_known() -> None:
    said = r"unknown recipe 'vgsound'; did you mean vggsound or vggsounder\? known: .*audioset, .*vggsound, "
    with pytest.raises(ConfigError, match=said):
        load_recipe("vgsound")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: not a readable recipe"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "clip_seconds = 10",
            "clip_second = 10",
            r"mine\.toml:6: unknown key 'clip_second' of a recipe; did you mean clip_seconds\? known: name, ",
        ),
        ("clip_seconds = 10", 'clip_seconds = "10"', r"mine\.toml:6: clip_seconds must be a number, not '10'"),
        (
            "clip_seconds = 10",
            'published = "May 2020"',
            r"mine\.toml:6: published 'May 2020' must be a year or YYYY-MM-DD",
        ),
        ("clip_seconds = 10", "clip_seconds = 0", r"mine\.toml:6: clip_seconds must be above 0"),
        ("clip_seconds = 10", "clip_seconds = true", r"mine\.toml:6: clip_seconds must be a number"),
        ('title = "Mine"', "title = 3", r"mine\.toml:2: title must be text, not 3"),
        ('title = "Mine"\n', "", r"mine\.toml: a recipe needs the key 'title'"),
        ('name = "mine"', 'name = "../mine"', r"mine\.toml:1: name '\.\./mine'"),
        ('["a b", "c"]', '["a b", "a b"]', r"mine\.toml:7: labels must be a list of texts, none twice"),
        ('["a b", "c"]', '["a b", "A_B"]', r"mine\.toml:7: 'A_B' is a spelling of both"),
        ('"bee" = "a b"', '"bee" = "d"', r"alias 'bee' is for 'd'"),
        ('"bee" = "a b"', '"bee" = 1', r"mine\.toml:9: aliases must be a table of texts"),
        (
            'format = "table"',
            'format = "tabel"',
            r"mine\.toml:14: unknown list format 'tabel'; did you mean table\? known: pattern, .*adding-a-dataset",
        ),
        ('format = "table"\n', "", r"a list needs the key 'format'"),
        ("merge = true", "merge = 1", r"mine\.toml:17: merge must be true or false, not 1"),
        ("merge = true", "masked_frames = -1", r"mine\.toml:17: masked_frames must be a whole number"),
        ("merge = true", 'sha256 = "abc"', r"mine\.toml:17: sha256 'abc' is not 64"),
        ("merge = true", 'masks = "{split.__class__}/x"', r"mine\.toml:17: masks .* may contain only the fields"),
        ("merge = true", 'masks = "{frame"', r"mine\.toml:17: masks .* may contain only the fields"),
        ("train = 3", "test = 3", r"counts has \['test'\], which are not splits"),
        ('["train", "val"]', '["Train"]', r"mine\.toml:15: split 'Train' must be lower-case"),
        ('file = "mine.csv"', 'file = "../mine.csv"', r"must be a name without a folder"),
        (
            "id_column",
            "id_colum",
            r"mine\.toml:20: unknown key 'id_colum' .*; did you mean id_column\? known: id_column, ",
        ),
        ("mine-{video_id}_{start}", "mine-{start}", r"mine\.toml:5: key .* must contain \{video_id\} or \{slug\}"),
        ("mine-{video_id}_{start}", "{video_id}", r"mine\.toml:5: key .* must begin with"),
        ("mine-{video_id}_{start}", "mine.{video_id}", r"mine\.toml:5: key "),
        ("mine-{video_id}_{start}", "mine-{video_id}_{end}", r"mine\.toml:5: key "),
        ("[[lists]]", "[lists]", r"mine\.toml:12: lists must be tables"),
        ("[aliases]", "[[aliases]]", r"mine\.toml:9: aliases must be a table of texts"),
        ("[aliases]", "[aliases", r"mine\.toml: not valid TOML: .*line 9"),
        ("[aliases]", "[spellings]", r"unknown key 'spellings'"),
        ('title = "Mine"', 'title = "Mine"\nlabels_from = "vggsound"', r"mine\.toml:3: labels_from already sets"),
        ('title = "Mine"', 'title = "Mine"\ndefault_splits = ["test"]', r"no list has the splits \['test'\]"),
    ],
)
def test_a_wrong_recipe_is_refused_with_file_line_and_reason(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, GOOD.replace(old, new))


LINES = GOOD.partition("merge")[0].replace('format = "table"', 'format = "pattern"\npattern = "(?P<clip>.*)"')
COLUMNS = GOOD.partition("merge")[0].replace('format = "table"', 'format = "columns"\ncolumns = ["_", "path", "_"]')


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (LINES, '"(?P<clip>.*)"', '"(?P<clip>.*"', r"mine\.toml:15: pattern .* is not a regular expression"),
        (LINES, "<clip>", "<name>", r"mine\.toml:15: pattern names 'name'; known: video_id, clip, path, .*annotations"),
        (LINES, "<clip>", "<label>", r"mine\.toml:15: pattern must have one of video_id .*, not label"),
        (LINES, "(?P<clip>.*)", "(?P<clip>.*),(?P<video_id>.*)", r"must have one of video_id"),
        (LINES, "(?P<clip>.*)", ".*", r"mine\.toml:15: pattern must have one of .* not nothing"),
        (LINES, 'pattern = "(?P<clip>.*)"\n', "", r"pattern must have one of .* not nothing"),
        (LINES, "splits =", 'unit = "us"\nsplits =', r"mine\.toml:16: unknown unit 'us'; known: auto, s, ms"),
        (LINES, "splits =", "unit = 1\nsplits =", r"mine\.toml:16: unit must be text, not 1"),
        (LINES, "splits =", 'annotations = { q = "int" }\nsplits =', r"mine\.toml:16: pattern has no 'q'; it has clip"),
        (LINES, "splits =", 'annotations = { q = "date" }\nsplits =', r"mine\.toml:16: unknown kind 'date'"),
        (COLUMNS, '"_", "path", "_"', '"path", "path"', r"mine\.toml:15: columns must be a list of texts, none twice"),
        (COLUMNS, '"_", "path", "_"', '"path", "x"', r"mine\.toml:15: columns names 'x'; known: "),
        (COLUMNS, "splits =", 'delimiter = "ab"\nsplits =', r"mine\.toml:16: delimiter 'ab' must be one character"),
        (COLUMNS, "splits =", "delimiter = '\"'\nsplits =", r"mine\.toml:16: delimiter .* must be one character"),
    ],
)
def test_a_pattern_or_columns_without_clips_are_refused(
    tmp_path: Path, text: str, old: str, new: str, message: str
) -> None:
    assert load(tmp_path, text).lists[0].skip_header is False
    assert old in text
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text.replace(old, new))


def test_labels_of_an_unknown_recipe_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace('labels = ["a b", "c"]', 'labels_from = "vgg"').replace('[aliases]\n"bee" = "a b"\n', "")
    with pytest.raises(ConfigError, match=r"mine\.toml:7: unknown recipe 'vgg'; did you mean vgg-ss\? known: "):
        load(tmp_path, text)


def test_a_recipe_needs_a_list(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs at least one \[\[lists\]\]"):
        load(tmp_path, GOOD.partition("[[lists]]")[0])


def test_names_are_sorted_and_complete() -> None:
    names = recipe_names()
    assert names == sorted(names)
    assert {"vggsound", "vggsound-music", "vggsound-instruments", "audioset", "music", "vgg-ss"} <= set(names)
    assert {"flickr-soundnet", "msr-vtt", "vggsounder", "folder", "table", "synth"} <= set(names)
    assert {"avsbench-s4", "avsbench-ms3", "avsbench-avss"} <= set(names)


def test_aliases_name_splits_of_the_lists(tmp_path: Path) -> None:
    def with_aliases(aliases: str) -> str:
        return GOOD.replace("[aliases]", f"[split_aliases]\n{aliases}\n\n[aliases]")

    recipe = load(tmp_path, with_aliases('all = ["train", "val"]'))
    assert recipe.split_aliases == {"all": ("train", "val")}
    assert load(tmp_path, GOOD).split_aliases == {}
    for aliases, said in (
        ('all = ["train", "dev"]', r"alias 'all' must name one or more of \['train', 'val'\], not \['train', 'dev'\]"),
        ("all = []", "alias 'all' must name one or more"),
        ('val = ["train"]', "alias 'val' is also a split of a list"),
        ('AS-2M = ["train"]', "split 'AS-2M' must be lower-case letters"),
        ('all = "train"', "split_aliases must be a table of lists of texts, none twice in a list, not"),
        ('all = ["train", "train"]', "none twice in a list"),
        ("all = [1]", "a table of lists of texts"),
    ):
        with pytest.raises(ConfigError, match=said):
            load(tmp_path, with_aliases(aliases))
