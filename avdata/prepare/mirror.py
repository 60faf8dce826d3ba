"""A dataset in a bucket. Its small files are mirrored on this machine; its shards are built here, then uploaded.

An object store has no locks, so runs on several machines agree by what they write. A shard's files are uploaded under
names of the attempt's own; then the first attempt to create the shard's *choice* wins. The choice names the attempt and
holds the marker, so whoever finds one, winner, loser or a run that comes after all of them died, can carry it out: copy
the winner's files to the shard's names, write the marker, remove the rest. Everybody who does so writes the same bytes,
and a shard's names never hold anything but a whole file that was chosen.
"""

import contextlib
import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from avdata.prepare.bucket import Bucket
from avdata.prepare.commit import (
    PARTS,
    BuiltShard,
    Observer,
    Segment,
    Workspace,
    build_shard,
    marker_bytes,
    parse_stats,
    publishing,
    storage_errors,
)
from avmanifest.errors import ConfigError, ManifestError, ShardError, StorageError
from avmanifest.files import cache_folder, replace_bytes, sha256_of, sha256_of_file
from avmanifest.layout import Layout, ShardName, is_published, shard_of_marker

_ATTEMPTS: Final = "_tmp/attempts"
_CHOICES: Final = "_tmp/choices"
_CHOICE: Final = re.compile(rf"{_CHOICES}/(.+_stats\.json)")
_ROUNDS: Final = 8  # choices that may vanish under a commit before it gives up


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which attempt becomes the shard: the prefix of its files, and the marker."""

    attempt: str
    marker: str

    @classmethod
    def parse(cls, content: bytes, where: str) -> "_Choice":
        try:
            fields = json.loads(content)
            return cls(str(fields["attempt"]), str(fields["marker"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(f"{where}: not a choice between attempts ({error!r}). Remove it.") from error

    def to_bytes(self) -> bytes:
        return json.dumps({"attempt": self.attempt, "marker": self.marker}).encode()


@dataclass(frozen=True, slots=True)
class BucketOutput:
    """A dataset in a bucket, and its mirror."""

    bucket: Bucket
    layout: Layout

    @classmethod
    def open(cls, bucket: Bucket) -> "BucketOutput":
        """The output, with its mirror in the user's cache folder."""
        folder = cache_folder("outputs") / sha256_of(bucket.url)[:20]
        return cls(bucket, Layout(folder, is_mirror=True))

    def check(self) -> None:
        """Raise ConfigError for a prefix that holds other files and no dataset; a repository may have its own two."""
        names = self.bucket.sizes().keys() - {".gitattributes", "README.md"}
        ours = ("dataset.json", "plan/part-", "_tmp/")
        if names and not any(name.startswith(ours) or shard_of_marker(name) for name in names):
            raise ConfigError(f"{self.bucket.url}: holds files that avkit did not write. Give --out a new prefix.")

    def refresh(self, note: Observer) -> bool:
        """Carry out choices that are open, make the mirror true, and put away shards of other sizes than promised."""
        layout = self.layout
        with storage_errors(layout.root), publishing(layout):
            listed = self.bucket.sizes()
            choices = [match[1] for match in map(_CHOICE.fullmatch, listed) if match]
            for shard in filter(None, map(shard_of_marker, choices)):
                if self._settle(shard):
                    note(f"{self.bucket.at(str(shard))}: committed what an earlier run had uploaded")
            if choices:
                listed = self.bucket.sizes()
            self._mirror_plan(listed)
            return self._mirror_shards(listed, note)

    def claim(self, path: Path) -> bool:
        """Create the object from the file; another's content takes the file's place."""
        ours = path.read_bytes()
        held = self.bucket.create(self.layout.name(path), ours)
        if held != ours:
            replace_bytes(path, held)
        return held == ours

    def fetch(self, path: Path) -> bool:
        """Bring one file of the layout here; whether there is one."""
        return self.bucket.fetch(self.layout.name(path), path)

    def renew(self, paths: Sequence[Path]) -> None:
        """Write the objects from the files."""
        for path in paths:
            self.bucket.put(path, self.layout.name(path))

    def commit(
        self, shard: ShardName, segments: Sequence[Segment], workspace: Workspace, plan_hash: str, observe: Observer
    ) -> dict[str, Any]:
        """Build and verify here, upload, agree. Raises StorageError when the store cannot take it."""
        built = build_shard(self.layout, shard, segments, workspace, plan_hash, observe)
        stats = self._committed(shard, plan_hash)
        if stats is None:
            self._agree(built, observe)
            stats = self._committed(shard, plan_hash)
            if stats is None:
                raise StorageError(f"{self.bucket.at(str(shard))}: another run removed it as it was committed")
        with storage_errors(self.layout.root), publishing(self.layout):
            self._adopt(shard, stats, built)
        return stats

    def is_done(self, shard: ShardName, plan_hash: str) -> bool:
        """Whether the shard has a marker of this plan by now; then its rows are here too."""
        stats = self._committed(shard, plan_hash)
        if stats is None:
            return False
        with storage_errors(self.layout.root), publishing(self.layout):
            self._adopt(shard, stats, None)
        return True

    def quarantine(self, shard: ShardName) -> str:
        """Move the shard's objects aside, the marker before all others."""
        folder = f"{self.layout.quarantine.name}/{shard.split}-{shard.number:05d}-{uuid.uuid4().hex[:8]}"
        *parts, marker = (self.layout.name(path) for path in self.layout.files(shard))
        for name in (marker, *parts):
            if self.bucket.copy(name, f"{folder}/{name.rsplit('/', 1)[1]}"):
                self.bucket.remove([name])
        for path in reversed(self.layout.files(shard)):
            path.unlink(missing_ok=True)
        return self.bucket.at(folder)

    def remove(self) -> None:
        """Remove the dataset's objects and the mirror's files."""
        aside = ("_tmp/", "_quarantine/")
        ours = [name for name in self.bucket.sizes() if is_published(name) or name.startswith(aside)]
        # The description before all, the plan, and the markers before what they vouch for.
        first = ("dataset.json", "plan/")
        ours.sort(key=lambda name: (not name.startswith(first), not shard_of_marker(name), name))
        self.bucket.remove(ours)
        self._forget()

    def clear(self) -> None:
        """Remove attempts and choices: with every shard committed, nobody needs them."""
        self.bucket.remove([name for name in self.bucket.sizes() if name.startswith("_tmp/")])

    @contextlib.contextmanager
    def naming(self) -> Iterator[None]:
        """Errors name the URL, not the mirror."""
        root = str(self.layout.root)
        try:
            yield
        except (ConfigError, ManifestError, ShardError) as error:  # a StorageError of a path here means that path
            if root not in str(error):
                raise
            raise type(error)(str(error).replace(root, self.bucket.url)) from error

    def _agree(self, built: BuiltShard, observe: Observer) -> None:
        """Have one attempt at the shard be chosen, ours or another's, and carry the choice out."""
        shard = built.shard
        attempt = f"{_ATTEMPTS}/{uuid.uuid4().hex}"
        ours = _Choice(attempt, marker_bytes(built.stats).decode()).to_bytes()
        for _ in range(_ROUNDS):
            for path, name in zip(built.files, self._parts(shard), strict=False):
                self.bucket.put(path, f"{attempt}/{name}")
                observe(f"{shard}: {name} uploaded")
            self.bucket.create(_choice_name(shard), ours)
            observe(f"{shard}: chosen")
            if self._settle(shard, observe) or self.bucket.read(self._marker(shard)) is not None:
                return
        raise StorageError(f"{self.bucket.at(str(shard))}: runs keep removing one another's files. End the others.")

    def _settle(self, shard: ShardName, observe: Observer = lambda _: None) -> bool:
        """Carry out the shard's choice; False if there is none, or it came too late, or its files are gone."""
        name = _choice_name(shard)
        content = self.bucket.read(name)
        if self.bucket.read(self._marker(shard)) is not None:
            self.bucket.remove([name])  # created after another choice was carried out: void
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
            # In a store without conditional writes a choice may change: what it says in the end is what is done. In
            # others a choice that is there now came after the marker, and is void.
            held = content if self.bucket.is_conditional else self.bucket.read(name)
            if held in (content, None):
                self.bucket.remove([name, *(f"{choice.attempt}/{part}" for part in self._parts(shard))])
                return True
            content = held
        return False

    def _committed(self, shard: ShardName, plan_hash: str) -> dict[str, Any] | None:
        """What the marker in the bucket says, if there is one of this plan."""
        content = self.bucket.read(self._marker(shard))
        if content is None:
            return None
        with contextlib.suppress(ShardError):
            stats = parse_stats(content, self.bucket.at(self._marker(shard)))
            return stats if stats["plan_hash"] == plan_hash else None
        return None

    def _adopt(self, shard: ShardName, stats: Mapping[str, Any], built: BuiltShard | None) -> None:
        """Mirror a committed shard: its rows, then its marker. Called with the publishing lock held."""
        clips, marker = self.layout.clips(shard), self.layout.stats(shard)
        content = marker_bytes(stats)
        if built is not None and built.stats == stats:
            replace_bytes(clips, built.files[PARTS.index("parquet")].read_bytes())
        elif not (clips.exists() and sha256_of_file(clips) == stats["files"]["parquet"]["sha256"]):
            self.bucket.fetch(self.layout.name(clips), clips)
        replace_bytes(marker, content)

    def _mirror_plan(self, listed: Mapping[str, int]) -> None:
        """Description and plan. A description without a plan is that of a run that was cut down as it began."""
        layout = self.layout
        described = self.bucket.read("dataset.json") if layout.name(layout.plan_part(0)) in listed else None
        if described is None or not layout.dataset_json.exists() or layout.dataset_json.read_bytes() != described:
            self._forget()
        if described is None:
            return
        for path in layout.plan_parts()[1:]:
            path.unlink()  # of a retry that another run may have begun otherwise
        parts = [layout.plan_part(number) for number in range(sum(name.startswith("plan/part-") for name in listed))]
        self.bucket.fetch_all((layout.name(path), path) for path in parts if not path.exists())
        replace_bytes(layout.dataset_json, described)

    def _mirror_shards(self, listed: Mapping[str, int], note: Observer) -> bool:
        """Markers and rows; whether any of them is new."""
        layout = self.layout
        held = {shard: layout.stats(shard).read_bytes() for split in layout.splits() for shard in layout.shards(split)}
        shards = [shard for shard in map(shard_of_marker, listed) if shard is not None]
        for gone in held.keys() - set(shards):
            layout.stats(gone).unlink()
            layout.clips(gone).unlink(missing_ok=True)
        there = self.bucket.fetch_all((self._marker(shard), layout.stats(shard)) for shard in shards)
        found = [shard for shard, is_there in zip(shards, there, strict=True) if is_there]
        good = [shard for shard in found if not self._put_away(shard, listed, note)]
        stale = [shard for shard in good if not self._has_rows(shard)]
        self.bucket.fetch_all((layout.name(layout.clips(shard)), layout.clips(shard)) for shard in stale)
        return {shard: layout.stats(shard).read_bytes() for shard in good} != held

    def _put_away(self, shard: ShardName, listed: Mapping[str, int], note: Observer) -> bool:
        """Quarantine a shard whose objects have other sizes than its marker says, or whose marker is none."""
        try:
            files = parse_stats(self.layout.stats(shard).read_bytes(), self.bucket.at(self._marker(shard)))["files"]
        except ShardError as error:
            problem = str(error)
        else:
            wrong = [
                f"{self.bucket.at(name)}: {listed.get(name, 0)} bytes, its marker says {files[part]['bytes']}"
                for part, name in zip(PARTS, self._parts(shard), strict=True)
                if listed.get(name) != files[part]["bytes"]
            ]
            if not wrong:
                return False
            problem = wrong[0]
        note(f"{problem}: moved to {self.quarantine(shard)}, it will be prepared again")
        return True

    def _has_rows(self, shard: ShardName) -> bool:
        """Whether the shard's rows in the mirror are the ones that its marker means."""
        stats = parse_stats(self.layout.stats(shard).read_bytes(), self.layout.stats(shard))
        clips = self.layout.clips(shard)
        return clips.exists() and sha256_of_file(clips) == stats["files"]["parquet"]["sha256"]

    def _forget(self) -> None:
        """Empty the mirror, the description first. What is no part of a dataset, such as `_tmp`, stays."""
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
