"""Settings of the linear probe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from avmanifest.settings import SHARE, Bounds
from avmodel.configs.optim import REFERENCE_BATCH
from avmodel.evaluate.config import AREA, EvalConfig, EvalDataConfig, require_streams_once

OPTIMIZERS = ("lars", "adamw", "lbfgs")
HEAD_LOSSES = ("mean", "each")
LEAST_STEPS = 500  # the released recipe takes 10,700 on VGGSound


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeConfig(EvalConfig):
    """Heads on frozen features. Defaults: the released recipe for VGGSound.

    The released code draws new views in each epoch, here `train_views` are drawn once and taken in turn; its batch
    norms see the 64 samples of each of 4 devices at once, here all samples of a step.
    """

    optimizer: Annotated[
        str,
        "Optimizer of the heads. lars has momentum 0.9 and trust 1e-3; lbfgs solves the regression over all samples, "
        "without rates: for few of them.",
        OPTIMIZERS,
    ] = "lars"
    base_lr: Annotated[float, "Peak learning rate for 256 samples of a step.", Bounds(0)] = 0.3
    batch_size: Annotated[int, "Samples of a step; at most the training samples.", Bounds(2)] = 1024
    epochs: Annotated[
        int, "Passes over the features of the training clips; with lbfgs, at most so many iterations.", Bounds(1)
    ] = 60
    warmup: Annotated[float, "Share of the run in which the rate rises from 0; 1/6: 10 of 60 epochs.", SHARE] = 1 / 6
    drops: Annotated[
        tuple[float, ...] | None,
        "Shares of the run at which the rate halves; no share: it is constant. none: it falls as a cosine.",
        SHARE,
    ] = None
    weight_decay: Annotated[float, "Weight decay.", Bounds(0)] = 0.0
    smoothing: Annotated[
        float,
        "Label smoothing, with one label a sample or several: t becomes t (1 - s) + s / classes.",
        Bounds(0, 0.99),
    ] = 0.0
    head_streams: Annotated[
        tuple[str, ...] | None, "Streams that get a head, such as audio,image. none: every stream."
    ] = None
    train_views: Annotated[
        int, "Random views of each clip that epochs take in turn; 0: the view of the test.", Bounds(0)
    ] = 4
    max_gain_db: Annotated[
        float, "dB by which the loudness of random views varies, at most, either way.", Bounds(0)
    ] = 6.0
    min_area: Annotated[float, "Share of the frame that a random view takes, at least.", AREA] = 0.5
    flip_probability: Annotated[float, "Probability of a left-right flip of random views.", SHARE] = 0.5
    head_loss: Annotated[
        str,
        "What is minimized: mean, the loss of the mean of all heads' logits, as released; each, the loss of every "
        "head, so that a stream's row says what that stream alone has.",
        HEAD_LOSSES,
    ] = "mean"

    def __post_init__(self) -> None:
        EvalConfig.__post_init__(self)
        require_streams_once(self.head_streams)

    def few_steps(self, samples: int) -> int | None:
        """The steps that the heads take on so many training samples, if they hardly leave their random start; or None.

        Heads whose regression is solved take no such steps.
        """
        steps = self.epochs * (samples // max(min(self.batch_size, samples), 1))
        return None if self.optimizer == "lbfgs" or steps >= LEAST_STEPS else steps


def audioset() -> LinearProbeConfig:
    """The released recipe for AudioSet's balanced split (table 3): 300 epochs, 20 of warm-up, 512 samples a step."""
    return LinearProbeConfig(
        data=EvalDataConfig(train_split="balanced", test_split="eval"), batch_size=512, epochs=300, warmup=20 / 300
    )


def supplement() -> LinearProbeConfig:
    """The paper's supplement: Adam at 1e-4, 128 samples a step, 50 epochs; features of audio and image alone.

    AdamW here, without decay the same. It names no schedule: the rate is constant, as in its presets of all tasks.
    """
    return LinearProbeConfig(
        optimizer="adamw",
        base_lr=1e-4 * REFERENCE_BATCH / 128,
        batch_size=128,
        epochs=50,
        warmup=0.0,
        drops=(),
        head_streams=("audio", "image"),
    )


def small() -> LinearProbeConfig:
    """For some hundred or thousand clips: the regression of each head is solved, with a weak penalty on its weights.

    Measured in docs/decisions/learning-on-little.md. The released recipe takes one step of LARS for 1,024 clips: with
    so few, its 60 epochs end before the heads have moved.
    """
    return LinearProbeConfig(
        data=EvalDataConfig(fit="short-side-crop"),
        optimizer="lbfgs",
        head_loss="each",
        epochs=200,
        weight_decay=0.01,
        train_views=0,
    )


FEW_CLIPS_PRESET = "small"


def preset_words(samples: int) -> list[str]:
    """The option of `avkit evaluate linear-probe` for so many training samples; empty: the default suits them."""
    return [] if LinearProbeConfig().few_steps(samples) is None else ["--preset", FEW_CLIPS_PRESET]


PRESETS: Mapping[str, Callable[[], LinearProbeConfig]] = {
    "released": LinearProbeConfig,
    "audioset": audioset,
    "supplement": supplement,
    FEW_CLIPS_PRESET: small,
}
