"""The dataset card and Croissant: their counts, and that hostile text cannot break them."""

import json
import shutil
from dataclasses import replace

import pytest
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
    sample = {"seconds": 1.0, "num_frames": 1, "shard_size": 3}
    root = draw_dataset(tmp_path / "out", num_samples=5, failed=[1], **sample, **drawn)
    draw_dataset(root, num_samples=2, split="test", first=3, **sample)
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


def test_the_card_uses_the_hubs_license_tasks_tags_and_size_category(tmp_path):
    layout = written(tmp_path)
    matter, _ = front_matter(layout)
    assert (matter["license"], matter["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert matter["task_categories"] == ["audio-classification", "video-classification"]
    assert {"audio-visual", "webdataset", "vggsound"} <= set(matter["tags"])


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("not stated; the videos are their uploaders'", {"license": "unknown"}),
        ("", {"license": "unknown"}),
        ("yours to know", {"license": "other", "license_name": "yours to know"}),
    ],
)
def test_a_license_is_one_of_the_hubs_identifiers_or_other(tmp_path, licence, said):
    layout = written(tmp_path)
    write_catalog(layout, replace(load_recipe("vggsound"), labels=(), licence=licence), SMALL, coverage(layout))
    matter, _ = front_matter(layout)
    assert {name: matter[name] for name in ("license", "license_name") if name in matter} == said


def test_unlabeled_samples_have_no_classification_task(tmp_path):
    layout = written(tmp_path, labels=lambda sample: [])
    for name, tasks in (("folder", ["feature-extraction"]), ("vgg-ss", ["object-detection"])):
        write_catalog(layout, replace(load_recipe(name), labels=()), SMALL, without_classes(coverage(layout)))
        assert front_matter(layout)[0]["task_categories"] == tasks
    dataset = yaml.safe_load((layout.energon / "dataset.yaml").read_text())
    assert (dataset["sample_type"]["__class__"], list(dataset["field_map"])) == ("ImageSample", ["image"])


def without_classes(found):
    return {split: counts | {"classes": {}} for split, counts in found.items()}


def test_size_categories_are_the_hubs(tmp_path):
    layout = written(tmp_path)
    counted = coverage(layout)
    for number, category in (
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (183_730, "100K<n<1M"),
        (2_000_000, "1M<n<10M"),
        (10**7, "n>10M"),
    ):
        found = {split: counts | {"ok": number if split == "train" else 0} for split, counts in counted.items()}
        write_catalog(layout, load_recipe("vggsound"), SMALL, found)
        assert front_matter(layout)[0]["size_categories"] == [category]


def test_croissant_keeps_its_date_and_has_a_citation(tmp_path, monkeypatch):
    layout = written(tmp_path)
    assert croissant_of(layout)["datePublished"] == "2020"
    assert "VGGSound" in croissant_of(layout)["citeAs"]
    folder = load_recipe("folder")
    layout.croissant.unlink()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    write_catalog(layout, folder, SMALL, coverage(layout))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "864000")
    write_catalog(layout, folder, SMALL, coverage(layout))
    assert croissant_of(layout)["datePublished"] == "1970-01-02"
    assert croissant_of(layout)["citeAs"] == "A folder of videos. Prepared by avkit."


def croissant_of(layout):
    return json.loads(layout.croissant.read_text())
