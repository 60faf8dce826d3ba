"""Published files of weights: licenses, and recognition by hash."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avmanifest.files import sha256_of_file
from avmodel.registry.entries import Entry, entries
from avmodel.registry.fetch import read_pin, wanted_of
from avmodel.renaming import Rules
from avmodel.weights.files import md5_of_file


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """One published file: its size and hash, and the license of its weights."""

    name: str
    source: str
    license: str
    size_bytes: int | None = None
    sha256: str | None = None
    md5_prefix: str | None = None
    entry: Entry | None = None  # of the list of published models; None: it is not there


def published_files() -> tuple[PublishedWeights, ...]:
    """The files of the list of published models whose hash is published, or was recorded at the first download."""
    found = []
    for entry in entries().values():
        wanted = wanted_of(entry, read_pin(entry))
        if wanted.sha256 or wanted.md5_prefix:
            found.append(
                PublishedWeights(
                    name=entry.name,
                    source=entry.address,
                    license=entry.licence,
                    size_bytes=wanted.num_bytes,
                    sha256=wanted.sha256,
                    md5_prefix=wanted.md5_prefix,
                    entry=entry,
                )
            )
    return tuple(found)


UNKNOWN_LICENSE = "unknown: ask the author of the file"


def identify(path: Path, published: Sequence[PublishedWeights] | None = None) -> PublishedWeights:
    """The published file with the same bytes; else one named "unknown", of unknown license.

    `published`: those to compare with; None: `published_files`.
    """
    size = path.stat().st_size
    published = published_files() if published is None else published
    candidates = [known for known in published if known.size_bytes in (None, size)]
    by_sha256 = [known for known in candidates if known.sha256]
    if by_sha256 and (digest := sha256_of_file(path)) in {known.sha256 for known in by_sha256}:
        return next(known for known in by_sha256 if known.sha256 == digest)
    by_md5 = [known for known in candidates if known.md5_prefix]
    if by_md5:
        digest = md5_of_file(path)
        for known in by_md5:
            if known.md5_prefix and digest.startswith(known.md5_prefix):
                return known
    return PublishedWeights(name="unknown", source=str(path), license=UNKNOWN_LICENSE, size_bytes=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedHeads:
    """The heads in a family's published fine-tuned checkpoints, each a LayerNorm and a Linear."""

    kind: str  # of avmodel.evaluate.finetune.config.HEADS
    mixed: bool  # whether a model that was tuned with both modalities has heads for each of them, too
    names: Rules  # from a published name to one of `Heads`: norms.NAME.*, heads.NAME.*


def head_names(published: Mapping[str, str]) -> Rules:
    """Rows for heads that are published as Sequential(LayerNorm, Linear): from their name there to that of `Heads`."""
    return tuple(
        (rf"{theirs}\.{place}\.(weight|bias)", rf"{part}.{ours}.\1")
        for theirs, ours in published.items()
        for place, part in enumerate(("norms", "heads"))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """The importer of a family's published checkpoints, and the data that they were trained on."""

    read: Callable[..., tuple[Any, PublishedWeights]]  # (path, **settings) -> model and published file
    profile: str  # name of the spectrograms' profile
    window_s: float | None  # None: the whole clip, or with around_frame what the model's audio input takes
    around_frame: bool = False  # whether they heard windows around frames, as long as the model's audio input
    fit: str = "crop"  # how frames become square: one of avdata.fits.FITS
    heads: PublishedHeads | None = None  # None: no fine-tuned checkpoints are imported
    known: bool = False  # whether size and sha256 of the published files are known; others then need accept_unknown
