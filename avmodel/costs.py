"""Floating-point operations and memory of a model by its config, and the rate and memory of the device."""

import time
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from avdata.load import Batch
from avmodel.configs.model import ModelConfig
from avmodel.models import build_model
from avmodel.models.family import Family
from avmodel.precision import matmul_dtype
from avmodel.rng import draw_masks

SEED = 0


def draw_batch(model: ModelConfig, batch_size: int, *, pinned: bool = False) -> Batch:
    """A random batch of the shapes and types of the loader's."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (batch_size, *model.image_size, 3), generator=generator, dtype=torch.uint8)
    columns = torch.randn((batch_size, *model.audio_size), generator=generator).half().mT.contiguous()
    index = torch.arange(batch_size)
    return Batch(
        images=(images.pin_memory() if pinned else images).movedim(-1, 1),
        log_mel=(columns.pin_memory() if pinned else columns).mT,
        waveform=None,
        labels=torch.zeros(batch_size, 0, dtype=torch.bool),
        valid=torch.ones(batch_size, dtype=torch.bool),
        gain_db=torch.zeros(batch_size),
        window_start_s=torch.zeros(batch_size),
        frame_time_s=torch.zeros(batch_size),
        positions=index,
        sample_ids=index,
        keys=tuple(f"drawn-{number}" for number in range(batch_size)),
        classes=(),
        epoch=0,
        profile="paper",
    )


def on_meta(config: ModelConfig) -> Family:
    """The model on the meta device, without memory."""
    with torch.device("meta"):
        return build_model(config)


@lru_cache
def count_flop(config: ModelConfig, *, encode: bool = False) -> int:
    """Floating-point operations of a sample's forward and backward, by torch's count: a mean over the smallest batch.

    `encode`: of its encoding, unmasked.
    """
    model = on_meta(config)
    size = model.least_batch
    masks = draw_masks(model, SEED, draw_batch(config, size))
    with torch.device("meta"):
        image, log_mel = torch.zeros(size, 3, *config.image_size), torch.zeros(size, 1, *config.audio_size)
    with FlopCounterMode(display=False) as counter:
        if encode:
            model.streams(image, log_mel)
            return int(counter.get_total_flops()) // size
        model(image, log_mel, masks).losses["total"].backward()
    total: int = counter.get_total_flops()
    return total // size


def count_parameters(config: ModelConfig) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in on_meta(config).parameters() if p.requires_grad)


def weights_memory_mb(config: ModelConfig) -> float:
    """Memory of the weights, float32, in 10^6 bytes."""
    kept: int = sum(tensor.numel() for tensor in on_meta(config).state_dict().values())
    return 4 * kept / 1e6


def state_memory_mb(config: ModelConfig) -> float:
    """Memory of weights, gradients and AdamW's two moments, all float32, in 10^6 bytes."""
    return 12 * count_parameters(config) / 1e6 + weights_memory_mb(config)


def matmul_flops(device: torch.device, precision: str) -> float:
    """Operations per second of a large square matrix product, in the type of a model's products in that precision."""
    side, repeats = (8192, 20) if device.type == "cuda" else (1024, 4)
    dtype = matmul_dtype(precision)
    generator = torch.Generator(device).manual_seed(SEED)
    a, b = (torch.randn(side, side, device=device, dtype=dtype, generator=generator) for _ in range(2))
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    synchronize(device)
    took_s = time.perf_counter() - began
    return 2.0 * side * side * side * repeats / took_s


def resident_bytes(name: Literal["VmRSS", "VmHWM"]) -> int:
    """Resident memory of this process in bytes, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
