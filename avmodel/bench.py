"""Speed of a pretraining step and its share of the device's matrix rate, for fusions or families in one run."""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from avdata.load import Batch
from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmodel.compiling import compile_blocks
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.model import ModelConfig
from avmodel.configs.run import COMPILE, RESIDUAL, RunConfig
from avmodel.costs import (
    SEED,
    count_flop,
    count_parameters,
    draw_batch,
    matmul_flops,
    resident_bytes,
    state_memory_mb,
    synchronize,
    weights_memory_mb,
)
from avmodel.distributed import World, choose_device
from avmodel.fit import take_step
from avmodel.inputs import to_inputs
from avmodel.models import FAMILIES, build_model
from avmodel.precision import autocast, require_precision
from avmodel.train import pretraining

ROWS: Mapping[str, Mapping[str, Any]] = {
    "factorized": {"fusion": "factorized"},
    "dense": {"fusion": "dense"},
    "dense-pairs": {"fusion": "dense", "fusion_impl": "pairs"},
    "token": {"fusion": "token"},
    "none": {"fusion_layers": "none"},
}


# Table 6 of the paper, videos per second and GB; its dense fusion is that over pairs. It says neither what it measures
# nor the batch: 10 GB are not the inference of this model.
PAPER_FUSIONS: Mapping[str, tuple[float, float]] = {
    "none": (14.5, 10.3),
    "dense-pairs": (4.3, 31.6),
    "factorized": (12.8, 13.1),
}
# GFLOP of the released modules, which also compute the fusion tokens' outputs in the blocks, that nothing reads.
RELEASED_GFLOP: Mapping[str, float] = {"none": 51.62, "token": 66.54, "dense-pairs": 336.30, "factorized": 75.54}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBench:
    """Settings of the benchmark. None: chosen for the device, a small model on a CPU, the paper's on a GPU."""

    device: str = "auto"
    size: str | None = None  # None: tiny, or base on CUDA
    batches: tuple[int, ...] | None = None  # None: 2 (families: 8), or 64, 128 and 256 on CUDA
    precision: str | None = None  # None: float32, or bfloat16 on CUDA
    compile: str | None = None  # none, blocks or whole; None: blocks on CUDA, else none
    rows: tuple[str, ...] = tuple(ROWS)
    encode: bool = False  # encode whole inputs without gradients, as in the paper's table 6, in place of training steps
    families: tuple[str, ...] = ()  # rows of family_rows in place of fusions; all: every one
    rounds: int | None = None  # each measures every row once; None: 3, or 5 on CUDA
    steps: int | None = None  # of a row in a round; None: 1, or 10 on CUDA
    model: DeepAVFusionConfig | None = None  # in place of size: the rows change its fusion

    def __post_init__(self) -> None:
        for name, value in (("rounds", self.rounds), ("steps", self.steps), ("batch", min(self.batches or (1,)))):
            if value is not None and value < 1:
                raise ConfigError(f"--{name}={value}: must be 1 or more")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise ConfigError(unknown_name("--fusion", unknown[0], ROWS))
        if unknown := [name for name in self.families if name not in (*(known := family_rows()), "all")]:
            raise ConfigError(unknown_name("--family", unknown[0], ["all", *known]))
        if self.encode and (self.precision == RESIDUAL or self.compile == "whole"):
            raise ConfigError(
                f"--encode: --precision {RESIDUAL} and --compile whole are of training steps alone. Leave one out."
            )
        if self.compile is not None and self.compile not in COMPILE:
            raise ConfigError(unknown_name("--compile", self.compile, COMPILE))
        if self.families and self.model is not None:
            raise ConfigError("model belongs to fusions: give families a size instead")

    def models(self, size: str) -> dict[str, ModelConfig]:
        """The compared models, by row. Raises ConfigError for an unknown size."""
        try:
            if self.families:
                known = family_rows()
                names = tuple(known) if "all" in self.families else self.families
                return {name: known[name][0](size=size, **known[name][1]) for name in names}
            model = self.model or DeepAVFusionConfig(size=size)
            return {name: replace(model, **ROWS[name]) for name in self.rows}
        except ValueError as error:
            raise ConfigError(str(error)) from error


def family_rows() -> dict[str, tuple[Callable[..., ModelConfig], Mapping[str, Any]]]:
    """The rows of all families, by name: the default model of each, then its config's `bench_rows`."""
    rows: dict[str, tuple[Callable[..., ModelConfig], Mapping[str, Any]]] = {}
    for name, family in FAMILIES.items():
        config = family.config_type
        rows |= {name: (config, {}), **{row: (config, changes) for row, changes in config.bench_rows.items()}}
    return rows


