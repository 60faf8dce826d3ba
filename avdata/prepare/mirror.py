"""A dataset in a bucket, with a local mirror of its small files. Shards are built locally, then uploaded.

An object store has no locks, so runs on several machines coordinate through objects. Each attempt at a shard uploads
its files under names of its own. Then it tries to create the shard's *choice*, an object that names the attempt and
holds the marker. The first one succeeds. Any run that finds a choice, also a later one, can complete it: copy the
chosen attempt's files to the shard's names, write the marker, remove the attempt. All runs that do so write the same
bytes, and an object under a shard's name is always a complete file of a chosen attempt.
"""

import contextlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avdata.prepare.commit import (
    BuiltShard,
    EndedShard,
    Observer,
    Workspace,
    build_shard,
    marker_bytes,
    publishing,
    storage_errors,
)
from avdata.store import Store
from avmanifest.errors import ConfigError, ManifestError, ShardError, StorageError
from avmanifest.files import cache_folder, read_file, replace_bytes, sha256_of, sha256_of_file
from avmanifest.layout import Layout, ShardName, is_published, shard_of_marker
from avmanifest.parsing import parse_object
from avmanifest.records import PARTS, parse_marker

_ATTEMPTS: Final = "_tmp/attempts"
_CHOICES: Final = "_tmp/choices"
_CHOICE: Final = re.compile(rf"{_CHOICES}/(.+_stats\.json)")
_ROUNDS: Final = 8  # times that a commit is tried again because its choice was removed


@dataclass(frozen=True, slots=True)
class _Choice:
    """The attempt that becomes the shard: the prefix of its objects, and the marker's text."""

    attempt: str
    marker: str

    @classmethod
    def parse(cls, content: bytes, where: str) -> "_Choice":
        fields = parse_object(content, where, ShardError, "Remove it.")
        attempt, marker = fields.get("attempt"), fields.get("marker")
        if not isinstance(attempt, str) or not isinstance(marker, str):
            raise ShardError(f"{where}: not a valid choice of an attempt. Remove it.")
        choice = cls(attempt, marker)
        if fields.get("sha256", choice.sha256) != choice.sha256:  # earlier versions wrote none
            raise ShardError(f"{where}: damaged. Run the same command again; if it is still damaged, remove it.")
        return choice

    @property
    def sha256(self) -> str:
        return sha256_of(f"{self.attempt}\n{self.marker}")

    def to_bytes(self) -> bytes:
        return json.dumps({"attempt": self.attempt, "marker": self.marker, "sha256": self.sha256}).encode()


