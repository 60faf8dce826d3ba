"""AVSiam's settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from avmanifest.settings import Bounds
from avmodel.configs.model import (
    AUDIOSET_MEAN,
    AUDIOSET_STD,
    KERNEL_REDUCTIONS,
    POSITION_INITS,
    SCHEMES,
    DecodingModelConfig,
    MelMean,
    MelStd,
    Temperature,
    num_kept,
    require_fields,
    require_heads,
    require_patches,
)

JOINT_LAYERS = 2
JOINT_STARTS = ("last-two", "last-twice")
CONTRAST_ALONE: Mapping[str, Any] = {"reconstruction_weight": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class AVSiamConfig(DecodingModelConfig):
    """One model. Defaults: AVSiam-Base as the paper has it; it prints no ratios but their range.

    Chosen here: groups of equal mask ratio are parts of all processes' samples together, in sizes that differ by one at
    most. The released code cuts each process's batch into five with torch.chunk, which gives fewer groups, without the
    highest ratios, where a process has few samples (four of 16).

    Raises ValueError for a value that no model can be built from.
    """

    norms: Annotated[
        str,
        "Norms of the shared blocks: one set a modality; shared, as the paper's text has it.",
        ("per_modality", "shared"),
    ] = "per_modality"
    separate: Annotated[bool, "A backbone for each modality: AVSep."] = False
    mask_ratios: Annotated[tuple[float, ...], "Mask ratios of the audio; an equal part of each batch gets each."] = (
        0.0,
        0.125,
        0.25,
        0.375,
        0.5,
    )
    image_mask_ratios: Annotated[tuple[float, ...] | None, "Mask ratios of the image. none: those of the audio."] = None
    audio_scheme: Annotated[str, "How audio patches are hidden; tf, time and frequency, as released.", SCHEMES] = (
        "uniform"
    )
    contrast_weight: Annotated[float, "Weight of the contrastive loss; 0: none.", Bounds(0)] = 1.0
    temperature: Temperature = 0.05
    symmetric: Annotated[bool, "Contrast in both directions; the paper's formula has audio anchors alone."] = True
    joint_start: Annotated[
        str,
        "Blocks of the backbone that the two joint layers start as: its last two, or the last one twice, as in the "
        "released Base.",
        JOINT_STARTS,
    ] = "last-two"
    reconstruction_weight: Annotated[
        float, "Weight of the reconstruction loss; 0: none, and the joint layers are not trained.", Bounds(0)
    ] = 1.0
    reconstruction_ratio: Annotated[float, "Share of the patches of both modalities that the second pass hides."] = 0.75
    stop_gradient: Annotated[
        bool, "Keep gradients of the reconstruction from the backbone; false: the released Base."
    ] = True
    separate_reconstruction: Annotated[
        bool, "Encode the audio of the second pass with a further backbone: the released Base."
    ] = False
    decoder_depth: Annotated[int, "Blocks of each pixel decoder: 6 in the paper's text, 8 in the released Base."] = 6
    normalize_targets: bool = False
    alternate_steps: Annotated[bool, "Two optimizers, one for each loss, stepped one after the other: as released."] = (
        False
    )
    norm_eps: Annotated[float, "Epsilon of the blocks' norms; the released Base has 1e-5.", Bounds(0)] = 1e-6
    double_embed: Annotated[bool, "Add tokens to themselves before the first block: as released."] = False
    audio_kernel: Annotated[
        str,
        "How the spectrogram's patch kernel starts from the image's three channels.",
        KERNEL_REDUCTIONS,
    ] = "mean"
    audio_positions: Annotated[str, "How the spectrogram's positions start from the image's.", POSITION_INITS] = (
        "linear1d"
    )
    mel_mean: MelMean = AUDIOSET_MEAN
    mel_std: MelStd = AUDIOSET_STD

    bench_rows: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "avsep": {"separate": True},
        "avsiam-nomask": {"mask_ratios": (0.0,), **CONTRAST_ALONE},
        "avsiam-multi-50": CONTRAST_ALONE,
        "avsiam-multi-80": {"mask_ratios": (0.0, 0.2, 0.4, 0.6, 0.8), **CONTRAST_ALONE},
        **{f"avsiam-fixed-{percent}": {"mask_ratios": (percent / 100,), **CONTRAST_ALONE} for percent in (25, 50, 75)},
    }

    published_contrast: ClassVar[str] = "the paper: 1,536"

    def __post_init__(self) -> None:
        require_fields(self)
        require_heads("decoder", self.decoder_embed_dim, self.decoder_num_heads, multiple=1)
        if self.contrast_weight <= 0 and self.reconstruction_weight <= 0:
            raise ValueError("model.contrast_weight and model.reconstruction_weight are both 0: nothing to learn")
        if self.contrast_weight <= 0 and self.stop_gradient:
            raise ValueError("model.contrast_weight=0 with model.stop_gradient=true: nothing would train the backbone")
        if self.alternate_steps and min(self.contrast_weight, self.reconstruction_weight) <= 0:
            raise ValueError(
                "model.alternate_steps needs both losses: set model.contrast_weight and "
                "model.reconstruction_weight above 0"
            )
        if self.separate_reconstruction and (self.stop_gradient or self.reconstruction_weight <= 0):
            raise ValueError(
                "model.separate_reconstruction: nothing would train its backbone. Set model.stop_gradient=false and "
                "model.reconstruction_weight above 0"
            )
        if self.vit.depth < JOINT_LAYERS:
            raise ValueError(f"model.size={self.size!r}: the joint layers start from the last two blocks")
        for name, size, ratios in (
            ("audio", self.audio_size, self.mask_ratios),
            ("image", self.image_size, self.ratios[1]),
        ):
            patches = (size[0] // self.patch_size) * (size[1] // self.patch_size)
            if not ratios or any(not 0 <= ratio < 1 or num_kept(patches, ratio) < 1 for ratio in ratios):
                setting = "mask_ratios" if name == "audio" or self.image_mask_ratios is None else "image_mask_ratios"
                raise ValueError(f"model.{setting}={ratios}: they leave nothing to see of {patches} {name} patches")
            again = {"reconstruction_ratio": self.reconstruction_ratio}
            require_patches(self, name, size, again, whole=name == "image")

    @property
    def ratios(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mask ratios of audio and image."""
        return self.mask_ratios, self.mask_ratios if self.image_mask_ratios is None else self.image_mask_ratios
