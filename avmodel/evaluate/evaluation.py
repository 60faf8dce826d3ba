"""The inputs of every task: the loaded model, the data, and the folder of its results."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from avdata.load import ClipView
from avmodel.distributed import World
from avmodel.evaluate.config import EvalConfig, Progress
from avmodel.evaluate.data import Split
from avmodel.evaluate.features import Extraction, Features, kept_features
from avmodel.evaluate.loaded import LoadedModel, untrained
from avmodel.evaluate.places import SEED
from avmodel.evaluate.result import Result
from avmodel.inputs import Source

FEATURES = "features"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One evaluation under way."""

    loaded: LoadedModel
    test: Source
    train: Source | None  # None: another split of the test's folder
    out: Path
    world: World
    progress: Progress | None = None

    def of(self, loaded: LoadedModel) -> "Evaluation":
        """The same evaluation of another model."""
        return replace(self, loaded=loaded)

    def with_seeds(self, seeds: Sequence[int]) -> Iterator[tuple["Evaluation", int, Path]]:
        """This evaluation, each seed, and the folder of what is trained with it."""
        for seed in seeds:
            yield self, seed, self.out / f"{SEED}{seed}"

    def with_random_weights(self, config: EvalConfig) -> Iterator[tuple["Evaluation", int, Path]]:
        """The same of a model that is randomly initialized by each of the config's seeds, if config.random_weights."""
        for seed in config.seeds if config.random_weights else ():
            yield self.of(untrained(self.loaded, seed)), seed, self.out / f"random-{SEED}{seed}"

    def result(self, config: EvalConfig, **fields: Any) -> Result:
        """The result of a task with these fields of Result. Default: all seeds of the config, in percent."""
        common = {"checkpoint": self.loaded.origin, "settings": asdict(config), "seeds": config.seeds, "unit": "%"}
        return Result(**{**common, **fields})

    def features(
        self,
        config: EvalConfig,
        split: Split,
        view: ClipView,
        *,
        mode: str | None = None,
        seed: int = 0,
        epoch: int = 0,
        averaged: bool = True,
    ) -> Features:
        """Features of a split, kept beside the results of all tasks; `mode` None: the config's; `averaged` as there."""
        job = Extraction(
            loaded=self.loaded,
            split=split,
            view=view,
            data=config.data,
            mode=mode or config.data.mode,
            batch_size=config.feature_batch_size,
            precision=config.precision,
            seed=seed,
            epoch=epoch,
            averaged=averaged,
        )
        return kept_features(job, self.out.parent / FEATURES, self.world, self.progress)


def labeled_samples(features: Features) -> Features:
    """Only the samples that have a class."""
    keep = features.labels.any(dim=1)
    keys = [key for key, kept in zip(features.keys, keep.tolist(), strict=True) if kept]
    return Features(keys, {name: x[keep] for name, x in features.values.items()}, features.labels[keep])


def describe_view(view: ClipView) -> dict[str, Any]:
    """The description of a view that results.json keeps."""
    windows = view.num_windows or 1
    return {
        "profile": view.profile,
        "window": "the whole clip" if view.window_s is None else f"{view.window_s:g} s",
        "columns": view.num_columns,
        "windows": windows,
        "frames": view.num_images or 1,
        "image_size": view.image_size,
        "fit": view.fit,
        **({"around_frame": True} if view.around_frame else {}),
    }


def seeded(seed: int, *numbers: int) -> torch.Generator:
    """A CPU generator that is a function of the numbers."""
    state = seed
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)
