"""Which clips are mixed: in training, by lists, by drawing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avmanifest.errors import AvkitError, ConfigError, ManifestError
from avmodel.evaluate.data import open_split
from avmodel.evaluate.separation.mixtures import (
    DRAWN,
    Mixture,
    choose_mixtures,
    draw_mixtures,
    partners,
    read_mixtures,
    write_mixtures,
)
from tests.evaluating import DATA, TRAIN, change_manifest
from tests.runs import DrawnBatches
from tests.shards import sample_key

LISTS = Path(__file__).parents[4].parent / "shared" / "data" / "meta"


def choose(wanted: str, data: Path, **changes: int):
    test = open_split(DATA, data, "test")
    return choose_mixtures(wanted, DATA, test, **{"sources": 2, "count": 6, "seed": 0, **changes})


def test_every_sample_is_first_once_and_partner_once() -> None:
    batch = DrawnBatches().draw(range(8))
    rows = partners(batch, 3, seed=0)
    assert rows.shape == (3, 8)
    assert rows[0].tolist() == list(range(8))
    assert all(sorted(row) == list(range(8)) for row in rows.tolist())
    assert all(len(set(column)) == 3 for column in rows.T.tolist())


def test_partners_are_a_function_of_seed_epoch_and_positions() -> None:
    batch = DrawnBatches(samples=16).draw(range(8))
    same = replace(batch, images=torch.zeros_like(batch.images))
    rows = partners(batch, 2, seed=0)
    np.testing.assert_array_equal(rows, partners(same, 2, seed=0))
    others = [
        partners(batch, 2, seed=1),
        partners(replace(batch, epoch=1), 2, seed=0),
        partners(replace(batch, positions=batch.positions + 8), 2, seed=0),
    ]
    assert all((rows != other).any() for other in others)
    with pytest.raises(AvkitError, match=r"a batch of 1 sample \(clip-0\) for mixtures of 2"):
        partners(DrawnBatches().draw(range(1)), 2, seed=0)


def test_drawn_mixtures_are_of_different_classes_and_the_seeds(splits: Path) -> None:
    test = open_split(DATA, splits, "test")
    found = draw_mixtures(test, sources=3, count=10, seed=0).mixtures
    assert len(found) == 10
    assert len({frozenset(mixture.keys) for mixture in found}) == 10
    for mixture in found:
        assert len({int(key[-5:]) % 3 for key in mixture.keys}) == 3
    assert len({mixture.keys[0] for mixture in found}) == 10
    assert found == draw_mixtures(test, sources=3, count=10, seed=0).mixtures
    assert found != draw_mixtures(test, sources=3, count=10, seed=1).mixtures
    with pytest.raises(ConfigError, match="15 clips of 3 classes give no mixture of 4"):
        draw_mixtures(test, sources=4, count=10, seed=0)


def test_a_drawn_list_can_be_given_again(splits: Path, tmp_path: Path) -> None:
    drawn = choose(DRAWN, splits).mixtures
    path = write_mixtures([one._replace(kind="Easy") for one in drawn], tmp_path)
    again = choose(str(path), splits)
    assert again.mixtures == [one._replace(kind="Easy") for one in drawn]
    assert again.note == "mixtures of mixtures.json: 6 of its 6"


def test_pairs_are_found_by_video_and_start(own: Path, tmp_path: Path) -> None:
    change_manifest(own, "test", video_id=lambda row: f"video{row:06d}", start_s=30.0)
    lines = [
        "source_1,source_2,class_1,class_2,sep_type",
        "video000000_000030,video000001_000030,flute,piano,Easy",
        "video000002_000030,absent00000_000030,harp,piano,Hard",
        "video000004_000030,video000001_000030,harp,piano,Hard",
    ]
    path = tmp_path / "pairs.csv"
    path.write_text("\n".join(lines) + "\n")
    found = choose(str(path), own)
    keys = [sample_key(TRAIN + row) for row in (0, 1, 4)]
    assert found.mixtures == [Mixture((keys[0], keys[1]), "Easy"), Mixture((keys[2], keys[1]), "Hard")]
    assert found.note == "mixtures of pairs.csv: 2 of its 3; 1 of their clips are missing"


def test_a_datasets_own_list_goes_before_drawing(own: Path) -> None:
    assert len(choose("auto", own).mixtures) == 6
    pair = {"mixtures": [{"index": 0, "with": [sample_key(TRAIN + 1)], "kind": "Hard"}]}
    change_manifest(own, "test", annotations=lambda row: json.dumps(pair) if row == 3 else "{}")
    found = choose("auto", own)
    assert found.mixtures == [Mixture((sample_key(TRAIN + 3), sample_key(TRAIN + 1)), "Hard")]
    assert "the dataset's own list: 1 of its 1" in found.note


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ('{"mixtures": [{"keys": ["a", "b"]}]}', ConfigError, "none of its 1 mixtures has all its clips"),
        ('{"mixtures": [{"keys": ["FIRST", "FIRST"]}]}', ConfigError, "same number of different clips"),
        ('{"mixtures": [{"keys": ["FIRST"]}]}', ConfigError, r"mixtures of \[1\] clips"),
        ('{"mixtures": 3}', ManifestError, "not a list of mixtures"),
        ('{"mixtures": [{"keys": [3, 4]}]}', ManifestError, "must be strings"),
        ("{", ManifestError, "not a list of mixtures"),
        ("source_1,source_2\n", ManifestError, "pairs"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    splits: Path, tmp_path: Path, text: str, error: type[AvkitError], said: str
) -> None:
    path = tmp_path / "pairs"
    path.write_text(text.replace("FIRST", sample_key(TRAIN)))
    with pytest.raises(error, match=said):
        choose(str(path), splits)
    with pytest.raises(ConfigError, match="cannot be read"):
        choose(str(tmp_path / "nothing"), splits)


def test_mixtures_of_audio_paths_are_found_by_video(own: Path, tmp_path: Path) -> None:
    change_manifest(own, "test", video_id=lambda row: f"video{row:06d}")
    path = tmp_path / "ccol_test_sep.csv"
    path.write_text("/flute/video000000.wav, /cello/video000003.wav\n/cello/video000001.wav, /flute/absent00000.wav\n")
    found = choose(str(path), own)
    assert found.mixtures == [Mixture((sample_key(TRAIN), sample_key(TRAIN + 3)), "")]
    assert found.note == "mixtures of ccol_test_sep.csv: 1 of its 2; 1 of their clips are missing"


@pytest.mark.skipif(not LISTS.is_dir(), reason="the published lists are not here")
@pytest.mark.parametrize(
    ("name", "count", "clips", "kinds"),
    [("deepavfusion/vggmusic_eval_ss.csv", 1201, 2, {"Easy", "Hard"}), ("music/ccol_test_sep.csv", 260, 4, {""})],
)
def test_published_lists_are_read(splits: Path, name: str, count: int, clips: int, kinds: set[str]) -> None:
    found = read_mixtures(LISTS / name, DATA, open_split(DATA, splits, "test"))
    assert len(found) == count
    assert {len(mixture.keys) for mixture in found} == {clips}
    assert {mixture.kind for mixture in found} == kinds
