"""Faults of every request to a store under prepare, loader and trainer: it fails, is short, is slow or lies, once.

Each run of one of the three has several faults, drawn by a seed. What should come of all of them is the result of a run
without faults, at once or, after a typed error, when it is run again.
"""

import hashlib
import io
import json
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final
from unittest import mock

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from avdata.load import CacheConfig, EvalView, Loader, LoaderConfig, evaluation_config, open_dataset
from avdata.prepare.job import prepare
from avdata.retrying import RetryPolicy
from avmanifest.errors import AvkitError, StorageError
from tests.buckets import bucket_tree
from tests.faults.fault import Fault
from tests.shards import draw_dataset
from tests.videos import draw_folder, folder_config, tree

EXPECTED: Final = "the same result, at once or after a typed error"
HANG_S: Final = 300.0
_SLOW_S: Final = 0.7
_POLICY: Final = RetryPolicy(attempts=8, wait_s=0.0, attempt_s=0.5)
FOREIGN: Final = "/foreign/"
_READS: Final = ("cat_file", "info", "find", "ls", "isdir", "open")


@dataclass
class Injector:
    """Draws the faults of one run. A request that had a fault passes the next time.

    Attributes:
        seed: Equal seeds give equal faults, in whatever order threads make their requests.
        share: Of the requests that have a fault.
        made: How often each fault was, by request and kind.
    """

    seed: int
    share: float
    made: Counter[tuple[str, str]] = field(default_factory=Counter)
    _asked: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _failed: set[str] = field(default_factory=set)
    _lock: Any = field(default_factory=threading.Lock)

    def kind(self, request: str, path: str) -> str:
        """The fault of this request: fails, short, slow or lies; empty for none."""
        place = f"{request} {path.rpartition('/attempts/')[0]}{path.rpartition('/')[2]}"
        with self._lock:
            if place in self._failed:
                self._failed.remove(place)
                return ""
            self._asked[place] += 1
            drawn = hashlib.sha256(f"{self.seed} {place} {self._asked[place]}".encode()).digest()
            if drawn[0] >= 256 * self.share:
                return ""
            kind = ("fails", "short", "slow", "lies")[drawn[1] % 4]
            self._failed.add(place)
            self.made[request, kind] += 1
            return kind


