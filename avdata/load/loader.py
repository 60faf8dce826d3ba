"""The loader: batches of a dataset in a reproducible order that can be resumed at any sample.

Workers are threads, not processes: JPEG decoding, resizing and reading release the GIL, and batches need not be copied
between processes.
"""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, cast

import cv2
import numpy as np
from jaxtyping import Bool, Int64

from avdata.cores import usable_cores
from avdata.dataset import Dataset, balanced
from avdata.load.batch import ArrayBatch, BufferPool
from avdata.load.cache import CacheConfig
from avdata.load.damage import BadSample, DamageCount, excluded_samples
from avdata.load.fill import Rows, fill_rows
from avdata.load.native import NativeQueue, native_library
from avdata.load.order import (
    EpochOrder,
    LoaderState,
    Order,
    OrderConfig,
    Tail,
    batch_positions,
    check_ranks,
    mixed_order,
    num_batches,
    replacement_positions,
    sample_draws,
    without_excluded,
)
from avdata.load.reader import ShardReader, ThreadMemory
from avdata.load.views import BatchArray, View
from avdata.urls import is_cached
from avmanifest.errors import CheckpointError, ConfigError, ShardError
from avmanifest.extras import naming_extras
from avmanifest.files import sha256_of
from avmanifest.wording import counted

if TYPE_CHECKING:
    from avdata.load.tensors import Batch

_LOG: Final = logging.getLogger(__name__)
_FETCHERS: Final = 4  # concurrent downloads
_RANGES: Final = 16  # ranges of shards that are read at the same time
# Arrays of a view that are fields of a batch, with the number of axes that they have beside those of windows or frames.
_WINDOWS: Final = {"log_mel": 2, "waveform": 1, "window_start_s": 0}
_FRAMES: Final = {"images": 3, "masks": 2, "frame_time_s": 0, "masked": 0, "frames": 0}
_NAMED: Final = (*_WINDOWS, *_FRAMES, "gain_db")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How samples become batches. The defaults suit training on one device."""

    batch_size: int = 64  # per rank
    seed: int = 0
    order: OrderConfig = field(default_factory=OrderConfig)
    class_balanced: bool = False  # draw samples of rare classes as often as those of frequent classes
    tail: Tail = "drop"
    num_workers: int | None = None  # threads; None: one per core; 0: decode in the calling thread
    prefetch_batches: int = 4  # batches that are decoded ahead, besides the one in use
    chunk_samples: int | None = None  # samples per task of a worker; None: 8 to 32, as many as keep all workers busy
    fetch_ahead_samples: int = 4096  # download a remote shard so many samples before its first one is needed
    skip_bad: bool = False  # go on at a damaged sample, instead of raising: see `Loader`
    # Raise when more of this rank's samples of an epoch, or of its rest after a resume, are damaged; one always may be.
    max_bad_share: float = 0.05
    exclude_keys: tuple[str, ...] = ()  # samples to replace by others as if they were damaged, without counting them
    check_members: bool = True  # compare each member that is read with its hash; False shows what that costs
    tensors: bool | None = None  # batches of torch tensors; False: of numpy arrays; None: tensors if torch is installed
    native: bool = True  # crop with compiled code if it is built: see docs/decisions/native.md
    pin_memory: bool = False  # page-locked memory, for asynchronous copies to a GPU
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        least = {"batch_size": 1, "seed": 0, "num_workers": 0, "prefetch_batches": 1, "chunk_samples": 1}
        for name, lowest in (least | {"fetch_ahead_samples": 0}).items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise ConfigError(f"{name}={value}: must be {lowest} or more")
        if not 0 <= self.max_bad_share <= 1:
            raise ConfigError(f"max_bad_share={self.max_bad_share}: must be from 0 to 1")
        if self.exclude_keys and self.tail == "pad":
            raise ConfigError(
                'exclude_keys replaces samples, and tail="pad" has each once. Leave them out with select().'
            )


def evaluation_config(config: LoaderConfig | None = None) -> LoaderConfig:
    """The config for evaluation: the dataset's own order, and every sample once (tail `pad`; see `Batch.valid`)."""
    config = config or LoaderConfig()
    return replace(config, order=replace(config.order, shuffle=False), tail="pad", class_balanced=False)


