"""Speech probabilities."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avdata.prepare.decode import open_media
from avdata.prepare.steps.speech import WINDOW, speech_probabilities
from avdata.samples import SampleFile

REAL = Path(__file__).parents[5] / "shared" / "data" / "videos"


def voice(seconds: float) -> np.ndarray:
    """A buzz of about 110 Hz through three formants that glide from vowel to vowel, with a hiss before each."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(seconds * 16_000)) / 16_000
    syllables = 5 * time_s
    vowels = np.array([[700, 1200, 2600], [300, 2300, 3000], [500, 900, 2500], [300, 800, 2300], [600, 1800, 2500]])
    spoken = vowels[rng.integers(0, 5, int(5 * seconds) + 2)]
    pitch_hz = 110 * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * time_s) + 0.05 * np.sin(2 * np.pi * 2.3 * time_s))
    sound = np.zeros_like(time_s)
    for harmonic in range(1, 40):
        hertz = harmonic * pitch_hz
        for formant, strength in zip(spoken.T, (1.0, 0.6, 0.3), strict=True):
            away = (hertz - np.interp(syllables, np.arange(len(spoken)), formant)) / 60
            sound += (
                strength / (1 + away**2) / (1 + hertz / 1500) * np.sin(harmonic * np.cumsum(pitch_hz) * np.pi / 8e3)
            )
    sound *= np.sin(np.pi * (syllables % 1)) ** 0.6 / np.abs(sound).max()
    hiss = np.diff(rng.normal(0, 0.03, len(sound)), prepend=0) * (syllables % 1 < 0.15)
    return (0.4 * sound + hiss).astype(np.float32)


def test_silence_and_noise_are_no_speech() -> None:
    rng = np.random.default_rng(0)
    for sound in (np.zeros(32_000, np.float32), rng.normal(0, 0.1, 32_000).astype(np.float32)):
        assert (speech_probabilities(sound) < 0.5).all()


def test_a_voice_in_the_second_half_is_found_there() -> None:
    sound = np.concatenate([np.zeros(48_000, np.float32), voice(3.0)])
    found = speech_probabilities(sound) >= 0.5
    assert not found[:93].any()
    assert found[95:].mean() > 0.6


def test_a_sound_in_a_file_has_the_probabilities_of_the_array() -> None:
    sound = np.concatenate([voice(12.0), np.zeros(80_100, np.float32)])
    with SampleFile() as file:
        file.append(sound)
        found = speech_probabilities(file)
    assert len(found) == -(-len(sound) // WINDOW)
    np.testing.assert_array_equal(found, speech_probabilities(sound))
    assert len(speech_probabilities(sound[:0])) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")
def test_probabilities_are_those_of_the_library() -> None:
    import torch
    from silero_vad import load_silero_vad

    sound = np.concatenate([voice(12.0), np.random.default_rng(0).normal(0, 0.1, 80_000), voice(2.0)]).astype(
        np.float32
    )
    expected = load_silero_vad().audio_forward(torch.from_numpy(sound)[None], 16_000)[0].numpy()
    np.testing.assert_allclose(speech_probabilities(sound), expected, atol=1e-4)


def test_no_torch_is_imported() -> None:
    script = (
        "import sys, numpy; from avdata.prepare.steps.speech import speech_probabilities as p;"
        "p(numpy.zeros(16000, 'float32')); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real videos are not here")
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("speech_friday_1940_film.mp4", 0.6, 1.0),
        ("speech_nasa_multistream.mp4", 0.6, 1.0),
        ("music_bbb_intro.webm", 0.0, 0.02),
        ("water_stream.mp4", 0.0, 0.02),
    ],
)
def test_real_speech_is_told_from_other_sounds(name: str, low: float, high: float) -> None:
    with open_media(REAL / name) as media:
        sound = media.waveform(0.0, min(media.duration_s, 10.0)).samples
    assert low <= float((speech_probabilities(sound) >= 0.5).mean()) <= high
