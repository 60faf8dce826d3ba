"""Measures the loader's throughput against webdataset and against decoding alone, alternating in one run.

Needs the extras `train` and `interop`: webdataset's loader needs torch.
"""

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any, Final

import cv2
import numpy as np
import psutil
import torch

from avdata.cores import usable_cores
from avdata.dataset import Dataset
from avdata.images import decode_jpeg
from avdata.load.bench_data import draw_bench_dataset
from avdata.load.crops import Crop, crop_into
from avdata.load.decode import StoredSample, read_npy
from avdata.load.loader import Loader, LoaderConfig
from avdata.load.native import native_library
from avdata.load.open import open_dataset
from avdata.load.reader import ShardReader, ThreadMemory
from avdata.load.views import TrainView
from avdata.processes import memory_of_tree
from avdata.profiles import column_start_s
from avdata.urls import local_path
from avmanifest.errors import ConfigError

_CHUNK: Final = 8  # images per task of a thread
_WARM_BATCHES: Final = 8  # minimum number of batches before the measurement starts
_SHUFFLED: Final = 500  # samples in webdataset's shuffle buffer


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderBench:
    """What to measure. Synthetic samples are as large as VGGSound's: 10 frames of 340 x 256 pixels, 10 s of audio."""

    dataset: Path | None = None  # a prepared dataset on a local disk; None: synthetic
    split: str = "train"
    samples: int = 4096  # per contestant and round
    drawn_samples: int = (
        1024  # of the synthetic dataset, 600 kB each; few would slow the workers, which pause between epochs
    )
    rounds: int = 5
    batch_size: int = 64
    epochs: int = 20  # in the measurement of memory

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.batch_size < 1 or self.epochs < 1 or self.samples < self.batch_size:
            raise ConfigError(
                f"--rounds {self.rounds}, --batch-size {self.batch_size}, --samples {self.samples}, epochs "
                f"{self.epochs}: all must be at least 1, and --samples at least --batch-size"
            )


def bench_loader(bench: LoaderBench) -> dict[str, Any]:
    """Measure samples per second on all cores, the share of each stage of avkit's loader, and memory.

    All contestants yield random 3 s windows of log-mel and random crops of 224 x 224 pixels:

    - `avkit`: this loader.
    - `avkit_python`: this loader without its compiled code. Left out if that is not built (docs/decisions/native.md).
    - `avkit_unchecked`: this loader without comparing members with their hashes. The ratio to it is the cost of that.
    - `webdataset`: its fastest configuration (one worker process per core, shuffling and batching inside the workers,
      only the needed members) with avkit's decode function.
    - `webdataset_stock`: the same with decode("pil") and torchvision's transforms on one random frame.
    - `decode_resize`: JPEG bytes in memory to crops, in one thread per core.

    Contestants alternate in every round. A figure is the median over the rounds; a ratio is the median of the ratios of
    the rounds. `per_core_s` divides by CPU seconds of all processes instead of wall time; other work on the machine
    disturbs it less.

    Raises:
        ConfigError: The dataset is not on a local disk, or webdataset is not installed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        cores = usable_cores()
        root = bench.dataset or draw_bench_dataset(Path(scratch) / "drawn", bench.drawn_samples, max(8, cores))
        dataset = open_dataset(root, bench.split)
        if any(local_path(shard.url) is None for shard in dataset.shards):
            raise ConfigError(f"{root}: not on a local disk, so the network would be measured. Use a local copy.")
        view = TrainView(max_gain_db=6.0)
        turns = _contestants(bench, dataset, view, cores)
        rounds = [{name: _measured(turn, bench) for name, turn in turns.items()} for _ in range(bench.rounds)]

        def middle(field: str, name: str, over: str | None = None) -> float:
            """The median over the rounds of a contestant's figure, or of its ratio to that of `over`."""
            values: list[float] = [
                getattr(turn[name], field) / (getattr(turn[over], field) if over else 1) for turn in rounds
            ]
            return round(median(values), 3 if over else 1)

        others = [name for name in turns if name != "avkit"]
        return {
            **{f"{name}_samples_per_s": middle("per_s", name) for name in turns},
            "cores": cores,
            **{f"avkit_over_{name}": middle("per_s", "avkit", name) for name in others},
            **{f"{name}_samples_per_core_s": middle("per_core_s", name) for name in turns},
            **{f"avkit_over_{name}_per_core_s": middle("per_core_s", "avkit", name) for name in others},
            "rounds": {n: [round(turn[n].per_s, 1) for turn in rounds] for n in turns},
            "stage_share": _stage_shares(dataset, view, bench),
            "memory_mb": {n: round(max(turn[n].memory_bytes for turn in rounds) / 1e6, 1) for n in turns},
            "rss_mb_by_epoch": _memory_by_epoch(dataset, view, bench),
            "first_batch_ms": _first_batches(dataset, view, bench),
            "samples": len(dataset),
            "shards": len(dataset.shards),
        }


