"""Mono 16 kHz waveforms: FLAC bytes and loudness."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

from avdata.samples import SampleFile, Samples, pairwise_sum, pieces
from avmanifest.errors import ShardError

SAMPLE_RATE = 16_000  # Hz
_PIECE = 1 << 22  # samples that are decoded at a time
RMS_FLOOR_DBFS = -120.0  # loudness of silence; the noise of 16-bit samples is louder


def encode_flac(waveform: Float32[np.ndarray, " n"]) -> bytes:
    """Encode 16 kHz mono 16-bit FLAC. Samples outside [-1, 1] are clipped. Equal samples give equal bytes."""
    with io.BytesIO() as file:
        write_flac(file, waveform)
        return file.getvalue()


def write_flac(file: Any, samples: Samples) -> None:
    """Encode samples of any length as `encode_flac` does and write them to an open binary file that is empty.

    Raises OSError if the file cannot be written.
    """
    target = _Target(file)
    try:
        with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, format="FLAC", subtype="PCM_16") as flac:
            for piece in pieces(samples):
                flac.write(_to_int16(piece))
    finally:
        if target.error is not None:
            raise target.error


class StoredSamples:
    """Samples as their FLAC holds them: rounded to 16 bits. Reads slices as `Samples` do."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._samples)

    def __getitem__(self, span: slice, /) -> Float32[np.ndarray, " _"]:
        """What `decode_flac` gives for this span of the encoded samples."""
        return _to_int16(self._samples[span]).astype(np.float32) / np.float32(32768)


def _to_int16(samples: Float32[np.ndarray, " n"]) -> Int16[np.ndarray, " n"]:
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)


class _Target:
    """A file for libsndfile, which hides errors: the first one is kept in `error`."""

    def __init__(self, file: Any) -> None:
        self.error: OSError | None = None
        self._file = file
        self.seek, self.tell, self.read = file.seek, file.tell, file.read

    def write(self, content: Any) -> int:
        """Write and return the number of bytes; 0 after an error."""
        try:
            return int(self._file.write(content))
        except OSError as error:
            self.error = self.error or error
            return 0


def decode_flac(data: bytes, start: int = 0, stop: int | None = None, name: str = "audio") -> Float32[np.ndarray, " n"]:
    """Decode samples [start, stop) of a FLAC to values in [-1, 1).

    Args:
        data: The file's content.
        start: First sample.
        stop: End of the range; None: the end of the file.
        name: What the error message calls it, such as the shard, key and member.

    Raises:
        ShardError: The data is damaged or not 16 kHz mono, or the range is outside the samples.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _require_form(file, name)
            stop = file.frames if stop is None else stop
            if not 0 <= start <= stop <= file.frames:
                raise ShardError(f"{name}: samples {start} to {stop} asked for; it has {file.frames}")
            file.seek(start)
            samples = _next_samples(file, stop - start)
    except soundfile.LibsndfileError as error:
        raise _damaged_flac(data, name, error) from error
    if len(samples) != stop - start:
        raise ShardError(f"{name}: a FLAC cut after {start + len(samples)} samples. Fetch or prepare the shard again.")
    return samples


def stored_samples(file: Any, folder: Path | None, name: str) -> SampleFile:
    """The samples of a whole FLAC of any length; close them. Memory does not grow with the sound.

    Args:
        file: The open FLAC; it reads, seeks and tells.
        folder: Where a long sound is kept, as in SampleFile.
        name: What the error message calls it.

    Raises:
        ShardError: The data is damaged, cut, or not 16 kHz mono.
    """
    samples = SampleFile(folder)
    try:
        with soundfile.SoundFile(file) as flac:
            _require_form(flac, name)
            while len(piece := flac.read(_PIECE, dtype="float32")):
                samples.append(piece)
            expected = flac.frames
    except soundfile.LibsndfileError as error:
        samples.close()
        raise ShardError(f"{name}: a damaged FLAC ({error}). Fetch or prepare the shard again.") from error
    except BaseException:
        samples.close()
        raise
    if len(samples) != expected:
        samples.close()
        raise ShardError(f"{name}: a FLAC cut after {len(samples)} samples. Fetch or prepare the shard again.")
    return samples


def _require_form(file: soundfile.SoundFile, name: str) -> None:
    if (file.samplerate, file.channels) != (SAMPLE_RATE, 1):
        raise ShardError(f"{name}: {file.channels} channels at {file.samplerate} Hz; expected mono at {SAMPLE_RATE} Hz")


def _next_samples(file: soundfile.SoundFile, count: int) -> Float32[np.ndarray, " n"]:
    """The next `count` samples, fewer at the end. Memory is taken for what is decoded, not for what a header claims."""
    pieces = []
    while count > 0:
        pieces.append(file.read(min(count, _PIECE), dtype="float32"))
        if not len(pieces[-1]):
            break
        count -= len(pieces[-1])
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])


def _damaged_flac(data: bytes, name: str, error: Exception) -> ShardError:
    return ShardError(f"{name}: a damaged FLAC of {len(data)} bytes ({error}). Fetch or prepare the shard again.")


def flac_num_samples(data: bytes, name: str = "audio") -> int:
    """Number of samples of a FLAC, from its header. Raises ShardError for damaged data."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return int(file.frames)
    except soundfile.LibsndfileError as error:
        raise _damaged_flac(data, name, error) from error


def rms_dbfs(samples: Samples) -> float:
    """RMS level in dB relative to a full-scale square wave, from RMS_FLOOR_DBFS (silence, or no samples) to 0."""
    mean_square = float(pairwise_sum(samples, squared=True) / len(samples)) if len(samples) else 0.0
    return max(RMS_FLOOR_DBFS, 10 * math.log10(mean_square)) if mean_square > 0 else RMS_FLOOR_DBFS
