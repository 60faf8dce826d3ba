"""Several splits of a dataset are one: order, ids, aliases, resumes, and splits that are not there."""

import json
from pathlib import Path

import pytest

from avdata.load import (
    CacheConfig,
    EvalView,
    Loader,
    LoaderConfig,
    described_parts,
    evaluation_config,
    open_dataset,
    open_mixture,
    splits_of,
)
from avdata.retrying import RetryPolicy
from avmanifest.errors import ConfigError, MissingSplit
from avmanifest.keys import subset_id
from avmanifest.layout import Layout
from tests.serving import serving
from tests.shards import draw_dataset

COUNTS = {"balanced": 3, "unbalanced": 7, "eval": 2}
BOTH = "balanced,unbalanced"


@pytest.fixture(scope="module")
def audioset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with the splits and the aliases of AudioSet; samples 0 to 11, of which number 11 is silent."""
    root, first = tmp_path_factory.mktemp("as") / "out", 0
    for split, count in COUNTS.items():
        draw_dataset(
            root, count, 3, split=split, first=first, seconds=1.0, num_frames=1, flac=False,
            flags=lambda number: {"silent": number == 11},
        )  # fmt: skip
        first += count
    return as_recipe(root, "audioset")


def as_recipe(root: Path, name: str) -> Path:
    path = Layout(root).dataset_json
    path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": {"name": name}}))
    return root


def numbers(source: object, split: str | list[str] | None = None, **options: object) -> list[int]:
    keys = open_dataset(source, split, **options).keys.to_pylist()  # type: ignore[arg-type]
    return [int(key.removeprefix("clip-")) for key in keys]


def test_splits_follow_each_other_as_they_are_named(audioset: Path) -> None:
    assert numbers(audioset, BOTH) == list(range(10))
    assert numbers(audioset, ["unbalanced", "balanced"]) == [*range(3, 10), *range(3)]
    assert numbers(audioset, "eval, balanced") == [10, 11, 0, 1, 2]
    assert numbers(audioset, "eval") == [10, 11]


def test_aliases_of_the_recipe(audioset: Path) -> None:
    assert numbers(audioset) == numbers(audioset, "train") == numbers(audioset, "AS-2M") == list(range(10))
    assert numbers(audioset, "as-20k") == [0, 1, 2]
    assert numbers(audioset, "test") == [10, 11]
    assert splits_of(str(audioset), "AS-2M,test", CacheConfig()) == ("balanced", "unbalanced", "eval")


def test_the_same_splits_have_one_subset_id_in_any_order(audioset: Path) -> None:
    both = open_dataset(audioset, BOTH)
    turned = open_dataset(audioset, "unbalanced,balanced")
    assert subset_id(both.keys) == subset_id(turned.keys) != subset_id(open_dataset(audioset, "balanced").keys)
    assert both.fingerprint() == open_dataset(audioset, "AS-2M").fingerprint() != turned.fingerprint()
    (record,) = described_parts(both, "as")
    assert record.pop("shards_sha256")
    assert record == {"name": "as", "subset_id": subset_id(both.keys), "samples": 10, "epoch_samples": 10}


def test_every_sample_of_the_splits_comes_once_an_epoch(audioset: Path) -> None:
    loader = Loader(
        open_dataset(audioset, BOTH), EvalView(window_s=0.5, image_size=8), LoaderConfig(batch_size=5, num_workers=0)
    )
    for _ in range(2):
        keys = [key for batch in loader for key in batch.keys]
        assert sorted(keys) == [f"clip-{number:05d}" for number in range(10)]
        assert keys != sorted(keys)  # shuffled over both splits


def test_a_resumed_loader_goes_on_at_the_next_sample(audioset: Path) -> None:
    view, config = EvalView(window_s=0.5, image_size=8), LoaderConfig(batch_size=2, num_workers=0, seed=3)
    straight = Loader(open_dataset(audioset, "AS-2M"), view, config)
    batches = [batch.keys for _ in range(2) for batch in straight]
    broken = Loader(open_dataset(audioset, "AS-2M"), view, config)
    first = [batch.keys for batch, _ in zip(broken, range(3), strict=False)]
    state = broken.state_dict()
    resumed = Loader(open_dataset(audioset, BOTH), view, config)
    resumed.load_state_dict(state)
    rest = [batch.keys for batch in resumed] + [batch.keys for batch in resumed]
    done = len(batches) - len(rest)
    assert done in (3, 4)
    assert first == batches[:3]
    assert rest == batches[done:]
    other = Loader(open_dataset(audioset, "unbalanced,balanced"), view, config)
    with pytest.raises(ConfigError):
        other.load_state_dict(state)


def test_a_split_without_a_chosen_sample_is_left_out(audioset: Path) -> None:
    assert numbers(audioset, "balanced,eval", where="video_id in ('video0', 'video10')") == [0, 10]
    assert numbers(audioset, "balanced,eval", where="video_id = 'video0'") == [0]
    assert numbers(audioset, "balanced,eval", exclude=["silent"]) == [0, 1, 2, 10]
    with pytest.raises(ConfigError, match=r"none of the 5 clips of .*balanced.parquet, .*eval.parquet"):
        open_dataset(audioset, "balanced,eval", where="video_id = 'none'")
    with pytest.raises(ConfigError, match=r"balanced\+eval: no sample is left without the flags .* of those where"):
        open_dataset(audioset, "balanced,eval", exclude=["silent"], where="video_id = 'video11'")


def test_several_folders_have_each_their_own_splits(audioset: Path, tmp_path: Path) -> None:
    plain = draw_dataset(tmp_path / "plain", 2, first=40, seconds=1.0, num_frames=1, flac=False)
    assert numbers([str(audioset), str(plain)]) == [*range(10), 40, 41]
    mixed = open_mixture([f"{audioset}=0.5", f"{plain}=0.5"], "train", epoch_samples=8)
    assert [(part.samples, part.drawn) for part in mixed.parts] == [(10, 4), (2, 4)]
    by_size = open_mixture([str(audioset), str(plain)], "train", epoch_samples=6)
    assert [(part.samples, part.drawn) for part in by_size.parts] == [(10, 5), (2, 1)]
    with pytest.raises(MissingSplit, match=r"plain: no split 'balanced'; known: train"):
        open_dataset([str(audioset), str(plain)], BOTH)


def test_a_dataset_without_train_says_what_it_has(audioset: Path, tmp_path: Path) -> None:
    partial = as_recipe(
        draw_dataset(tmp_path / "few", 2, split="balanced", seconds=1.0, num_frames=1, flac=False), "audioset"
    )
    with pytest.raises(MissingSplit, match=r"few: split 'train' is balanced \+ unbalanced, and there is no unbalanced"):
        open_dataset(partial)
    assert numbers(partial, "AS-20K") == [0, 1]
    solo = draw_dataset(tmp_path / "solo", 2, split="solo", seconds=1.0, num_frames=1, flac=False)
    with pytest.raises(MissingSplit, match=r"solo: no split 'train'; known: solo\. .* such as solo\."):
        open_dataset(solo)
    with pytest.raises(ConfigError, match="names split balanced twice"):
        open_dataset(audioset, "AS-20K,AS-2M")
    for hostile in ("../balanced", "balanced/../eval", "*", "."):
        with pytest.raises(MissingSplit, match="no split"):
            open_dataset(audioset, hostile)


def test_remote_splits_and_aliases(audioset: Path, tmp_path: Path) -> None:
    cache = CacheConfig(root=tmp_path / "cache", retry=RetryPolicy(attempts=1))
    with serving(audioset) as server:
        assert numbers(server.url, cache=cache) == list(range(10))
        assert numbers(server.url, "eval,AS-20K", cache=cache) == [10, 11, 0, 1, 2]
        for hostile in ("val", "../manifest/eval", "eval?x"):
            with pytest.raises(MissingSplit, match="no split"):
                open_dataset(server.url, hostile, cache=cache)


def test_an_evaluation_reads_the_splits_in_order(audioset: Path) -> None:
    config = evaluation_config(LoaderConfig(batch_size=4, num_workers=0))
    loader = Loader(open_dataset(audioset, "eval,balanced"), EvalView(window_s=0.5, image_size=8), config)
    seen = [key for batch in loader for key, valid in zip(batch.keys, batch.valid, strict=True) if valid]
    assert seen == [f"clip-{number:05d}" for number in (10, 11, 0, 1, 2)]
