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
    queue, owners = memory.queue, list[int]()  # row of each of the queue's jobs
    with reader.leases(queue) as leases:

        def stored(row: int) -> StoredSample:
            return StoredSample(dataset, reader, leases, memory, numbers[row - wanted.start], rows.keys[row])

        def fill(row: int, *, careful: bool) -> None:
            sample, row_arrays = stored(row), {name: array[row, ...] for name, array in arrays}
            sample.careful = careful
            try:
                _fill_or_refetch(view, sample, draws[row - wanted.start], row_arrays)
            except ShardError as error:
                rows.errors[row] = error
                if queue is not None:
                    queue.drop(len(owners))

        for row in wanted:
            fill(row, careful=False)
            if queue is not None:
                owners += [row] * (len(queue) - len(owners))
        has_window = set[int]()  # rows whose log-mel compiled code has copied and checked
        if queue is not None:
            has_window.update(row for row, is_window in zip(owners, queue.are_windows(), strict=True) if is_window)
            for row in {row for row, made in zip(owners, queue.run(), strict=True) if not made}:
                has_window.discard(row)
                fill(row, careful=True)
        log_mels = rows.arrays.get("log_mel")
        if log_mels is not None and len(has_window) < len(wanted) and not all_finite(log_mels[part]):
            for row in wanted:
                if rows.errors[row] is None:
                    try:
                        stored(row).require_finite(log_mels[row], view.profile)
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
