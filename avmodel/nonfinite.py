"""Steps whose loss or gradients are not finite: which samples cause it, and how many steps a run may leave out.

The samples are found by bisection. A test runs the step's micro-batches again without an update, with all samples
blanked but those of a range: pictures, log-mels and waveforms of zeros in batches of the same size, with the same
random numbers. So losses that compare samples, and all processes, take part as in the step itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from avdata.load import Batch
from avmodel.distributed import World
from avmodel.sharding import gradient_norm

MOST_NAMED = 8  # samples that are looked for


@dataclass(slots=True)
class SkippedSteps:
    """Steps of a run that were left out, counted over resumes."""

    most: int  # that may be left out
    count: int = 0

    @property
    def left(self) -> int:
        """How many more may be left out."""
        return self.most - self.count


def skip_note(record: Mapping[str, Any], skipped: SkippedSteps) -> str:
    """A line about a step that was left out."""
    if "loss_scale" in record:
        scale = record["loss_scale"]
        return f"step {record['step']}: left out: gradients overflow float16 at loss scale {scale:g}; now {scale / 2:g}"
    samples = ", ".join(record["samples"]) or "no sample alone"
    return (
        f"step {record['step']}: left out, {skipped.count} of at most {skipped.most}: loss {record['loss']}, gradient "
        f"norm {record['grad_norm']}. Caused by: {samples}"
    )


class Place(NamedTuple):
    """A sample of a step, among those of all processes."""

    number: int  # of the micro-batch
    rank: int
    row: int
    key: str


def samples_to_blame(
    module: nn.Module,
    losses: Callable[[Batch, int], Iterator[Tensor]],
    micro: Sequence[Batch],
    world: World,
    most: int = MOST_NAMED,
) -> list[str]:
    """Keys of the samples that make loss or gradients not finite by themselves, of all processes; empty: none does.

    Every process calls this for the same step. Buffers and gradients of the module are afterwards as they were and
    empty.

    Args:
        module: The module with finite weights, whose gradients are looked at.
        losses: Gets a micro-batch and its number. Gives the total loss, as the step did, of each group of terms that
            is stepped on, with its graph.
        micro: This process's micro-batches of the step.
        world: All processes.
        most: Samples to find at most.
    """
    keys = world.all_of([list(batch.keys) for batch in micro])
    places = [
        Place(number, rank, row, key)
        for number in range(len(micro))
        for rank, of_rank in enumerate(keys)
        for row, key in enumerate(of_rank[number])
    ]

    def is_bad(asked: range) -> bool:
        # Of this process, for each micro-batch that has any of the samples; with no sample, the first one is blank.
        rows: dict[int, list[int]] = {} if asked else {0: []}
        for place in places[asked.start : asked.stop]:
            rows.setdefault(place.number, []).extend([place.row] if place.rank == world.rank else [])
        bad = False
        for number, own in rows.items():
            keep = torch.zeros(len(micro[number]), dtype=torch.bool)
            keep[own] = True
            bad |= not _is_finite(module, losses(blanked(micro[number], keep), number))
        return world.any(bad)

    buffers = [buffer.clone() for buffer in module.buffers()]
    # Without any sample, only the weights are left to blame.
    found = [] if is_bad(range(0)) else bisect(is_bad, len(places), most)
    restore_buffers(module, buffers)
    return [places[place].key for place in found]


def _is_finite(module: nn.Module, totals: Iterator[Tensor]) -> bool:
    finite = True
    for total in totals:
        torch.autograd.backward(total)
        norm = gradient_norm(module)
        finite &= bool(torch.isfinite(total.detach()) & torch.isfinite(norm))
        module.zero_grad()
    return finite


def bisect(is_bad: Callable[[range], bool], count: int, most: int) -> list[int]:
    """The first `most` of `count` items that are bad by themselves.

    `is_bad` says whether a range of items holds a bad one. Each item costs about log2(count) calls.
    """
    found: list[int] = []
    begin = 0
    while begin < count and len(found) < most and is_bad(range(begin, count)):
        low, high = begin, count
        while high - low > 1:
            middle = (low + high) // 2
            if is_bad(range(low, middle)):
                high = middle
            else:
                low = middle
        if not is_bad(range(low, high)):
            break  # bad only together with others
        found.append(low)
        begin = high
    return found


def blanked(batch: Batch, keep: Bool[Tensor, " b"]) -> Batch:
    """The batch with pictures and sound of zeros for all samples but those to keep."""

    def blank(values: Any) -> Any:
        return values.masked_fill(~keep.to(values.device).view(-1, *[1] * (values.ndim - 1)), 0)

    return replace(
        batch,
        images=blank(batch.images),
        log_mel=blank(batch.log_mel),
        waveform=None if batch.waveform is None else blank(batch.waveform),
    )


def restore_buffers(module: nn.Module, before: Sequence[Tensor]) -> None:
    """Give the module's buffers, such as the means of batch norms, their values from before back."""
    with torch.no_grad():
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
