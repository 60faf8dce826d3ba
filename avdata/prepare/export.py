"""Export a prepared dataset: check it, copy its published files to another place, check the copies."""

import itertools
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from avdata.audit.parquet import read_stored_table
from avdata.audit.secrets import ADVICE, checked_columns, num_secrets
from avdata.store import Store
from avdata.urls import protocol
from avmanifest.errors import ConfigError, ManifestError, ShardError
from avmanifest.files import sha256_of, sha256_of_file
from avmanifest.layout import Layout, ShardName, is_published, shard_of_marker
from avmanifest.parsing import parse_object
from avmanifest.records import PARTS, parse_description, parse_marker
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.wording import counted

_LAYOUT: Final = Layout(Path())
_CARD: Final = ("README.md", "croissant.json", ".nv-meta/dataset.yaml", ".nv-meta/split.yaml", ".nv-meta/.info.json")
_FRONT_MATTER: Final = re.compile(rb"---\n(.*?\n)---\n", re.DOTALL)
_SHARD_FILE: Final = re.compile(r"(?!plan/).+/\d{5,}(?:\.tar|\.tar\.idx|\.parquet|_stats\.json)")


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export. Every file was compared by size and sha256."""

    source: str
    target: str
    num_files: int
    num_bytes: int
    num_copied: int  # files; the others were at the target already

    def as_dict(self) -> dict[str, Any]:
        """As JSON-compatible data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Shipped:
    """Size and hash of a file to export, from its marker or its bytes."""

    num_bytes: int
    sha256: str


def export(source: Store, target: Store, observe: Callable[[str], None] = lambda _: None) -> Exported:
    """Copy the dataset's published files. dataset.json is copied last, so a target that has it is complete.

    An interrupted export can be repeated: it copies the files that are missing or differ. A target that holds the
    dataset as it was before an operation is brought to the present state: files that it has no more are removed.

    Args:
        source: The prepared dataset.
        target: Where to copy it.
        observe: Receives a message for every file.

    Raises:
        ManifestError: The dataset or its catalog is incomplete, or they do not agree.
        ShardError: A shard does not agree with its marker, or a copy differs from its source.
        ConfigError: The target is the source, lies in it or around it, or holds another dataset or other files.
        StorageError: The source cannot be read or the target cannot be written.
    """
    _refuse_nested(source, target)
    shipped = checked(source)
    held = target.sizes()
    _check_target(source, target, held)
    copied = 0
    stale = [name for name in held if is_published(name) and name not in shipped]
    for name, file in shipped.items():
        if name == "dataset.json" and "dataset.json" in held:  # of an older state of the dataset
            target.remove(sorted(stale, key=lambda name: not name.endswith("_stats.json")))
        if held.get(name) == file.num_bytes and target.sha256(name) == file.sha256:
            observe(f"{name}: unchanged")
            continue
        _copy(source, target, name, file)
        copied += 1
        observe(f"{name}: copied")
    total = sum(file.num_bytes for file in shipped.values())
    return Exported(source.root, target.root, len(shipped), total, copied)


