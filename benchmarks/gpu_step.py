"""A pretraining step on one GPU, setting by setting, as Markdown. It ends after about ten minutes.

    python benchmarks/gpu_step.py --out step.md

Each table is written as soon as it is there, so a run that is stopped leaves what it has measured. Without a GPU it
runs at a small size and compiles nothing, to show that it works; such figures say nothing.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from avmodel.bench import TrainingSteps
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import RESIDUAL, RunConfig
from avmodel.costs import count_flop, draw_batch, matmul_flops, synchronize
from avmodel.distributed import World, choose_device
from avmodel.optim import set_lr

WAYS: Mapping[str, Mapping[str, Any]] = {
    "autocast": {},
    "autocast, blocks compiled": {"compile": "blocks"},
    "autocast, whole model compiled": {"compile": "whole"},
    "bfloat16 residual": {"precision": RESIDUAL},
    "bfloat16 residual, blocks compiled": {"precision": RESIDUAL, "compile": "blocks"},
    "bfloat16 residual, whole model compiled": {"precision": RESIDUAL, "compile": "whole"},
    "autocast, blocks compiled, activations recomputed": {"compile": "blocks", "checkpoint_activations": True},
}
# Without a GPU: many CPUs multiply bfloat16 slowly.
SMALL: Mapping[str, Any] = {"size": "16x2x2", "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
ATTENTION = {
    "encoder, image": (49 + 16, 12, 64),
    "encoder, audio": (19 + 16, 12, 64),
    "decoder, image": (196 + 16, 16, 32),
}


class Report:
    """A Markdown file that grows table by table."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.ends = path, time.monotonic() + seconds
        path.write_text("")

    def write(self, text: str) -> None:
        """Add a paragraph, and print it."""
        print(text, flush=True)
        with self.path.open("a") as file:
            file.write(text + "\n")

    def table(self, title: str, names: Sequence[str], rows: Iterator[Sequence[object]]) -> None:
        """Add a table, row by row."""
        self.write(f"\n## {title}\n\n| " + " | ".join(names) + " |\n|" + "---|" * len(names))
        for row in rows:
            self.write(
                "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
            )

    def has_time(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return time.monotonic() + seconds < self.ends


def measure(run: RunConfig, world: World, steps: int, rounds: int) -> tuple[float, float, float]:
    """Seconds to the end of the second step, samples per second (median), peak memory in GB."""
    cuda = world.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(world.device)
    began = time.perf_counter()
    training = TrainingSteps(run, draw_batch(run.model, run.batch_size, pinned=cuda), world)
    training.steps(2)
    started_s = time.perf_counter() - began
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        training.steps(steps)
        seconds.append((time.perf_counter() - began) / steps)
    memory = torch.cuda.max_memory_allocated(world.device) / 1e9 if cuda else float("nan")
    return started_s, run.batch_size / median(seconds), memory


def free(world: World) -> None:
    """Give back the memory of the last model."""
    gc.collect()
    torch._dynamo.reset()
    if world.device.type == "cuda":
        torch.cuda.empty_cache()


def ways(run: RunConfig, batches: Sequence[int], world: World, report: Report, steps: int) -> Iterator[list[object]]:
    """A row for each way of carrying out the step and each batch size."""
    flop = count_flop(run.model)
    cuda = world.device.type == "cuda"
    # Many CPUs multiply bfloat16 slowly.
    ceiling = matmul_flops(world.device, "bfloat16" if cuda else "float32")
    for batch_size in batches:
        for name, changes in WAYS.items():
            if not report.has_time(90):
                yield [name, batch_size, "no time left"]
                continue
            tried = replace(run, batch_size=batch_size, device_batch_size=batch_size, **changes)
            if not cuda:
                tried = replace(tried, compile="none")
            try:
                started_s, rate, memory = measure(tried, world, steps, 3)
                yield [name, batch_size, rate, rate * flop / ceiling, memory, started_s]
            except torch.OutOfMemoryError:
                yield [name, batch_size, "out of memory"]
            free(world)


def attention(batch_size: int, world: World) -> Iterator[list[object]]:
    """A row for each backend of scaled_dot_product_attention and shape: microseconds forward and backward."""
    backends = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)
    for name, (tokens, heads, width) in ATTENTION.items():
        for backend in backends:
            shape = (batch_size, heads, tokens, width)
            q, k, v = (
                torch.randn(shape, device=world.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
            )
            try:
                with sdpa_kernel(backend):
                    yield [name, tokens, backend.name, 1e6 * seconds_of(partial(attend, q, k, v), world)]
            except RuntimeError as error:
                yield [name, tokens, backend.name, str(error).splitlines()[0][:60]]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """Attention and its gradients."""
    F.scaled_dot_product_attention(q, k, v).sum().backward()


def seconds_of(call: Callable[[], object], world: World) -> float:
    """Mean seconds of a call, after two to warm up. On a CPU one call is measured, after none."""
    warm_up, repeats = (2, 20) if world.device.type == "cuda" else (0, 1)
    for _ in range(warm_up):
        call()
    synchronize(world.device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(world.device)
    return (time.perf_counter() - began) / repeats


def branches(batch_size: int, world: World) -> Iterator[list[object]]:
    """Image and audio projections of one layer: one after the other, in two streams, and as one batched product."""
    width, image, audio = 768 if world.device.type == "cuda" else 48, 65, 35
    made = {"device": world.device, "dtype": torch.bfloat16}
    x, y = torch.randn(batch_size, image, width, **made), torch.randn(batch_size, audio, width, **made)  # type: ignore[call-overload]
    a, b = (torch.randn(width, 4 * width, **made) for _ in range(2))  # type: ignore[call-overload]
    padded = torch.zeros(2, batch_size * image, width, **made)  # type: ignore[call-overload]
    weights = torch.stack([a, b])

    def in_streams() -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            y @ b
        x @ a
        torch.cuda.current_stream().wait_stream(side)

    yield ["one after the other", 1e6 * seconds_of(lambda: (x @ a, y @ b), world)]
    if world.device.type == "cuda":
        yield ["two streams", 1e6 * seconds_of(in_streams, world)]
    yield ["one batched product, audio padded", 1e6 * seconds_of(lambda: torch.bmm(padded, weights), world)]


def kernels(run: RunConfig, world: World) -> Iterator[list[object]]:
    """Time of the kernels of three steps by kind, and the time in which none ran."""
    cuda = world.device.type == "cuda"
    training = TrainingSteps(run, draw_batch(run.model, run.batch_size, pinned=cuda), world)
    training.steps(3)
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
        training.steps(3)
    whole_us = 1e6 * (time.perf_counter() - began)
    kinds: dict[str, float] = {}
    for event in found.key_averages():
        spent = float(event.self_device_time_total if cuda else event.self_cpu_time_total)
        if spent and not (cuda and event.device_type != torch.autograd.DeviceType.CUDA):
            kind = kind_of(event.key)
            kinds[kind] = kinds.get(kind, 0.0) + spent
    for kind, spent in sorted(kinds.items(), key=lambda item: -item[1]):
        yield [kind, spent / 3e3, f"{spent / whole_us:.1%}"]
    if cuda:
        yield ["no kernel runs", (whole_us - sum(kinds.values())) / 3e3, f"{1 - sum(kinds.values()) / whole_us:.1%}"]


def kind_of(kernel: str) -> str:
    """The kind of a kernel by its name."""
    name = kernel.lower()
    for kind, words in {
        "attention": ("flash", "fmha", "attention", "sdpa"),
        "matrix products": ("gemm", "nvjet", "cutlass", "mm", "linear", "conv"),
        "optimizer": ("adam", "foreach", "multi_tensor"),
        "normalization": ("norm",),
        "copies and casts": ("copy", "memcpy", "to_copy", "memset"),
    }.items():
        if any(word in name for word in words):
            return kind
    return "elementwise and other"


def curves(run: RunConfig, world: World, report: Report, steps: int) -> Iterator[list[object]]:
    """Mean loss of the last tenth of a training on one drawn batch, by precision and seed."""
    for precision in ("float32", "bfloat16", RESIDUAL):
        for seed in (0, 1):
            if not report.has_time(60):
                yield [precision, seed, "no time left"]
                continue
            tried = replace(run, precision=precision, seed=seed)
            training = TrainingSteps(tried, draw_batch(run.model, run.batch_size), world)
            for optimizer in training.objective.optimizers:
                set_lr(optimizer, tried.optim, peak_lr=tried.optim.peak_lr(tried.batch_size), done=0.5)
            losses = [training.steps(1) for _ in range(steps)]
            tail = losses[-max(1, steps // 10) :]
            yield [precision, seed, sum(tail) / len(tail)]
            del training
            free(world)


def main() -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("step.md"), help="the Markdown file")
    parser.add_argument("--seconds", type=float, default=570, help="when to end")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes; default 256, 512, 1024, on a CPU 2")
    asked = parser.parse_args()
    world = World(0, 1, choose_device("auto"))
    cuda = world.device.type == "cuda"
    model = DeepAVFusionConfig(size="base") if cuda else DeepAVFusionConfig(**SMALL)
    batches = asked.batches or ((256, 512, 1024) if cuda else (2,))
    run = RunConfig(name="step", model=model, batch_size=batches[0], device_batch_size=batches[0], precision="bfloat16")
    run = replace(run, optim=OptimConfig(lr=1e-4))
    report = Report(asked.out, asked.seconds)
    device = torch.cuda.get_device_name() if cuda else "a CPU: the figures say nothing"
    report.write(f"{device}, torch {torch.__version__}, {time.strftime('%d %B %Y')}, `python benchmarks/gpu_step.py`")
    best = replace(run, compile="blocks" if cuda else "none")
    report.table("Kernels of a step", ("kind", "ms", "share"), kernels(best, world))
    free(world)
    names = ("way", "batch", "samples/s", "share of the matrix rate", "peak memory, GB", "first two steps, s")
    report.table("Ways to carry out a step", names, ways(run, batches, world, report, 10 if cuda else 1))
    report.table("Attention", ("where", "tokens", "backend", "us"), attention(batches[0], world))
    report.table("Two branches", ("how", "us"), branches(batches[0], world))
    small = replace(run, model=replace(model, size="192x6x3") if cuda else model, batch_size=64 if cuda else 2)
    small = replace(small, device_batch_size=small.batch_size)
    with suppress(torch.OutOfMemoryError):
        report.table(
            "Loss by precision", ("precision", "seed", "loss"), curves(small, world, report, 2000 if cuda else 2)
        )


if __name__ == "__main__":
    main()
