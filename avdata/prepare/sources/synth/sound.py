"""The audio of a clip: one stem per sounding object. The clip's audio is the sum of the stems.

Stems are synthesized at 16 kHz, so they contain nothing above 8 kHz, and resampled to any other rate. Resampling is
linear, so the sum of the stems equals the mix at every rate.
"""

from functools import lru_cache

import numpy as np
import soxr
from jaxtyping import Float

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth.classes import Timbre
from avdata.prepare.sources.synth.motion import hits, is_struck, level
from avdata.prepare.sources.synth.scene import SynthClip, SynthObject

_RATE = 16_000
_HIGHEST_HZ = 7_500
_TAIL_S = 2.5  # duration of an impact's sound; impacts up to this long before the clip are included
_LEVEL_RATE = 200
_ATTACK_S = 0.004


def render_stems(config: SynthConfig, clip: SynthClip, sample_rate: int) -> Float[np.ndarray, "k n"]:
    """The stem of each sounding object, float32 in [-1, 1], in the order of clip.sounding.

    n is round(seconds * sample_rate). The peak of a stem at 16 kHz is its object's gain.
    """
    native = np.stack([_draw_track(clip.objects[place], config.seconds) for place in clip.sounding])
    if sample_rate == _RATE:
        return native
    length = round(config.seconds * sample_rate)
    resampled = soxr.resample(native.T, _RATE, sample_rate).T[:, :length]
    return np.asarray(np.pad(resampled, ((0, 0), (0, length - resampled.shape[1]))))


def render_mix(config: SynthConfig, clip: SynthClip, sample_rate: int) -> Float[np.ndarray, " n"]:
    """The clip's audio before encoding, mono float32: the sum of its stems."""
    return np.asarray(render_stems(config, clip, sample_rate).sum(axis=0))


@lru_cache(maxsize=16)
def _draw_track(item: SynthObject, seconds: float) -> Float[np.ndarray, " n"]:
    time_s = np.arange(round(seconds * _RATE)) / _RATE
    rng = np.random.default_rng(item.voice)
    noise = _band_noise(rng, len(time_s), item.kind.timbre.noise_band_hz)
    track = _struck(item, time_s, noise) if is_struck(item) else _sustained(item, time_s, noise)
    return np.asarray(track * (item.gain / np.abs(track).max()), dtype=np.float32)


def _struck(
    item: SynthObject, time_s: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """A decaying sound at each impact; higher partials decay faster."""
    timbre = item.kind.timbre
    pitch_hz = _pitch_hz(item)
    track = np.zeros_like(time_s)
    for hit_s, strength in hits(item, -_TAIL_S, float(time_s[-1])):
        begin = max(0, int(np.ceil(hit_s * _RATE)))
        age = time_s[begin : begin + int((_TAIL_S + min(hit_s, 0)) * _RATE)] - hit_s
        fall = np.exp(-age / timbre.decay_s)
        cycles = pitch_hz * (age + timbre.glide * timbre.decay_s * (1 - fall))
        ring = sum(
            (
                amplitude * fall ** (0.5 + 0.5 * ratio) * np.sin(2 * np.pi * ratio * cycles)
                for ratio, amplitude in _audible(timbre, pitch_hz)
            ),
            start=timbre.noise * fall**3 * noise[begin : begin + len(age)],
        )
        track[begin : begin + len(age)] += strength**2 * np.minimum(age / _ATTACK_S, 1) * ring
    return track


def _sustained(
    item: SynthObject, time_s: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """A continuous sound whose loudness follows the motion."""
    timbre = item.kind.timbre
    coarse_s = np.arange(0, time_s[-1] + 2 / _LEVEL_RATE, 1 / _LEVEL_RATE)
    loudness = np.interp(time_s, coarse_s, level(item, coarse_s))
    rate_hz, depth = timbre.vibrato
    wobble = 1 + depth * np.sin(2 * np.pi * rate_hz * time_s)
    cycles = np.cumsum(_pitch_hz(item) * (1 + timbre.glide * loudness) * wobble) / _RATE
    tone = sum(
        (
            amplitude * np.sin(2 * np.pi * ratio * cycles)
            for ratio, amplitude in _audible(timbre, _pitch_hz(item) * (1 + timbre.glide))
        ),
        start=timbre.noise * noise,
    )
    pulses = (0.5 + 0.5 * np.cos(2 * np.pi * timbre.tremolo_hz * time_s)) ** timbre.tremolo_power
    return np.asarray(tone * loudness * pulses)


def _pitch_hz(item: SynthObject) -> float:
    low, high = item.kind.timbre.pitch_hz
    return float(low * (high / low) ** item.pitch)


def _audible(timbre: Timbre, pitch_hz: float) -> list[tuple[float, float]]:
    return [(ratio, amplitude) for ratio, amplitude in timbre.partials if ratio * pitch_hz < _HIGHEST_HZ]


def _band_noise(rng: np.random.Generator, length: int, band_hz: tuple[float, float]) -> Float[np.ndarray, " n"]:
    """Noise inside the band, with a standard deviation of 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency_hz = np.fft.rfftfreq(length, 1 / _RATE)
    spectrum[(frequency_hz < band_hz[0]) | (frequency_hz > band_hz[1])] = 0
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / noise.std())
