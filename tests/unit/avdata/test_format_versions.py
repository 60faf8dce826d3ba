"""Datasets of version 1, whose log-mels are stored band after band, give the same batches as those of version 2."""

import json
from pathlib import Path

import numpy as np
import pytest

from avdata.load import AllFramesView, EvalView, Loader, LoaderConfig, TrainView, View, evaluation_config, open_dataset
from avdata.prepare.description import read_description
from avdata.shards import pack_npy
from avmanifest.errors import ManifestError, ShardError
from avmanifest.layout import Layout
from avmanifest.records import parse_marker
from tests.shards import draw_dataset

CONFIG = LoaderConfig(batch_size=5, num_workers=0)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset `drawn` as version 1 stored it."""
    root = draw_dataset(tmp_path_factory.mktemp("older") / "set", pack_mel=pack_npy)
    for path in (Layout(root).dataset_json, *root.glob("train/*_stats.json")):
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format_version": 1}))
    return root


@pytest.mark.parametrize(
    "view", [TrainView(image_size=8), EvalView(image_size=8, windows=3), AllFramesView(image_size=8, num_frames=5)]
)
def test_both_versions_give_the_same_batches(drawn: Path, older: Path, view: View) -> None:
    batches = zip(*(Loader(open_dataset(root), view, CONFIG).arrays() for root in (drawn, older)), strict=True)
    for new, old in batches:
        assert new.keys == old.keys
        for name in ("images", "log_mel", "window_start_s", "frame_time_s", "labels"):
            assert np.array_equal(getattr(new, name), getattr(old, name))
            assert getattr(new, name).strides == getattr(old, name).strides


def test_the_columns_of_a_window_follow_each_other_in_the_shard_and_in_the_batch(drawn: Path) -> None:
    (batch, *_) = Loader(open_dataset(drawn), EvalView(image_size=8), evaluation_config(CONFIG)).arrays()
    assert batch.log_mel.transpose(0, 2, 1).flags.c_contiguous
    tar = (drawn / "train/00000.tar").read_bytes()
    assert batch.log_mel[0].tobytes("F") in tar


def test_prepare_does_not_go_on_with_an_older_version(older: Path) -> None:
    path = Layout(older).dataset_json
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"tools": {}}))
    with pytest.raises(ManifestError, match=r"format version 1, this avkit writes 2.*avkit dataset migrate"):
        read_description(Layout(older))


@pytest.mark.parametrize(
    ("version", "advice"), [(3, "reads 1 and 2. Update avkit"), ("2", "Restore"), (0, "Restore"), (True, "Restore")]
)
def test_a_version_that_is_not_read_is_refused(older: Path, drawn: Path, version: object, advice: str) -> None:
    marker = json.loads((drawn / "train/00000_stats.json").read_bytes()) | {"format_version": version}
    with pytest.raises(ShardError, match=advice):
        parse_marker(json.dumps(marker).encode(), "a marker")