def checked(source: Store) -> dict[str, _Shipped]:
    """The files of a complete dataset with their sizes and hashes, in the order in which they are copied.

    Raises:
        ManifestError: A file is missing, card, Croissant or Energon's files do not agree with the markers, or a row
            holds a password or token.
        ShardError: A marker is invalid, or a file differs in size from its marker.
    """
    held = source.sizes()
    if _LAYOUT.name(_LAYOUT.swap) in held:
        raise ManifestError(f"{source.root}: an operation was stopped. Finish it: avkit dataset settle {source.root}")
    for name in ("dataset.json", "plan/part-00000.parquet", *_CARD):
        if name not in held:
            raise ManifestError(f"{source.at(name)}: missing. Finish the dataset first: the same avkit prepare again.")
    markers = {shard: _marker(source, shard) for shard in sorted(filter(None, map(shard_of_marker, held)))}
    shards: dict[str, _Shipped] = {}
    for shard, stats in markers.items():
        *parts, marker = (_LAYOUT.name(path) for path in _LAYOUT.files(shard))
        for part, name in zip(PARTS, parts, strict=True):
            shards[name] = _Shipped(stats["files"][part]["bytes"], stats["files"][part]["sha256"])
            if held.get(name) != shards[name].num_bytes:
                raise ShardError(
                    f"{source.at(name)}: {held.get(name, 0)} bytes, its marker says {shards[name].num_bytes}. Run the "
                    "same avkit prepare again."
                )
        shards[marker] = _shipped(source, marker, held)
    own = [name for name in held if is_published(name) and not _SHARD_FILE.fullmatch(name)]
    rest = {name: _shipped(source, name, held) for name in sorted(own, key=lambda name: (name == "dataset.json", name))}
    _check_catalog(source, markers, rest)
    _refuse_secrets(source, [name for name in [*shards, *rest] if name.endswith(".parquet") and "plan/" not in name])
    return shards | rest


def _check_catalog(source: Store, markers: Mapping[ShardName, Mapping[str, Any]], rest: Mapping[str, _Shipped]) -> None:
    """Raise ManifestError unless card, Croissant and Energon's files name the shards with their counts and hashes."""
    splits = {
        split: {f"{shard}.tar": markers[shard] for shard in shards}
        for split, shards in itertools.groupby(markers, key=lambda shard: shard.split)
    }
    filled = {split: tars for split, tars in splits.items() if any(stats["successes"] for stats in tars.values())}
    tars = {tar: stats for shards in splits.values() for tar, stats in shards.items()}

    with _fields_of(source, "README.md"):
        card = _yaml(source, "README.md", _front_matter(source))
        listed = {entry["split"]: entry["path"] for entry in card["configs"][0]["data_files"]}
        examples = {entry["name"]: entry["num_examples"] for entry in card["dataset_info"]["splits"]}
    _same(source, "README.md", "data_files", listed, {split: list(shards) for split, shards in filled.items()})
    expected = {split: sum(stats["successes"] for stats in shards.values()) for split, shards in filled.items()}
    _same(source, "README.md", "num_examples", examples, expected)

    with _fields_of(source, "croissant.json"):
        hashes = {entry["contentUrl"]: entry["sha256"] for entry in _json(source, "croissant.json")["distribution"]}
    expected_hashes = {tar: stats["files"]["tar"]["sha256"] for tar, stats in tars.items()}
    expected_hashes |= {
        name: file.sha256 for name, file in rest.items() if name.startswith("manifest/") and name.endswith(".parquet")
    }
    _same(source, "croissant.json", "distribution", hashes, expected_hashes)

    with _fields_of(source, ".nv-meta/split.yaml"):
        parts = _yaml(source, ".nv-meta/split.yaml", _read(source, ".nv-meta/split.yaml"))["split_parts"]
        parts = {split: names for split, names in parts.items() if names}
    _same(
        source, ".nv-meta/split.yaml", "split_parts", parts,
        {split: list(shards) for split, shards in splits.items()},
    )  # fmt: skip
    with _fields_of(source, ".nv-meta/.info.json"):
        counts = dict(_json(source, ".nv-meta/.info.json")["shard_counts"])
    _same(source, ".nv-meta/.info.json", "shard_counts", counts, {t: stats["successes"] for t, stats in tars.items()})


def _refuse_secrets(source: Store, names: Sequence[str]) -> None:
    """Raise ManifestError if a row of the manifest holds a password or a token: an export may be read by anyone."""
    for name in names:
        table = read_stored_table(source, name, CLIP_SCHEMA)
        count = num_secrets(table, checked_columns(table.schema))
        if count:
            rows = counted(count, "row holds", "rows hold")
            raise ManifestError(f"{source.at(name)}: {rows} a password or token of a URL. {ADVICE}")