def bench_fusion(bench: StepBench) -> Iterator[dict[str, Any]]:
    """The rows of `bench_step` for encoding whole inputs, beside table 6 of the paper: by default of its ViT-B.

    Further figures: `weights_memory_mb`, that of the model; `extra_memory_mb`, the peak without it;
    `released_gflop`, what torch counts of the released modules; `paper_videos_per_s`, `paper_memory_gb` and their
    ratios to the row without fusion. A figure that there is not is None.
    """
    none_speed, none_memory = PAPER_FUSIONS["none"]
    chosen = replace(
        bench,
        encode=True,
        size=bench.size or "base",
        batches=bench.batches or ((8, 16, 32, 64) if choose_device(bench.device).type == "cuda" else (2,)),
    )
    models = chosen.models(chosen.size or "")
    for row in bench_step(chosen):
        name, peak = row["fusion"], row["peak_memory_mb"]
        weights = weights_memory_mb(models[name])
        speed, memory = PAPER_FUSIONS.get(name, (None, None))
        yield row | {
            "weights_memory_mb": weights,
            "extra_memory_mb": None if peak is None else peak - weights,
            "released_gflop": RELEASED_GFLOP.get(name) if models[name] == paper_model(name) else None,
            "paper_videos_per_s": speed,
            "paper_memory_gb": memory,
            "paper_speed_of_none": None if speed is None else speed / none_speed,
            "paper_memory_of_none": None if memory is None else memory / none_memory,
        }


def paper_model(row: str) -> DeepAVFusionConfig:
    """The model of a row at the paper's size."""
    return replace(DeepAVFusionConfig(), **ROWS[row])


class TrainingSteps:
    """A model that trains on one random batch."""

    def __init__(self, run: RunConfig, batch: Batch, world: World) -> None:
        torch.manual_seed(SEED)
        self.run, self.batch, self.world = run, batch, world
        self.model = build_model(run.model).to(world.device)
        self.objective = pretraining(run, self.model, world)

    def steps(self, count: int) -> float:
        """Take training steps as `avmodel.train` does, and wait for the last. Its loss."""
        for _ in range(count):
            taken = take_step(self.objective, [self.batch], self.world)
        return taken.read()[0]["total"]


class EncodingSteps:
    """A model that encodes one random batch, unmasked and without gradients."""

    def __init__(self, run: RunConfig, batch: Batch, world: World) -> None:
        torch.manual_seed(SEED)
        self.run, self.batch, self.world = run, batch, world
        self.model = build_model(run.model).to(world.device).eval()
        if run.compile != "none":
            compile_blocks(self.model)

    @torch.no_grad()
    def steps(self, count: int) -> None:
        """Encode the batch `count` times, and wait for the last."""
        for _ in range(count):
            with autocast(self.run.precision, self.world.device):
                self.model.streams(*to_inputs(self.batch, self.world.device))
        synchronize(self.world.device)


def bench_step(bench: StepBench) -> Iterator[dict[str, Any]]:
    """A row for each batch size and fusion or family: samples per second, peak memory, share of the matrix rate.

    A step is all of training but loading: normalization, masks, forward, backward, AdamW. Every round measures each row
    and a matrix product of the same precision; each figure is the median over the rounds. `gflop_per_sample` is torch's
    count of one sample's forward and backward: matrix products, convolutions and attention, a multiply-add as two
    operations, without the optimizer. `flops_share` is gflop_per_sample times samples per second, over the rate of the
    matrix product. `peak_memory_mb` is the most memory of a step, with weights, gradients and optimizer
    (`state_memory_mb`): allocations on CUDA; on a CPU resident pages beyond those before the model was built.
    `cpu_ms_per_sample` is processor time of all threads, which other processes of a busy machine lengthen less than
    the time that passes. A row that does not fit into memory has no figures. With `encode` a step encodes whole inputs.
    """
    world = World(0, 1, choose_device(bench.device))
    cuda = world.device.type == "cuda"
    precision = bench.precision or ("bfloat16" if cuda else "float32")
    require_precision(precision, world.device)
    compiled = ("blocks" if cuda else "none") if bench.compile is None else bench.compile
    models = bench.models(bench.size or ("base" if cuda else "tiny"))
    for batch_size in bench.batches or ((64, 128, 256) if cuda else (8 if bench.families else 2,)):
        runs = {
            name: RunConfig(
                name=name,
                model=model,
                batch_size=batch_size,
                device_batch_size=batch_size,
                precision=precision,
                compile=compiled,
            )
            for name, model in models.items()
        }
        steps, rounds = bench.steps or (10 if cuda else 1), bench.rounds or (5 if cuda else 3)
        steps_type = EncodingSteps if bench.encode else TrainingSteps
        yield from measure_rows(runs, world, rounds, steps, "family" if bench.families else "fusion", steps_type)


