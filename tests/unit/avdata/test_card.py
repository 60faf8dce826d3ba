"""The dataset card and Croissant: what they count, and what hostile text cannot do in them."""

import json
import shutil
from dataclasses import replace

import yaml

from avdata.prepare.card import write_catalog
from avdata.prepare.catalog import coverage
from avmanifest.files import sha256_of_file
from avmanifest.layout import Layout
from avmanifest.recipe import load_recipe
from tests.shards import draw_dataset
from tests.videos import SMALL

HOSTILE = "a|b <script>alert(1)</script>\n## x"


def written(tmp_path, **drawn):
    root = draw_dataset(tmp_path / "out", num_samples=5, shard_size=3, failed=[1], **drawn)
    draw_dataset(root, num_samples=2, shard_size=3, split="test", first=3)
    layout = Layout(root)
    write_catalog(layout, replace(load_recipe("vggsound"), labels=()), SMALL, coverage(layout))
    return layout


def front_matter(layout):
    _, matter, text = layout.card.read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def test_the_card_counts_samples_failures_and_shared_videos(tmp_path):
    layout = written(tmp_path)
    matter, text = front_matter(layout)
    num_bytes = {
        split: sum(path.stat().st_size for path in (layout.root / split).glob("*.tar")) for split in ("train", "test")
    }
    assert matter["dataset_info"]["splits"] == [
        {"name": "train", "num_bytes": num_bytes["train"], "num_examples": 4},
        {"name": "test", "num_bytes": num_bytes["test"], "num_examples": 2},
    ]
    assert matter["configs"][0]["data_files"][0] == {"split": "train", "path": ["train/00000.tar", "train/00001.tar"]}
    assert "| train | `media_corrupt` | 1 | the file cannot be decoded |" in text
    assert "| train and test | 2 |" in text
    assert "| rain | 1 of 1 | " in text


def test_croissant_names_every_shard_with_its_hash(tmp_path):
    layout = written(tmp_path)
    content = json.loads(layout.croissant.read_text())
    files = {entry["contentUrl"]: entry["sha256"] for entry in content["distribution"]}
    assert files == {name: sha256_of_file(layout.root / name) for name in files}
    assert {"train/00000.tar", "train/00001.tar", "test/00000.tar", "manifest/train.parquet"} <= files.keys()
    columns = {field["source"]["extract"]["column"] for field in content["recordSet"][0]["field"]}
    assert {"key", "status", "rms_dbfs"} <= columns


def test_labels_from_outside_cannot_break_the_cards_tables(tmp_path):
    _, text = front_matter(written(tmp_path, labels=lambda sample: [HOSTILE]))
    assert "<script>" not in text
    assert "\n## x" not in text
    assert "| a\\|b &lt;script&gt;alert(1)&lt;/script&gt; ## x | 4 of 5 |" in text


def test_the_same_dataset_gives_the_same_catalog(tmp_path):
    layout = written(tmp_path)
    names = [layout.card, layout.croissant, *layout.energon.iterdir()]
    before = {path: path.read_bytes() for path in names}
    shutil.rmtree(layout.energon)
    write_catalog(layout, replace(load_recipe("vggsound"), labels=()), SMALL, coverage(layout))
    assert {path: path.read_bytes() for path in names} == before