def _same(source: Store, name: str, what: str, listed: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if listed != expected:
        wrong = next(key for key in [*expected, *listed] if listed.get(key) != expected.get(key))
        raise ManifestError(
            f"{source.at(name)}: {what} of {wrong} is {listed.get(wrong)}, the shards say {expected.get(wrong)}. "
            "Run the same avkit prepare again."
        )


def _front_matter(source: Store) -> bytes:
    match = _FRONT_MATTER.match(_read(source, "README.md"))
    if match is None:
        raise ManifestError(f"{source.at('README.md')}: has no front matter. Run the same avkit prepare again.")
    return match[1]


def _yaml(source: Store, name: str, text: bytes) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{source.at(name)}: not YAML ({error}). Run the same avkit prepare again.") from error


def _json(source: Store, name: str) -> dict[str, Any]:
    return parse_object(_read(source, name), source.at(name), advice="Run the same avkit prepare again.")


@contextmanager
def _fields_of(source: Store, name: str) -> Iterator[None]:
    """Raise ManifestError where a file of the catalog has other fields, or fields of other types, than avkit writes."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{source.at(name)}: not as avkit writes it ({error!r}). Run the same avkit prepare again."
        ) from error


def _read(source: Store, name: str) -> bytes:
    content = source.read(name)
    if content is None:
        raise ManifestError(f"{source.at(name)}: removed while it was exported")
    return content


def _marker(source: Store, shard: ShardName) -> dict[str, Any]:
    name = _LAYOUT.name(_LAYOUT.stats(shard))
    return parse_marker(_read(source, name), source.at(name))


def _shipped(source: Store, name: str, held: Mapping[str, int]) -> _Shipped:
    return _Shipped(held[name], str(source.sha256(name)))


def _refuse_nested(source: Store, target: Store) -> None:
    """Raise ConfigError if the target is the source, or one lies in the other: a copy would become a part of itself."""
    if (source.is_local, protocol(source.root)) != (target.is_local, protocol(target.root)):
        return
    ours, theirs = (f"{store.base.rstrip('/')}/" for store in (source, target))
    if ours == theirs:
        raise ConfigError(f"{target.root}: is the dataset itself. Give --to another place.")
    if theirs.startswith(ours) or ours.startswith(theirs):
        where = "inside" if theirs.startswith(ours) else "the folder above"
        raise ConfigError(f"{target.root}: is {where} the dataset {source.root}. Give --to a place beside it.")


def _check_target(source: Store, target: Store, held: Mapping[str, int]) -> None:
    """Raise ConfigError if the target holds another dataset or other files."""
    theirs, ours = target.read("dataset.json") if "dataset.json" in held else None, _read(source, "dataset.json")
    operations = parse_description(ours, source.at("dataset.json")).get("operations", [])
    older = {entry.get("before") for entry in operations}
    if theirs is not None and theirs != ours and sha256_of(theirs) not in older:
        raise ConfigError(f"{target.root}: holds another dataset. Give --to another place, or remove that one first.")
    if held and not any(is_published(name) for name in held) and target.local("") is not None:
        raise ConfigError(f"{target.root}: holds files that are not a dataset. Give --to a new or an empty folder.")


def _copy(source: Store, target: Store, name: str, file: _Shipped) -> None:
    with _local_copy(source, name) as path:
        if path.stat().st_size != file.num_bytes or sha256_of_file(path) != file.sha256:
            raise ShardError(
                f"{source.at(name)}: its sha256 differs from its marker's. Run the same avkit prepare again."
            )
        target.put(path, name)
    if target.sha256(name) != file.sha256:
        raise ShardError(f"{target.at(name)}: the copy differs from the source. Export again.")


@contextmanager
def _local_copy(source: Store, name: str) -> Iterator[Path]:
    """A local path of the file: its own, or that of a temporary copy."""
    path = source.local(name)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="avkit-export-") as folder:
        path = Path(folder) / "file"
        source.download(name, path)
        yield path
