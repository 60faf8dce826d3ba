"""A U-Net decoder from a transformer's tokens to a map of the input's size, conditioned on the other modality.

Tokens are tapped after several blocks. As released, the shallowest enters at the coarsest scale and the deepest at the
finest, the reverse of a usual U-Net.

Source: DeepAVFusion (CVPR 2024), supplement; the released code where they differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from avmanifest.errors import ConfigError
from avmodel.evaluate.config import DECODER_NORMS

CONDITIONS = ("mean", "scales")
MOST_GROUPS = 32  # of a group norm; fewer where they don't divide the channels

Norm = Callable[[int], nn.Module]  # of so many channels


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """A decoder. Defaults: separation's, from 8 x 12 tokens to 128 x 192 values."""

    divisors: tuple[int, ...] = (1, 2, 4, 8, 16)  # of the tokens' width: channels of each scale, each twice as fine
    outputs: int = 1  # values at each place
    size: tuple[int, int] | None = None  # rows and columns of the map; none: the input's
    condition: str = "mean"  # norm, mean, then a projection for each scale; scales: projection, norm, mean for each
    narrowing: bool = False  # transposed convolutions divide channels by their factor, whatever the scale's width
    # batch: over the samples of all CUDA devices, or of a CPU process; group: of each sample, the same on any number
    norm: str = "batch"

    def __post_init__(self) -> None:
        if not self.divisors or min(self.divisors) < 1 or self.outputs < 1:
            raise ConfigError(f"divisors={self.divisors}, outputs={self.outputs}: must be 1 or more")
        if self.condition not in CONDITIONS:
            raise ConfigError(f"unknown condition {self.condition!r}; known: {', '.join(CONDITIONS)}")
        if self.norm not in DECODER_NORMS:
            raise ConfigError(f"unknown norm {self.norm!r}; known: {', '.join(DECODER_NORMS)}")


def segmentation_decoder(outputs: int, *, narrowing: bool = False, norm: str = "batch") -> DecoderConfig:
    """Segmentation's, from 14 x 14 tokens to 112 x 112 and, enlarged, 224 x 224 values.

    As released with `narrowing`: at the finest scale, 128 channels wide, transposed convolutions end in 96.
    """
    return DecoderConfig(divisors=(1, 2, 4, 6), outputs=outputs, condition="scales", narrowing=narrowing, norm=norm)


def tap_layers(depth: int, count: int) -> tuple[int, ...]:
    """Blocks after which tokens are tapped, from the first to the last: 0, 2, 5, 8, 11 of 12, or 0, 3, 7, 11.

    As released; the paper names layers 1, 3, 6, 9 and 12 (counted from 1) for both tasks.
    """
    return tuple(tap * (depth - 1) // max(count - 1, 1) for tap in range(count))


class DoubleConv(nn.Sequential):
    """Two 3 x 3 convolutions, each with a norm and ReLU."""

    def __init__(self, channels: int, outputs: int, norm: Norm) -> None:
        super().__init__(*conv_norm_relu(channels, outputs, norm), *conv_norm_relu(outputs, outputs, norm))


def conv_norm_relu(channels: int, outputs: int, norm: Norm) -> tuple[nn.Module, nn.Module, nn.Module]:
    """A 3 x 3 convolution that keeps the size; its bias would be lost in the norm."""
    return nn.Conv2d(channels, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU(inplace=True)


def group_norm(channels: int) -> nn.GroupNorm:
    """Statistics of each sample alone, over groups of channels: as many groups as divide them, 32 at most."""
    return nn.GroupNorm(gcd(channels, MOST_GROUPS), channels)


class Condition(nn.Module):
    """Conditioning by the other modality's tokens: one vector for each scale."""

    def __init__(self, dim: int, channels: Sequence[int], order: str) -> None:
        super().__init__()
        self.order = order
        self.projections = nn.ModuleList(nn.Linear(dim, width) for width in channels)
        normed = [dim] if order == "mean" else channels
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in normed)

    def forward(self, tokens: Float[Tensor, "b m d"]) -> list[Float[Tensor, "b _"]]:
        if self.order == "mean":
            mean = self.norms[0](tokens).mean(dim=1)
            return [project(mean) for project in self.projections]
        pairs = zip(self.norms, self.projections, strict=True)
        return [norm(project(tokens)).mean(dim=1) for norm, project in pairs]


class Decoder(nn.Module):
    """A map of `size` from tokens of a `grid`, one tap a scale.

    Convolutions start Kaiming-normal by their outputs (fan-out) and projections Xavier-uniform, as released; biases
    at 0, where the released separation leaves torch's.
    """

    def __init__(self, config: DecoderConfig, dim: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        channels = [max(dim // divisor, 1) for divisor in config.divisors]
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in channels)
        self.condition = Condition(dim, channels, config.condition)
        double = partial(DoubleConv, norm=nn.BatchNorm2d if config.norm == "batch" else group_norm)
        # The coarsest scale joins tokens and condition, each finer one what comes up, its own tokens and condition.
        self.top = double(dim + channels[0], channels[0])
        finer = channels[1:]
        lateral, risen = finer, finer  # channels after the transposed convolutions
        if config.narrowing:
            lateral = [max(dim // 2**scale, 1) for scale in range(1, len(channels))]
            risen = [max(coarse // 2, 1) for coarse in channels[:-1]]
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(dim, inner, 2**scale, stride=2**scale), double(inner, width))
            for scale, (inner, width) in enumerate(zip(lateral, finer, strict=True), start=1)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(coarse, inner, 2, stride=2) for coarse, inner in zip(channels[:-1], risen, strict=True)
        )
        self.joins = nn.ModuleList(double(inner + 2 * width, width) for inner, width in zip(risen, finer, strict=True))
        finest = (grid[0] * 2 ** len(finer), grid[1] * 2 ** len(finer))
        self.enlarged = nn.Conv2d(channels[-1], channels[-1], 3, padding=1) if finest != size else None
        self.predict = nn.Conv2d(channels[-1], config.outputs, 3, padding=1)
        self.apply(initialize)

    def forward(
        self, taps: Sequence[Float[Tensor, "b n d"]], condition_tokens: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b c h w"]:
        """Logits, from tokens tapped from the shallowest to the deepest and the other modality's of the last layer."""
        rows = self.grid[0]
        first, *deeper = (
            rearrange(norm(x), "b (h w) d -> b d h w", h=rows) for norm, x in zip(self.norms, taps, strict=True)
        )
        vector, *vectors = self.condition(condition_tokens)
        x = self.top(torch.cat([first, tiled(vector, first)], dim=1))
        for up, lateral, join, feature, vector in zip(
            self.ups, self.laterals, self.joins, deeper, vectors, strict=True
        ):
            x, side = up(x), lateral(feature)
            x = join(torch.cat([x, side, tiled(vector, x)], dim=1))
        if self.enlarged is not None:
            x = F.interpolate(self.enlarged(x), size=self.size, mode="bilinear", align_corners=False)
        logits: Tensor = self.predict(x)
        return logits


def initialize(module: nn.Module) -> None:
    """Give a layer of the decoder its initial weights."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def tiled(vector: Float[Tensor, "b c"], like: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b c h w"]:
    """The vector at every place of a map."""
    return vector[..., None, None].expand(-1, -1, *like.shape[2:])