def measure_rows(
    runs: Mapping[str, RunConfig],
    world: World,
    rounds: int,
    steps: int,
    kind: str,
    steps_type: type[TrainingSteps] | type[EncodingSteps],
) -> Iterator[dict[str, Any]]:
    """The rows of one batch size. `kind`: fusion or family, the column of their names."""
    batch_size = next(iter(runs.values())).batch_size
    pinned = world.device.type == "cuda"
    batches = {name: draw_batch(run.model, batch_size, pinned=pinned) for name, run in runs.items()}
    memory = {name: peak_memory_mb(run, batches[name], world, steps_type) for name, run in runs.items()}
    candidates: dict[str, TrainingSteps | EncodingSteps] = {}
    for name, run in runs.items():
        if memory[name] is not None:
            # All are in memory at once, because every round measures each.
            with suppress(torch.OutOfMemoryError):
                candidate = steps_type(run, batches[name], world)
                candidate.steps(1 if run.compile == "none" else 2)
                candidates[name] = candidate
    precision = next(iter(runs.values())).precision
    ceilings = []
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    busy: dict[str, list[float]] = {name: [] for name in candidates}
    matmul_flops(world.device, precision)
    for _ in range(rounds):
        ceilings.append(matmul_flops(world.device, precision))
        for name, candidate in candidates.items():
            began, began_busy = time.perf_counter(), time.process_time()
            candidate.steps(steps)
            seconds[name].append((time.perf_counter() - began) / steps)
            busy[name].append((time.process_time() - began_busy) / steps)
    ceiling = median(ceilings)
    rates = {name: batch_size / median(times) for name, times in seconds.items()}
    for name, run in runs.items():
        flop = count_flop(run.model, encode=steps_type is EncodingSteps)
        rate, peak = rates.get(name), memory[name]
        ratios = {
            f"{what}_of_{base.rpartition('-')[2]}": values[name] / values[base]  # type: ignore[operator]
            if values.get(name) and values.get(base)
            else None
            for what, base, values in (
                (("speed", "none", rates), ("memory", "none", memory))
                if kind == "fusion"
                else (("speed", "avsiam-nomask", rates), ("memory", "avsiam", memory))
            )
        }
        yield {
            kind: name,
            "size": run.model.size,
            "batch": batch_size,
            "parameters_m": count_parameters(run.model) / 1e6,
            "samples_per_s": rate,
            "ms_per_sample": 1e3 / rate if rate else None,
            "ms_per_sample_by_round": [1e3 * took / batch_size for took in seconds.get(name, [])],
            "cpu_ms_per_sample": 1e3 * median(busy[name]) / batch_size if name in busy else None,
            "peak_memory_mb": peak,
            "state_memory_mb": state_memory_mb(run.model),
            "flops_share": rate * flop / ceiling if rate else None,
            "gflop_per_sample": flop / 1e9,
            "tflops": rate * flop / 1e12 if rate else None,
            "matmul_tflops": ceiling / 1e12,
            **ratios,
            "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "precision": run.precision,
            "compile": run.compile,
        }


def peak_memory_mb(
    run: RunConfig, batch: Batch, world: World, steps_type: type[TrainingSteps] | type[EncodingSteps] = TrainingSteps
) -> float | None:
    """Peak memory of one step with its model, in 10^6 bytes; None if it does not fit."""
    gc.collect()
    cuda = world.device.type == "cuda"
    if not cuda:
        trim_heap()
    before = torch.cuda.memory_allocated(world.device) if cuda else resident_bytes("VmRSS")
    try:
        candidate = steps_type(replace(run, compile=run.compile if cuda else "none"), batch, world)
        candidate.steps(1)
        if cuda:
            torch.cuda.reset_peak_memory_stats(world.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        candidate.steps(1)
    except torch.OutOfMemoryError:
        return None
    finally:
        candidate = None  # type: ignore[assignment]  # free its memory
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
    peak = torch.cuda.max_memory_allocated(world.device) if cuda else resident_bytes("VmHWM")
    return (peak - before) / 1e6


def trim_heap() -> None:
    """Return freed memory to the system, where the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
