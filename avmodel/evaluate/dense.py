"""DenseAV's comparison of a sound with a picture: every token of the one with every patch of the other, head by head.

Source: "Separating the 'Chirp' from the 'Chat': Self-supervised Visual Grounding of Sound and Language"
(arXiv:2406.05629), the multi-head aggregation of similarities, and its released code. That code also leaves padded
sound out of the pools over time; here a window has no padding that is known.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from avmanifest.errors import ConfigError
from avmodel.configs.dense import DenseConfig, DensePairConfig
from avmodel.models.family import Family

MOST_SIMILARITIES = 1 << 24


def require_heads(model: Family, config: DenseConfig) -> None:
    """Raise ConfigError if the model's tokens cannot be divided among so many heads."""
    if model.feature_dim % config.heads:
        raise ConfigError(
            f"dense.heads={config.heads}: tokens of this {type(model).__name__} have {model.feature_dim} numbers, "
            "which the heads must divide evenly. Set dense.heads=1, or another divisor."
        )


def audio_on_grid(model: Family, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b f t d"]:
    """Audio tokens by frequency and time, whatever the family's own order."""
    rows = model.audio_grid[0]
    order = "b (t f) d -> b f t d" if model.time_first else "b (f t) d -> b f t d"
    return rearrange(tokens, order, f=rows)


def image_on_grid(model: Family, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h w d"]:
    """Image tokens by row and column."""
    return rearrange(tokens, "b (h w) d -> b h w d", h=model.image_grid[0])


def similarity_volume(
    audio: Float[Tensor, "b f t d"], image: Float[Tensor, "b h w d"], config: DenseConfig
) -> Float[Tensor, "b k f t h w"]:
    """Inner products of each audio token with each patch, one for each head's share of the channels, float32."""
    audio, image = audio.float(), image.float()
    if config.unit_length:
        audio, image = F.normalize(audio, dim=3), F.normalize(image, dim=3)
    heard = rearrange(audio, "b f t (k c) -> b k f t c", k=config.heads)
    seen = rearrange(image, "b h w (k c) -> b k h w c", k=config.heads)
    return torch.einsum("bkftc,bkhwc->bkfthw", heard, seen)


def similarity_maps(volume: Float[Tensor, "b k f t h w"], config: DenseConfig) -> Float[Tensor, "b h w"]:
    """A map of each picture: pooled over heads at each place, averaged over frequency, then pooled over time."""
    return _pooled(_pooled(volume, config.head_pool, 1).mean(dim=1), config.time_pool, 1)


def moment_maps(
    volume: Float[Tensor, "b k f t h w"], config: DenseConfig, times_s: Sequence[float], moment_s: float, token_s: float
) -> Float[Tensor, "b h w"]:
    """`similarity_maps` of the sound around each picture's own time alone.

    Args:
        volume: Similarities.
        config: How they are pooled.
        times_s: Time of each picture, in seconds from the sound's beginning.
        moment_s: Seconds of sound, half of them before that time; the token of the time itself always counts.
        token_s: Seconds from a token to the next one.
    """
    spans = (token_span(time_s, moment_s, token_s, volume.shape[3]) for time_s in times_s)
    return torch.cat([similarity_maps(one[None, :, :, span], config) for one, span in zip(volume, spans, strict=True)])


def token_span(time_s: float, moment_s: float, token_s: float, count: int) -> slice:
    """Which of `count` tokens have their middle within half of `moment_s` of a time, or are those of the time."""
    own = min(max(int(time_s / token_s), 0), count - 1)
    first = math.ceil((time_s - moment_s / 2) / token_s - 0.5)
    last = math.floor((time_s + moment_s / 2) / token_s - 0.5)
    return slice(min(max(first, 0), own), max(min(last, count - 1), own) + 1)


def pair_scores(volume: Float[Tensor, "b k f t h w"], config: DensePairConfig) -> Float[Tensor, " b"]:
    """One score of each sound and picture: pooled over places, averaged over frequency, then pooled over time.

    head_pool=max takes the maximum over heads at each place and time, before all else, as DenseAV's loss does; mean the
    mean of the heads' own scores, as its released retrieval does but for a factor. DenseAV's names of its aggregations:
    `misa` is space_pool=max and time_pool=mean, the paper's; `mima` max and max; `sisa` mean and mean.
    """
    if config.head_pool == "max":
        volume = volume.amax(dim=1, keepdim=True)
    by_time = _pooled(volume.flatten(4), config.space_pool, 4).mean(dim=2)
    return _pooled(by_time, config.time_pool, 2).mean(dim=1)


def all_pair_scores(
    audio: Float[Tensor, "n f t d"],
    image: Float[Tensor, "m h w d"],
    config: DensePairConfig,
    device: torch.device,
    progress: Callable[[int], object] = lambda _: None,
    *,
    most: int = MOST_SIMILARITIES,
) -> Float[Tensor, "n m"]:
    """`pair_scores` of each sound with each picture, on the CPU.

    Args:
        audio: Tokens of the sounds.
        image: Patches of the pictures.
        config: How they are compared.
        device: Where.
        progress: Gets the number of pairs that are done.
        most: Similarities that are kept at once; those of a pair at least.
    """
    (_, f, t, _), (_, h, w, _) = audio.shape, image.shape
    step = max(most // (config.heads * f * t * h * w), 1)
    found = torch.empty(len(audio), len(image))
    for first in range(0, len(image), step):
        seen = image[first : first + step].to(device)
        for row, heard in enumerate(audio):
            volume = similarity_volume(heard.to(device).expand(len(seen), -1, -1, -1), seen, config)
            found[row, first : first + step] = pair_scores(volume, config).cpu()
            progress(first * len(audio) + (row + 1) * len(seen))
    return found


def _pooled(x: Tensor, how: str, dim: int) -> Tensor:
    return x.amax(dim=dim) if how == "max" else x.mean(dim=dim)
