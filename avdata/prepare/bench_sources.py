"""Benchmark fetching: prepare the same clips from a local folder and from a web server on loopback."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

from avdata.cores import usable_cores
from avdata.prepare.bench import draw_videos
from avdata.prepare.config import PrepareConfig, Supervision
from avdata.prepare.job import prepare
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.recipe import TableOptions, load_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcesBench:
    """What to measure. The synthetic videos have the size and length of VGGSound's."""

    num_clips: int = 500
    clip_seconds: float = 10.0
    rounds: int = 3

    def __post_init__(self) -> None:
        if self.num_clips < 1 or self.rounds < 1:
            raise ConfigError("--clips and --rounds must be at least 1")


def bench_sources(bench: SourcesBench) -> dict[str, Any]:
    """Measure clips per second of wall-clock time for whole runs on all cores from each source, and their ratio.

    Each round runs both sources, one after the other, each into a new folder with an empty cache. The ratio is the
    median over the rounds. A run of one clip comes first, so that no round includes the first imports.
    """
    with tempfile.TemporaryDirectory() as scratch:
        videos, clips = _draw(bench, Path(scratch))
        with _serving(videos) as address:
            sources = {"local": f"local:{videos}", "http": f"http:{address}/{{id}}.mp4"}
            _run(bench, clips, sources["http"], Path(scratch) / "warm", limit=1)
            seconds: dict[str, list[float]] = {name: [] for name in sources}
            for number in range(bench.rounds):
                for name, source in sources.items():
                    seconds[name].append(_run(bench, clips, source, Path(scratch) / f"{name}-{number}"))
    return {
        **{f"{name}_clips_per_s": round(bench.num_clips / median(times), 3) for name, times in seconds.items()},
        "http_over_local": round(
            median(here / there for here, there in zip(seconds["local"], seconds["http"], strict=True)), 3
        ),
        "clips": bench.num_clips,
        "clip_seconds": bench.clip_seconds,
    }


def _draw(bench: SourcesBench, folder: Path) -> tuple[Path, Path]:
    """Draw the videos and write their list; the folder and the list."""
    videos = folder / "videos"
    names = draw_videos(bench.num_clips, bench.clip_seconds, videos)
    clips = folder / "clips.csv"
    clips.write_text("".join(f"{line}\n" for line in ("id,label", *(f"{name},drawn" for name in names))))
    return videos, clips


def _run(bench: SourcesBench, clips: Path, source: str, out: Path, limit: int | None = None) -> float:
    """Seconds of one run. Raises AvkitError if a clip fails."""
    config = PrepareConfig(
        recipe=load_recipe("table"),
        out=out,
        list_path=clips,
        table=TableOptions(id_column="id", label_column="label"),
        sources=(source,),
        supervision=Supervision(num_workers=usable_cores()),
        limit=limit,
    )
    began = time.perf_counter()
    report = prepare(config)
    if report.ok != (limit or bench.num_clips):
        raise AvkitError(f"{source}: {report.statuses}; every clip should be ok")
    return time.perf_counter() - began


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Write no log."""


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """Serve the folder on loopback; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
