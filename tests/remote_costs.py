"""How long the first batch of a remote dataset takes, and what is read before it. A script.

    python -m tests.remote_costs FOLDER [--shards 8] [--mb 70] [--rate 50] [--latency 0.02] [--batches 1]

Draws a dataset in FOLDER, which a later call finds, and serves it on loopback: all answers together at RATE megabytes
a second, each LATENCY seconds late. A loader in a process of its own reads it with an empty cache, once by ranges while
the shards come behind, once by whole shards. Prints a table.
"""

import argparse
import multiprocessing
import re
import shutil
import threading
import time
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from avdata.load import CacheConfig, Loader, LoaderConfig, TrainView, open_dataset
from tests.running import running
from tests.shards import draw_dataset

PIECE = 64 << 10  # bytes that are sent at a time


class PacedServer(ThreadingHTTPServer):
    """Serves a folder, with ranges, at a rate that all answers share."""

    daemon_threads = True

    def __init__(self, root: Path, bytes_per_s: float, latency_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.bytes_per_s, self.latency_s = root, bytes_per_s, latency_s
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.sent = {"range": 0, "whole": 0}  # bytes of tars
        self.requests = 0
        self._lock, self._free_at = threading.Lock(), 0.0
        self.closing = threading.Event()

    def pace(self, num_bytes: int) -> None:
        """Wait until the line has carried so many bytes more."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + num_bytes / self.bytes_per_s
            wait_s = self._free_at - time.monotonic()
        time.sleep(max(wait_s, 0))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter."""


class _Handler(BaseHTTPRequestHandler):
    server: PacedServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server, path = self.server, self.server.root / self.path.lstrip("/")
        server.requests += 1
        time.sleep(server.latency_s)
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or size), size - 1)) if asked else (0, size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return
        with path.open("rb") as file:
            file.seek(first)
            left = last + 1 - first
            while left and (piece := file.read(min(PIECE, left))):
                server.pace(len(piece))
                self.wfile.write(piece)
                left -= len(piece)
                if path.suffix == ".tar":
                    server.sent["range" if asked else "whole"] += len(piece)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def draw(root: Path, shards: int, mb: float) -> None:
    """A dataset with shards of about so many megabytes: pictures of noise, as they take the most bytes."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 340, 3), np.uint8)
    samples = max(round(mb * 1e6 / 1_050_000), 1)
    draw_dataset(
        root, shards * samples, samples, seconds=10.0, num_frames=10, picture=lambda sample, frame: noise, flac=True
    )


def load(url: str, folder: Path, batches: int, sent: "multiprocessing.Queue[str]", ranges_from_bytes: int) -> None:
    """Read an epoch, and say when the first batches are there."""
    shutil.rmtree(folder, ignore_errors=True)
    cache = CacheConfig(root=folder, ranges_from_bytes=ranges_from_bytes)
    dataset = open_dataset(url, cache=cache)
    loader = Loader(dataset, TrainView(), LoaderConfig(batch_size=64, num_workers=2, prefetch_batches=2, cache=cache))
    sent.put("opened")
    with closing(loader.arrays()) as found:
        for number, _ in enumerate(found, start=1):
            if number == batches:
                sent.put("first")
    sent.put("epoch")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--mb", type=float, default=70.0)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--batches", type=int, default=1)
    given = parser.parse_args()
    root = given.folder / f"{given.shards}-{given.mb:g}"
    if not (root / "dataset.json").exists():
        shutil.rmtree(root, ignore_errors=True)
        draw(root, given.shards, given.mb)
    total = sum(path.stat().st_size for path in root.glob("train/*.tar"))
    print(f"{given.shards} shards, {total / 1e6:,.0f} MB, {given.rate:g} MB/s, {given.latency:g} s", flush=True)
    print("| | first batch, s | MB of tars before it | requests | epoch, s | MB of tars in all |")
    print("|---|---|---|---|---|---|")
    for name, ranges_from_bytes in (("by ranges", 1), ("whole shards", 1 << 60)):
        context = multiprocessing.get_context("spawn")
        said = context.Queue()
        with running(PacedServer(root, given.rate * 1e6, given.latency)) as server:
            child = context.Process(
                target=partial(load, server.url, given.folder / "cache", given.batches, said, ranges_from_bytes)
            )
            child.start()
            assert said.get(timeout=300) == "opened"
            began, asked = time.perf_counter(), server.requests
            assert said.get(timeout=300) == "first"
            first_s, before, requests = time.perf_counter() - began, sum(server.sent.values()), server.requests - asked
            assert said.get(timeout=300) == "epoch"
            epoch_s = time.perf_counter() - began
            child.join()
            sent = sum(server.sent.values())
        row = f"{first_s:.2f} | {before / 1e6:,.1f} | {requests} | {epoch_s:.1f} | {sent / 1e6:,.0f}"
        print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
