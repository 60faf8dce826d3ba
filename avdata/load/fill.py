"""Fills rows of a batch by a view. The loader's worker threads run this code."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from avdata.dataset import Dataset
from avdata.load.damage import BadSample
from avdata.load.decode import StoredSample, all_finite
from avdata.load.reader import ShardReader, ThreadMemory
from avdata.load.views import View
from avmanifest.errors import ShardError


@dataclass(slots=True)
class Rows:
    """The rows of a batch while workers fill them."""

    arrays: dict[str, np.ndarray]  # those of the view
    draws: Float64[np.ndarray, "b d"]  # random numbers in [0, 1) for the view
    sample_ids: Int64[np.ndarray, " b"]
    keys: list[str]
    errors: list[ShardError | None]  # why a row could not be filled
    bad: list[BadSample] = field(default_factory=list)  # all samples that could not be read, replaced or not


def fill_rows(
    dataset: Dataset, reader: ShardReader, view: View, rows: Rows, wanted: range, memory: ThreadMemory
) -> float:
    """Fill some rows of a batch.

    Args:
        dataset: Where the samples are.
        reader: Reads their bytes.
        view: What to take of them.
        rows: The batch. A sample that cannot be read leaves its ShardError in rows.errors.
        wanted: The rows to fill, adjacent ones.
        memory: Memory of the calling thread.

    Returns:
        Seconds that it took.
    """
    began = time.perf_counter()
    part = slice(wanted.start, wanted.stop)
    arrays, numbers, draws = list(rows.arrays.items()), rows.sample_ids[part].tolist(), rows.draws[part].tolist()
    queue, waiting = memory.crops, list[tuple[int, int, list[float]]]()  # row, number, draws of each crop in the queue
    with reader.leases() as leases:

        def fill(row: int, number: int, drawn: list[float], *, careful: bool = False) -> None:
            sample = StoredSample(dataset, reader, leases, memory, number, rows.keys[row])
            sample.careful = careful
            try:
                _fill_or_refetch(view, sample, drawn, {name: array[row, ...] for name, array in arrays})
            except ShardError as error:
                rows.errors[row] = error
                if queue is not None:
                    queue.drop(len(waiting))

        for row, number, drawn in zip(wanted, numbers, draws, strict=True):
            fill(row, number, drawn)
            if queue is not None:
                waiting += [(row, number, drawn)] * (len(queue) - len(waiting))
        if queue is not None and waiting:
            for again, made in zip(waiting, queue.run(), strict=True):
                if not made:
                    fill(*again, careful=True)
        log_mels = rows.arrays.get("log_mel")
        if log_mels is not None and not all_finite(log_mels[part]):
            for row, number in zip(wanted, numbers, strict=True):
                if rows.errors[row] is None:
                    sample = StoredSample(dataset, reader, leases, memory, number, rows.keys[row])
                    try:
                        sample.require_finite(log_mels[row], view.profile)
                    except ShardError as error:
                        rows.errors[row] = error
    return time.perf_counter() - began


def _fill_or_refetch(view: View, sample: StoredSample, draws: Sequence[float], out: Mapping[str, np.ndarray]) -> None:
    """Fill a row. If the cached copy of a remote shard is damaged, fetch it again and retry once."""
    try:
        view.fill(sample, draws, out)
    except ShardError:
        if not sample.refetched():
            raise
        view.fill(sample, draws, out)