def _contestants(
    bench: LoaderBench, dataset: Dataset, view: TrainView, cores: int
) -> dict[str, Callable[[], contextlib.AbstractContextManager[Iterator[int]]]]:
    """By name, a context manager that opens an endless iterator over the sizes of batches."""
    urls = [shard.url for shard in dataset.shards]
    times_s = dict(zip(dataset.keys.to_pylist(), frame_times(dataset), strict=True))
    mel_name, frame_names = dataset.log_mel_member[view.profile], frozenset(dataset.frame_names)
    own = OwnDecode(view, mel_name, frame_names, times_s)
    stock = StockDecode(view, mel_name, frame_names)
    images = some_images(dataset, 512)

    @contextlib.contextmanager
    def avkit(*, check: bool = True, native: bool = True) -> Iterator[Iterator[int]]:
        with contextlib.closing(endless(_loader(dataset, view, bench, check=check, native=native))) as batches:
            yield batches

    @contextlib.contextmanager
    def decode_resize() -> Iterator[Iterator[int]]:
        with contextlib.closing(decode_batches(images, view, bench.batch_size, cores)) as batches:
            yield batches

    return {
        "avkit": avkit,
        **({} if native_library() is None else {"avkit_python": partial(avkit, native=False)}),
        "avkit_unchecked": partial(avkit, check=False),
        "webdataset": lambda: webdataset_batches(urls, own, bench.batch_size, cores),
        "webdataset_stock": lambda: webdataset_batches(urls, stock, bench.batch_size, cores),
        "decode_resize": decode_resize,
    }


@dataclass(frozen=True, slots=True)
class _Turn:
    """The measurement of one contestant in one round."""

    per_s: float  # samples a second
    per_core_s: float  # samples a second of processor time
    memory_bytes: int  # of all processes


def _measured(turn: Callable[[], contextlib.AbstractContextManager[Iterator[int]]], bench: LoaderBench) -> _Turn:
    gc.collect()
    with turn() as batches:
        for _ in islice(batches, max(_WARM_BATCHES, 4 * usable_cores())):
            pass
        done, began, cpu_began = 0, time.perf_counter(), processor_s()
        while done < bench.samples:
            done += next(batches)
        took_s, cpu_s = time.perf_counter() - began, processor_s() - cpu_began
        # CPU times come in clock ticks, and children that ended are not counted: a short turn may show none.
        return _Turn(done / took_s, done / max(cpu_s, 1 / os.sysconf("SC_CLK_TCK")), memory_of_tree(psutil.Process()))


def processor_s() -> float:
    """CPU seconds of this process and its running children."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]  # in clock ticks of 10 ms
    return time.process_time() + sum(cpu.user + cpu.system for cpu in times)


def frame_times(dataset: Dataset) -> Iterator[np.ndarray]:
    for first, last in zip(dataset.frame_start, dataset.frame_start[1:], strict=False):
        yield dataset.frame_time_s[first:last]


def some_images(dataset: Dataset, most: int) -> list[bytes]:
    """JPEG bytes of up to `most` frames, evenly spaced over the dataset."""
    images, memory = [], ThreadMemory()
    with ShardReader(dataset.shards, LoaderConfig().cache) as reader:
        for number in np.linspace(0, len(dataset.frame_member) - 1, most).astype(int).tolist():
            sample = int(np.searchsorted(dataset.frame_start, number, side="right")) - 1
            with reader.leases() as leases:
                stored = StoredSample(dataset, reader, leases, memory, sample, dataset.keys[sample].as_py())
                images.append(bytes(stored.jpeg(number - int(dataset.frame_start[sample]))))
    return images


def decode_batches(images: Sequence[bytes], view: TrainView, batch_size: int, cores: int) -> Generator[int, None, None]:
    """Decode JPEGs and crop them: no order, no reading, no audio, and the same memory for every batch."""
    draws = np.random.default_rng(0).random((len(images), view.num_draws)).tolist()
    sizes = [decode_jpeg(image).shape for image in images]
    jobs = [(i, view.choose_crop(h, w, d)) for i, (h, w, _), d in zip(images, sizes, draws, strict=True)]
    out = np.zeros((len(jobs), view.image_size, view.image_size, 3), np.uint8)

    def work(chunk: Sequence[tuple[int, tuple[bytes, Crop]]]) -> int:
        for place, (image, crop) in chunk:
            crop_into(decode_jpeg(image), crop, out[place])
        return len(chunk)

    numbered = list(enumerate(jobs))
    chunks = cycle([numbered[first : first + _CHUNK] for first in range(0, len(numbered), _CHUNK)])
    per_batch = max(1, batch_size // _CHUNK)
    with ThreadPoolExecutor(cores) as pool:
        pending = [[pool.submit(work, chunk) for chunk in islice(chunks, per_batch)] for _ in range(4)]
        while True:
            pending.append([pool.submit(work, chunk) for chunk in islice(chunks, per_batch)])
            yield sum(future.result() for future in pending.pop(0))


# webdataset. Its workers are processes, so all that it calls must be picklable.


@dataclass(frozen=True)
class _Decode:
    """Of a sample of webdataset's, a frame and the log-mel."""

    view: TrainView
    mel_name: str
    frame_names: frozenset[str]

    def wants(self, name: str) -> bool:
        """Whether a member is needed."""
        member = name.partition(".")[2]
        return member == self.mel_name or member in self.frame_names


