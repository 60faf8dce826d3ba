"""Settings of fine-tuning."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import SHARE, Bounds
from avmodel.configs.augment import AugmentConfig
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import AREA, MODES, EvalDataConfig, TrainingConfig

MIXED_SOUNDS = ("log_mel", "waveform")
AVERAGES = ("logits", "probabilities")
VARIED = AugmentConfig(roll=1024, noise=0.44849, mask_bins=48, mask_columns=192)  # CAV-MAE's: see avmodel.presets.data


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig(TrainingConfig):
    """Defaults: the released recipe for VGGSound, with the ten-window test that it meant."""

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
    smoothing: Annotated[float, "Label smoothing; not with several labels a sample.", Bounds(0, 0.99)] = 0.1
    class_balanced: Annotated[bool, "Draw samples of rare classes more often, with the weights of CAV-MAE."] = False
    max_gain_db: Annotated[
        float, "dB by which loudness varies in training, at most, either way; 0: not at all.", Bounds(0)
    ] = 6.0
    min_area: Annotated[float, "Share of the frame that a random crop takes in training, at least.", AREA] = 0.5
    flip_probability: Annotated[float, "Probability of a left-right flip in training.", SHARE] = 0.5
    head_lr: Annotated[float, "Factor of the heads' learning rate over the model's.", Bounds(0)] = 1.0
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
    missing: Annotated[tuple[str, ...], "Modalities with each of which alone the model is also tested.", MODES[1:]] = ()
    average: Annotated[str, "What is averaged over windows or frames.", AVERAGES] = "logits"

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if (self.missing or self.mixed) and self.data.mode != MODES[0]:
            raise ConfigError(
                f"missing={self.missing}, mixed={self.mixed}: data.mode={self.data.mode} has one modality; "
                "set data.mode=audio-visual"
            )


def cav_mae() -> FinetuneConfig:
    """CAV-MAE's recipe for VGGSound: waveforms mixed, SpecAug, roll and noise; all ten frames tested.

    The weights tested are the mean of the last eight epochs'.
    """
    optim = OptimConfig(
        optimizer="adam",
        lr=1e-4,
        betas=(0.95, 0.999),
        weight_decay=5e-7,
        warmup=0.0,
        ramp=0.0,
        drops=epoch_starts(2, 10),
    )
    return FinetuneConfig(
        data=EvalDataConfig(frames=10, fit="short-side-crop"),
        optim=optim,
        head_lr=10.0,
        batch_size=48,
        epochs=10,
        drop_path=0.0,
        mixup=10.0,
        mixup_probability=0.5,
        mixup_of="waveform",
        augment=VARIED,
        class_balanced=True,
        max_gain_db=0.0,
        min_area=1.0,
        flip_probability=0.0,
        prior_bias=False,
        averaged_epochs=8,
        average="probabilities",
    )


def avsiam() -> FinetuneConfig:
    """AVSiam-Base's for VGGSound: CAV-MAE's with steps of images, audio or both, and the paper's rates."""
    recipe = cav_mae()
    optim = replace(recipe.optim, lr=5e-5, drops=epoch_starts(2, 15), drop_factor=0.75)
    return replace(
        recipe,
        data=replace(recipe.data, fit="squash"),
        optim=optim,
        batch_size=128,
        epochs=15,
        averaged_epochs=1,
        mixed=True,
        missing=("audio", "image"),
    )


def epoch_starts(first: int, epochs: int) -> tuple[float, ...]:
    """The beginnings of all epochs from `first` on, as shares of the run."""
    return tuple(epoch / epochs for epoch in range(first, epochs))


PRESETS: Mapping[str, Callable[[], FinetuneConfig]] = {"released": FinetuneConfig, "cav-mae": cav_mae, "avsiam": avsiam}
