"""The processes of a run: rank, device, and collective operations."""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from avmanifest.errors import ConfigError
from avmanifest.wording import counted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """One process among `size`, and the device it computes on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and logs."""
        return self.rank == 0

    def mean(self, values: Shaped[Tensor, "*n"]) -> Shaped[Tensor, "*n"]:
        """The values averaged over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, value: bool) -> bool:
        """Whether the value is true on some process."""
        return bool(self.mean(torch.tensor([float(value)], device=self.device)) > 0)

    def of_main(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """The whole numbers of process 0; every process gives as many."""
        values = torch.tensor(numbers, dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.broadcast(values, src=0)
        return tuple(values.tolist())

    def all_of(self, value: T) -> list[T]:
        """The values of all processes, rank by rank: plain data, which torch pickles between them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather(self, rows: Shaped[Tensor, "n *d"]) -> Shaped[Tensor, "m *d"]:
        """The rows of all processes, rank by rank. Every process must pass equally many."""
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    def gather_uneven(self, rows: Shaped[Tensor, "n *d"]) -> Shaped[Tensor, "m *d"]:
        """The rows of all processes, rank by rank; a process may give fewer than another, or none."""
        if self.size == 1:
            return rows
        counts = self.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
        filler = rows.new_zeros(max(counts) - len(rows), *rows.shape[1:])
        parts = self.gather(torch.cat([rows, filler])).chunk(self.size)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # noqa: ARG004  # autograd's signature
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # noqa: ARG004
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def all_gather_with_grad(rows: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """The rows of all processes, with gradients.

    The gradient of a row is the sum of its gradients in all processes. DistributedDataParallel then averages over
    processes, so training gets the gradient that one process with all rows would compute.

    Args:
        rows: The rows of this process. Every process must pass the same number of rows.

    Returns:
        The rows of rank 0, then of rank 1, and so on (m = n x number of processes); `rows` itself without other
        processes.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


def is_first_process() -> bool:
    """Whether this is the first of torchrun's processes, or the only one: it tells of the results of all."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """The world that torchrun has set up, else a world of one. NCCL on CUDA devices, gloo on CPUs.

    `device`: auto (CUDA if there is one), cpu, cuda, cuda:1. Raises ConfigError for a missing device.
    """
    size, rank, local = (
        int(os.environ.get(name, default))
        for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))
    )
    chosen = choose_device(device, local)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    _keep_until_exit(dist.group.WORLD)
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


def _keep_until_exit(group: Any) -> None:
    """Hold a process group, so that DistributedDataParallel is never the last to hold it.

    After an error the traceback may hold the model past `destroy_process_group`. Freed then, the model would free the
    group while it has Python's lock and wait for a thread of gloo that needs this lock: the process would hang. Freed
    from Python, the group's threads are waited for without the lock.
    """
    _groups.append(group)
    if len(_groups) == 1:
        atexit.register(_groups.clear)


_groups: list[Any] = []


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name for this process. Raises ConfigError for a missing one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; known: auto, cpu, cuda, cuda:NUMBER") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device={name!r}: training runs on cpu and cuda")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        advice = "Start fewer processes, or set device=cpu." if found else "Set device=cpu."
        raise ConfigError(f"device={name!r}: {counted(found, 'CUDA device')} here. {advice}")
    return device
