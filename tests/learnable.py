"""Pictures and sounds of which a part tells the rest: what a model can learn in a minute, and how well it did."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avdata.load import Batch
from avmodel.distributed import World
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.probe import pooled_features

CLASSES = 16
SIDE, COLUMNS = 64, 48


class Templates:
    """Samples of 16 classes in order, again each epoch: a pattern under noise, seen and heard.

    A class is a pattern of the picture and one of the log-mel. Each sample shows either as it is or as its negative,
    at its own contrast: so no pixel, and no mean over patches, has the class, and a visible part tells the rest.
    """

    def __init__(self, num_samples: int, batch_size: int, *, seed: int) -> None:
        self.num_samples, self.batch_size = num_samples, batch_size
        self.done = 0
        self.labels = torch.arange(num_samples) % CLASSES
        patterns = torch.Generator().manual_seed(0)  # the same whatever the seed
        pictures = smooth_noise(CLASSES, (SIDE, SIDE), patterns)[self.labels]
        sounds = smooth_noise(CLASSES, (128, COLUMNS), patterns)[self.labels]
        generator = torch.Generator().manual_seed(1 + seed)

        def contrast(low: float, high: float) -> torch.Tensor:
            size = low + (high - low) * torch.rand(num_samples, 1, 1, generator=generator)
            return size * (torch.randint(0, 2, (num_samples, 1, 1), generator=generator) * 2 - 1)

        noise = torch.randn(num_samples, 3, SIDE, SIDE, generator=generator)
        images = 128 + (contrast(25, 50) * pictures).unsqueeze(1) + 15 * noise
        self.images = images.clamp(0, 255).to(torch.uint8)
        noise = torch.randn(num_samples, 128, COLUMNS, generator=generator)
        self.log_mel = (contrast(1.5, 3) * sounds + 0.6 * noise).half()

    def __len__(self) -> int:
        return self.num_samples // self.batch_size

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.done // len(self)
        while self.done // len(self) == epoch:
            number = self.done % len(self)
            self.done += 1
            yield self.batch(epoch, torch.arange(number * self.batch_size, (number + 1) * self.batch_size))

    def batch(self, epoch: int, rows: torch.Tensor) -> Batch:
        """These samples."""
        size = len(rows)
        return Batch(
            images=self.images[rows],
            log_mel=self.log_mel[rows],
            waveform=None,
            labels=torch.eye(CLASSES, dtype=torch.bool)[self.labels[rows]],
            valid=torch.ones(size, dtype=torch.bool),
            gain_db=None,
            window_start_s=torch.zeros(size),
            frame_time_s=torch.zeros(size),
            positions=rows,
            sample_ids=rows,
            keys=tuple(f"drawn-{row}" for row in rows.tolist()),
            classes=tuple(f"pattern {number}" for number in range(CLASSES)),
            epoch=epoch,
            profile="paper",
        )

    def state_dict(self) -> dict[str, int | str]:
        return {"done": self.done}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        self.done = values["done"]


@cache
def drawn_pairs(count: int) -> Batch:
    """Pictures of 24 x 24 and log-mels of 16 x 32, each tiled with 8 x 8 noise of its own: any patch tells the pair."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(count, 3, 8, 8, generator=generator).repeat(1, 1, 3, 3)
    sounds = torch.randn(count, 8, 8, generator=generator).repeat(1, 2, 4)
    rows = torch.arange(count)
    return Batch(
        images=(128 + 50 * pictures).clamp(0, 255).to(torch.uint8),
        log_mel=(5 * sounds - 5).half(),
        waveform=None,
        labels=torch.eye(count, dtype=torch.bool),
        valid=torch.ones(count, dtype=torch.bool),
        gain_db=None,
        window_start_s=torch.zeros(count),
        frame_time_s=torch.zeros(count),
        positions=rows,
        sample_ids=rows,
        keys=tuple(f"pair-{row}" for row in rows.tolist()),
        classes=tuple(f"pair {row}" for row in rows.tolist()),
        epoch=0,
        profile="kaldi",
    )


def smooth_noise(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Patterns of blobs a few pixels wide, of unit variance."""
    coarse = torch.randn(count, 1, size[0] // 8, size[1] // 8, generator=generator)
    fine = F.interpolate(coarse, size, mode="bicubic")[:, 0]
    return fine / fine.std(dim=(1, 2), keepdim=True)


def linear_probe(model: DeepAVFusion, train: Sequence[Batch], test: Sequence[Batch]) -> dict[str, float]:
    """Percent of test samples that a logistic regression on frozen, pooled features puts into their class."""
    world = World(0, 1, next(model.parameters()).device)
    model.eval()
    with torch.no_grad():
        (seen, seen_labels), (asked, asked_labels) = (
            pooled_features(model, batches, world, precision="float32") for batches in (train, test)
        )
    for features in (seen, asked):
        features["all"] = torch.cat([features[name] for name in ("image", "audio", "fusion")], dim=1)
    found = {}
    for name in seen:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        probe.fit(seen[name].numpy(), seen_labels.int().argmax(1).numpy())
        right = probe.predict(asked[name].numpy()) == asked_labels.int().argmax(1).numpy()
        found[name] = 100 * float(np.mean(right))
    return found


def untrained(model: DeepAVFusion, seed: int) -> DeepAVFusion:
    """The same model with other weights, as training begins with."""
    torch.manual_seed(seed)
    return DeepAVFusion(replace(model.config))
