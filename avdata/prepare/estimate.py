"""Estimate a run before it starts: clips by source, bytes on disk, hours."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import pyarrow as pa

from avdata.prepare.config import PrepareConfig
from avdata.prepare.sources import RemoteSource, Source, SourceChain, open_sources, reads_archives
from avdata.prepare.sources.archives import ArchiveSource, find_archives, require_there
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.names import ClipRequest, names_tried
from avdata.prepare.sources.remote import RemoteRef
from avdata.profiles import profile
from avmanifest.secrets import shown_url

_FEW: Final = 3  # clips and files that are named

SMALL_BYTES: Final = 300 * 10**6  # of a source's .tar.gz that are read to their end for an estimate, in seconds

OVERHEAD_BYTES: Final = 6_000
"""Bytes of tar headers, padding and json per sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Assumed sizes and rates. Defaults: measurements in docs/benchmarks.md, and typical videos at 360p."""

    clip_s: float = 10.0  # length of a clip where the list gives no end
    aspect: float = 4 / 3  # width / height
    jpeg_bytes_per_pixel: float = 0.31  # quality 90
    flac_bytes_per_s: float = 16_000.0
    decoded_s_per_s: float = 75.0  # seconds of clips that one core prepares per second
    video_s: float = 250.0  # length of a whole video
    video_bytes_per_s: float = 60_000.0  # at a height of 360; proportional to the number of pixels
    worker_bytes_per_s: float = 1_000_000.0  # of one download process


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceShare:
    """The share of one source. `videos`, `bytes` and `hours` count what has to be fetched: 0 for a local source."""

    clips: int
    videos: int = 0
    bytes: int = 0
    hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A source that has none of the clips: names that were looked for there, and files that it has."""

    source: str
    num_files: int
    files: tuple[str, ...]  # some, relative to the source
    names: tuple[tuple[str, ...], ...]  # of some clips: names without suffix, any of which would do


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The estimate of one run."""

    clips: int
    sources: dict[
        str, SourceShare | None
    ]  # by name; None for archives that have to be read to their end, as a run does
    missing: int  # clips that no source has; 0 if a source is such an archive
    searched: tuple[Searched, ...] = ()  # if no source has any clip
    dataset_bytes: int
    decode_hours: float
    hours: float  # fetching and decoding run at the same time


def estimate(config: PrepareConfig, plan: pa.Table, suppose: Assumptions | None = None) -> Estimate:
    """Estimate the run of a plan. Folders, local tars, zips and small .tar.gz are listed; nothing is fetched or kept.

    Raises ConfigError for a source that is not there.

    Args:
        config: The run's configuration.
        plan: Rows of PLAN_SCHEMA.
        suppose: Sizes and rates; None: the defaults.
    """
    suppose = suppose or Assumptions()
    seconds = _clip_seconds(config, plan, suppose)
    decode_hours = float(seconds.sum()) / suppose.decoded_s_per_s / config.supervision.num_workers / 3600
    sources, missing, searched = _shares(config, plan, seconds, suppose)
    fetch_hours = max((share.hours for share in sources.values() if share), default=0.0)
    return Estimate(
        clips=len(plan),
        sources=sources,
        missing=missing,
        searched=searched,
        dataset_bytes=round(_dataset_bytes(config, suppose, len(plan), float(seconds.sum()))),
        decode_hours=decode_hours,
        hours=max(fetch_hours, decode_hours),
    )


def _clip_seconds(config: PrepareConfig, plan: pa.Table, suppose: Assumptions) -> np.ndarray:
    """The length of each clip's sample in seconds."""
    if config.sample.clip_seconds is not None:
        return np.full(len(plan), config.sample.clip_seconds)
    start_s = plan.column("start_s").to_numpy()
    end_s = plan.column("end_s").to_numpy()  # null is nan
    return np.where(np.isnan(end_s), suppose.clip_s, end_s - start_s)


def _dataset_bytes(config: PrepareConfig, suppose: Assumptions, num_clips: int, seconds: float) -> float:
    """Bytes of all shards, for `num_clips` clips of `seconds` in total."""
    sample = config.sample
    front_ends = [profile(name) for name in sample.mel]
    per_s = sum(2 * mel.n_mels * mel.sample_rate / mel.hop_length for mel in front_ends)
    per_s += suppose.flac_bytes_per_s * sample.keep_audio
    frames = sample.num_frames * sample.short_side**2 * suppose.aspect * suppose.jpeg_bytes_per_pixel
    return num_clips * (OVERHEAD_BYTES + frames) + per_s * seconds


