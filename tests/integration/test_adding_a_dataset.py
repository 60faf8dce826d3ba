"""docs/adding-a-dataset.md, done from scratch: what it says to save is saved, what it says to run is run."""

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from avcli.main import app
from avmanifest.recipe import load_recipe
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from tests.videos import draw_folder

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-dataset.md"


def test_the_page_from_its_lists_to_the_shards(tmp_path, monkeypatch):
    saved = re.findall(r"`([\w.]+\.(?:txt|toml))`:\n\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert [name for name, _ in saved] == ["trainSet.txt", "testSet.txt", "ave.toml"]
    for name, content in saved:
        (tmp_path / name).write_text(content)
    draw_folder(tmp_path / "videos", ["RUhOCu3LNXM.mp4", "b/-_A__b-C_3_.mp4", "0123456789a.mp4", "Zz-9876543_.mp4"])
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = commands.strip().splitlines()
    assert [shlex.split(line)[:2] for line in lines] == [["avkit", "prepare"], ["avkit", "inspect"]]
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, result.output
    rows = {
        row["video_id"]: row
        for split in ("train", "test")
        for row in read_table(tmp_path / f"data/ave/manifest/{split}.parquet", CLIP_SCHEMA).to_pylist()
    }
    assert {video_id: (row["key"], row["labels"], row["split"], row["status"]) for video_id, row in rows.items()} == {
        "RUhOCu3LNXM": ("ave-RUhOCu3LNXM_0", ["Church bell"], "train", "ok"),
        "-_A__b-C_3_": ("ave--_A__b-C_3__100", ["Bark"], "train", "ok"),
        "0123456789a": ("ave-0123456789a_200", ["Female speech, woman speaking"], "train", "ok"),
        "Zz-9876543_": ("ave-Zz-9876543__0", ["Bark"], "test", "ok"),
    }
    assert json.loads(rows["0123456789a"]["annotations"])["quality"] == "bad"
    assert rows["-_A__b-C_3_"]["start_s"] == 0.1


def test_the_patterns_of_the_page_are_those_of_the_recipes():
    (pattern,) = re.findall(r"^pattern = '(.*)'$", PAGE.read_text(), re.MULTILINE)
    assert load_recipe("vggsound").lists[0].pattern == pattern
