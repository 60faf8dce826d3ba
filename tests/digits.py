"""A small set of real pictures and made sounds: handwritten digits beside spoken ones. Either alone names the class.

The pictures are the 1,797 digits of 8 x 8 pixels that come with scikit-learn (UCI, CC BY 4.0), enlarged and put at a
random place of a frame. The sounds are made: each digit is a few phonemes of formants and noise, of random pitch,
length and vocal tract. Each picture and each sound is in one split only.
"""

from functools import cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from sklearn.datasets import load_digits

from avdata.waveform import SAMPLE_RATE
from tests.shards import draw_dataset

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 64  # pixels of a frame
DIGIT = 48  # pixels of the digit in it
SECONDS = 1.05
TEST = 600

# A phoneme: its formants in Hz with their amplitude, or, for noise, the middle of its band.
VOWELS = {
    "ee": ((300, 2300, 3000), 1.0), "ih": ((390, 2000, 2550), 1.0), "eh": ((530, 1850, 2500), 1.0),
    "ah": ((730, 1100, 2450), 1.0), "uh": ((640, 1200, 2400), 1.0), "aw": ((570, 840, 2400), 1.0),
    "oh": ((450, 800, 2600), 1.0), "oo": ((320, 900, 2300), 1.0), "r": ((400, 1200, 1600), 0.7),
    "w": ((300, 700, 2200), 0.6), "n": ((250, 1100, 2200), 0.3), "v": ((250, 1000, 2100), 0.2),
}  # fmt: skip
NOISES = {
    "z": (5000, 0.15), "s": (6500, 0.2), "f": (4500, 0.08), "th": (5800, 0.06), "t": (4000, 0.2), "k": (2500, 0.2),
}  # fmt: skip
WORDS = (
    ("z", "ih", "r", "oh"), ("w", "uh", "n"), ("t", "oo"), ("th", "r", "ee"), ("f", "aw", "r"),
    ("f", "ah", "ee", "v"), ("s", "ih", "k", "s"), ("s", "eh", "v", "eh", "n"), ("eh", "ee", "t"),
    ("n", "ah", "ee", "n"),
)  # fmt: skip


@cache
def handwritten() -> tuple[UInt8[np.ndarray, "n 8 8"], tuple[int, ...]]:
    """All pictures, 0 to 255, and their digits, in an order that mixes the writers."""
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    pixels = np.clip(np.round(found.images[order] * (255 / 16)), 0, 255).astype(np.uint8)
    return pixels, tuple(int(digit) for digit in found.target[order])


def picture(sample: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
    """The sample's digit in white, at a place drawn for the frame, on a gray of the sample with a little noise."""
    chance = np.random.default_rng([1, sample, frame])
    digit = cv2.resize(handwritten()[0][sample], (DIGIT, DIGIT), interpolation=cv2.INTER_CUBIC)
    top, left = chance.integers(0, SIDE - DIGIT + 1, 2)
    gray = np.full((SIDE, SIDE), np.random.default_rng([2, sample]).integers(0, 96), np.float64)
    part = gray[top : top + DIGIT, left : left + DIGIT]
    part += digit / 255 * (255 - part)
    noisy = gray + chance.normal(0, 6, gray.shape)
    return np.repeat(np.clip(np.round(noisy), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def sound(sample: int, seconds: float) -> Float[np.ndarray, " n"]:
    """The sample's digit, spoken once."""
    chance = np.random.default_rng([3, sample])
    pitch_hz, tract = chance.uniform(90, 230), chance.uniform(0.88, 1.15)
    spoken = [spoken_phoneme(name, pitch_hz, tract, chance) for name in WORDS[handwritten()[1][sample]]]
    word = np.concatenate(spoken)
    whole = chance.normal(0, 0.003, round(seconds * SAMPLE_RATE))
    word = word[: len(whole)] * chance.uniform(0.3, 0.9) / np.abs(word).max()
    start = chance.integers(0, len(whole) - len(word) + 1)
    whole[start : start + len(word)] += word
    return np.clip(whole, -1, 1).astype(np.float32)


def spoken_phoneme(name: str, pitch_hz: float, tract: float, chance: np.random.Generator) -> Float[np.ndarray, " n"]:
    """One phoneme of 60 to 160 ms, with soft ends: harmonics under the formants, or a band of noise."""
    times = np.arange(round(chance.uniform(0.06, 0.16) * SAMPLE_RATE)) / SAMPLE_RATE
    if name in NOISES:
        middle_hz, level = NOISES[name]
        spectrum = np.fft.rfft(chance.normal(0, 1, len(times)))
        band = np.exp(-0.5 * ((np.fft.rfftfreq(len(times), 1 / SAMPLE_RATE) - middle_hz * tract) / 900) ** 2)
        wave = level * 3 * np.fft.irfft(spectrum * band, len(times))
    else:
        formants, level = VOWELS[name]
        harmonics = pitch_hz * np.arange(1, int(5000 / pitch_hz))[:, None]
        widths = (90, 130, 180)
        peaks = [
            np.exp(-0.5 * ((harmonics - f * tract) / w) ** 2) / (1 + f / 1500)
            for f, w in zip(formants, widths, strict=True)
        ]
        glide = times * (1 + chance.uniform(-0.15, 0.15) * times)
        wave = level * ((0.02 + sum(peaks)) * np.sin(2 * np.pi * harmonics * glide)).sum(axis=0)
    ends = np.minimum(1, np.minimum(times, times[-1] - times) / 0.012)
    return wave * ends


def draw_digits(root: Path, num_train: int = 1197, num_test: int = TEST, num_frames: int = 2) -> Path:
    """The prepared dataset: splits train and test of these many samples, ten classes, so many frames each."""
    digits = handwritten()[1]
    for split, first, count in (("train", 0, num_train), ("test", len(digits) - num_test, num_test)):
        draw_dataset(
            root, count, 400, split=split, first=first, labels=lambda sample: [NAMES[digits[sample]]], classes=NAMES,
            seconds=SECONDS, num_frames=num_frames, flac=False, picture=picture, sound=sound,
        )  # fmt: skip
    return root
