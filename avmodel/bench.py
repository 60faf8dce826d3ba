"""How fast a pretraining step is, and how much of what the device can multiply it uses: all fusions in one run."""

import ctypes
import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from avdata.load import Batch
from avmanifest.errors import ConfigError
from avmodel.distributed import World, choose_device, require_precision
from avmodel.models.deepavfusion import DeepAVFusion, DeepAVFusionConfig
from avmodel.optim import make_optimizer
from avmodel.train import RunConfig, take_step, wrap

ROWS: Mapping[str, Mapping[str, Any]] = {
    "factorized": {"fusion": "factorized"},
    "dense": {"fusion": "dense"},
    "dense-pairs": {"fusion": "dense", "fusion_impl": "pairs"},
    "token": {"fusion": "token"},
    "none": {"fusion_layers": "none"},
}
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBench:
    """What to measure. What is None is chosen for the device: a small model on a CPU, the paper's on a GPU."""

    device: str = "auto"
    size: str | None = None  # None: tiny, or base on CUDA
    batches: tuple[int, ...] | None = None  # None: 2, or 64, 128 and 256 on CUDA
    precision: str | None = None  # None: float32, or bfloat16 on CUDA
    compile: bool | None = None  # None: on CUDA only
    rows: tuple[str, ...] = tuple(ROWS)
    rounds: int | None = None  # in which the rows take turns; None: 3, or 5 on CUDA
    steps: int | None = None  # of a row in a round; None: 1, or 10 on CUDA
    model: DeepAVFusionConfig | None = None  # in place of size: the rows change its fusion

    def __post_init__(self) -> None:
        for name, value in (("rounds", self.rounds), ("steps", self.steps), ("batches", min(self.batches or (1,)))):
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value}: must be 1 or more")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise ConfigError(f"unknown fusion {unknown[0]!r}; known: {', '.join(ROWS)}")


class Contestant:
    """A model in training on one drawn batch."""

    def __init__(self, run: RunConfig, batch: Batch, world: World) -> None:
        torch.manual_seed(SEED)
        self.run, self.batch, self.world = run, batch, world
        self.model = DeepAVFusion(run.model).to(world.device)
        self.optimizer = make_optimizer(self.model, run.optim)
        self.forward: nn.Module = wrap(self.model, run, world)

    def steps(self, count: int) -> None:
        """Take steps as `avmodel.train` does, and wait for the last."""
        for _ in range(count):
            values = take_step(self.run, self.model, self.forward, self.optimizer, [self.batch], self.world, stop=False)
        values.tolist()


def bench_step(bench: StepBench) -> Iterator[dict[str, Any]]:
    """A row for each batch size and fusion: samples per second, peak memory, share of the device's matrix rate.

    A step is all that training does but loading: input arithmetic, masks, forward, backward, AdamW. Contestants take
    turns in every round, and so does a plain matrix product of the same precision, whose rate is the ceiling; each
    figure is the median of the rounds. `gflop_per_sample` is what torch's counter finds in one sample's forward and
    backward: matrix products, convolutions and attention, a multiply-add as two; the optimizer is not in it.
    `flops_share` is that times samples per second, over the ceiling. `peak_memory_mb` is what a step takes at most,
    weights, gradients and optimizer (`state_memory_mb`) included: allocations on CUDA; on a CPU resident pages beyond
    those that were there before the model. What does not fit into memory has no figures.
    """
    world = World(0, 1, choose_device(bench.device))
    cuda = world.device.type == "cuda"
    precision = bench.precision or ("bfloat16" if cuda else "float32")
    require_precision(precision, world.device)
    compiled = cuda if bench.compile is None else bench.compile
    model = bench.model or config_of_size(bench.size or ("base" if cuda else "tiny"))
    for batch_size in bench.batches or ((64, 128, 256) if cuda else (2,)):
        runs = {
            name: RunConfig(
                name=name,
                model=replace(model, **ROWS[name]),
                batch_size=batch_size,
                device_batch_size=batch_size,
                precision=precision,
                compile=compiled,
            )
            for name in bench.rows
        }
        steps = bench.steps or (10 if cuda else 1)
        yield from measured(
            runs, draw_batch(model, batch_size, pinned=cuda), world, bench.rounds or (5 if cuda else 3), steps
        )


