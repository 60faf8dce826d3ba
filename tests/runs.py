"""The smallest runs: a model that trains in milliseconds, and batches that need no files."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avdata.load import Batch
from avmodel.checkpoint import load_model
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.cavmae import CAVMAEConfig
from avmodel.configs.cavmae_sync import CAVMAESyncConfig
from avmodel.configs.crossmae import CrossMAEConfig
from avmodel.configs.data import DataConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.mae import MAEConfig
from avmodel.configs.model import ModelConfig
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RunConfig
from avmodel.metrics import METRICS, read_lines
from avmodel.rundir import CHECKPOINTS

SIZES: dict[str, Any] = {
    "size": "32x2x4",
    "image_size": (32, 32),
    "audio_size": (128, 48),
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 4,
}
FEW_TOKENS: dict[str, Any] = {"num_fusion_tokens": 4, "num_aggr_image_tokens": 2, "num_aggr_audio_tokens": 2}
TINY = DeepAVFusionConfig(**SIZES, **FEW_TOKENS, image_mask_ratio=0.5)
TINY_AVSIAM = AVSiamConfig(**SIZES, mask_ratios=(0.0, 0.25, 0.5), audio_scheme="tf", reconstruction_ratio=0.5)
TINY_CAVMAE = CAVMAEConfig(**SIZES, image_mask_ratio=0.5, contrast_weight=1.0)
TINY_CROSSMAE = CrossMAEConfig(**SIZES, mask_ratio=0.5, feature_decoder_depth=1)
TINY_MAE = MAEConfig(**SIZES, image_mask_ratio=0.5)
TINY_SYNC = CAVMAESyncConfig(**SIZES, image_mask_ratio=0.5, contrast_weight=1.0, num_registers=2)
# Of each family a model: what is promised of all families is tested on these.
TINY_MODELS: dict[str, ModelConfig] = {
    "deepavfusion": TINY,
    "avsiam": TINY_AVSIAM,
    "cavmae": TINY_CAVMAE,
    "crossmae": TINY_CROSSMAE,
    "cavmae_sync": TINY_SYNC,
    "mae": TINY_MAE,
}
# Of each family a run, named by what it is there for.
FAMILY_RUNS: dict[str, dict[str, Any]] = {
    "avsiam": {"model": TINY_AVSIAM, "augment": AugmentConfig(roll=48, noise=0.5, mask_bins=20)},
    "avsiam-alternate": {"model": replace(TINY_AVSIAM, alternate_steps=True)},
    "cavmae": {"model": TINY_CAVMAE},
    "cavmae-sync": {"model": TINY_SYNC},
    "crossmae": {"model": TINY_CROSSMAE},
    "crossmae-teacher": {"model": replace(TINY_CROSSMAE, teacher="ema", teacher_momentum=0.5)},
}


def tiny_run(**changes: Any) -> RunConfig:
    """A run on datasets of tests.shards: 1 s windows, one checkpoint, at the end."""
    run = RunConfig(
        name="tiny",
        model=TINY,
        optim=OptimConfig(lr=1e-3, warmup=0.1),
        data=DataConfig(window_s=1.0, num_workers=0),
        batch_size=4,
        device_batch_size=4,
        steps=6,
        save_every=1000,
        pictures_every=None,
        probe_every=None,
        device="cpu",
    )
    return replace(run, **changes)


class DrawnBatches:
    """Batches for TINY out of generators: a sample is a function of its number, whoever takes it in what batch."""

    def __init__(
        self,
        batch_size: int = 4,
        samples: int = 16,
        *,
        spoiled: Collection[int] = (),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size, self.samples, self.spoiled = batch_size, samples, spoiled
        self.rank, self.world_size = rank, world_size
        self.done = 0  # samples, over all ranks

    def __len__(self) -> int:
        return self.samples // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.done // self.samples
        while self.done // self.samples == epoch:
            first = self.done
            self.done += self.batch_size * self.world_size
            yield self.draw(range(first + self.rank, self.done, self.world_size))

    def draw(self, numbers: range) -> Batch:
        """These samples of the run; the sound of the spoiled ones is not a number."""
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        log_mel = torch.stack([torch.randn(128, 50, generator=g) for g in generators]).half()
        for number in set(self.spoiled) & set(numbers):
            log_mel[numbers.index(number)] = torch.nan
        size, positions = len(numbers), torch.tensor(numbers) % self.samples
        return Batch(
            images=torch.stack(
                [torch.randint(0, 256, (3, 32, 32), generator=g, dtype=torch.uint8) for g in generators]
            ),
            log_mel=log_mel,
            waveform=None,
            labels=torch.eye(3, dtype=torch.bool)[positions % 3],
            valid=torch.ones(size, dtype=torch.bool),
            gain_db=None,
            window_start_s=torch.zeros(size),
            frame_time_s=torch.zeros(size),
            positions=positions,
            sample_ids=positions,
            keys=tuple(f"clip-{number}" for number in numbers),
            classes=("a", "b", "c"),
            epoch=numbers.start // self.samples,
            profile="paper",
        )

    def state_dict(self) -> dict[str, int | str]:
        return {"done": self.done}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        self.done = values["done"]


TIMES = ("samples_per_s", "data_wait", "eta_s", "peak_memory_mb", "mfu")


def curve(out: Path) -> list[dict[str, Any]]:
    """A run's metrics without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_lines(out / METRICS)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of a run's latest checkpoint."""
    return load_model(out / CHECKPOINTS)[0].state_dict()


def assert_same_run(out: Path, expected: Path) -> None:
    """Curves and weights are equal to the last bit."""
    assert curve(out) == curve(expected)
    found, wanted = weights(out), weights(expected)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
