"""What a training says of its speed: share of the device's matrix rate, peak memory, and the time left."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import torch

from avmodel.configs.run import RunConfig
from avmodel.costs import count_flop, matmul_flops, resident_bytes
from avmodel.distributed import World

RECENT_STEPS: Final = 50
"""Steps over which the time left is estimated."""

MEASURED_FROM: Final = 100
"""Shorter runs do not measure the device's matrix rate, which takes a second or two."""


class Speed:
    """Adds to a step's record what its speed means.

    Args:
        config: The run.
        world: Its processes.
        first: Steps that are done.
        steps: Steps at the end of the run.
    """

    def __init__(self, config: RunConfig, world: World, *, first: int, steps: int) -> None:
        self._batch_size, self._steps, self._device = config.batch_size, steps, world.device
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)  # seconds
        self._share_of_rate: float | None = None  # of the devices' matrix rate, at one sample a second
        if world.is_main and steps - first >= MEASURED_FROM:
            rate = matmul_flops(world.device, config.precision) * world.size
            self._share_of_rate = count_flop(config.model) / rate

    def of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with `eta_s`, `peak_memory_mb` and, in runs of 100 steps or more, `mfu`.

        `eta_s`: seconds to the end of the run, at the mean speed of the last 50 steps. `peak_memory_mb`: most memory of
        this process so far, in 10^6 bytes: allocations on CUDA, else resident pages. `mfu`: samples_per_s times the
        floating-point operations of a sample's forward and backward pass (without recomputation, without the
        optimizer), over the matrix rate that was measured on this device at the start, times the number of processes.
        """
        self._recent.append(self._batch_size / record["samples_per_s"])
        mean_s = sum(self._recent) / len(self._recent)
        added = {"eta_s": round(mean_s * (self._steps - record["step"]), 1), "peak_memory_mb": self._peak_memory_mb()}
        if self._share_of_rate is not None:
            added["mfu"] = round(record["samples_per_s"] * self._share_of_rate, 4)
        return {**record, **added}

    def _peak_memory_mb(self) -> float:
        cuda = self._device.type == "cuda"
        found = torch.cuda.max_memory_allocated(self._device) if cuda else resident_bytes("VmHWM")
        return round(found / 1e6, 1)
