"""Settings that all tasks have, and those of all trainings of a whole model. No torch is imported here."""

from collections.abc import Callable
from dataclasses import dataclass, field

from avdata.profiles import PROFILES
from avmanifest.errors import ConfigError
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import PRECISIONS

Progress = Callable[[str, int, int], None]  # what is done, how much of it, out of how much
MODES = ("audio-visual", "audio", "image")
LEAKS = ("refuse", "drop", "allow")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalDataConfig:
    """What is looked at, and how."""

    mode: str = "audio-visual"  # or audio, image: the other sense is left out, in training and in the test
    train_split: str = "train"
    test_split: str = "test"
    profile: str | None = None  # of the spectrograms; none: the one that the checkpoint was trained on
    window_s: float | None = None  # none: likewise, else 3
    windows: int = 1  # evenly spaced over a test clip, each with its own frame; their predictions are averaged
    frames: int | None = (
        None  # test with all that many stored frames of a clip, in place of windows; sound is heard once
    )
    exclude: tuple[str, ...] = ()  # leave out samples with these flags: silent, still, short
    leaks: str = "refuse"  # training clips with footage of test clips: refuse, drop them, or allow them (and say so)
    other_labels: bool = False  # go on though the dataset's labels are not its recipe's
    test_labels: str | None = None  # RECIPE=LIST whose labels the test clips get, such as vggsounder=vggsounder.csv
    skip_bad: bool = False  # leave damaged samples out and count them, instead of stopping
    num_workers: int | None = None  # decoding threads of each process; none: one a core
    cache_dir: str | None = None  # where remote shards are kept; none: the user's cache folder
    cache_gb: float | None = None  # most they take there; none: 200

    def __post_init__(self) -> None:
        for name, known in (("mode", MODES), ("leaks", LEAKS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"unknown data.{name} {value!r}; known: {', '.join(known)}")
        if self.profile is not None and self.profile not in PROFILES:
            raise ConfigError(f"unknown data.profile {self.profile!r}; known: {', '.join(PROFILES)}")
        if self.windows < 1 or (self.frames is not None and self.frames < 1):
            raise ConfigError(f"data.windows={self.windows}, data.frames={self.frames}: must be 1 or more")
        if self.frames is not None and self.windows > 1:
            raise ConfigError(f"data.windows={self.windows} with data.frames={self.frames}: all frames have one window")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Common to all tasks."""

    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    seeds: tuple[int, ...] = (0,)  # one run each: mean and spread are reported
    random_weights: bool = True  # the same on a model with random weights, as a baseline; costs as much again
    feature_batch_size: int = 64  # samples that a device encodes at once
    device: str = "auto"
    precision: str = "float32"  # bfloat16: autocast of the encoder

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds}: give one or more different numbers from 0 on")
        if self.feature_batch_size < 1:
            raise ConfigError(f"feature_batch_size={self.feature_batch_size}: must be 1 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(EvalConfig):
    """Common to the tasks that train all of the model. Defaults: the released rates, for steps of 512 samples."""

    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            base_lr=3e-4, warmup=0.2, ramp=0.0, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
        )
    )
    batch_size: int = 512  # samples of a step, over all devices and micro-steps; at most the training samples
    device_batch_size: int = 32
    epochs: int = 100
    drop_path: float = 0.2

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        for name in ("batch_size", "device_batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 1 or more")
        if not 0 <= self.drop_path <= 0.99:
            raise ConfigError(f"drop_path={self.drop_path} is not in 0..0.99")
