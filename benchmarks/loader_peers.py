"""The loader beside other loaders: the same samples, random crops and windows, each loader in a process of its own.

    python -m benchmarks.loader_peers --samples 4096 --rounds 9 --out peers.md

Every loader gives random 3 s windows of the log-mel and random crops of 224 x 224 pixels of one frame, in batches, with
as many workers as there are cores, and goes on for ever. In each round all loaders read as many samples, one after the
other; between its turns a loader stands still. A figure is the median over the rounds, a ratio the median of the ratios
within rounds. Processor time is that of a loader's process and its workers.

Loaders that are not among avkit's own packages are installed, at the versions below, into an environment of their own
that sees avkit's, once, in the user's cache folder. A loader that cannot be installed or fails is a row that says so.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from avdata.cores import usable_cores
from avdata.load import open_dataset
from avdata.load.bench import (
    OwnDecode,
    StockDecode,
    decode_batches,
    frame_times,
    processor_s,
    some_images,
    start_worker,
    webdataset_batches,
)
from avdata.load.bench_data import draw_bench_dataset
from avdata.load.decode import read_npy
from avdata.load.loader import Loader, LoaderConfig
from avdata.load.native import native_library
from avdata.load.views import TrainView
from avdata.processes import memory_of_tree
from avmanifest.errors import ConfigError
from benchmarks.peers import environment, why_not_installed

# With what they import; torch, numpy and the rest are avkit's.
PACKAGES = {
    "litdata": ("litdata==0.2.76", "tifffile==2026.3.3"),
    "mosaicml-streaming": (
        "mosaicml-streaming==0.13.0",
        "azure-core==1.41.0",
        "azure-identity==1.27.0",
        "azure-storage-blob==12.31.1",
        "azure-storage-file-datalake==12.26.1",
        "catalogue==2.0.10",
        "cramjam==2.14.0",
        "google-cloud-storage==3.17.1",
        "oci==2.189.0",
        "paramiko==5.1.0",
        "python-snappy==0.7.3",
        "zstd==1.5.7.2",
    ),
}
CHUNK_BYTES = 64 << 20  # of litdata's and mosaicml-streaming's files
SHUFFLED = 500  # samples in a shuffle buffer
WARM_BATCHES = 8


@dataclass(frozen=True)
class Data:
    """One dataset, as each loader reads it."""

    root: Path
    copies: Path  # folder of the copies in other formats
    batch_size: int
    workers: int

    def decode(self) -> OwnDecode:
        """avkit's window, frame, JPEG and crop functions."""
        dataset, view = open_dataset(str(self.root)), TrainView(max_gain_db=6.0)
        times_s = dict(zip(dataset.keys.to_pylist(), frame_times(dataset), strict=True))
        return OwnDecode(view, dataset.log_mel_member[view.profile], frozenset(dataset.frame_names), times_s)

    def shards(self) -> list[str]:
        """Paths of the tars."""
        return [shard.url for shard in open_dataset(str(self.root)).shards]


@dataclass(frozen=True)
class Place:
    """Where a sample's members are."""

    key: str
    path: str
    frames: tuple[tuple[int, int], ...]  # offset and size
    log_mel: tuple[int, int]


