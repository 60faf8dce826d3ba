import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from avdata.load import Batch
from avmanifest.errors import ConfigError, ManifestError
from avmodel.evaluate.data import open_split, ordered_loader, scoring_view, train_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import Features, content_sha256, eval_inputs, extract, label_matrix
from avmodel.evaluate.store import read_parts
from tests.evaluating import DATA, TRAIN, evaluation_of, job
from tests.shards import draw_dataset


@pytest.fixture
def run(tiny_run: Path, splits: Path, tmp_path: Path) -> Evaluation:
    return evaluation_of(tiny_run, splits, tmp_path)


def batches(run: Evaluation, *, windows: int | None = None) -> list[Batch]:
    split = open_split(DATA, run.test, "train")
    view = scoring_view(replace(DATA, windows=windows or 1), run.loaded)
    return list(ordered_loader(DATA, split, view, run.world, batch_size=TRAIN, seed=0))


def test_features_are_the_mean_tokens_in_the_datasets_order(run: Evaluation) -> None:
    found = extract(job(run), run.out, run.world)
    (batch,) = batches(run)
    assert tuple(found.keys) == batch.keys
    streams = run.loaded.model.streams(*eval_inputs(batch, run.world.device))
    assert set(found.values) == {"image", "audio", "fusion"}
    for name, tokens in streams.items():
        torch.testing.assert_close(found.values[name], tokens.mean(dim=1), atol=1e-6, rtol=1e-5)
    assert torch.equal(found.labels, batch.labels)
    assert torch.equal(found.labels, label_matrix(open_split(DATA, run.test, "train").dataset))


def test_windows_are_averaged(run: Evaluation) -> None:
    found = extract(job(run, windows=3), run.out, run.world)
    (batch,) = batches(run, windows=3)
    tokens = run.loaded.model.streams(*eval_inputs(batch, run.world.device))["audio"].mean(dim=1)
    torch.testing.assert_close(found.values["audio"], tokens.reshape(TRAIN, 3, -1).mean(dim=1), atol=1e-6, rtol=1e-5)


def test_one_sense_alone_knows_nothing_of_the_other(run: Evaluation) -> None:
    found = {mode: extract(job(run, mode=mode), run.out / mode, run.world) for mode in ("image", "audio")}
    assert set(found["image"].values) == {"image", "fusion"}
    (batch,) = batches(run)
    deaf = replace(batch, log_mel=torch.zeros_like(batch.log_mel))
    image = run.loaded.model.streams(eval_inputs(deaf, run.world.device).image, None)["image"].mean(dim=1)
    torch.testing.assert_close(found["image"].values["image"], image, atol=1e-6, rtol=1e-5)


class Stopped(Exception):
    pass


def test_a_killed_extraction_goes_on_and_ends_the_same(run: Evaluation) -> None:
    straight = extract(job(run), run.out / "straight", run.world)
    calls = []

    def progress(what: str, done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 3:
            raise Stopped

    with pytest.raises(Stopped):
        extract(job(run, part_samples=8), run.out / "killed", run.world, progress)
    assert [path.name for path in sorted((run.out / "killed").iterdir())] == ["part-00000.parquet"]
    (run.out / "killed" / ".unfinished-part-00001.parquet").write_bytes(b"half")
    calls.clear()
    again = extract(
        job(run, part_samples=8), run.out / "killed", run.world, lambda what, done, total: calls.append(done)
    )
    assert calls[0] == 15  # the ten samples of the first part are not computed again
    assert again.keys == straight.keys
    assert all(torch.equal(x, straight.values[name]) for name, x in again.values.items())


def test_what_is_there_is_not_computed_again(run: Evaluation) -> None:
    first = extract(job(run), run.out, run.world)
    asked: list[int] = []
    second = extract(job(run), run.out, run.world, lambda what, done, total: asked.append(done))
    assert asked == []
    assert torch.equal(first.values["fusion"], second.values["fusion"])


def test_features_of_something_else_are_refused(run: Evaluation) -> None:
    extract(job(run), run.out, run.world)
    with pytest.raises(ConfigError, match="mode differ"):
        extract(job(run, mode="audio"), run.out, run.world)


def test_other_pictures_or_sounds_under_the_same_keys_are_other_features(tmp_path: Path) -> None:
    def content(name: str, **options: object) -> tuple[str, str]:
        root = draw_dataset(tmp_path / name, 5, 2, **{"num_frames": 2, "seconds": 3.2, **options})
        split = open_split(DATA, str(root), "train", labeled=False)
        return split.subset_id, content_sha256(split.dataset, "paper")

    subset, first = content("first")
    assert content("again") == (subset, first)
    for name, options in {"long": {"seconds": 4.0}, "frames": {"num_frames": 3}, "mel": {"mel": ("released",)}}.items():
        found = content(name, **options)
        assert (found[0], found[1] == first) == (subset, False), name


def test_features_of_an_earlier_version_are_gone_on_with(run: Evaluation) -> None:
    extract(job(run), run.out, run.world)
    (path,) = run.out.glob("part-*.parquet")
    table = pq.read_table(path)
    note = json.loads(table.schema.metadata[b"avkit"])
    assert note["of"].pop("content")
    pq.write_table(table.replace_schema_metadata({b"avkit": json.dumps(note).encode()}), path)
    assert len(extract(job(run), run.out, run.world)) == TRAIN


def test_a_damaged_part_is_named(run: Evaluation) -> None:
    extract(job(run), run.out, run.world)
    path = next(run.out.glob("part-*"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ManifestError, match=r"part-00000.parquet: not a part of features"):
        extract(job(run), run.out, run.world)


def test_every_flipped_bit_of_the_vectors_is_refused(run: Evaluation) -> None:
    extract(job(run), run.out, run.world)
    (part,) = run.out.glob("part-*.parquet")
    content, whole = part.read_bytes(), read_parts([part])
    refused = 0
    for bit in range(64, 8 * len(content) - 64, 8 * len(content) // 100):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        part.write_bytes(damaged)
        try:
            keys, values = read_parts([part])
        except ManifestError:
            refused += 1
            continue
        assert keys == whole[0]
        assert all(torch.equal(values[name], rows) for name, rows in whole[1].items())
    assert refused > 50


def test_a_deleted_part_is_made_again_with_those_after_it(run: Evaluation) -> None:
    whole = extract(job(run, part_samples=8), run.out, run.world)
    assert len(list(run.out.iterdir())) == 3
    (run.out / "part-00001.parquet").unlink()
    again = extract(job(run, batch_size=7, part_samples=5), run.out, run.world)
    assert again.keys == whole.keys
    torch.testing.assert_close(again.values["fusion"], whole.values["fusion"], atol=1e-6, rtol=1e-5)


def test_training_views_differ_by_epoch_and_are_functions_of_it(run: Evaluation) -> None:
    view = train_view(DATA, run.loaded, max_gain_db=6.0)

    def of(epoch: int, folder: str) -> Features:
        return extract(job(run, view=view, epoch=epoch), run.out / folder, run.world)

    one, again, other = of(0, "a"), of(0, "b"), of(1, "c")
    assert torch.equal(one.values["audio"], again.values["audio"])
    assert not torch.equal(one.values["audio"], other.values["audio"])


def test_parts_are_ordinary_parquet(run: Evaluation) -> None:
    extract(job(run), run.out, run.world)
    table = pq.read_table(run.out)
    assert table.column_names == ["key", "labels", "image", "audio", "fusion"]
    assert len(table) == TRAIN
    assert len(table.column("fusion")[0].as_py()) == 32
    assert table.column("labels")[0].as_py() == ["dog barking"]
