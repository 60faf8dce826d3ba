from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.evaluate.embed.config import EmbedConfig
from avmodel.evaluate.embed.task import EMBEDDINGS, MAP_FILE, embed, project
from tests.evaluating import DATA, TEST, evaluation_of

CONFIG = EmbedConfig(data=DATA, device="cpu")


def test_every_clip_is_a_row_and_the_map_is_drawn(tiny_run: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, splits, tmp_path)
    result = embed(CONFIG, run)
    table = pq.read_table(run.out / EMBEDDINGS)
    assert len(table) == TEST
    assert table.column_names == ["key", "labels", "image", "audio", "fusion"]
    assert result.scores["fusion"]["dimensions"].mean == 32
    assert (run.out / MAP_FILE).stat().st_size > 10_000
    embed(replace(CONFIG, picture="pca"), run)
    with pytest.raises(ConfigError, match="has other features"):
        embed(replace(CONFIG, data=replace(DATA, mode="audio")), run)


@pytest.mark.parametrize("picture", ["tsne", "pca"])
def test_what_is_together_stays_together(picture: str) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(60) % 2
    vectors = torch.randn(2, 16, generator=generator)[groups] + 0.05 * torch.randn(60, 16, generator=generator)
    config = replace(CONFIG, picture=picture)
    places = project(vectors, config)
    assert np.array_equal(places, project(vectors, config))
    centers = np.stack([places[groups.numpy() == group].mean(axis=0) for group in (0, 1)])
    nearest = np.linalg.norm(places[:, None] - centers, axis=2).argmin(axis=1)
    assert (nearest == groups.numpy()).all()


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown picture 'umap'"):
        replace(CONFIG, picture="umap")
