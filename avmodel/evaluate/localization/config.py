"""Settings of localization."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from avmanifest.errors import ConfigError
from avmanifest.settings import POSITIVE
from avmodel.configs.choices import ENCODINGS
from avmodel.configs.dense import DENSE, MAPS, POOLED, DenseConfig
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.config import SUPPLEMENT_OPTIM, FrameTaskConfig

TRUTHS = ("auto", "masks", "boxes")
RULES = ("median", "fixed", "adaptive")  # see avmodel.evaluate.localization.scores


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizationConfig(FrameTaskConfig):
    """Maps of the pretrained model as it is. The settings of training are those of DeepAVFusion's supplement."""

    supervised: Annotated[bool, "Train on the frames' boxes or masks first."] = False
    encoding: Annotated[
        str, "Encode image and audio together, or each alone, as for a model of early fusion.", ENCODINGS
    ] = "together"
    maps: Annotated[
        str,
        "What a patch is compared with. pooled: with the vector of the whole sound, by cosine; dense: with each of its "
        "tokens, as the settings dense.* say.",
        MAPS,
    ] = POOLED
    dense: DenseConfig = field(default_factory=DenseConfig)
    prompted: Annotated[
        bool, "Score the maps of each class together, too: map and miou, as of segmentation that is prompted by sound."
    ] = False
    truth: Annotated[str, "Annotations to score against; auto: masks where there are any, else boxes.", TRUTHS] = "auto"
    rule: Annotated[
        str,
        "Rule of the quoted score; all are reported. Where no map could succeed by it, adaptive is quoted instead.",
        RULES,
    ] = "median"
    boxes: Annotated[str | None, "Flickr-SoundNet's folder of annotations, ID.xml. none: those of the dataset."] = None
    temperature: Annotated[
        float, "Temperature that the cosine is divided by to give a logit; the supplement names none.", POSITIVE
    ] = 0.1
    optim: OptimConfig = SUPPLEMENT_OPTIM
    batch_size: int = 128
    epochs: int = 30
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        FrameTaskConfig.__post_init__(self)
        if self.data.fit not in (None, "squash"):
            raise ConfigError(
                f"data.fit={self.data.fit}: boxes and masks are of whole frames. Set data.fit=squash, or none."
            )
        if self.supervised and self.maps == DENSE:
            raise ConfigError("maps=dense with supervised=true: dense maps are zero-shot. Set maps=pooled.")

    def reads_no_training_data(self) -> str:
        """As `EvalConfig`."""
        return "" if self.supervised else "localization is zero-shot. Set supervised=true, or leave --train out."


def crossmae() -> LocalizationConfig:
    """CrossMAE's tables 3, 4, 6 and 7: zero-shot maps. The paper names no rule.

    Of this family of rules only `fixed` can give its pairs of scores: by the median rule every map covers half of
    the frame, and the AUC of SelfMAE (13.0 on VGG-SS) would be below that of random maps (21.7).
    """
    return LocalizationConfig(rule="fixed", encoding="alone")


def denseav() -> LocalizationConfig:
    """DenseAV's maps of any model whose two modalities are encoded alone, and its scores by class.

    avkit evaluate localization runs/cavmae --data data/avsbench-s4 --preset denseav

    Each token of the sound meets each patch, by inner product: the maximum over heads at each place, the mean over
    time. DenseAV's own model has one head for sound or for speech, or two for both (dense.heads=2).
    """
    return LocalizationConfig(encoding="alone", maps=DENSE, prompted=True)


PRESETS: Mapping[str, Callable[[], LocalizationConfig]] = {
    "zero-shot": LocalizationConfig,
    "supervised": lambda: LocalizationConfig(supervised=True),
    "crossmae": crossmae,
    "denseav": denseav,
}
