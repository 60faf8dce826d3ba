from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.evaluate.embed.config import PRESETS, EmbedConfig
from avmodel.evaluate.embed.task import EMBEDDINGS, MAP_FILE, draw_map, embed
from avmodel.evaluate.features import Features
from avmodel.evaluate.projection import make_maps
from tests.evaluating import DATA, TEST, evaluation_of

CONFIG = EmbedConfig(data=DATA, device="cpu")


def test_every_clip_is_a_row_and_the_map_is_drawn(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = embed(CONFIG, run)
    table = pq.read_table(run.out / EMBEDDINGS)
    assert len(table) == TEST
    assert table.column_names == ["key", "labels", "image", "audio", "fusion"]
    assert result.scores["fusion"]["dimensions"].mean == 32
    assert result.files == ("embeddings/part-00000.parquet", "map.png")
    assert result.said == f"{TEST} rows, a vector of image (32 numbers), audio (32 numbers), fusion (32 numbers)"
    assert f": {TEST} rows, a vector of" in result.line()
    assert (run.out / MAP_FILE).stat().st_size > 10_000
    maps = make_maps(run.out, ["", *table.column("key").to_pylist()])  # as `avkit inspect --embedding` reads it
    assert (list(maps.streams), sorted(maps.rows)) == (["image", "audio", "fusion"], list(range(1, TEST + 1)))
    embed(replace(CONFIG, picture="pca"), run)
    with pytest.raises(ConfigError, match="has other features"):
        embed(replace(CONFIG, data=replace(DATA, mode="audio")), run)


def test_clips_of_a_dataset_without_classes_are_drawn_in_gray(tmp_path: Path) -> None:
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    found = Features([str(row) for row in range(12)], {"image": vectors}, torch.zeros(12, 0, dtype=torch.bool))
    draw_map(replace(CONFIG, picture="pca"), found, (), tmp_path / MAP_FILE)
    assert (tmp_path / MAP_FILE).stat().st_size > 5_000


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown picture 'umap'"):
        replace(CONFIG, picture="umap")


def test_both_modalities_stand_in_one_map(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    """Each is encoded alone, and one projection has the vectors of both."""
    run = evaluation_of(tiny_run, splits, tmp_path)
    config = replace(CONFIG, together=True, picture="pca")
    embed(config, run)
    picture = (run.out / MAP_FILE).read_bytes()
    assert len(picture) > 10_000
    assert pq.read_table(run.out / EMBEDDINGS).column_names == ["key", "labels", "image", "audio", "fusion"]
    embed(replace(config, together=False), run)
    assert (run.out / MAP_FILE).read_bytes() != picture


def test_one_map_needs_both_modalities() -> None:
    with pytest.raises(ConfigError, match=r"together=true with data\.mode=audio"):
        replace(CONFIG, together=True, data=replace(DATA, mode="audio"))
    assert PRESETS["figure-4"]().together
