"""A dataset's features as Parquet, and a map of them to look at."""

from pathlib import Path

import numpy as np
import torch

from avdata.draw.scores import save_map
from avmanifest.wording import counted
from avmodel.bootstrap import constants
from avmodel.evaluate.config import MODES
from avmodel.evaluate.data import open_split, scoring_view
from avmodel.evaluate.embed.config import EMBEDDINGS, MAP_FILE, EmbedConfig
from avmodel.evaluate.evaluation import Evaluation, describe_view
from avmodel.evaluate.features import Extraction, Features, extract
from avmodel.evaluate.projection import project
from avmodel.evaluate.result import Result, scored
from avmodel.evaluate.store import PARTS


def embed(config: EmbedConfig, run: Evaluation) -> Result:
    """Write OUT/embeddings/part-*.parquet (key, labels, a vector a stream) and OUT/map.png.

    Killed, the same command goes on where it was. Raises ConfigError for an --out with other embeddings.
    """
    data = config.data
    split = open_split(data, run.test, data.test_split, labeled=False)
    view = scoring_view(data, run.loaded)
    job = Extraction(run.loaded, split, view, data, data.mode, config.feature_batch_size, config.precision)
    found = extract(job, run.out / EMBEDDINGS, run.world, run.progress)
    mapped, files = found, [f"{EMBEDDINGS}/{path.name}" for path in sorted((run.out / EMBEDDINGS).glob(PARTS))]
    if config.picture != "none" and config.together:
        alone = {one: run.features(config, split, view, mode=one) for one in MODES[1:]}
        vectors = {one: features.values[one] for one, features in alone.items()}
        mapped = Features(found.keys, vectors, found.labels)
    if config.picture != "none" and run.world.is_main and len(found) > 2:
        draw_map(config, mapped, split.dataset.classes, run.out / MAP_FILE)
        files.append(MAP_FILE)
    widths = {
        name: constants({"samples": float(len(found)), "dimensions": float(x.shape[1])})
        for name, x in found.values.items()
    }
    return run.result(
        config,
        task="embed",
        headline=(next(iter(widths)), "samples"),
        unit="",
        scores={name: scored([width]) for name, width in widths.items()},
        baselines={},
        mode=f"frozen, {data.mode}",
        view=describe_view(view),
        data={"test": split.described()},
        seeds=config.seeds[:1],
        notes=split.notes,
        files=tuple(files),
        said=f"{counted(len(found), 'row')}, a vector of "
        + ", ".join(f"{name} ({x.shape[1]} numbers)" for name, x in found.values.items()),
    )


def draw_map(config: EmbedConfig, found: Features, classes: tuple[str, ...], path: Path) -> None:
    """The map of at most picture_samples samples, evenly taken from the split; together: one map of all vectors."""
    rows = torch.linspace(0, len(found) - 1, min(len(found), config.picture_samples)).long()
    labels = found.labels[rows]
    first = np.full(len(rows), -1)
    if len(classes):  # of none there is no first
        first = torch.where(labels.any(dim=1), labels.int().argmax(dim=1), -1).numpy()
    if config.together:
        places = project(torch.cat([x[rows] for x in found.values.values()]).numpy(), config.picture, config.perplexity)
        maps = dict(zip(found.values, np.split(places, len(found.values)), strict=True))
    else:
        maps = {name: project(x[rows].numpy(), config.picture, config.perplexity) for name, x in found.values.items()}
    title = {"tsne": "t-SNE", "pca": "principal components"}[config.picture]
    save_map(path, maps, first, classes, title=title, together=config.together)
