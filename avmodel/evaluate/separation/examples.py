"""A separated mixture as an example on the page: log-mels, frames and sounds of the mixture and its sources."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from avdata.draw.audio import to_wav
from avdata.draw.examples import Example
from avdata.draw.figures import draw_log_mels, figure_png
from avdata.draw.images import to_png
from avdata.profiles import PROFILES
from avdata.torch_melspec import log_mel


def example_of(
    *,
    keys: Sequence[str],
    names: Sequence[str],
    scores: Mapping[str, float],
    frames: Sequence[UInt8[Tensor, "3 h w"]],
    references: Float[Tensor, "s n"],
    estimates: Float[Tensor, "s n"],
    sample_rate: int,
) -> Example:
    """The example of one mixture. All sounds are scaled by one factor, so that the loudest is just not clipped."""
    mixture = references.sum(dim=0)
    loudest = max(float(x.abs().max()) for x in (mixture, references, estimates))
    sounds = {"mixture": mixture}
    for place, name in enumerate(names):
        sounds[f"{place + 1}. {name}, separated"] = estimates[place]
        sounds[f"{place + 1}. {name}, true"] = references[place]
    pictures = {"log-mels": draw_sounds(sounds, sample_rate)}
    for place, (name, frame) in enumerate(zip(names, frames, strict=True)):
        pictures[f"{place + 1}. {name}"] = to_png(np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy()))
    return Example(
        key=" + ".join(keys),
        title=" + ".join(names),
        score=scores["sdr"],
        metrics=dict(scores),
        pictures=pictures,
        sounds={caption: to_wav((x / max(loudest, 1.0)).numpy(), sample_rate) for caption, x in sounds.items()},
    )


def draw_sounds(sounds: Mapping[str, Float[Tensor, " n"]], sample_rate: int) -> bytes:
    """A PNG of each sound's log-mel: the mixture, then a row for each source, separated beside true."""
    mel = replace(PROFILES["paper"], sample_rate=sample_rate)
    return figure_png(draw_log_mels({caption: log_mel(x, mel).numpy() for caption, x in sounds.items()}, mel))
