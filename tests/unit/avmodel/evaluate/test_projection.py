"""Maps of features: what is together stays together, every row is at its own point, foreign files are refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avmanifest.errors import ConfigError, ManifestError
from avmodel.evaluate import projection
from avmodel.evaluate.projection import make_maps, project


@pytest.mark.parametrize("picture", ["tsne", "pca"])
def test_what_is_together_stays_together(picture):
    generator = np.random.default_rng(0)
    groups = np.arange(60) % 2
    vectors = generator.normal(size=(2, 16))[groups] + 0.05 * generator.normal(size=(60, 16))
    places = project(vectors, picture, 30.0)
    assert np.array_equal(places, project(vectors, picture, 30.0))
    centers = np.stack([places[groups == group].mean(axis=0) for group in (0, 1)])
    nearest = np.linalg.norm(places[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == groups).all()


def write_part(path, keys, **streams):
    columns = {"key": pa.array(keys, pa.string()), "labels": pa.array([["a"]] * len(keys))}
    for name, given in streams.items():
        vectors = np.asarray(given, np.float32)
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_every_row_is_at_its_own_point(tmp_path):
    line = np.arange(8, dtype=np.float32)
    plane = np.stack([line, -line], axis=1)
    write_part(tmp_path / "embeddings" / "part-00000.parquet", [f"k{n}" for n in range(5)], fusion=plane[:5])
    write_part(tmp_path / "embeddings" / "part-00001.parquet", ["k5", "k6", "elsewhere"], fusion=plane[5:])
    maps = make_maps(tmp_path, ["", "k6", "k0", "k3", "k9"])
    assert dict(zip(maps.rows.tolist(), maps.streams["fusion"].tolist(), strict=True)) == {
        1: [1.0, 0.0], 2: [0.0, 1.0], 3: [0.5, 0.5],
    }  # fmt: skip
    assert maps.said == f"3 of the 4 samples that are shown, from {tmp_path.name}; as given."


def test_wide_vectors_are_projected_and_one_file_is_enough(tmp_path, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(12, 5))
    keys = [f"k{n}" for n in range(12)]
    write_part(tmp_path / "x.parquet", keys, image=vectors, audio=np.ones((12, 3)))
    maps = make_maps(tmp_path / "x.parquet", keys)
    assert list(maps.streams) == ["image", "audio"]
    for places in maps.streams.values():
        assert places.shape == (12, 2)
        assert places.min() >= 0
        assert places.max() <= 1
    assert maps.said.endswith("t-SNE.")


def test_of_many_samples_evenly_spaced_ones_are_drawn(tmp_path):
    keys = [f"k{n}" for n in range(2 * projection.MOST_POINTS)]
    write_part(tmp_path / "x.parquet", keys, image=np.zeros((len(keys), 2)))
    maps = make_maps(tmp_path / "x.parquet", keys)
    assert maps.rows.tolist() == list(range(0, len(keys), 2))


def test_what_is_no_embedding_is_refused(tmp_path):
    keys = ["a", "b", "c"]
    with pytest.raises(ConfigError, match="no embedding"):
        make_maps(tmp_path, keys)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ManifestError, match="not a part of features"):
        make_maps(tmp_path / "x.parquet", keys)
    pq.write_table(pa.table({"key": keys, "score": [1.0, 2.0, 3.0]}), tmp_path / "y.parquet")
    with pytest.raises(ManifestError, match="'score' is not one of features"):
        make_maps(tmp_path / "y.parquet", keys)
    write_part(tmp_path / "z.parquet", keys)
    with pytest.raises(ConfigError, match="has no vectors"):
        make_maps(tmp_path / "z.parquet", keys)
    write_part(tmp_path / "n.parquet", keys, image=[[np.nan, 0], [0, 0], [0, 0]])
    with pytest.raises(ConfigError, match="not finite"):
        make_maps(tmp_path / "n.parquet", keys)
    write_part(tmp_path / "few.parquet", keys, image=np.zeros((3, 2)))
    with pytest.raises(ConfigError, match="vectors of 2 of the 2 samples"):
        make_maps(tmp_path / "few.parquet", ["a", "b"])
