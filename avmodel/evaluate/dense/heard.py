"""A mixture to look at and to listen to: its log-mel, the separated and the true ones, frames and sounds."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import soundfile
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from avdata.audit.mel_axis import to_png
from avdata.audit.picture import draw_log_mel
from avdata.melspec import PROFILES, log_mel
from avmodel.evaluate.examples import Example
from avmodel.pictures import printable

DPI = 80


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
    """One mixture. The sounds are as loud to each other as they were, the loudest of them just not clipped."""
    mixture = references.sum(dim=0)
    loudest = max(float(x.abs().max()) for x in (mixture, references, estimates))
    sounds = {"mixture": mixture}
    for place, name in enumerate(names):
        sounds[f"{place + 1}. {name}, separated"] = estimates[place]
        sounds[f"{place + 1}. {name}, true"] = references[place]
    pictures = {"log-mels": draw_mels(sounds, sample_rate)}
    for place, (name, frame) in enumerate(zip(names, frames, strict=True)):
        pictures[f"{place + 1}. {name}"] = to_png(np.ascontiguousarray(frame.permute(1, 2, 0).cpu().numpy()))
    return Example(
        key=" + ".join(keys),
        title=" + ".join(names),
        score=scores["sdr"],
        metrics=dict(scores),
        pictures=pictures,
        sounds={caption: wav(x / max(loudest, 1.0), sample_rate) for caption, x in sounds.items()},
    )


def draw_mels(sounds: Mapping[str, Float[Tensor, " n"]], sample_rate: int) -> bytes:
    """A PNG of each sound's log-mel: the mixture, then a row for each source, separated beside true."""
    mel = replace(PROFILES["paper"], sample_rate=sample_rate)
    rows = (len(sounds) + 1) // 2
    figure = Figure(figsize=(10, 2.3 * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    axes[0, 1].set_axis_off()
    places = [axes[0, 0], *axes[1:].flat]
    for axis, (caption, sound) in zip(places, sounds.items(), strict=True):
        draw_log_mel(axis, log_mel(sound, mel).numpy(), mel)
        axis.set_title(printable(caption), fontsize=9, loc="left", parse_math=False)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def wav(waveform: Float[Tensor, " n"], sample_rate: int) -> bytes:
    """A 16-bit WAV file."""
    content = io.BytesIO()
    soundfile.write(content, waveform.numpy(), sample_rate, format="WAV", subtype="PCM_16")
    return content.getvalue()
