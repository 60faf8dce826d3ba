"""The fields, checks and size names that the configs of models share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from avmanifest.settings import POSITIVE, Bounds, faults

# How a spectrogram's patches are hidden, how its patch kernel and positions start from an image's.
SCHEMES = ("uniform", "time", "frequency", "tf")
KERNEL_REDUCTIONS = ("mean", "sum")
POSITION_INITS = ("copy", "linear1d", "nearest1d", "bicubic2d")

MelMean = Annotated[
    float, "Mean of log-mels that inputs are normalized with; default: AudioSet's, of natural-log Kaldi mels."
]
MelStd = Annotated[float, "Deviation of log-mels that inputs are normalized with.", POSITIVE]
ImageMaskRatio = Annotated[float, "Share of image patches that are hidden."]
AudioMaskRatio = Annotated[float, "Share of audio patches that are hidden."]
AudioKernel = Annotated[
    str, "How the spectrogram's patch kernel starts from published image weights.", KERNEL_REDUCTIONS
]
Temperature = Annotated[float, "Temperature of the contrastive loss.", POSITIVE]
AUDIOSET_MEAN, AUDIOSET_STD = -5.081, 4.4849  # as CAV-MAE has them


class ViTSize(NamedTuple):
    embed_dim: int
    depth: int
    num_heads: int


VIT_SIZES = {
    "tiny": ViTSize(192, 12, 3),
    "small": ViTSize(384, 12, 6),
    "base": ViTSize(768, 12, 12),
    "large": ViTSize(1024, 24, 16),
    "huge": ViTSize(1280, 32, 16),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The fields that the loader, the trainer and the tasks read of every model's config."""

    size: Annotated[str, "tiny, small, base, large, huge, or WIDTHxDEPTHxHEADS."] = "base"
    image_size: Annotated[tuple[int, int], "Pixels of a frame: height, width.", Bounds(1)] = (224, 224)
    audio_size: Annotated[tuple[int, int], "Size of a spectrogram: mel bins, steps.", Bounds(1)] = (128, 1024)
    patch_size: Annotated[int, "Side of a square patch, in pixels, or in mel bins and steps.", Bounds(1)] = 16

    # Further rows of `avkit bench step --family`: their name, and the fields that they change.
    bench_rows: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    # Of a family with a contrastive loss: what is published about the number of samples that it compares.
    published_contrast: ClassVar[str] = ""

    @property
    def compares_samples(self) -> bool:
        """Whether the loss is over pairs of samples: a family with such a loss has its weight, `contrast_weight`."""
        return bool(getattr(self, "contrast_weight", 0) > 0)

    def num_compared(self, samples: int, world_size: int) -> int:  # noqa: ARG002  # of families without a gather
        """Samples with which each is compared, of so many that all processes give."""
        return samples

    @property
    def vit(self) -> ViTSize:
        """Width, depth and heads."""
        return vit_size(self.size)

    @classmethod
    def of_earlier(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a config that an earlier version wrote, under today's names."""
        return dict(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingModelConfig(ModelConfig):
    """The fields of models with a pixel decoder for each modality."""

    decoder_embed_dim: Annotated[int, "Width of the pixel decoders.", Bounds(1)] = 512
    decoder_depth: Annotated[int, "Blocks of each pixel decoder.", Bounds(0)] = 8
    decoder_num_heads: Annotated[int, "Attention heads of the pixel decoders.", Bounds(1)] = 16
    normalize_targets: Annotated[bool, "Reconstruct each patch normalized by its own mean and deviation."] = True
    normalize_audio_targets: Annotated[
        bool | None, "The same of the patches of the sound alone. none: as normalize_targets."
    ] = None


def vit_size(name: str) -> ViTSize:
    """Width, depth and heads of a named ViT, or of an own one written WIDTHxDEPTHxHEADS.

    Raises ValueError for anything else.
    """
    if name in VIT_SIZES:
        return VIT_SIZES[name]
    numbers = name.split("x")
    if len(numbers) == 3 and all(number.isascii() and number.isdigit() for number in numbers):
        size = ViTSize(*map(int, numbers))
        if min(size) > 0 and size.embed_dim % size.num_heads == 0 and size.embed_dim % 4 == 0:
            return size
        raise ValueError(f"model.size={name!r}: the width must be a multiple of 4 and of the number of heads")
    raise ValueError(
        f"unknown model.size {name!r}; known: {', '.join(sorted(VIT_SIZES))}, or WIDTHxDEPTHxHEADS such as 384x6x6"
    )


def size_name(size: ViTSize) -> str:
    """The shortest text from which `vit_size` makes this size."""
    names = {known: name for name, known in VIT_SIZES.items()}
    return names.get(size, "x".join(map(str, size)))


def num_kept(num_tokens: int, mask_ratio: float) -> int:
    """Tokens left visible, rounded down as released: 49 of 196 at 0.75, 19 of 96 at 0.8."""
    return int(num_tokens * (1 - mask_ratio))


def require_fields(config: ModelConfig) -> None:
    """Raise ValueError for a field whose value is none of its choices or outside of its bounds."""
    for fault in faults(config, "model."):
        raise ValueError(fault)


def require_heads(name: str, dim: int, num_heads: int, *, multiple: int = 4) -> None:
    """Raise ValueError for a width that doesn't split into heads, or whose positions don't split into `multiple`."""
    if dim % num_heads or dim % multiple:
        needed = f"a multiple of {multiple} and of" if multiple > 1 else "a multiple of"
        raise ValueError(f"model.{name}_embed_dim={dim} must be {needed} model.{name}_num_heads={num_heads}")


def require_patches(
    config: ModelConfig, name: str, size: tuple[int, int], ratios: Mapping[str, float], *, whole: bool = True
) -> None:
    """Raise ValueError for an input without whole patches, or for a mask ratio that hides none of them or all.

    Args:
        config: The model's config; its patch_size is read.
        name: Of the input: image or audio.
        size: Pixels, or mel bins and steps.
        ratios: Mask ratios by the name of their field.
        whole: Whether patches must fill the input. Otherwise, what doesn't fill a patch is left out.
    """
    (height, width), p = size, config.patch_size
    if (whole and (height % p or width % p)) or min(height, width) < p:
        raise ValueError(f"model.{name}_size={size} is not whole patches of {p} x {p}")
    patches = (height // p) * (width // p)
    for field, ratio in ratios.items():
        if not 0 < num_kept(patches, ratio) < patches:
            raise ValueError(f"model.{field}={ratio} leaves nothing to see or to predict of {patches} {name} patches")