def measured(
    runs: Mapping[str, RunConfig], batch: Batch, world: World, rounds: int, steps: int
) -> Iterator[dict[str, Any]]:
    """The rows of one batch size."""
    memory = {name: peak_memory_mb(run, batch, world) for name, run in runs.items()}
    contestants: dict[str, Contestant] = {}
    for name, run in runs.items():
        if memory[name] is not None:
            # All of them are there at once, as they take turns.
            with suppress(torch.OutOfMemoryError):
                contestant = Contestant(run, batch, world)
                contestant.steps(2 if run.compile else 1)
                contestants[name] = contestant
    precision = next(iter(runs.values())).precision
    ceilings = []
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    matmul_flops(world.device, precision)
    for _ in range(rounds):
        ceilings.append(matmul_flops(world.device, precision))
        for name, contestant in contestants.items():
            began = time.perf_counter()
            contestant.steps(steps)
            seconds[name].append((time.perf_counter() - began) / steps)
    ceiling = median(ceilings)
    rates = {name: len(batch) / median(times) for name, times in seconds.items()}
    for name, run in runs.items():
        flop = count_flop(run.model)
        rate, peak = rates.get(name), memory[name]
        of_none = {
            "speed_of_none": rate / rates["none"] if rate and "none" in rates else None,
            "memory_of_none": peak / none if peak and (none := memory.get("none")) else None,
        }
        yield {
            "fusion": name,
            "size": run.model.size,
            "batch": len(batch),
            "samples_per_s": rate,
            "peak_memory_mb": peak,
            "state_memory_mb": state_memory_mb(run.model),
            "flops_share": rate * flop / ceiling if rate else None,
            "gflop_per_sample": flop / 1e9,
            "tflops": rate * flop / 1e12 if rate else None,
            "matmul_tflops": ceiling / 1e12,
            **of_none,
            "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "precision": run.precision,
            "compile": run.compile,
        }


def config_of_size(size: str) -> DeepAVFusionConfig:
    """The VGGSound model in that size; ConfigError for an unknown one."""
    try:
        return DeepAVFusionConfig(size=size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def draw_batch(model: DeepAVFusionConfig, batch_size: int, *, pinned: bool = False) -> Batch:
    """Noise in the shape and types that a loader gives."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randint(0, 256, (batch_size, *model.image_size, 3), generator=generator, dtype=torch.uint8)
    log_mel = torch.randn((batch_size, *model.audio_size), generator=generator).half()
    index = torch.arange(batch_size)
    return Batch(
        images=(images.pin_memory() if pinned else images).movedim(-1, 1),
        log_mel=log_mel.pin_memory() if pinned else log_mel,
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


@lru_cache
def count_flop(config: DeepAVFusionConfig) -> int:
    """Floating-point operations of one sample's forward and backward, as torch counts them."""
    with torch.device("meta"):
        model = DeepAVFusion(config)
        image, log_mel = torch.zeros(1, 3, *config.image_size), torch.zeros(1, 1, *config.audio_size)
    ids_keep = model.draw_ids(1, torch.Generator().manual_seed(SEED))
    with FlopCounterMode(display=False) as counter:
        model(image, log_mel, ids_keep=ids_keep).losses["total"].backward()
    total: int = counter.get_total_flops()
    return total


def state_memory_mb(config: DeepAVFusionConfig) -> float:
    """Weights, their gradients and AdamW's two moments, all float32."""
    with torch.device("meta"):
        model = DeepAVFusion(config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept: int = sum(tensor.numel() for tensor in model.state_dict().values())
    return 4 * (3 * trained + kept) / 1e6


def matmul_flops(device: torch.device, precision: str) -> float:
    """Operations per second of a large square matrix product."""
    side, repeats = (8192, 20) if device.type == "cuda" else (1024, 4)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        a @ b
    synchronize(device)
    took_s = time.perf_counter() - began
    return 2.0 * side * side * side * repeats / took_s


def peak_memory_mb(run: RunConfig, batch: Batch, world: World) -> float | None:
    """Most that one step takes with its model, in 10^6 bytes; None if there is not so much."""
    gc.collect()
    cuda = world.device.type == "cuda"
    if not cuda:
        trim_heap()
    before = torch.cuda.memory_allocated(world.device) if cuda else resident_bytes("VmRSS")
    try:
        contestant = Contestant(replace(run, compile=run.compile and cuda), batch, world)
        contestant.steps(1)
        if cuda:
            torch.cuda.reset_peak_memory_stats(world.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
        contestant.steps(1)
    except torch.OutOfMemoryError:
        return None
    finally:
        contestant = None  # type: ignore[assignment]  # its memory is the next one's
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
    peak = torch.cuda.max_memory_allocated(world.device) if cuda else resident_bytes("VmHWM")
    return (peak - before) / 1e6


def resident_bytes(name: Literal["VmRSS", "VmHWM"]) -> int:
    """Pages of this process in memory, now or at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def trim_heap() -> None:
    """Give the system back what was freed, where the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