@dataclass(slots=True)
class LoaderStats:
    """Counts and times of one rank's loader since its creation."""

    batches: int = 0
    samples: int = 0
    skipped: int = 0  # damaged samples that skip_bad replaced or left out, each once an epoch
    waited_s: float = 0.0  # time that the consumer waited for batches
    elapsed_s: float = 0.0  # wall time of the iterations, including the use of the batches
    worker_s: float = 0.0  # time that the workers spent on samples, summed over them

    @property
    def wait_share(self) -> float:
        """Share of elapsed_s that the consumer waited for batches, from 0 to 1."""
        return self.waited_s / self.elapsed_s if self.elapsed_s else 0.0


@dataclass(slots=True)
class _Pending:
    """A batch that workers are decoding."""

    first: int  # position of its first sample in the epoch, over all ranks
    positions: Int64[np.ndarray, " b"]
    valid: Bool[np.ndarray, " b"]
    rows: Rows
    futures: list[Future[float]]


class Loader:
    """Iterates over one rank's batches of a dataset.

    Each iteration yields the rest of the current epoch, then moves to the next epoch. All ranks yield the same number
    of batches. Every rank needs the same dataset, view and config.

    With `skip_bad`, a damaged sample is logged and counted. With tail `drop`, for training, another sample takes its
    place, which `order.replacement_positions` chooses by (seed, epoch, position): batches keep their size on every
    rank, no rank waits for another, and all other samples stay where they are. With tail `pad`, for evaluation, it is
    left out of its batch. `skip_bad`, `max_bad_share`, `exclude_keys`, workers and cache may change at a resume.

    Example:
        ```python
        loader = Loader(open_dataset("data/mine"), TrainView())
        for epoch in range(loader.state.epoch, num_epochs):  # resumes, too
            for batch in loader:
                ...
        ```
    """

    def __init__(
        self, dataset: Dataset, view: View, config: LoaderConfig | None = None, *, rank: int = 0, world_size: int = 1
    ) -> None:
        """Create a loader.

        Args:
            dataset: The samples.
            view: The windows, frames and crops to take from each sample.
            config: Batch size, order, workers; None: the defaults.
            rank: Number of this process.
            world_size: Number of processes.

        Raises:
            ConfigError: Options exclude each other, or the shards lack the view's log-mel profile and audio.
        """
        config = config or LoaderConfig()
        check_ranks(rank, world_size, config.tail)
        _check_arrays(view)
        view.check(dataset)
        if config.pin_memory and not _has_cuda():
            raise ConfigError("pin_memory=True needs a CUDA device, and there is none. Leave it off.")
        self.dataset = balanced(dataset) if config.class_balanced else dataset
        self.view, self.config, self.rank, self.world_size = view, config, rank, world_size
        self._state = LoaderState(
            epoch=0, position=0, seed=config.seed, plan_hash=_plan_hash(self.dataset, config.order)
        )
        self._stats = LoaderStats()
        self._reader = ShardReader(self.dataset.shards, config.cache, check=config.check_members)
        if config.pin_memory:
            from avdata.load.tensors import pinned_bytes  # noqa: PLC0415 - needs torch

            self._pool = BufferPool(pinned_bytes)
        else:
            self._pool = BufferPool()
        self._memories: SimpleQueue[ThreadMemory] = SimpleQueue()
        self._order: tuple[int, Order] | None = None
        self._excluded = excluded_samples(self.dataset, config.exclude_keys)
        self._damage = DamageCount(config.max_bad_share, self.dataset.epoch_samples / world_size)
        cv2.setNumThreads(0)

    @property
    def state(self) -> LoaderState:
        """The position after the last batch that was yielded. Batches decoded ahead do not count."""
        return self._state

    @property
    def stats(self) -> LoaderStats:
        """Counts and times since the loader was created."""
        return self._stats

    def __len__(self) -> int:
        """Batches left in this epoch."""
        left = self.dataset.epoch_samples - self._state.position
        return num_batches(left, self.config.batch_size, self.world_size, self.config.tail)

    def __repr__(self) -> str:
        left = counted(len(self), "batch", "batches")
        return f"Loader(epoch {self._state.epoch}: {left} of {counted(self.config.batch_size, 'sample')} left)"

    def state_dict(self) -> dict[str, int | str]:
        """Epoch, position, seed and plan hash, for a checkpoint. It is the same on every rank."""
        return self._state.as_dict()

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Continue at the next sample. The numbers of ranks and workers and the batch size may differ.

        Args:
            values: From `state_dict`.

        Raises:
            ConfigError: The state has another seed, or belongs to other data or another order.
            CheckpointError: It is no state of a loader, or is at a sample that the dataset does not have.
        """
        state = LoaderState.from_dict(values)
        if state.seed != self.config.seed or state.plan_hash != self._state.plan_hash:
            raise ConfigError(
                f"the loader state has seed {state.seed}, plan {state.plan_hash[:12]}; this loader has seed "
                f"{self.config.seed}, plan {self._state.plan_hash[:12]}. Resume with the same samples, weights, "
                "block_samples and window_samples, or start again without the state."
            )
        if state.position > (total := self.dataset.epoch_samples):
            raise CheckpointError(f"the loader state is at sample {state.position} of {total}")
        self._state = state
        self._damage.begin(state.epoch, (total - state.position) / self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch. In the current epoch, keep the position, so that a resumed run continues."""
        if epoch != self._state.epoch:
            self._move(epoch, 0)

    def __iter__(self) -> Iterator["Batch"]:
        """Iterate over the rest of the epoch: `Batch` or `ArrayBatch`, as the setting `tensors` says. See `arrays`."""
        as_tensors = None if self.config.tensors is False else _as_tensors(required=self.config.tensors is True)
        with contextlib.closing(self.arrays()) as batches:
            for batch in batches:
                yield cast("Batch", batch) if as_tensors is None else as_tensors(batch)

    def arrays(self) -> Generator[ArrayBatch, None, None]:
        """Iterate over the rest of the epoch, as numpy arrays.

        After a `break`, the next iteration continues behind the last batch that was yielded.

        Raises:
            ShardError: A sample of the next batch is damaged or missing, and skip_bad is False.
        """
        epoch, firsts = self._state.epoch, self._firsts()
        began = time.perf_counter()
        elapsed_before = self._stats.elapsed_s
        with self._workers() as pool, self._fetchers() as fetch, self._reader.fetching():
            pending: deque[_Pending] = deque()
            while firsts or pending:
                requested = time.perf_counter()
                while firsts and len(pending) < self.config.prefetch_batches:
                    first = firsts.popleft()
                    fetch(first)
                    pending.append(self._begin(epoch, first, pool))
                batch = self._finish(epoch, pending.popleft())
                now = time.perf_counter()
                self._stats.waited_s += now - requested
                self._stats.elapsed_s = elapsed_before + now - began
                yield batch
        self._move(epoch + 1, 0)

    def as_dataloader(self, collate: "Callable[[Batch], Any] | None" = None) -> "DataLoaderLike":
        """This loader for a framework's trainer: Lightning, accelerate, Hugging Face. See `DataLoaderLike`."""
        return DataLoaderLike(self, collate)

    def _move(self, epoch: int, position: int) -> None:
        self._state = LoaderState(
            epoch=epoch, position=position, seed=self._state.seed, plan_hash=self._state.plan_hash
        )

    def _firsts(self) -> deque[int]:
        """Position (over all ranks) of the first sample of each remaining batch."""
        step = self.config.batch_size * self.world_size
        return deque(self._state.position + step * number for number in range(len(self)))

    def _epoch_order(self, epoch: int) -> Order:
        if self._order is None or self._order[0] != epoch:
            config, dataset = self.config, self.dataset
            order: Order
            if dataset.parts:
                order = mixed_order(dataset.shard_of, dataset.parts, config.seed, epoch, config.order, dataset.weights)
            else:
                order = EpochOrder(dataset.shard_of, config.seed, epoch, config.order, dataset.weights)
            if self._excluded is not None:
                order = without_excluded(order[:], self._excluded, config.seed, epoch, config.order)
            self._order = epoch, order
        return self._order[1]

    @property
    def _num_workers(self) -> int:
        return usable_cores() if self.config.num_workers is None else self.config.num_workers

    @property
    def _chunk_samples(self) -> int:
        """Samples per task: between tasks workers wait for Python's lock, and each worker should have four of them."""
        ahead = self.config.batch_size * self.config.prefetch_batches
        workers = _RANGES if self._reader.reads_ranges else max(self._num_workers, 1)
        return self.config.chunk_samples or min(max(ahead // (4 * workers), 8), 32)

    @contextlib.contextmanager
    def _workers(self) -> Iterator[ThreadPoolExecutor | None]:
        """The thread pool of an iteration; None: decode in the calling thread. All threads end with the block."""
        number = threads = self._num_workers
        if number and self._reader.has_cached:  # threads that wait for a range give their turn to another
            threads, self._reader.turns = max(number, _RANGES), threading.Semaphore(number)
        pool = ThreadPoolExecutor(threads, "avkit-loader") if number else None
        try:
            yield pool
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
            self._reader.turns = None
            self._reader.close_partial()
            self._reader.close_idle()

    def _begin(self, epoch: int, first: int, pool: ThreadPoolExecutor | None) -> _Pending:
        """Allocate a batch, draw its random numbers, and submit it to the workers."""
        config, view = self.config, self.view
        total = self.dataset.epoch_samples
        positions, valid = batch_positions(first, total, config.batch_size, self.rank, self.world_size)
        order = self._epoch_order(epoch)
        sample_ids, b = order[positions], len(positions)
        rows = Rows(
            arrays={array.name: self._allocated(array, b) for array in view.arrays},
            draws=sample_draws(config.seed, epoch, positions, view.num_draws),
            sample_ids=sample_ids,
            keys=self.dataset.keys.take(sample_ids).to_pylist(),
            errors=[None] * b,
        )
        edges = [*range(0, b, self._chunk_samples), b]
        chunks = [range(low, high) for low, high in pairwise(edges)]
        work = partial(self._work, epoch, order, positions, rows)
        if pool is None:
            self._stats.worker_s += sum(map(work, chunks))
            return _Pending(first, positions, valid, rows, [])
        return _Pending(first, positions, valid, rows, [pool.submit(self._in_turn, work, chunk) for chunk in chunks])

    def _in_turn(self, work: Callable[[range], float], chunk: range) -> float:
        """Do some work when it is this thread's turn."""
        turns = self._reader.turns
        with contextlib.nullcontext() if turns is None else turns:
            return work(chunk)

    def _allocated(self, array: BatchArray, num_samples: int) -> np.ndarray:
        """Memory for an array of a batch."""
        if (axes := array.memory) is None:
            return self._pool.take((num_samples, *array.shape), array.dtype)
        memory = self._pool.take((num_samples, *(array.shape[axis] for axis in axes)), array.dtype)
        return memory.transpose(0, *(1 + axes.index(axis) for axis in range(len(axes))))

    def _work(
        self,
        epoch: int,
        order: Order,
        positions: Int64[np.ndarray, " b"],
        rows: Rows,
        wanted: range,
    ) -> float:
        """Fill some rows of a batch. With skip_bad, other samples take the places of damaged ones. Returns seconds."""
        try:
            memory = self._memories.get_nowait()
        except Empty:
            library = native_library() if self.config.native else None
            memory = ThreadMemory(None if library is None else NativeQueue(library))
        fill = partial(fill_rows, self.dataset, self._reader, self.view, rows, memory=memory)
        took_s = fill(wanted)
        for row in wanted:
            if rows.errors[row] is not None:
                self._note_bad(rows, row)
                if self.config.skip_bad and self.config.tail == "drop":
                    self._replace(epoch, order, int(positions[row]), rows, row, fill)
        self._memories.put(memory)
        return took_s

    def _replace(
        self,
        epoch: int,
        order: Order,
        position: int,
        rows: Rows,
        row: int,
        fill: Callable[[range], float],
    ) -> None:
        """Fill a row with the first sample that may take its place and is whole. Its error stays if there is none."""
        first, config = rows.errors[row], self.config
        tried = {int(rows.sample_ids[row])}
        others = replacement_positions(position, len(order), config.seed, epoch, config.order)
        for sample in order[others].tolist():
            if sample in tried:
                continue
            tried.add(sample)
            rows.sample_ids[row], rows.keys[row] = sample, self.dataset.keys[sample].as_py()
            rows.errors[row] = None
            fill(range(row, row + 1))
            if rows.errors[row] is None:
                return
            self._note_bad(rows, row)
        rows.errors[row] = ShardError(f"{first} None of {len(tried) - 1} other samples could take its place.")

    @staticmethod
    def _note_bad(rows: Rows, row: int) -> None:
        if (error := rows.errors[row]) is not None:
            rows.bad.append(BadSample(row, int(rows.sample_ids[row]), rows.keys[row], error))

    def _finish(self, epoch: int, pending: _Pending) -> ArrayBatch:
        """Wait for a batch to be decoded, and move the state behind it."""
        # The last chunk first: then the others are mostly done, and this thread wakes once instead of once a chunk.
        self._stats.worker_s += sum(future.result() for future in reversed(pending.futures))
        skipped = self._count_bad(epoch, pending.rows) if pending.rows.bad else 0
        batch = self._batch(epoch, pending, self._good_rows(pending), skipped)
        step = self.config.batch_size * self.world_size
        self._move(epoch, min(pending.first + step, self.dataset.epoch_samples))
        self._stats.batches += 1
        self._stats.samples += len(batch)
        return batch

    def _count_bad(self, epoch: int, rows: Rows) -> int:
        """Count the damaged samples of a batch. Raises the first one's error unless skip_bad is set."""
        bad = sorted(rows.bad, key=lambda one: one.row)
        if not self.config.skip_bad:
            raise bad[0].error
        filled = zip(rows.keys, rows.errors, strict=True)
        new = self._damage.add(epoch, bad, [key if error is None else None for key, error in filled])
        self._stats.skipped += new
        return new

    def _good_rows(self, pending: _Pending) -> Int64[np.ndarray, " k"] | None:
        """Rows without an error; None: all. Raises ShardError if a row could not be replaced, or all are damaged."""
        errors = [error for error in pending.rows.errors if error is not None]
        if not errors:
            return None
        if self.config.tail == "drop":
            raise errors[0]
        if len(errors) == len(pending.positions):
            raise ShardError(f"no sample of a batch of {len(errors)} is whole; the first: {errors[0]}") from errors[0]
        return np.array([row for row, error in enumerate(pending.rows.errors) if error is None])

    def _batch(self, epoch: int, pending: _Pending, good: Int64[np.ndarray, " k"] | None, skipped: int) -> ArrayBatch:
        rows = pending.rows

        def kept(array: np.ndarray) -> np.ndarray:
            """The good rows."""
            return array if good is None else array[good]

        arrays = {name: kept(array) for name, array in rows.arrays.items()}
        named = {name: arrays.pop(name) for name in _NAMED if name in arrays}
        return ArrayBatch(
            **_with_empty(named, len(pending.positions) if good is None else len(good)),
            labels=kept(_multi_hot(self.dataset, rows.sample_ids)),
            valid=kept(pending.valid),
            positions=kept(pending.positions),
            sample_ids=kept(rows.sample_ids),
            keys=tuple(rows.keys) if good is None else tuple(rows.keys[row] for row in good),
            classes=self.dataset.classes,
            epoch=epoch,
            profile=self.view.profile,
            skipped=skipped,
            arrays=arrays,
        )

    @contextlib.contextmanager
    def _fetchers(self) -> Iterator[Callable[[int], None]]:
        """A function that downloads in threads the remote shards of fetch_ahead_samples samples from a position on.

        Of large shards what the first batches need is read by ranges, and nothing is downloaded before the first batch
        is there: it would share the line with them.
        """
        if not self._reader.has_cached or not self.config.fetch_ahead_samples:
            yield lambda _: None
            return
        requested: set[int] = set()
        waiting: list[int] = []
        batches_before, has_ranges = self._stats.batches, False

        def fetch(first: int) -> None:
            nonlocal has_ranges
            ahead = self._epoch_order(self._state.epoch)[first : first + self.config.fetch_ahead_samples]
            shards = dict.fromkeys(self.dataset.shard_of[ahead].tolist())
            new = [shard for shard in shards if shard not in requested and is_cached(self.dataset.shards[shard].url)]
            if not requested:
                has_ranges = self._reader.allow_ranges(new)
            requested.update(new)
            waiting.extend(new)
            if has_ranges and self._stats.batches == batches_before:
                return
            for shard in waiting:
                pool.submit(self._fetch, shard)
            waiting.clear()

        pool = ThreadPoolExecutor(_FETCHERS, "avkit-fetch")
        try:
            yield fetch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, shard: int) -> None:
        """Fetch the shard into the cache. Errors are raised when a sample is read."""
        with contextlib.suppress(ShardError):
            self._reader.fetch(shard)


class DataLoaderLike:
    """A loader that behaves like torch's DataLoader, for a framework's trainer.

    Its length is that of a whole epoch, wherever it is, and each iteration yields a batch: the rest of the epoch, or
    the next epoch if nothing is left. It has torchdata's protocol of state: `state_dict` between two batches, and after
    `load_state_dict` the next iteration yields the batch that would have come next. Its state is the loader's.
    """

    def __init__(self, loader: Loader, collate: "Callable[[Batch], Any] | None" = None) -> None:
        """Wrap a loader. `collate` makes of a batch what the model takes, such as a dict; None: the batch as it is."""
        self.loader, self._collate = loader, collate

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        config, total = self.loader.config, self.loader.dataset.epoch_samples
        return num_batches(total, config.batch_size, self.loader.world_size, config.tail)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rest of the epoch, or the next epoch."""
        if not len(self.loader):
            self.loader.set_epoch(self.loader.state.epoch + 1)
        collate = self._collate
        return iter(self.loader) if collate is None else map(collate, self.loader)

    def state_dict(self) -> dict[str, int | str]:
        """As `Loader.state_dict`."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """As `Loader.load_state_dict`."""
        self.loader.load_state_dict(state_dict)


def _has_cuda() -> bool:
    with naming_extras():
        from avdata.load.tensors import has_cuda  # noqa: PLC0415 - needs torch
    return has_cuda()


def _as_tensors(*, required: bool) -> Callable[[ArrayBatch], "Batch"] | None:
    """The conversion to tensors; None: torch is not installed. Raises ConfigError if it is `required` and is not."""
    try:
        with naming_extras() if required else contextlib.nullcontext():
            from avdata.load.tensors import as_tensors  # noqa: PLC0415 - needs torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None
    return as_tensors


def _check_arrays(view: View) -> None:
    """Raise ConfigError for two arrays of one name, or one named as a field of a batch that the loader fills."""
    names = [array.name for array in view.arrays]
    taken = {entry.name for entry in fields(ArrayBatch)} - set(_NAMED)
    if wrong := sorted(name for name in set(names) if name in taken or names.count(name) > 1):
        raise ConfigError(
            f"{type(view).__name__}.arrays: {', '.join(map(repr, wrong))} twice, or filled by the loader itself. "
            "Give the array another name."
        )


def _with_empty(named: Mapping[str, np.ndarray], num_samples: int) -> dict[str, Any]:
    """A view's arrays that are fields of a batch; those that it lacks have no pixels, no columns, and times of NaN."""

    def axes(own_axes: Mapping[str, int]) -> tuple[int, ...]:
        """The axes of frames or of windows that the view's arrays have. `own_axes`: how many each has beside them."""
        found = (named[name].shape[1 : named[name].ndim - own] for name, own in own_axes.items() if name in named)
        return next(found, ())

    u, v = axes(_WINDOWS), axes(_FRAMES)
    return {
        "images": np.zeros((num_samples, *v, 3, 0, 0), np.uint8),
        "log_mel": np.zeros((num_samples, *u, 0, 0), np.float16),
        "waveform": None,
        "gain_db": None,
        "window_start_s": np.full((num_samples, *u), np.nan, np.float32),
        "frame_time_s": np.full((num_samples, *v), np.nan, np.float32),
        **named,
    }


def _plan_hash(dataset: Dataset, order: OrderConfig) -> str:
    return sha256_of(f"{dataset.fingerprint()}\n{order}")


def _multi_hot(dataset: Dataset, sample_ids: Int64[np.ndarray, " b"]) -> Bool[np.ndarray, "b c"]:
    labels = np.zeros((len(sample_ids), len(dataset.classes)), np.bool_)
    first = dataset.label_start[sample_ids].astype(np.int64)
    counts = dataset.label_start[sample_ids + 1] - first
    before = np.cumsum(counts) - counts
    entries = np.repeat(first - before, counts) + np.arange(counts.sum())
    labels[np.repeat(np.arange(len(sample_ids)), counts), dataset.label_ids[entries]] = True
    return labels
