"""Maps the members of a sample to frames, log-mel, audio and labels, for avkit's shards and for others."""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avdata.profiles import PROFILES, profile
from avmanifest.errors import ConfigError, ManifestError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMap:
    """Names of members, without the key and its dot. `;` separates alternatives: the first that exists is used.

    Defaults: the members that avkit writes.
    """

    image: str = "frame*.jpg"  # may contain *: all that match, ordered by the numbers in their names
    log_mel: str = "logmel.npy"  # [n_mels, T], float16 or float32
    waveform: str = "flac"  # 16 kHz mono
    mask: str = "mask*.png"  # * stands for the same text as in the name of the frame
    label: str = ""  # for tars without a manifest: `cls` or `txt` (one name or number), or `json:FIELD`
    profile: str = "paper"  # profile of log_mel

    def __post_init__(self) -> None:
        profile(self.profile)
        if not self.image:
            raise ConfigError("a member mapping needs an image, such as image='jpg;frame0.jpg'")

    def frame_names(self, names: Sequence[str]) -> list[str]:
        """The member names that are frames, in order: all that match the first alternative with a match."""
        for pattern in self.image.split(";"):
            if matches := [name for name in names if fnmatch.fnmatchcase(name, pattern)]:
                return sorted(matches, key=_natural)
        return []

    def mask_name(self, frame_name: str) -> str:
        """The name of a frame's mask; empty if it cannot be derived from the frame's name."""
        for pattern in self.image.split(";"):
            head, star, tail = pattern.partition("*")
            if star and self.mask and frame_name.startswith(head) and frame_name.endswith(tail):
                return self.mask.replace("*", frame_name[len(head) : len(frame_name) - len(tail)])
        return ""

    def log_mels(self) -> dict[str, tuple[str, ...]]:
        """Possible member names of each profile's log-mel. Those of other profiles are `logmel-PROFILE.npy`."""
        mels: dict[str, tuple[str, ...]] = {name: (f"logmel-{name}.npy",) for name in PROFILES}
        mels[self.profile] = (*self.log_mel.split(";"), *mels[self.profile])
        return mels

    def waveforms(self) -> tuple[str, ...]:
        """Possible member names of the waveform."""
        return tuple(self.waveform.split(";"))


def written_members(description: Mapping[str, Any], where: str) -> MemberMap:
    """The members that avkit writes, with the profile of the dataset's first log-mel.

    Raises ManifestError, which names `where`, if its dataset.json says that it has none.
    """
    profiles = description["config"]["mel"]
    if not profiles:
        raise ManifestError(f"{where}: by its dataset.json the dataset has no log-mel. Restore the original file.")
    return MemberMap(profile=profiles[0])


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts frame2 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