@dataclass(frozen=True)
class OwnDecode(_Decode):
    """avkit's window, frame, JPEG and crop functions on a sample of webdataset's."""

    times_s: dict[str, np.ndarray]

    def dataset(self, source: Any, batch_size: int) -> Any:
        """Decoded batches."""
        return source.map(self.decode).batched(batch_size, collation_fn=self.collate, partial=False)

    def decode(self, sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Image and log-mel of a sample by the names of its members."""
        names = sorted(name for name in sample if name in self.frame_names)
        key = sample["__key__"]
        return self.augmented(key, lambda frame: sample[names[frame]], read_npy(memoryview(sample[self.mel_name]), key))

    def augmented(self, key: str, jpeg: Callable[[int], bytes], mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image and log-mel of a random window. `jpeg` gives the bytes of a frame by its number."""
        view, draws = self.view, np.random.random(self.view.num_draws).tolist()
        start = view.window_starts(mel.shape[1] - view.window_columns + 1, draws)[0]
        first = start + view.column_jitter(draws)
        times_s = self.times_s[key]
        frame = view.choose_frames([column_start_s(start, view.mel)], times_s.tolist(), draws)[0]
        rgb = decode_jpeg(jpeg(frame))
        out = np.empty((view.image_size, view.image_size, 3), np.uint8)
        crop_into(rgb, view.choose_crop(rgb.shape[0], rgb.shape[1], draws), out)
        return out, mel[:, first : first + view.num_columns]

    @staticmethod
    def collate(samples: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 images, float16 log-mels."""
        images, mels = zip(*samples, strict=True)
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(mels))


@dataclass(frozen=True)
class StockDecode(_Decode):
    """The pipeline of webdataset's documentation: decode("pil") and torchvision's transforms."""

    def dataset(self, source: Any, batch_size: int) -> Any:
        """Decoded batches."""
        return source.map(self.choose).decode("pil").map(self.transform).batched(batch_size, partial=False)

    def choose(self, sample: dict[str, Any]) -> dict[str, Any]:
        """One frame of the sample, before anything is decoded."""
        names = sorted(name for name in sample if name in self.frame_names)
        name = names[int(np.random.randint(len(names)))]
        return {"__key__": sample["__key__"], "jpg": sample[name], "npy": sample[self.mel_name]}

    def transform(self, sample: dict[str, Any]) -> tuple[torch.Tensor, np.ndarray]:
        """Image and log-mel."""
        from torchvision import transforms  # noqa: PLC0415 - only measured against

        size, area = self.view.image_size, (self.view.min_area, self.view.max_area)
        change = transforms.Compose(
            [transforms.RandomResizedCrop(size, area), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )
        columns = self.view.num_columns
        first = int(np.random.randint(sample["npy"].shape[1] - columns + 1))
        return change(sample["jpg"]), np.ascontiguousarray(sample["npy"][:, first : first + columns])


@contextlib.contextmanager
def webdataset_batches(
    urls: Sequence[str], decode: OwnDecode | StockDecode, batch_size: int, cores: int
) -> Iterator[Iterator[int]]:
    try:
        import webdataset  # noqa: PLC0415 - only measured against
    except ImportError as error:
        raise ConfigError("webdataset, to compare with, is not installed: pip install 'avkit[interop]'") from error
    source = webdataset.WebDataset(
        list(urls), resampled=True, shardshuffle=False, select_files=decode.wants, empty_check=False
    ).shuffle(_SHUFFLED, initial=64)
    loader = webdataset.WebLoader(
        decode.dataset(source, batch_size),
        batch_size=None,
        num_workers=cores,
        prefetch_factor=4,
        worker_init_fn=start_worker,
    )
    batches = iter(loader)
    try:
        yield (len(batch[0]) for batch in batches)
    finally:
        del batches, loader
        gc.collect()


def start_worker(number: int) -> None:
    """Set up a worker process: one thread, as there is a worker on every core."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    np.random.seed(number)


# Further measurements of avkit's loader.


def _stage_shares(dataset: Dataset, view: TrainView, bench: LoaderBench) -> dict[str, float]:
    """Share of the time of filling a row in each stage, in one thread: reading, decoding, cropping, and the rest."""
    row = {array.name: np.zeros(array.shape, array.dtype) for array in view.arrays}
    row["images"] = np.zeros((view.image_size, view.image_size, 3), np.uint8).transpose(2, 0, 1)
    draws = np.random.default_rng(0).random((bench.samples, view.num_draws)).tolist()
    spent, whole_s, memory = {"read": 0.0, "decode": 0.0, "crop": 0.0}, 0.0, ThreadMemory()
    with ShardReader(dataset.shards, LoaderConfig().cache) as reader, reader.leases() as leases:
        for place, drawn in enumerate(draws):
            number = place % len(dataset)
            key = dataset.keys[number].as_py()
            began = time.perf_counter()
            view.fill(StoredSample(dataset, reader, leases, memory, number, key), drawn, row)
            whole_s += time.perf_counter() - began
            began = time.perf_counter()
            sample = StoredSample(dataset, reader, leases, memory, number, key)
            sample.copy_mel(view.profile, 0, row["log_mel"])
            jpeg = sample.jpeg(int(row["frames"]))
            read = time.perf_counter()
            rgb = decode_jpeg(jpeg)
            decoded = time.perf_counter()
            crop_into(rgb, view.choose_crop(rgb.shape[0], rgb.shape[1], drawn), row["images"].transpose(1, 2, 0))
            cropped = time.perf_counter()
            for stage, seconds in zip(spent, (read - began, decoded - read, cropped - decoded), strict=True):
                spent[stage] += seconds
    shares = {stage: round(seconds / whole_s, 3) for stage, seconds in spent.items()}
    return shares | {"rest": round(1 - sum(shares.values()), 3)}


def _memory_by_epoch(dataset: Dataset, view: TrainView, bench: LoaderBench) -> list[float]:
    """Memory of this process in MB after each epoch."""
    loader, process, memory_mb = _loader(dataset, view, bench), psutil.Process(), []
    for _ in range(bench.epochs):
        for _ in loader:
            pass
        memory_mb.append(round(process.memory_info().rss / 1e6, 1))
    return memory_mb


def _first_batches(dataset: Dataset, view: TrainView, bench: LoaderBench) -> dict[str, float]:
    """Milliseconds to the first batch of a new loader that resumes at the start, middle and end of an epoch."""
    last = max(0, len(dataset) - min(bench.batch_size, len(dataset)))
    medians = {}
    for name, position in {"start": 0, "middle": last // 2, "end": last}.items():
        seconds = []
        for _ in range(max(3, bench.rounds)):
            loader = _loader(dataset, view, bench)
            state = replace(loader.state, epoch=3, position=position).as_dict()
            began = time.perf_counter()
            loader.load_state_dict(state)
            for _ in loader:
                seconds.append(time.perf_counter() - began)
                break
        medians[name] = round(1000 * median(seconds), 1)
    return medians


def _loader(
    dataset: Dataset, view: TrainView, bench: LoaderBench, *, check: bool = True, native: bool = True
) -> Loader:
    config = LoaderConfig(batch_size=min(bench.batch_size, len(dataset)), check_members=check, native=native)
    return Loader(dataset, view, config)


def endless(loader: Loader) -> Generator[int, None, None]:
    """Sizes of the batches of epoch after epoch."""
    while True:
        for batch in loader:
            yield len(batch)
