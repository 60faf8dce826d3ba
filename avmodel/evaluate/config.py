"""Settings of all tasks, and of all tasks that train the whole model. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from avdata.profiles import PROFILES
from avmanifest.errors import ConfigError
from avmanifest.settings import Choices
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import PRECISIONS

Progress = Callable[[str, int, int], None]  # what is done, how much of it, out of how much
MODES = ("audio-visual", "audio", "image")
LEAKS = ("refuse", "drop", "allow")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalDataConfig:
    """Data that a task reads, and how."""

    mode: Annotated[str, "Modalities that are read, in training and in the test.", Choices(names=MODES)] = (
        "audio-visual"
    )
    train_split: Annotated[str, "Split that heads or the model are trained on."] = "train"
    test_split: Annotated[str, "Split that is tested on."] = "test"
    profile: Annotated[
        str | None,
        "Profile of the spectrograms. none: the one that the checkpoint was trained with.",
        Choices(names=tuple(PROFILES)),
    ] = None
    window_s: Annotated[
        float | None, "Seconds of a clip that are read. none: as the checkpoint was trained, else 3."
    ] = None
    windows: Annotated[
        int, "Windows of a test clip, evenly spaced, each with its own frame; their predictions are averaged."
    ] = 1
    frames: Annotated[
        int | None, "Stored frames of a test clip, each tested with the same sound, in place of windows. none: windows."
    ] = None
    exclude: Annotated[tuple[str, ...], "Leave out samples with these flags: silent, still, short."] = ()
    leaks: Annotated[
        str,
        "What to do with training clips that have footage of test clips; allow is noted in the result.",
        Choices(names=LEAKS),
    ] = "refuse"
    other_labels: Annotated[
        bool, "Go on when the dataset's labels are not those of its recipe; the result says so."
    ] = False
    test_labels: Annotated[
        str | None,
        "RECIPE=LIST whose labels the test clips get, such as vggsounder=vggsounder.csv. none: the dataset's.",
    ] = None
    skip_bad: Annotated[bool, "Leave damaged samples out and count them, instead of stopping."] = False
    num_workers: Annotated[int | None, "Decoding threads of each process. none: one a core."] = None
    cache_dir: Annotated[str | None, "Folder where remote shards are kept. none: the user's cache folder."] = None
    cache_gb: Annotated[float | None, "GB of remote shards to keep, at most. none: 200."] = None

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
    seeds: Annotated[tuple[int, ...], "Seeds, one run each; mean and spread are reported."] = (0,)
    random_weights: Annotated[
        bool, "Evaluate a model with random weights, too, as a baseline; takes as long again."
    ] = True
    feature_batch_size: Annotated[int, "Samples that a device encodes at once."] = 64
    device: Annotated[str, "auto, cpu, cuda or cuda:1."] = "auto"
    precision: Annotated[str, "Precision of the encoder; bfloat16: autocast.", Choices(names=PRECISIONS)] = "float32"

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
    batch_size: Annotated[int, "Samples of a step, over all devices and micro-steps; at most the training samples."] = (
        512
    )
    device_batch_size: Annotated[int, "Samples that one device takes at once, at most; more become micro-steps."] = 32
    epochs: Annotated[int, "Passes over the training data."] = 100
    drop_path: Annotated[float, "Probability of dropping each residual branch of a block in training."] = 0.2

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        for name in ("batch_size", "device_batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 1 or more")
        if not 0 <= self.drop_path <= 0.99:
            raise ConfigError(f"drop_path={self.drop_path} is not in 0..0.99")
