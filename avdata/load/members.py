"""Which member of a sample is what: ours by default, anybody's by a mapping."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from avdata.profiles import PROFILES, profile
from avmanifest.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMap:
    """Names of members, after the key's dot. Alternatives are separated by `;`, the first that is there counts.

    Defaults: the members that avkit writes.
    """

    image: str = "frame*.jpg"  # may hold *: all that match, in the order of the numbers in them
    log_mel: str = "logmel.npy"  # [n_mels, T], float16 or float32
    waveform: str = "flac"  # 16 kHz mono
    mask: str = "mask*.png"  # of a frame: what * stands for is the same in both names
    label: str = ""  # of tars without a manifest: `cls`, `txt` (one name or number), or `json:FIELD`
    profile: str = "paper"  # how log_mel was made

    def __post_init__(self) -> None:
        profile(self.profile)
        if not self.image:
            raise ConfigError("a member mapping needs an image, such as image='jpg;frame0.jpg'")

    def frame_names(self, names: Sequence[str]) -> list[str]:
        """The frames among a dataset's member names, in order. Alternatives are not mixed: the first that matches."""
        for pattern in self.image.split(";"):
            if found := [name for name in names if fnmatch.fnmatchcase(name, pattern)]:
                return sorted(found, key=_natural)
        return []

    def mask_name(self, frame_name: str) -> str:
        """The name that the mask of a frame has; empty where masks cannot be told from frames' names."""
        for pattern in self.image.split(";"):
            head, star, tail = pattern.partition("*")
            if star and self.mask and frame_name.startswith(head) and frame_name.endswith(tail):
                return self.mask.replace("*", frame_name[len(head) : len(frame_name) - len(tail)])
        return ""

    def log_mels(self) -> dict[str, tuple[str, ...]]:
        """By profile, the names a log-mel may have. Further profiles are `logmel-PROFILE.npy`."""
        mels: dict[str, tuple[str, ...]] = {name: (f"logmel-{name}.npy",) for name in PROFILES}
        mels[self.profile] = (*self.log_mel.split(";"), *mels[self.profile])
        return mels

    def waveforms(self) -> tuple[str, ...]:
        """The names a waveform may have."""
        return tuple(self.waveform.split(";"))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key in which frame2 comes before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
