"""Settings of all tasks, and of all tasks that train the whole model. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from avdata.fits import FITS
from avdata.profiles import PROFILES
from avmanifest.errors import ConfigError
from avmanifest.settings import POSITIVE, SHARE, Bounds, check
from avmodel.configs.choices import MODEL_WEIGHTS, Device, DeviceBatchSize, DropPath, Epochs, Weights
from avmodel.configs.data import CacheDir, CacheGb, Exclude, NumWorkers, Offline
from avmodel.configs.optim import OptimConfig
from avmodel.configs.run import HALF, PRECISIONS

Progress = Callable[[str, int, int], None]  # what is done, how much of it, out of how much
MODES = ("audio-visual", "audio", "image")
LEAKS = ("refuse", "drop", "allow")
AREA = Bounds(0, 1, above=True)
# Settings that several tasks have.
MaxGain = Annotated[float, "dB by which loudness varies in training, at most, either way; 0: not at all.", Bounds(0)]
MinArea = Annotated[float, "Share of the frame that a random crop takes in training, at least.", AREA]
FlipProbability = Annotated[float, "Probability of a left-right flip in training.", SHARE]
DECODER_NORMS = ("batch", "group")
DecoderNorm = Annotated[  # of segmentation's and separation's decoder_norm
    str,
    "Norms of the decoder. batch, as released: statistics over the samples that all CUDA devices take at once, so that "
    "results depend on device_batch_size and on the number of devices; on CPUs each process has its own. group: "
    "statistics of each sample, the same on any number.",
    DECODER_NORMS,
]


RELEASED_OPTIM = OptimConfig(
    base_lr=3e-4, warmup=0.2, ramp=0.0, weight_decay=0.05, betas=(0.9, 0.999), layer_decay=0.75
)
SUPPLEMENT_OPTIM = OptimConfig(  # of the paper's supplement, which names no schedule: a constant rate, no decay
    optimizer="adam", lr=1e-4, warmup=0.0, drops=(), ramp=0.0, weight_decay=0.0, betas=(0.9, 0.999)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalDataConfig:
    """Data that a task reads, and how."""

    mode: Annotated[str, "Modalities that are read, in training and in the test.", MODES] = "audio-visual"
    train_split: Annotated[
        str,
        "Split that heads or the model are trained on; or several with commas between them, or an alias of the "
        "recipe, such as AS-20K.",
    ] = "train"
    test_split: Annotated[str, "Split that is tested on, or that is the gallery; several as in train_split."] = "test"
    profile: Annotated[
        str | None,
        "Profile of the spectrograms. none: the one that the checkpoint was trained with.",
        tuple(PROFILES),
    ] = None
    window_s: Annotated[
        float | None, "Seconds of a clip that are read. none: as the checkpoint was trained, else 3.", POSITIVE
    ] = None
    fit: Annotated[
        str | None,
        "How a frame becomes square, in training and in the test. crop: a random crop in training, the center one of "
        "7/8 of the short side in the test; short-side-crop: the center square of the short side; squash: the whole "
        "frame. none: as the checkpoint was trained.",
        FITS,
    ] = None
    windows: Annotated[
        int,
        "Windows of a test clip, evenly spaced, each with its own frame; their predictions are averaged.",
        Bounds(1),
    ] = 1
    frames: Annotated[
        int | None,
        "Stored frames of a test clip, each tested with the same sound, in place of windows. none: windows.",
        Bounds(1),
    ] = None
    exclude: Exclude = ()
    where: Annotated[
        str | None,
        "Use the clips, of training and test, for which this SQL condition on columns of the manifest is true. none: "
        "all.",
    ] = None
    leaks: Annotated[
        str,
        "What to do with training clips that have footage of test clips; allow is noted in the result.",
        LEAKS,
    ] = "refuse"
    other_labels: Annotated[
        bool, "Go on when the dataset's labels are not those of its recipe; the result says so."
    ] = False
    test_labels: Annotated[
        str | None,
        "RECIPE=LIST whose labels the test clips get, such as vggsounder=vggsounder.csv. none: the dataset's.",
    ] = None
    skip_bad: Annotated[
        bool, "Go on at a damaged sample: log and count it. A test leaves it out; training takes another in its place."
    ] = False
    max_bad_share: Annotated[
        float, "With skip_bad: share of a split's samples that may be damaged; with more the task stops.", SHARE
    ] = 0.05
    num_workers: NumWorkers = None
    cache_dir: CacheDir = None
    cache_gb: CacheGb = None
    offline: Offline = False

    def __post_init__(self) -> None:
        check(self, "data.")
        if self.frames is not None and self.windows > 1:
            raise ConfigError(f"data.windows={self.windows} with data.frames={self.frames}: all frames have one window")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Common to all tasks."""

    data: EvalDataConfig = field(default_factory=EvalDataConfig)
    seeds: Annotated[tuple[int, ...], "Seeds, one run each; mean and spread are reported.", Bounds(0)] = (0,)
    random_weights: Annotated[
        bool, "Evaluate a model with random weights, too, as a baseline; takes as long again."
    ] = True
    feature_batch_size: Annotated[int, "Samples that a device encodes at once.", Bounds(1)] = 64
    device: Device = "auto"
    precision: Annotated[
        str,
        "Precision of the encoder. bfloat16: autocast. float16: autocast, in training with a scaled loss, for cards "
        "without bfloat16 (V100, T4).",
        (*PRECISIONS, HALF),
    ] = "float32"
    weights: Weights = MODEL_WEIGHTS

    def __post_init__(self) -> None:
        check(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds={self.seeds}: give one or more different numbers")

    def reads_no_training_data(self) -> str:
        """Why the task, so configured, reads no training data, and what to do to make it; empty if it reads some."""
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig(EvalConfig):
    """Common to the tasks that train all of the model. Defaults: the released rates, for steps of 512 samples."""

    optim: OptimConfig = RELEASED_OPTIM
    batch_size: Annotated[
        int, "Samples of a step, over all devices and micro-steps; at most the training samples.", Bounds(1)
    ] = 512
    device_batch_size: DeviceBatchSize = 32
    epochs: Epochs = 100
    drop_path: DropPath = 0.2


def require_streams_once(names: tuple[str, ...] | None) -> None:
    """Raise ConfigError for a setting `head_streams` that names no stream, or one twice."""
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ConfigError(f"head_streams={','.join(names)}: name one stream or more, each once, or none for all")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTaskConfig(TrainingConfig):
    """Common to the tasks on one frame and its sound: localization, segmentation and separation."""

    max_gain_db: MaxGain = 6.0
    examples: Annotated[
        int, "Best samples, and as many of the worst, that are written as pictures and sound.", Bounds(0)
    ] = 6

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        if self.data.mode != MODES[0]:
            raise ConfigError(f"data.mode={self.data.mode}: this task needs both modalities. Set data.mode={MODES[0]}.")
        if self.data.windows > 1 or self.data.frames is not None:
            raise ConfigError(
                f"data.windows={self.data.windows}, data.frames={self.data.frames}: a frame of this task has one "
                "window, its own. Set data.windows=1 and data.frames=none."
            )
