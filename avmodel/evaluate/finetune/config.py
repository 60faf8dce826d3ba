"""Settings of fine-tuning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, NamedTuple

from avmanifest.errors import ConfigError
from avmanifest.settings import SHARE, Bounds
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import (
    MODES,
    RELEASED_OPTIM,
    SUPPLEMENT_OPTIM,
    EvalDataConfig,
    FlipProbability,
    MaxGain,
    MinArea,
    TrainingConfig,
    require_streams_once,
)

MIXED_SOUNDS = ("log_mel", "waveform")
AVERAGES = ("logits", "probabilities", "sigmoids")
HEADS = ("per-stream", "joint", "concat")
HEAD_NORMS = ("none", "layer")
CLASS_WEIGHTS = ("none", "inverse-share")
VARIED = AugmentConfig(roll=1024, noise=0.44849, mask_bins=48, mask_columns=192)  # CAV-MAE's: see avmodel.presets.data


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Defaults: the released recipe for VGGSound, with the ten-window test that it meant.

    The released code mixes each sample with the one at the other end of the batch of its device, here with a random one
    of the micro-step. It also multiplies VGGSound's whole loss by the mean of 1 / share over classes, about 450, which
    changes nothing for AdamW and is left out.
    """

    data: EvalDataConfig = field(default_factory=lambda: EvalDataConfig(windows=10))
    mixup: Annotated[
        float,
        "Parameter a of Beta(a, a), which draws one share for both modalities and the labels; 0: no mixup.",
        Bounds(0),
    ] = 1.0
    mixup_probability: Annotated[float, "Probability that a sample is mixed.", SHARE] = 1.0
    mixup_of: Annotated[str, "What is mixed of the sound: log-mels, as released, or waveforms.", MIXED_SOUNDS] = (
        "log_mel"
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # of log-mels, after mixup
    smoothing: Annotated[float, "Label smoothing where each sample has one label.", Bounds(0, 0.99)] = 0.1
    multi_label_smoothing: Annotated[
        float, "Label smoothing where samples have several labels: t becomes t (1 - s) + s / classes.", Bounds(0, 0.99)
    ] = 0.0
    class_weights: Annotated[
        str,
        "Where samples have several labels, weights of the classes' losses; inverse-share: 1 / share of all labels.",
        CLASS_WEIGHTS,
    ] = "none"
    class_balanced: Annotated[bool, "Draw samples of rare classes more often, with the weights of CAV-MAE."] = False
    max_gain_db: MaxGain = 6.0
    min_area: MinArea = 0.5
    flip_probability: FlipProbability = 0.5
    heads: Annotated[
        str,
        "Linear heads. per-stream: one on the mean token of each stream, whose logits are averaged; joint: one on the "
        "mean of the joint tokens, as CAV-MAE; concat: one on the means of the image's and the sound's joint tokens "
        "side by side (of their own, in a model without joint layers), and with mixed=true one on each modality's own "
        "mean, as AVSiam.",
        HEADS,
    ] = "per-stream"
    head_streams: Annotated[
        tuple[str, ...] | None,
        "Streams that get a head with heads=per-stream, such as audio,image. none: every stream.",
    ] = None
    head_norm: Annotated[str, "Norm before each head.", HEAD_NORMS] = "none"
    head_lr: Annotated[float, "Factor of the heads' learning rate over the model's.", Bounds(0)] = 1.0
    joint_lr: Annotated[
        float, "Factor of the learning rate of the layers that both modalities enter together.", Bounds(0)
    ] = 1.0
    prior_bias: Annotated[
        bool, "Start the heads' biases at the log-odds of each class's share of the training labels; false: at 0."
    ] = True
    averaged_epochs: Annotated[
        int, "Last epochs whose final weights are averaged; all, if there are fewer.", Bounds(1)
    ] = 1
    test_every: Annotated[int | None, "Epochs between tests of one window. none: only at the end.", Bounds(1)] = None
    mixed: Annotated[
        bool, "AVSiam's training: half of the steps have both modalities, a quarter only audio, a quarter only images."
    ] = False
    train: Annotated[
        bool, "Train. false: test the fine-tuned classifier that the checkpoint is, with its own heads, as it is."
    ] = True
    missing: Annotated[tuple[str, ...], "Modalities with each of which alone the model is also tested.", MODES[1:]] = ()
    average: Annotated[
        str,
        "What is averaged over windows or frames; sigmoids: of each class by itself, with one label a sample, too.",
        AVERAGES,
    ] = "logits"

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        require_streams_once(self.head_streams)
        if self.head_streams is not None and self.heads != HEADS[0]:
            raise ConfigError(
                f"head_streams={','.join(self.head_streams)} with heads={self.heads}: such heads read no stream alone. "
                "Set heads=per-stream, or head_streams=none."
            )
        if (self.missing or self.mixed) and self.data.mode != MODES[0]:
            raise ConfigError(
                f"missing={self.missing}, mixed={self.mixed}: data.mode={self.data.mode} has one modality; "
                "set data.mode=audio-visual"
            )
        if self.missing and self.heads == "concat" and not self.mixed:
            raise ConfigError(
                f"missing={self.missing} with heads=concat: no head reads one modality alone. Set mixed=true, or "
                "missing=none."
            )

    def reads_no_training_data(self) -> str:
        """As `EvalConfig`."""
        return "" if self.train else "train=false tests the classifier as it is. Set train=true, or leave --train out."


def audioset() -> FinetuneConfig:
    """The released recipe for AudioSet (table 3): 200 epochs, 20 of warm-up, on the balanced split.

    The loss of each class is weighted by the inverse of its share of all labels, and labels are smoothed.
    """
    return FinetuneConfig(
        data=EvalDataConfig(windows=10, train_split="balanced", test_split="eval"),
        optim=replace(RELEASED_OPTIM, warmup=0.1),
        epochs=200,
        multi_label_smoothing=0.1,
        class_weights="inverse-share",
    )


def supplement() -> FinetuneConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 50 epochs; features of audio and image alone.

    It names no schedule, mixup, smoothing, stochastic depth or layer decay, so there is none of them.
    """
    return FinetuneConfig(
        optim=SUPPLEMENT_OPTIM,
        batch_size=128,
        epochs=50,
        drop_path=0.0,
        mixup=0.0,
        smoothing=0.0,
        head_streams=("audio", "image"),
    )


class CavMaeRecipe(NamedTuple):
    """What differs between CAV-MAE's recipes."""

    lr: float
    head_lr: float  # factor of the heads' rate
    epochs: int
    decay_from: int  # first epoch of a lower rate, counted from 0; the rate halves at the beginning of each epoch
    batch_size: int
    averaged_epochs: int
    class_balanced: bool


# By dataset, of the released fine-tuning scripts.
CAV_MAE_RECIPES: Mapping[str, CavMaeRecipe] = {
    "vggsound": CavMaeRecipe(1e-4, 10.0, 10, 2, 48, 8, class_balanced=True),
    "as20k": CavMaeRecipe(5e-5, 100.0, 15, 5, 36, 13, class_balanced=False),
    "as2m": CavMaeRecipe(1e-5, 50.0, 10, 2, 48, 10, class_balanced=True),
}
AUDIOSET_TRAINING: Mapping[str, str] = {"as20k": "balanced", "as2m": "balanced,unbalanced"}


def cav_mae(dataset: str = "vggsound") -> FinetuneConfig:
    """CAV-MAE's recipe for VGGSound, AudioSet-20K or AudioSet-2M: waveforms mixed, SpecAug, roll and noise.

    All ten frames are tested. The weights tested are the mean of the last epochs' (the last 8, 13 or 10). The released
    code trains in float16, decays biases and norms too, by 5e-7, and smooths the label of a clip that is not mixed to
    0.9, which here is 0.9 + 0.1 / classes as for mixed ones.
    """
    recipe = CAV_MAE_RECIPES[dataset]
    optim = OptimConfig(
        optimizer="adam",
        lr=recipe.lr,
        betas=(0.95, 0.999),
        weight_decay=5e-7,
        warmup=0.0,
        ramp=0.0,
        drops=epoch_starts(recipe.decay_from, recipe.epochs),
    )
    return FinetuneConfig(
        data=data_of(dataset, EvalDataConfig(frames=10, fit="short-side-crop")),
        optim=optim,
        heads="joint",
        head_norm="layer",
        head_lr=recipe.head_lr,
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        drop_path=0.0,
        mixup=10.0,
        mixup_probability=0.5,
        mixup_of="waveform",
        multi_label_smoothing=0.1,
        augment=VARIED,
        class_balanced=recipe.class_balanced,
        max_gain_db=0.0,
        min_area=1.0,
        flip_probability=0.0,
        prior_bias=False,
        averaged_epochs=recipe.averaged_epochs,
        average="probabilities",
    )


def crossmae(dataset: str, mode: str) -> FinetuneConfig:
    """CrossMAE's table 1 on one of its datasets, with both modalities or one.

    avkit evaluate finetune runs/crossmae --data data/vggsound --preset crossmae-vggsound-audio

    The paper says that linear heads start at random, and nothing else of fine-tuning: the recipe is CAV-MAE's, its
    frames in training and tests included, with a head on the two means side by side, or on that of the one modality.
    """
    plain = cav_mae(dataset)
    data = replace(plain.data, mode=mode)
    return replace(plain, data=data, heads="concat" if mode == MODES[0] else "per-stream")


def data_of(dataset: str, data: EvalDataConfig) -> EvalDataConfig:
    """The splits of AudioSet that a recipe is for; of other datasets the usual ones."""
    if dataset not in AUDIOSET_TRAINING:
        return data
    return replace(data, train_split=AUDIOSET_TRAINING[dataset], test_split="eval")


class Recipe(NamedTuple):
    """What differs between AVSiam's recipes."""

    lr: float
    head_lr: float  # factor of the heads' rate
    decay_from: int  # first epoch of a lower rate, counted from 0
    decay: float  # factor of the rate from there at the beginning of each epoch


# By dataset and size, of the paper's tables 9 to 11.
AVSIAM_RECIPES: Mapping[tuple[str, str], Recipe] = {
    ("as20k", "b"): Recipe(1e-4, 100.0, 2, 0.75),
    ("as20k", "l"): Recipe(5e-5, 100.0, 2, 0.75),
    ("as20k", "h"): Recipe(1e-5, 100.0, 5, 0.5),
    ("as2m", "b"): Recipe(5e-6, 50.0, 5, 0.75),
    ("as2m", "l"): Recipe(5e-6, 50.0, 2, 0.5),
    ("as2m", "h"): Recipe(5e-6, 50.0, 2, 0.5),
    ("vggsound", "b"): Recipe(5e-5, 10.0, 2, 0.75),
    ("vggsound", "l"): Recipe(5e-6, 50.0, 2, 0.5),
    ("vggsound", "h"): Recipe(5e-6, 50.0, 2, 0.5),
}
AVSIAM_EPOCHS = 15
# The paper prints no factor of the joint layers' rate. The released scripts of Base have these; as-2M's is the heads'.
AVSIAM_JOINT_LR: Mapping[str, float | None] = {"as20k": 100.0, "as2m": None, "vggsound": 1.0}
# Samples of a step, of Base; the paper prints none for Large and Huge, which take as many here.
AVSIAM_BATCH: Mapping[str, int] = {"as20k": 32, "as2m": 128, "vggsound": 128}


def avsiam(dataset: str, size: str) -> FinetuneConfig:
    """AVSiam's recipe for AudioSet-20K, AudioSet-2M or VGGSound (tables 9 to 11): base, large, huge.

    avkit evaluate finetune runs/avsiam-b --data data/vggsound --preset avsiam-b-vggsound

    CAV-MAE's recipe with steps of images, audio or both and a head for each, the paper's rates, and whole frames
    squashed. It is tested with both modalities (tables 1 and 5), and with each alone by its own head (tables 5 to 7).
    Classes are averaged over ten frames each by itself, with one label a sample, too, as released. The released heads
    start as torch's linear layers do, these Xavier-uniform.
    """
    recipe, plain = AVSIAM_RECIPES[dataset, size], cav_mae()
    optim = replace(
        plain.optim,
        lr=recipe.lr,
        drops=epoch_starts(recipe.decay_from, AVSIAM_EPOCHS),
        drop_factor=recipe.decay,
    )
    data = data_of(dataset, replace(plain.data, fit="squash"))
    joint_lr = AVSIAM_JOINT_LR[dataset]
    return replace(
        plain,
        data=data,
        optim=optim,
        heads="concat",
        head_lr=recipe.head_lr,
        joint_lr=recipe.head_lr if joint_lr is None else joint_lr,
        batch_size=AVSIAM_BATCH[dataset],
        epochs=AVSIAM_EPOCHS,
        averaged_epochs=1,
        class_balanced=dataset != "as20k",
        mixed=True,
        missing=("audio", "image"),
        average="sigmoids",
    )


def small() -> FinetuneConfig:
    """For some hundred or thousand clips: AdamW at 1e-3 in steps of 64, the same for all layers, and nothing varied.

    Measured in docs/decisions/learning-on-little.md. The released rate is 3e-4 for steps of 512; it is scaled with the
    batch, so that small steps of small models hardly move.
    """
    optim = OptimConfig(lr=1e-3, warmup=0.1, ramp=0.0, betas=(0.9, 0.999))
    return FinetuneConfig(
        data=EvalDataConfig(fit="short-side-crop"),
        optim=optim,
        batch_size=64,
        device_batch_size=64,
        epochs=20,
        drop_path=0.0,
        mixup=0.0,
        smoothing=0.0,
        max_gain_db=0.0,
        min_area=1.0,
        flip_probability=0.0,
    )


def epoch_starts(first: int, epochs: int) -> tuple[float, ...]:
    """The beginnings of all epochs from `first` on, as shares of the run."""
    return tuple(epoch / epochs for epoch in range(first, epochs))


PRESETS: Mapping[str, Callable[[], FinetuneConfig]] = {
    "released": FinetuneConfig,
    "audioset": audioset,
    "supplement": supplement,
    "small": small,
    "cav-mae": cav_mae,
    "cav-mae-as20k": partial(cav_mae, "as20k"),
    "cav-mae-as2m": partial(cav_mae, "as2m"),
    **{
        "-".join(("crossmae", dataset, *short)): partial(crossmae, dataset, mode)
        for dataset in CAV_MAE_RECIPES
        for mode, short in ((MODES[0], ()), *((mode, (mode,)) for mode in MODES[1:]))
    },
    **{f"avsiam-{size}-{dataset}": partial(avsiam, dataset, size) for dataset, size in AVSIAM_RECIPES},
}
