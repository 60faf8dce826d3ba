"""Add the log-mel of another profile to every sample, from the FLAC."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avdata.prepare.commit import Observer
from avdata.prepare.operations.build import NewShard, Prepared
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.run import Changes
from avdata.prepare.pipeline import log_mel_member, write_log_mel
from avdata.prepare.segments import Segment
from avdata.profiles import profile
from avdata.shards import ByteFile
from avdata.waveform import stored_samples
from avmanifest.errors import ConfigError
from avmanifest.schema import FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class AddMel:
    """Add the log-mels of a profile. The shards then equal those of a prepare with this profile as the last one."""

    mel: str
    name = "add-mel"
    versions = (FORMAT_VERSION,)

    def __post_init__(self) -> None:
        profile(self.mel)

    def settings(self) -> dict[str, Any]:
        """The profile."""
        return {"mel": self.mel}

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """All shards, each sample with the member `logmel-PROFILE.npy`. Raises ConfigError without stored audio."""
        config = dataset.description["config"]
        if self.mel in config["mel"]:
            note(f"{dataset.layout.root}: the samples have the profile {self.mel!r} already")
            return None
        if not config["keep_audio"]:
            raise ConfigError(
                f"{dataset.layout.root}: was prepared with --no-audio, so there is nothing to compute a log-mel from. "
                f"Prepare it again with --mel {self.mel}."
            )
        names = [*config["mel"], self.mel]
        return Changes(
            description={**dataset.description, "config": {**config, "mel": names}},
            shards=tuple(NewShard(planned.shard) for planned in dataset.shards),
            edit=_WithMel(self.mel, log_mel_member(self.mel, len(names) - 1), len(names)),
        )


@dataclass(frozen=True, slots=True)
class _WithMel:
    """Adds the member after the sample's JSON and its other log-mels."""

    mel: str
    member: str
    place: int

    def __call__(self, clip: StoredClip) -> Segment:
        if not clip.is_sample:
            return clip.kept()
        members = [(member.name, clip.member(member.name)) for member in clip.members]
        members.insert(self.place, (self.member, self._log_mel(clip, dict(members))))
        return clip.with_members(dict(members))

    def _log_mel(self, clip: StoredClip, members: Mapping[str, ByteFile]) -> ByteFile:
        file = clip.new_file()
        with stored_samples(members["flac"], clip.folder, clip.where("flac")) as sound:
            write_log_mel(file, sound, profile(self.mel))
        return file
