"""What the first pass of gradient_cache costs, as Markdown: floating-point operations at the runs' own sizes, and time.

    python benchmarks/gradient_cache.py --rounds 3

Operations are torch's count of a sample's first pass over those of its forward and backward pass with all losses. Time
is this process's on the CPU for a step of four samples in micro-steps of two, at size tiny on one thread: with and
without the cache in turn, so that both meet the same machine.
"""

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from avmodel.configs.run import RunConfig
from avmodel.costs import SEED, count_flop, draw_batch, on_meta
from avmodel.distributed import World
from avmodel.fit import take_step
from avmodel.models import build_model
from avmodel.models.family import Contrast
from avmodel.presets import run_config
from avmodel.rng import draw_masks
from avmodel.train import pretraining

RUNS = ("avsiam-b", "avsiam-nce", "cavmae", "crossmae", "cl-av")
SAMPLES, AT_ONCE = 4, 2


def first_pass_share(run: RunConfig) -> float:
    """Operations of the first pass over those of a step without it, at the run's own size."""
    model = on_meta(run.model)
    size = model.least_batch
    masks = draw_masks(model, SEED, draw_batch(run.model, size))
    with torch.device("meta"):
        image, log_mel = torch.zeros(size, 3, *run.model.image_size), torch.zeros(size, 1, *run.model.audio_size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image, log_mel, masks, contrast=Contrast.ALONE)
    return counter.get_total_flops() / size / count_flop(run.model)


def step_times(run: RunConfig, rounds: int) -> dict[bool, float]:
    """Seconds of a step without and with the cache: medians over the rounds, which measure both."""
    world = World(0, 1, torch.device("cpu"))
    model = replace(run.model, size="tiny")
    # One mask ratio of the mean: a micro-step of two samples has none for each of five groups.
    model = replace(model, mask_ratios=(0.25,)) if hasattr(model, "mask_ratios") else model
    batches = [draw_batch(model, AT_ONCE) for _ in range(SAMPLES // AT_ONCE)]
    objectives = {}
    for cached in (False, True):
        torch.manual_seed(SEED)
        tried = replace(
            run, model=model, batch_size=SAMPLES, device_batch_size=AT_ONCE, gradient_cache=cached,
            precision="float32", compile="none",
        )  # fmt: skip
        objectives[cached] = pretraining(tried, build_model(model), world)
    taken: Mapping[bool, list[float]] = {False: [], True: []}
    for number in range(rounds + 1):
        for cached, objective in objectives.items():
            began = time.process_time()
            take_step(objective, batches, world).read()
            if number:  # the first one allocates
                taken[cached].append(time.process_time() - began)
    return {cached: median(times) for cached, times in taken.items()}


def lines(rounds: int) -> Iterator[str]:
    """A table, line by line."""
    yield "| run | first pass, of a step's operations | step without | with | ratio |"
    yield "|---|---|---|---|---|"
    for name in RUNS:
        run = run_config(name)
        figures = ["-", "-", "-"]
        if rounds:
            plain, cached = step_times(run, rounds).values()
            figures = [f"{plain:.2f} s", f"{cached:.2f} s", f"{cached / plain:.2f}"]
        yield f"| {name} | {first_pass_share(run):.1%} | {' | '.join(figures)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="steps that are timed; 0: only count operations")
    torch.set_num_threads(1)
    for line in lines(parser.parse_args().rounds):
        print(line, flush=True)