class FaultyMemory(MemoryFileSystem):
    """fsspec's memory, apart from other tests', with the faults of an Injector."""

    cachable = False
    protocol = "memory"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    injector: ClassVar[Injector | None] = None

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        kind = self._before("cat_file", path)
        content: bytes = super().cat_file(path, start=start, end=end, **kwargs)
        return _spoiled(content, kind)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        kind = self._before("info", path)
        found: dict[str, Any] = dict(super().info(path, **kwargs))
        if kind == "short" and found["type"] == "file":
            found["size"] = found["size"] // 2
        if kind == "lies" and len(path) % 2:
            raise FileNotFoundError(path)
        if kind == "lies" and found["type"] == "file":
            found["size"] += 1
        return found

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        kind = self._before("find", path)
        with self._quiet():
            found = super().find(path, *args, **kwargs)
        return dict(list(found.items())[: len(found) // 2]) if kind in ("short", "lies") else found

    def _open(self, path: str, mode: str = "rb", *args: Any, **kwargs: Any) -> Any:
        if mode != "rb":
            return super()._open(path, mode, *args, **kwargs)
        kind = self._before("open", path)
        content = super().cat_file(path)
        if kind == "lies" and path.startswith(FOREIGN):
            kind = "short"  # nothing says what the bytes of a shard without a marker have to be
        return io.BytesIO(_spoiled(bytes(content), kind))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._write("pipe_file", path, value, lambda content: self._pipe(path, content, mode))

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        content = Path(lpath).read_bytes()
        self._write("put_file", rpath, content, lambda content: self._pipe(rpath, content, "overwrite"))

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        content = bytes(super().cat_file(path1))
        self._write("cp_file", path2, content, lambda content: self._pipe(path2, content, "overwrite"))

    def rm_file(self, path: str) -> None:
        kind = self._before("rm_file", path)
        if kind not in ("short", "lies"):
            super().rm_file(path)

    def _pipe(self, path: str, content: bytes, mode: str) -> None:
        super().pipe_file(path, content, mode=mode)

    def _write(self, request: str, path: str, content: bytes, write: Callable[[bytes], None]) -> None:
        kind = self._before(request, path)
        if kind == "short":
            content = content[: len(content) // 2]
        if kind != "lies":  # the lie: it is there
            write(content)
        if kind == "slow":  # carried out, and answered late
            time.sleep(_SLOW_S)

    def _before(self, request: str, path: str) -> str:
        kind = "" if self.injector is None else self.injector.kind(request, path)
        if kind == "fails":
            raise OSError(f"{path}: injected")
        if kind == "slow" and request in _READS:
            time.sleep(_SLOW_S)
        return kind

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Without faults: fsspec's own requests within a request."""
        injector, type(self).injector = self.injector, None
        try:
            yield
        finally:
            type(self).injector = injector


def _spoiled(content: bytes, kind: str) -> bytes:
    if kind == "short":
        return content[: len(content) // 2]
    if kind == "lies" and content:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    return content


@contextmanager
def faulty_memory() -> Iterator[type[FaultyMemory]]:
    """Have `memory://` mean FaultyMemory, which is empty, for the length of a with block."""
    fsspec.register_implementation("memory", FaultyMemory, clobber=True)
    FaultyMemory.store.clear()
    try:
        yield FaultyMemory
    finally:
        FaultyMemory.injector = None
        FaultyMemory.store.clear()
        fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)


def injected(
    folder: Path, name: str, run: Callable[[Path], Any], right: Any, seeds: range, share: float
) -> list[Fault]:
    """Run something with faults, once for each seed.

    Args:
        folder: Empty.
        name: What is run.
        run: Runs it in a folder that it makes if it is missing; again in the same folder it goes on.
        right: What `run` returns without faults.
        seeds: One run each.
        share: Of the requests that have a fault.

    Returns:
        A row for each request and kind of fault.
    """
    made: Counter[tuple[str, str]] = Counter()
    refused: Counter[tuple[str, str]] = Counter()
    wrong: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for seed in seeds:
        injector = Injector(seed, share)
        place = folder / f"{name}-{seed}"
        began_s = time.monotonic()
        FaultyMemory.injector = injector
        error = ""
        try:
            problem = "" if run(place) == right else "silent"
        except AvkitError as refusal:
            error, problem = f"{type(refusal).__name__}: {refusal}", ""
        except Exception as traceback:
            error, problem = "", f"{type(traceback).__name__}: {traceback}"
        FaultyMemory.injector = None
        if time.monotonic() - began_s > HANG_S:
            problem = "hung"
        if error and not problem:
            try:
                problem = "" if run(place) == right else f"lost after {error}"
            except Exception as again:
                problem = f"lost: {type(again).__name__}: {again}"
        made += injector.made
        for fault in injector.made:
            refused[fault] += bool(error)
            if problem:
                wrong[fault].append(f"seed {seed}: {problem}")
    return [
        Fault(
            f"{name}: {request} {kind}",
            f"{made[request, kind]} times, with a typed error in {refused[request, kind]} runs",
            EXPECTED,
            "; ".join(wrong[request, kind]) or EXPECTED,
        )
        for request, kind in sorted(made)
    ]


def prepare_faults(folder: Path, seeds: range, share: float = 0.2) -> list[Fault]:
    """Faults of the bucket that `prepare` writes to."""
    videos = draw_folder(folder / "videos", [f"train/a/v{number}.mp4" for number in range(3)])
    prepare(folder_config(videos, folder / "right"))

    def run(place: Path) -> dict[str, str]:
        url = f"memory://{place.name}"
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": str(place)}):
            report = prepare(folder_config(videos, url, patience=_POLICY))
        if report.exit_code:
            raise StorageError(f"not all clips were committed, exit code {report.exit_code}")
        injector, FaultyMemory.injector = FaultyMemory.injector, None
        found = bucket_tree(url)
        FaultyMemory.injector = injector
        return found

    return injected(folder, "prepare", run, tree(folder / "right"), seeds, share)


def _upload(dataset: Path, url: str) -> None:
    memory = fsspec.filesystem("memory")
    for path in dataset.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"{url}/{path.relative_to(dataset)}", path.read_bytes())


def loader_faults(folder: Path, seeds: range, share: float = 0.3) -> list[Fault]:
    """Faults of the store that the loader reads shards from, with and without markers."""
    dataset = draw_dataset(folder / "set", 20, 6)
    _upload(dataset, "memory://prepared")
    for path in dataset.glob("train/*.tar"):
        fsspec.filesystem("memory").pipe_file(f"{FOREIGN}{path.name}", path.read_bytes())

    def read(source: Any, place: Path) -> list[tuple[str, str]]:
        cache = CacheConfig(root=place, retry=_POLICY)
        config = evaluation_config(LoaderConfig(batch_size=4, num_workers=2, cache=cache))
        return [
            (key, hashlib.sha256(image.tobytes() + mel.tobytes()).hexdigest())
            for batch in Loader(open_dataset(source, cache=cache), EvalView(image_size=8), config).arrays()
            for key, image, mel, valid in zip(batch.keys, batch.images, batch.log_mel, batch.valid, strict=True)
            if valid
        ]

    rows = []
    for name, source in (
        ("loader", "memory://prepared"),
        ("loader, no markers", "memory://foreign/{00000..00003}.tar"),
    ):

        def run(place: Path, source: str = source) -> list[tuple[str, str]]:
            return read(source, place)

        rows += injected(folder, name, run, run(folder / f"right {name}"), seeds, share)
    return rows


def trainer_faults(folder: Path, seeds: range, share: float = 0.3) -> list[Fault]:
    """Faults of the store that a trainer reads from."""
    from dataclasses import replace

    from avmodel.metrics import METRICS, read_lines
    from avmodel.train import pretrain
    from tests.runs import tiny_run

    _upload(draw_dataset(folder / "set", 20, 6), "memory://trained")

    def run(place: Path) -> list[float]:
        config = tiny_run()
        config = replace(config, data=replace(config.data, cache_dir=str(place / "cache")))
        out = place / ("again" if (place / "first").exists() else "first")
        pretrain(config, "memory://trained", out)
        return [line["loss"] for line in read_lines(out / METRICS) if "loss" in line]

    return injected(folder, "trainer", run, run(folder / "right"), seeds, share)


def store_faults(folder: Path, runs: int = 20) -> Iterator[Fault]:
    """The rows of all three."""
    with faulty_memory():
        yield from prepare_faults(folder / "prepare", range(runs))
        yield from loader_faults(folder / "loader", range(runs))
        yield from trainer_faults(folder / "trainer", range(max(runs // 4, 1)))


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for row in store_faults(Path(temporary), int(sys.argv[1])):
            print(json.dumps(row), flush=True)
