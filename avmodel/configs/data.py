"""What a run reads of a dataset, and how pictures and sound vary at reading."""

from dataclasses import dataclass

from avdata.profiles import PROFILES
from avmanifest.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is read, and how it is varied. Defaults: the released recipe on the `paper` spectrograms."""

    split: str = "train"  # of a prepared dataset's folder
    probe_split: str | None = "val"  # likewise: what the probe's neighbors are looked for in
    profile: str = "paper"  # of the spectrograms
    window_s: float | None = 3.0  # none: the whole clip, with a profile of fixed length such as kaldi
    min_area: float = 0.5  # of the frame that a random crop takes
    flip_probability: float = 0.5
    max_gain_db: float = 6.0  # loudness varies by up to as much either way; 0: not at all
    exclude: tuple[str, ...] = ()  # leave out samples with these flags: silent, still, short
    class_balanced: bool = False
    skip_bad: bool = False  # leave damaged samples out and count them, instead of stopping
    num_workers: int | None = None  # decoding threads of each process; none: one a core
    allow_pipe: bool = False  # run the commands of `pipe:` URLs
    cache_dir: str | None = None  # where remote shards are kept; none: the user's cache folder
    cache_gb: float | None = None  # most they take there; none: 200

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ConfigError(f"unknown data.profile {self.profile!r}; known: {', '.join(PROFILES)}")
