"""The paths of all files of a prepared dataset. Other modules take paths from here."""

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SPLIT_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""A split's name, which is also a folder: train, val, test, or a name of the recipe such as balanced."""

USUAL_SPLITS: Final = ("train", "val", "test")

_SUFFIXES: Final = (".tar", ".tar.idx", ".parquet", "_stats.json")  # of a shard's files
_SHARD: Final = re.compile(r"(\d{5,})_stats\.json")
_PUBLISHED: Final = re.compile(
    r"dataset\.json|README\.md|croissant\.json|plan/part-\d{5}\.parquet"
    rf"|(?:{SPLIT_PATTERN.pattern})/\d{{5,}}(?:\.tar|\.tar\.idx|\.parquet|_stats\.json)"
    rf"|manifest/(?:{SPLIT_PATTERN.pattern})\.(?:parquet|avidx)|\.nv-meta/(?:dataset\.yaml|crude\.yaml|split\.yaml|\.info\.json)"
)


def is_published(name: str) -> bool:
    """Whether a path, relative to the root, is a file of the dataset (not a temporary or foreign file)."""
    return _PUBLISHED.fullmatch(name) is not None


def shard_of_marker(name: str) -> "ShardName | None":
    """The shard whose marker has this path, relative to the root; None for any other file."""
    split, _, file = name.rpartition("/")
    match = _SHARD.fullmatch(file)
    return ShardName(split, int(match[1])) if match and SPLIT_PATTERN.fullmatch(split) else None


def ordered_splits(names: Iterable[str]) -> list[str]:
    """Those of the names that a split may have: train, val, test, then others by name."""
    first = {split: place for place, split in enumerate(USUAL_SPLITS)}
    splits = filter(SPLIT_PATTERN.fullmatch, names)
    return sorted(splits, key=lambda split: (first.get(split, len(first)), split))


def _has_marker(folder: Path) -> bool:
    """Whether a folder has the marker of a shard. It is not read further than to the first."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return any(entry.name.endswith("_stats.json") for entry in entries)
    return False


@dataclass(frozen=True, slots=True, order=True)
class ShardName:
    """A shard of a split: `train/00007`."""

    split: str
    number: int

    def __str__(self) -> str:
        return f"{self.split}/{self.number:05d}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths below a dataset's root.

    A mirror is a local copy of the small files of a dataset in a bucket: description, plan, and the manifest rows and
    markers of the shards. The tars and their indexes are only in the bucket.
    """

    root: Path
    is_mirror: bool = False

    def name(self, path: Path) -> str:
        """A path relative to the root, with slashes."""
        return path.relative_to(self.root).as_posix()

    @property
    def dataset_json(self) -> Path:
        """JSON with the format version, recipe, config, hash of the plan and versions of the tools."""
        return self.root / "dataset.json"

    @property
    def card(self) -> Path:
        """The dataset card."""
        return self.root / "README.md"

    @property
    def croissant(self) -> Path:
        """The Croissant description."""
        return self.root / "croissant.json"

    @property
    def temporary(self) -> Path:
        """Folder for files that are being written. Not part of the dataset."""
        return self.root / "_tmp"

    @property
    def operation(self) -> Path:
        """Folder of the files that an operation on the dataset has made, until they get their places."""
        return self.root / "_operation"

    @property
    def swap(self) -> Path:
        """What an operation exchanges. While this file exists, the dataset is between two states."""
        return self.operation / "swap.json"

    @property
    def quarantine(self) -> Path:
        """Folder to which damaged shards are moved."""
        return self.root / "_quarantine"

    @property
    def media(self) -> Path:
        """Default folder of downloaded media. Not part of the dataset."""
        return self.root / "_media"

    @property
    def tracebacks(self) -> Path:
        """Text file of the tracebacks of clips that ended in status `internal`. Not part of the dataset."""
        return self.root / "_errors.txt"

    @property
    def lists(self) -> Path:
        """Folder of the official lists that were downloaded for the plan."""
        return self.root / "plan" / "lists"

    def plan_part(self, part: int) -> Path:
        """A part of the plan. The first run writes part 0; each retry adds one."""
        return self.root / "plan" / f"part-{part:05d}.parquet"

    def plan_parts(self) -> list[Path]:
        """The existing parts of the plan, in order."""
        parts: list[Path] = []
        while (path := self.plan_part(len(parts))).exists():
            parts.append(path)
        return parts

    def tar(self, shard: ShardName) -> Path:
        """The tar with the samples."""
        return self.root / shard.split / f"{shard.number:05d}.tar"

    def index(self, shard: ShardName) -> Path:
        """Byte offsets of the samples in the tar, in the format of Megatron-Energon."""
        return self.root / shard.split / f"{shard.number:05d}.tar.idx"

    def clips(self, shard: ShardName) -> Path:
        """The manifest rows of the shard, including failed clips."""
        return self.root / shard.split / f"{shard.number:05d}.parquet"

    def stats(self, shard: ShardName) -> Path:
        """The marker (JSON): a shard is complete if and only if it exists and its sizes match the other files."""
        return self.root / shard.split / f"{shard.number:05d}_stats.json"

    def files(self, shard: ShardName) -> tuple[Path, Path, Path, Path]:
        """tar, index, parquet and marker, in the order in which they are published."""
        return self.tar(shard), self.index(shard), self.clips(shard), self.stats(shard)

    def file_names(self, shard: ShardName) -> tuple[str, ...]:
        """`files` as texts, many times faster; of a mirror without tar and index."""
        stem = f"{self.root}/{shard}"
        return tuple(stem + suffix for suffix in (_SUFFIXES[2:] if self.is_mirror else _SUFFIXES))

    def manifest(self, split: str) -> Path:
        """The merged manifest of a split."""
        return self.root / "manifest" / f"{split}.parquet"

    def sample_index(self, split: str) -> Path:
        """The places of all samples of a split, made from its manifest and markers."""
        return self.root / "manifest" / f"{split}.avidx"

    def splits(self) -> list[str]:
        """Splits with a merged manifest or with shards, as `ordered_splits` has them."""
        manifests = {path.stem for path in (self.root / "manifest").glob("*.parquet")}
        folders = {path.name for path in self.root.glob("*/") if path.name not in manifests and _has_marker(path)}
        return ordered_splits(manifests | folders)

    def shards(self, split: str) -> list[ShardName]:
        """Shards of a split that have a marker, by number. The files are not compared with the marker."""
        folder = self.root / split
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            matches = [_SHARD.fullmatch(entry.name) for entry in entries if entry.name.endswith(_SUFFIXES[-1])]
        return [ShardName(split, number) for number in sorted(int(match[1]) for match in matches if match)]

    @property
    def energon(self) -> Path:
        """Megatron-Energon's metadata folder."""
        return self.root / ".nv-meta"
