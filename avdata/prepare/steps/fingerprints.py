"""Fingerprints of pictures and sounds: copies differ in few bits. `avdata.prepare.near_duplicates` compares them."""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8, UInt32

from avdata.prepare.near_duplicates import PLAIN
from avdata.prepare.steps.step import Clip, Need, StepResult
from avdata.samples import Samples
from avmanifest.columns import PICTURE_HASHES, SOUND_FINGERPRINT, Column

_SIDE: Final = 32  # pixels of the thumbnail
_MIN_DEVIATION: Final = 3.0  # levels of 255; below, a thumbnail has no detail but noise

HOP: Final = 1024
"""Samples at 16 kHz between two items of a sound's fingerprint: 64 ms."""

_WINDOW: Final = 6144  # samples of a spectrum: 384 ms, so that a shift of half a hop changes little
_BANDS: Final = 33
_BAND_HZ: Final = (200.0, 4000.0)
_APART: Final = 4  # items between the two spectra whose difference makes an item's bits
_SILENT_DBFS: Final = -80.0  # a window below has no item
_BLOCK: Final = 512  # spectra that are computed at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureHash:
    """Perceptual hashes of the stored frames, by which the manifest's column near_duplicate_of is found."""

    name: ClassVar[str] = "picture_hash"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (PICTURE_HASHES,)
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("frames",)

    def run(self, clip: Clip) -> StepResult:
        """Compute the hash of each frame."""
        return StepResult(values={PICTURE_HASHES.name: [picture_hash(image) for image in clip.frames]})


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundFingerprint:
    """Fingerprint of the sound, by which the manifest's column near_duplicate_of is found."""

    name: ClassVar[str] = "sound_fingerprint"
    version: ClassVar[int] = 1
    columns: ClassVar[tuple[Column, ...]] = (SOUND_FINGERPRINT,)
    members: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[Need, ...]] = ("waveform",)

    def run(self, clip: Clip) -> StepResult:
        """Compute the fingerprint."""
        return StepResult(values={SOUND_FINGERPRINT.name: sound_fingerprint(clip.waveform).tolist()})


def picture_hash(image: UInt8[np.ndarray, "_ _ 3"]) -> int:
    """Perceptual hash of an RGB image: 64 bits, 32 of them set. PLAIN for an image of one color.

    Changes of size, JPEG quality, brightness and contrast change few bits; a crop or a mirror image changes many.

    Source: pHash (Zauner, 2010): the 8 x 8 lowest frequencies but for the constant ones of the DCT of a thumbnail of
    32 x 32 in shades of gray; a bit is set where one is above their median.
    """
    gray = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    if float(gray.std()) < _MIN_DEVIATION:
        return PLAIN
    lowest = (_cosines() @ gray.astype(np.float64) @ _cosines().T).ravel()
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes())


@lru_cache(maxsize=1)
def _cosines() -> Float64[np.ndarray, "8 side"]:
    """Rows 1 to 8 of the matrix of the DCT-II."""
    return np.cos(np.pi / _SIDE * np.outer(np.arange(1, 9), np.arange(_SIDE) + 0.5))


def sound_fingerprint(samples: Samples) -> UInt32[np.ndarray, " n"]:
    """32 bits for every 64 ms of a sound: where its energy grows in time and in frequency. PLAIN where it is silent.

    It does not change with gain. Lossy coding changes few bits, and so does a shift of the sound, once the items are
    compared at the right lag.

    Args:
        samples: Mono sound, 16 kHz.

    Source: Haitsma and Kalker, A Highly Robust Audio Fingerprinting System, ISMIR 2002, section 4.2. As in Chromaprint,
    the spectra are further apart (64 ms, compared over 256 ms), so that the fingerprint is short; bands in place of
    chroma, because most sounds of videos are no music.
    """
    num_spectra = max(0, 1 + (len(samples) - _WINDOW) // HOP)
    if num_spectra <= _APART:
        return np.zeros(0, np.uint32)
    energies = np.empty((num_spectra, _BANDS))
    is_silent = np.empty(num_spectra, bool)
    for first in range(0, num_spectra, _BLOCK):
        last = min(first + _BLOCK, num_spectra)
        block = samples[first * HOP : (last - 1) * HOP + _WINDOW]
        windows = np.lib.stride_tricks.sliding_window_view(block, _WINDOW)[::HOP]
        is_silent[first:last] = np.square(windows).mean(axis=1) < 10 ** (_SILENT_DBFS / 10)
        power = np.square(np.abs(np.fft.rfft(windows * _hann())))
        energies[first:last] = np.log(np.add.reduceat(power, _edges(), axis=1)[:, :_BANDS] + 1e-12)
    slopes = energies[:, :-1] - energies[:, 1:]
    bits = slopes[_APART:] > slopes[:-_APART]
    items = np.packbits(bits, axis=1).view(">u4")[:, 0].astype(np.uint32)
    items[is_silent[_APART:] | is_silent[:-_APART]] = PLAIN
    return items


@lru_cache(maxsize=1)
def _hann() -> Float32[np.ndarray, " w"]:
    return np.hanning(_WINDOW).astype(np.float32)


@lru_cache(maxsize=1)
def _edges() -> Int[np.ndarray, " k"]:
    """The first bin of each band, and of what is above the last."""
    hertz = np.geomspace(*_BAND_HZ, _BANDS + 1)
    return np.round(hertz * _WINDOW / 16_000).astype(np.intp)