def _shares(
    config: PrepareConfig, plan: pa.Table, seconds: np.ndarray, suppose: Assumptions
) -> tuple[dict[str, SourceShare | None], int, tuple[Searched, ...]]:
    """The share of each source, the number of clips that no source has, and what was searched if none has any."""
    if config.recipe.name == "synth":
        return {"synth": SourceShare(clips=len(plan))}, 0, ()
    specs = [spec for spec in config.sources if not reads_archives(spec) or _is_listed_soon(spec)]
    with TemporaryDirectory() as folder:  # for the seek points of a .tar.gz, which an estimate does not need
        opened = dict(zip(specs, open_sources(specs, cache_dir=Path(folder), options=config.remote), strict=True))
    chain = SourceChain(list(opened.values()))
    fetched: dict[str, dict[str, float]] = {source.name: {} for source in chain.remote}  # bytes by fetch key
    area = (config.remote.youtube.max_height / 360) ** 2
    columns = (plan.column(name).to_pylist() for name in ("video_id", "start_s", "end_s", "path"))
    for place, row in enumerate(zip(*columns, strict=True)):
        ref = chain.locate(ClipRequest(*row))
        if isinstance(ref, RemoteRef):
            length_s = float(seconds[place]) if ref.is_clip else suppose.video_s
            fetched[ref.source][ref.fetch_key] = length_s * suppose.video_bytes_per_s * area
    shares: dict[str, SourceShare | None] = {}
    for spec in config.sources:
        if source := opened.get(spec):
            shares[source.name] = _share(config, source, chain, fetched, suppose)
        else:
            shares[shown_url(spec)] = None
    missing = chain.missing if len(opened) == len(config.sources) else 0
    return shares, missing, _searched(plan, opened.values()) if len(plan) and missing == len(plan) else ()


def _is_listed_soon(spec: str) -> bool:
    """Whether the archives of a source are local and have a list of their members, or are small: tars and zips.

    Raises ConfigError for missing archives, as a run does; of those at URLs the first and the last are asked for.
    """
    archives = find_archives(spec.removeprefix("wds:").split("::"))
    remote = [archive for archive in archives if "://" in archive]
    for archive in dict.fromkeys([*remote[:1], *remote[-1:]]):
        require_there(archive)
    if remote:
        return False
    packed = [archive for archive in archives if not archive.endswith((".tar", ".zip"))]
    is_gzip = all(archive.endswith((".tar.gz", ".tgz")) for archive in packed)
    return is_gzip and sum(Path(archive).stat().st_size for archive in packed) <= SMALL_BYTES


def _searched(plan: pa.Table, sources: Iterable[Source]) -> tuple[Searched, ...]:
    """Of sources that have no clip of the plan: names that were looked for, and names that are there."""
    columns = (plan.column(name).to_pylist()[:_FEW] for name in ("video_id", "start_s", "end_s", "path"))
    names = tuple(tuple(names_tried(ClipRequest(*row))) for row in zip(*columns, strict=True))
    return tuple(
        Searched(source=source.name, num_files=len(source), files=tuple(source.some_paths(_FEW)), names=names)
        for source in sources
        if isinstance(source, LocalSource | ArchiveSource)
    )


def _share(
    config: PrepareConfig,
    source: Source,
    chain: SourceChain,
    fetched: dict[str, dict[str, float]],
    suppose: Assumptions,
) -> SourceShare:
    clips = chain.coverage[source.name]
    if not isinstance(source, RemoteSource):
        return SourceShare(clips=clips)
    sizes = fetched[source.name].values()
    downloads = config.downloads
    rate = downloads.rate_per_hour or source.rate_per_hour
    by_bytes = sum(sizes) / (suppose.worker_bytes_per_s * downloads.num_workers) / 3600
    hours = max(by_bytes, len(sizes) / rate if rate else 0.0)
    return SourceShare(clips=clips, videos=len(sizes), bytes=round(sum(sizes)), hours=hours)