def places_of(data: Data, decode: OwnDecode) -> list[Place]:
    """The places of all samples in the tars."""
    found = []
    for path in data.shards():
        members: dict[str, dict[str, tuple[int, int]]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, name = member.name.partition(".")
                members.setdefault(key, {})[name] = (member.offset_data, member.size)
        for key, own in members.items():
            frames = tuple(own[name] for name in sorted(own) if name in decode.frame_names)
            found.append(Place(key, path, frames, own[decode.mel_name]))
    return found


def stored(place: Place) -> tuple[list[bytes], bytes]:
    """All frames and the log-mel of a sample."""
    with Path(place.path).open("rb") as file:
        read = [os.pread(file.fileno(), size, offset) for offset, size in (*place.frames, place.log_mel)]
    return read[:-1], read[-1]


def sizes(loader: Any) -> Iterator[int]:
    """The sizes of the batches of epoch after epoch."""
    while True:
        for images, _ in loader:
            yield len(images)


def loader_options(data: Data) -> dict[str, Any]:
    """Options of torch's loader and of those made from it: one worker a core."""
    return {
        "batch_size": data.batch_size,
        "collate_fn": OwnDecode.collate,
        "num_workers": data.workers,
        "prefetch_factor": 4,
        "persistent_workers": True,
        "worker_init_fn": start_worker,
    }


def torch_loader(dataset: Any, data: Data, **options: Any) -> DataLoader[Any]:
    """torch's loader."""
    return DataLoader(dataset, drop_last=True, **loader_options(data), **options)


# The loaders: each a context manager over the sizes of its batches.


@contextlib.contextmanager
def avkit(data: Data, *, native: bool) -> Iterator[Iterator[int]]:
    """This loader."""
    if native and native_library() is None:
        raise ConfigError("the compiled crops are not built; build them: python -m avdata.load.build_native")
    config = LoaderConfig(batch_size=data.batch_size, native=native)
    loader = Loader(open_dataset(str(data.root)), TrainView(max_gain_db=6.0), config)
    yield (len(batch) for _ in iter(int, 1) for batch in loader)


@contextlib.contextmanager
def bare(data: Data) -> Iterator[Iterator[int]]:
    """JPEGs in memory to crops, a thread a core: the limit of any loader with this decoder."""
    images = some_images(open_dataset(str(data.root)), 512)
    yield decode_batches(images, TrainView(max_gain_db=6.0), data.batch_size, data.workers)


class MapStyle(Dataset[Any]):
    """Samples of the tars by number: of each, what is needed is read."""

    def __init__(self, data: Data) -> None:
        self.decode = data.decode()
        self.places = places_of(data, self.decode)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        place = self.places[number]
        with Path(place.path).open("rb") as file:

            def read(part: tuple[int, int]) -> bytes:
                return os.pread(file.fileno(), part[1], part[0])

            mel = read_npy(memoryview(read(place.log_mel)), place.key)
            return self.decode.augmented(place.key, lambda frame: read(place.frames[frame]), mel)


@contextlib.contextmanager
def torch_map(data: Data) -> Iterator[Iterator[int]]:
    """torch's DataLoader over the same tars."""
    yield sizes(torch_loader(MapStyle(data), data, shuffle=True))


@contextlib.contextmanager
def webdataset(data: Data, *, stock: bool) -> Iterator[Iterator[int]]:
    """webdataset over the same tars, with avkit's decoding or the one of its documentation."""
    own = data.decode()
    decode = StockDecode(own.view, own.mel_name, own.frame_names) if stock else own
    with webdataset_batches(data.shards(), decode, data.batch_size, data.workers) as batches:
        yield batches


class Streamed(IterableDataset[Any]):
    """Hugging Face's streaming over the same tars; each worker has some of them."""

    def __init__(self, data: Data) -> None:
        self.decode, self.shards = data.decode(), data.shards()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import datasets

        worker = get_worker_info()
        own = self.shards[worker.id :: worker.num_workers] if worker else self.shards
        rows = datasets.load_dataset("webdataset", data_files={"train": own}, split="train", streaming=True)
        names = sorted(name for name in rows.features or rows.column_names if name in self.decode.frame_names)
        for row in rows.decode(False).shuffle(buffer_size=SHUFFLED):
            mel = np.asarray(row[self.decode.mel_name], np.float16)
            yield self.decode.augmented(row["__key__"], lambda frame, row=row: row[names[frame]]["bytes"], mel)


@contextlib.contextmanager
def hf_streaming(data: Data) -> Iterator[Iterator[int]]:
    """Hugging Face datasets, streaming."""
    yield sizes(torch_loader(Streamed(data), data))


@contextlib.contextmanager
def energon(data: Data) -> Iterator[Iterator[int]]:
    """Megatron-Energon over the same tars."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        basic_sample_keys,
        get_savable_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    decode = data.decode()
    shards = [str(Path(path).relative_to(data.root)) for path in data.shards()]
    WebdatasetPreparator.prepare_dataset(data.root, shards, split_parts_ratio=[("train", 1.0)], workers=1)
    crude = data.root / ".nv-meta" / "crude.yaml"
    crude.write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")

    @stateless
    def cook(sample: dict[str, Any]) -> dict[str, Any]:
        image, mel = decode.decode(sample | {"__key__": sample["__key__"].rpartition("/")[2]})
        return {**basic_sample_keys(sample), "image": image, "mel": mel}

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc]
        decoder = None
        cookers = (Cooker(cook),)

        @stateless
        def batch(self, samples: list[dict[str, Any]]) -> Any:
            return OwnDecode.collate([(sample["image"], sample["mel"]) for sample in samples])

    dataset = get_train_dataset(
        data.root,
        dataset_config="crude.yaml",
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=data.workers),
        batch_size=data.batch_size,
        shuffle_buffer_size=SHUFFLED,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
    )
    yield (len(images) for images, _ in get_savable_loader(dataset))


def as_record(number: int, places: Sequence[Place]) -> dict[str, Any]:
    """A sample for litdata: its bytes."""
    frames, mel = stored(places[number])
    return {"key": places[number].key, "mel": mel, **{f"frame{n:02d}": frame for n, frame in enumerate(frames)}}


def of_record(decode: OwnDecode, sample: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Image and log-mel of such a sample."""
    mel = read_npy(memoryview(sample["mel"]), sample["key"])
    return decode.augmented(sample["key"], lambda frame: sample[f"frame{frame:02d}"], mel)


@contextlib.contextmanager
def litdata(data: Data) -> Iterator[Iterator[int]]:
    """litdata over its own format."""
    from litdata import StreamingDataLoader, StreamingDataset, optimize

    decode, copy = data.decode(), data.copies / "litdata"
    places = places_of(data, decode)
    with contextlib.redirect_stdout(sys.stderr):
        optimize(
            partial(as_record, places=places),
            list(range(len(places))),
            str(copy),
            chunk_bytes=CHUNK_BYTES,
            num_workers=1,
            verbose=False,
        )

    dataset = StreamingDataset(str(copy), shuffle=True, transform=partial(of_record, decode))
    yield sizes(StreamingDataLoader(dataset, **loader_options(data)))


@contextlib.contextmanager
def mosaicml(data: Data) -> Iterator[Iterator[int]]:
    """mosaicml-streaming over its own format."""
    from streaming import MDSWriter, StreamingDataset

    decode, copy = data.decode(), data.copies / "mosaicml"
    places = places_of(data, decode)
    columns = {"key": "str", "mel": "bytes", **{f"frame{n:02d}": "bytes" for n in range(len(places[0].frames))}}
    with MDSWriter(out=str(copy), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for number in range(len(places)):
            writer.write(as_record(number, places))

    class Samples(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, number: Any) -> tuple[np.ndarray, np.ndarray]:
            sample = super().__getitem__(number)
            return of_record(decode, sample)

    yield sizes(torch_loader(Samples(local=str(copy), shuffle=True, batch_size=data.batch_size), data))


PEERS: Mapping[str, Callable[[Data], contextlib.AbstractContextManager[Iterator[int]]]] = {
    "avkit": partial(avkit, native=False),
    "avkit, compiled crops": partial(avkit, native=True),
    "torch DataLoader": torch_map,
    "litdata": litdata,
    "mosaicml-streaming": mosaicml,
    "Megatron-Energon": energon,
    "webdataset": partial(webdataset, stock=False),
    "webdataset, its own decoding": partial(webdataset, stock=True),
    "Hugging Face streaming": hf_streaming,
    "decoding alone": bare,
}


# Of a loader's process.


def serve(peer: str, data: Data) -> None:
    """Measure a turn for each number of samples that comes in; a line of JSON for each."""
    with PEERS[peer](data) as batches:
        for _ in islice(batches, max(WARM_BATCHES, 4 * data.workers)):
            pass
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            samples, done = int(line), 0
            began, used_s = time.perf_counter(), processor_s()
            while done < samples:
                done += next(batches)
            turn = {
                "per_s": done / (time.perf_counter() - began),
                "per_core_s": done / max(processor_s() - used_s, 1 / os.sysconf("SC_CLK_TCK")),
                "memory_mb": memory_of_tree(psutil.Process()) / 1e6,
            }
            print(json.dumps(turn), flush=True)


# Of the driver.


class Peer:
    """A loader's process."""

    def __init__(self, name: str, data: Data, log: Path) -> None:
        self.log = log
        python = environment(name, PACKAGES[name]) if name in PACKAGES else sys.executable
        command = [
            python,
            "-m",
            "benchmarks.loader_peers",
            "--serve",
            name,
            "--root",
            data.root,
            "--copies",
            data.copies,
        ]
        self.process = subprocess.Popen(  # noqa: S603 - our own script, without a shell
            [*map(str, command), "--batch-size", str(data.batch_size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
        )
        try:
            self.answer()
        except BaseException:
            self.stop()
            raise

    def answer(self) -> dict[str, Any]:
        """The next line that is JSON. Raises ChildProcessError with the last line of its log."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        last = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        raise ChildProcessError(f"ended with {self.process.wait()}: {''.join(last)[:200]}")

    def turn(self, samples: int) -> dict[str, Any]:
        """Read so many samples."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{samples}\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        """End the process and its workers."""
        for child in psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.kill()
        self.process.wait()


def compare(data: Data, names: Sequence[str], samples: int, rounds: int) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """The turns of each loader, and why others have none."""
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for name in names:
            try:
                peers[name] = Peer(name, data, data.copies / f"{name}.log")
            except subprocess.CalledProcessError as error:
                failed[name] = why_not_installed(error)
                continue
            except ChildProcessError as error:
                failed[name] = str(error)
                continue
            stack.callback(peers[name].stop)
        turns: dict[str, list[Any]] = {name: [] for name in peers}
        for _ in range(rounds):
            for name, peer in list(peers.items()):
                try:
                    turns[name].append(peer.turn(samples))
                except (ChildProcessError, BrokenPipeError) as error:
                    failed[name] = str(error)
                    del peers[name], turns[name]
    return turns, failed


def table(turns: Mapping[str, Sequence[Mapping[str, float]]], failed: Mapping[str, str]) -> str:
    """The figures as Markdown: medians over the rounds, ratios to decoding alone and to avkit within rounds."""

    def middle(name: str, field: str, over: str | None = None) -> str:
        if over is not None and over not in turns:
            return ""
        values = [
            turn[field] / (turns[over][number][field] if over is not None else 1)
            for number, turn in enumerate(turns[name])
        ]
        return f"{median(values):,.2f}" if over else f"{median(values):,.0f}"

    base = "decoding alone"
    lines = [
        "| loader | samples/s | of decoding alone | samples a processor second | of decoding alone | "
        "avkit is so many times as fast: by the clock | by processor time | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in turns:
        times = [
            f"{median([ours[field] / own[field] for ours, own in zip(turns['avkit'], turns[name], strict=True)]):.2f}"
            if "avkit" in turns
            else ""
            for field in ("per_s", "per_core_s")
        ]
        cells = [
            name,
            middle(name, "per_s"),
            middle(name, "per_s", base),
            middle(name, "per_core_s"),
            middle(name, "per_core_s", base),
            *times,
            middle(name, "memory_mb"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, *(f"| {name} | {reason} | | | | | | |" for name, reason in failed.items())])


def main() -> None:
    """Parse the command line; measure, or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096, help="of each loader in a round")
    parser.add_argument("--drawn", type=int, default=1024, help="samples of the drawn dataset, 600 kB each")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="some of the loaders")
    parser.add_argument("--out", type=Path, help="file for the table; it is printed, too")
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--copies", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        torch.set_num_threads(1)
        serve(options.serve, Data(options.root, options.copies, options.batch_size, usable_cores()))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = draw_bench_dataset(Path(scratch) / "drawn", options.drawn, max(8, usable_cores()))
        copies = Path(scratch) / "copies"
        copies.mkdir()
        data = Data(root, copies, options.batch_size, usable_cores())
        found = table(*compare(data, options.only, options.samples, options.rounds))
    print(found)
    if options.out:
        options.out.write_text(found + "\n")


if __name__ == "__main__":
    main()