@dataclass(frozen=True, slots=True)
class BucketOutput:
    """A dataset in a bucket, with a local mirror of its small files. Methods are described at DatasetOutput."""

    bucket: Store
    layout: Layout

    @classmethod
    def open(cls, bucket: Store) -> "BucketOutput":
        """The output of a bucket. Its mirror is in the user's cache folder."""
        folder = cache_folder("outputs") / sha256_of(bucket.root)[:20]
        return cls(bucket, Layout(folder, is_mirror=True))

    def check(self) -> None:
        """Raise ConfigError if the prefix holds files but no dataset; .gitattributes and README.md are allowed."""
        names = self.bucket.sizes().keys() - {".gitattributes", "README.md"}
        ours = ("dataset.json", "plan/part-", "_tmp/")
        if names and not any(name.startswith(ours) or shard_of_marker(name) for name in names):
            raise ConfigError(f"{self.bucket.root}: holds files that avkit did not write. Give --out a new prefix.")

    def refresh(self, note: Observer) -> bool:
        """Complete open choices, update the mirror, and quarantine shards whose sizes differ from their markers."""
        layout = self.layout
        with storage_errors(layout.root), publishing(layout):
            listed = self.bucket.sizes()
            choices = [match[1] for match in map(_CHOICE.fullmatch, listed) if match]
            for shard in filter(None, map(shard_of_marker, choices)):
                if self._complete(shard):
                    note(f"{self.bucket.at(str(shard))}: committed what an earlier run had uploaded")
            if choices:
                listed = self.bucket.sizes()
            self._mirror_plan(listed)
            return self._mirror_shards(listed, lambda shard: self._quarantine_damaged(shard, listed, note))

    def look(self) -> None:
        """Update the mirror alone: shards whose sizes differ from their markers are left out of it."""
        layout = self.layout
        with storage_errors(layout.root), publishing(layout):
            listed = self.bucket.sizes()
            self._mirror_plan(listed)
            self._mirror_shards(listed, lambda shard: self._leave_out_damaged(shard, listed))

    def claim(self, path: Path) -> bool:
        """Create the object from the file. If it exists, replace the file by its content and return False."""
        ours = read_file(path)
        held = self.bucket.create(self.layout.name(path), ours)
        if held != ours:
            replace_bytes(path, held)
        return held == ours

    def fetch(self, path: Path) -> bool:
        """Download one file of the layout; False if it does not exist."""
        return self.bucket.fetch(self.layout.name(path), path)

    def renew(self, paths: Sequence[Path]) -> None:
        """Upload the files, replacing older objects."""
        for path in paths:
            self.bucket.put(path, self.layout.name(path))

    def commit(self, shard: EndedShard, workspace: Workspace, observe: Observer) -> dict[str, Any]:
        """Build and verify the shard locally, upload it, choose an attempt. Raises StorageError if the store fails."""
        name = shard.name
        built = build_shard(shard, workspace.files(name), observe)
        stats = self._committed(name, shard.plan_hash)
        if stats is None:
            self._agree(built, observe)
            stats = self._committed(name, shard.plan_hash)
            if stats is None:
                raise StorageError(f"{self.bucket.at(str(name))}: another run removed it while it was committed")
        self._mirror_shard(name, stats, built)
        return stats

    def is_done(self, shard: ShardName, plan_hash: str) -> bool:
        """Whether the shard has a marker of this plan. If so, its rows are mirrored."""
        stats = self._committed(shard, plan_hash)
        if stats is not None:
            self._mirror_shard(shard, stats, None)
        return stats is not None

    def quarantine(self, shard: ShardName) -> str:
        """Move the shard's objects below the quarantine prefix, the marker first; the new prefix."""
        folder = f"{self.layout.quarantine.name}/{shard.split}-{shard.number:05d}-{uuid.uuid4().hex[:8]}"
        *parts, marker = (self.layout.name(path) for path in self.layout.files(shard))
        for name in (marker, *parts):
            if self.bucket.copy(name, f"{folder}/{name.rsplit('/', 1)[1]}"):
                self.bucket.remove([name])
        for path in reversed(self.layout.files(shard)):
            path.unlink(missing_ok=True)
        return self.bucket.at(folder)

    def remove(self) -> None:
        """Remove the dataset's objects and the mirror's files, dataset.json first."""
        internal = ("_tmp/", "_quarantine/")
        ours = [name for name in self.bucket.sizes() if is_published(name) or name.startswith(internal)]
        # First the description and the plan, then each marker before the files that it describes.
        first = ("dataset.json", "plan/")
        ours.sort(key=lambda name: (not name.startswith(first), not shard_of_marker(name), name))
        self.bucket.remove(ours)
        self._empty_mirror()

    def clear(self) -> None:
        """Remove attempts and choices; called when every shard is committed."""
        self.bucket.remove([name for name in self.bucket.sizes() if name.startswith("_tmp/")])

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Within this context, errors name the URL in place of the mirror's folder."""
        root = str(self.layout.root)
        try:
            yield
        except (ConfigError, ManifestError, ShardError) as error:  # a StorageError of a local path is about that path
            if root not in str(error):
                raise
            raise type(error)(str(error).replace(root, self.bucket.root)) from error

    def _agree(self, built: BuiltShard, observe: Observer) -> None:
        """Upload this attempt, create the choice unless another run has, and complete the choice that exists."""
        shard = built.shard
        attempt = f"{_ATTEMPTS}/{uuid.uuid4().hex}"
        ours = _Choice(attempt, marker_bytes(built.stats).decode()).to_bytes()
        for _ in range(_ROUNDS):
            for path, name in zip(built.files, self._parts(shard), strict=False):
                self.bucket.put(path, f"{attempt}/{name}")
                observe(f"{shard}: {name} uploaded")
            self.bucket.create(_choice_name(shard), ours)
            observe(f"{shard}: chosen")
            if self._complete(shard, observe) or self.bucket.read(self._marker(shard)) is not None:
                return
        raise StorageError(f"{self.bucket.at(str(shard))}: runs keep removing one another's files. End the others.")

    def _complete(self, shard: ShardName, observe: Observer = lambda _: None) -> bool:
        """Complete the shard's choice; False without one, if the shard has a marker, or if the files are gone."""
        name = _choice_name(shard)
        content = self.bucket.read(name)
        if self.bucket.read(self._marker(shard)) is not None:
            self.bucket.remove([name])  # created after another choice was completed: invalid
            return False
        while content is not None:
            choice = _Choice.parse(content, self.bucket.at(name))
            for part in self._parts(shard):
                if not self.bucket.copy(f"{choice.attempt}/{part}", part):
                    if self.bucket.read(self._marker(shard)) is None:
                        self.bucket.remove([name])
                    return False
                observe(f"{shard}: {part} published")
            self.bucket.write(self._marker(shard), choice.marker.encode())
            observe(f"{shard}: marker published")
            # Without conditional writes another run may have replaced the choice: then complete the new one. With them,
            # a choice that exists now was created after the marker and is invalid.
            held = content if self.bucket.is_conditional else self.bucket.read(name)
            if held in (content, None):
                self.bucket.remove([name, *(f"{choice.attempt}/{part}" for part in self._parts(shard))])
                return True
            content = held
        return False

    def _committed(self, shard: ShardName, plan_hash: str) -> dict[str, Any] | None:
        """The content of the shard's marker in the bucket; None without a valid one of this plan."""
        content = self.bucket.read(self._marker(shard))
        if content is None:
            return None
        with contextlib.suppress(ShardError):
            stats = parse_marker(content, self.bucket.at(self._marker(shard)))
            return stats if stats["plan_hash"] == plan_hash else None
        return None

    def _mirror_shard(self, shard: ShardName, stats: Mapping[str, Any], built: BuiltShard | None) -> None:
        """Mirror a committed shard: its rows, then its marker."""
        clips = self.layout.clips(shard)
        with storage_errors(self.layout.root), publishing(self.layout):
            if built is not None and built.stats == stats:
                replace_bytes(clips, built.files[PARTS.index("parquet")].read_bytes())
            elif not (clips.exists() and sha256_of_file(clips) == stats["files"]["parquet"]["sha256"]):
                self.bucket.fetch(self.layout.name(clips), clips)
            replace_bytes(self.layout.stats(shard), marker_bytes(stats))

    def _mirror_plan(self, listed: Mapping[str, int]) -> None:
        """Mirror dataset.json and plan. A dataset.json without a plan is of a run that was killed while it started."""
        layout = self.layout
        described = self.bucket.read("dataset.json") if layout.name(layout.plan_part(0)) in listed else None
        if described is None or not layout.dataset_json.exists() or read_file(layout.dataset_json) != described:
            self._empty_mirror()
        if described is None:
            return
        for path in layout.plan_parts()[1:]:
            path.unlink()  # another run may have started the retry with another plan
        parts = [layout.plan_part(number) for number in range(sum(name.startswith("plan/part-") for name in listed))]
        self.bucket.fetch_all((layout.name(path), path) for path in parts if not path.exists())
        replace_bytes(layout.dataset_json, described)

    def _mirror_shards(self, listed: Mapping[str, int], is_damaged: Callable[[ShardName], bool]) -> bool:
        """Mirror markers and rows of all shards that are not damaged; whether any of them is new."""
        layout = self.layout
        held = {shard: read_file(layout.stats(shard)) for split in layout.splits() for shard in layout.shards(split)}
        shards = [shard for shard in map(shard_of_marker, listed) if shard is not None]
        for gone in held.keys() - set(shards):
            layout.stats(gone).unlink()
            layout.clips(gone).unlink(missing_ok=True)
        exists = self.bucket.fetch_all((self._marker(shard), layout.stats(shard)) for shard in shards)
        marked = [shard for shard, has_marker in zip(shards, exists, strict=True) if has_marker]
        good = [shard for shard in marked if not is_damaged(shard)]
        stale = [shard for shard in good if not self._has_rows(shard)]
        self.bucket.fetch_all((layout.name(layout.clips(shard)), layout.clips(shard)) for shard in stale)
        return {shard: read_file(layout.stats(shard)) for shard in good} != held

    def _quarantine_damaged(self, shard: ShardName, listed: Mapping[str, int], note: Observer) -> bool:
        """Quarantine a shard whose marker is invalid or whose objects differ in size from it; whether it was."""
        if self._problem(shard, listed) is None:
            return False
        # One wrong answer must not move a shard, so all of it is asked for again.
        self.bucket.fetch(self._marker(shard), self.layout.stats(shard))
        problem = self._problem(shard, {name: self.bucket.size(name) or 0 for name in self._parts(shard)})
        if problem is None:
            return False
        note(f"{problem}: moved to {self.quarantine(shard)}; it will be prepared again")
        return True

    def _leave_out_damaged(self, shard: ShardName, listed: Mapping[str, int]) -> bool:
        """Remove a shard that `_quarantine_damaged` would move from the mirror alone; whether it was."""
        if self._problem(shard, listed) is None:
            return False
        self.layout.stats(shard).unlink(missing_ok=True)
        self.layout.clips(shard).unlink(missing_ok=True)
        return True

    def _problem(self, shard: ShardName, sizes: Mapping[str, int]) -> str | None:
        """Why a shard cannot be used, by its mirrored marker and the sizes of its objects; None: nothing is wrong."""
        try:
            files = parse_marker(read_file(self.layout.stats(shard)), self.bucket.at(self._marker(shard)))["files"]
        except ShardError as error:
            return str(error)
        wrong = [
            f"{self.bucket.at(name)}: {sizes.get(name, 0)} bytes, its marker says {files[part]['bytes']}"
            for part, name in zip(PARTS, self._parts(shard), strict=True)
            if sizes.get(name) != files[part]["bytes"]
        ]
        return wrong[0] if wrong else None

    def _has_rows(self, shard: ShardName) -> bool:
        """Whether the shard's rows in the mirror match the hash in its marker."""
        stats = parse_marker(read_file(self.layout.stats(shard)), self.layout.stats(shard))
        clips = self.layout.clips(shard)
        return clips.exists() and sha256_of_file(clips) == stats["files"]["parquet"]["sha256"]

    def _empty_mirror(self) -> None:
        """Remove the dataset's files from the mirror, dataset.json first. Folders such as `_tmp` are kept."""
        self.layout.dataset_json.unlink(missing_ok=True)
        for path in self.layout.root.iterdir():
            if path.is_dir() and not path.name.startswith("_"):
                shutil.rmtree(path)

    def _parts(self, shard: ShardName) -> list[str]:
        """Names of tar, idx and parquet."""
        return [self.layout.name(path) for path in self.layout.files(shard)[: len(PARTS)]]

    def _marker(self, shard: ShardName) -> str:
        return self.layout.name(self.layout.stats(shard))


def _choice_name(shard: ShardName) -> str:
    return f"{_CHOICES}/{shard}_stats.json"
