"""The log-mel spectrogram of any media file, computed with the code that prepare uses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from avdata.melspec import log_mel
from avdata.prepare.decode import open_media
from avdata.profiles import MelProfile, profile
from avdata.waveform import StoredSamples, rms_dbfs
from avmanifest.errors import ConfigError
from avmanifest.files import require_file

SOUND_FORMATS = ("flac", "mp3", "aac", "aiff", "caf", "au")
MAX_SECONDS = 600.0  # of a file: a longer spectrogram cannot be read as an image


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpectrogram:
    """A file's log-mel spectrogram as prepare stores it."""

    log_mel: Float32[np.ndarray, "mel t"]
    profile: MelProfile
    seconds: float  # of audio
    rms_dbfs: float


def file_spectrogram(path: Path, mel: str = "paper") -> FileSpectrogram:
    """Compute the log-mel spectrogram of a video or audio file, of its first MAX_SECONDS seconds.

    Args:
        path: The media file.
        mel: Name of a mel profile.

    Raises:
        ConfigError: The file does not exist or is none, such as a FIFO, or the profile is unknown.
        DecodeError: The file has no audio, or is damaged.
    """
    front_end = profile(mel)
    try:
        require_file(path)  # a FIFO or a device would be waited for
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise ConfigError(f"{path}: {reason}. Give a video or audio file.") from error
    with open_media(path, more_formats=SOUND_FORMATS) as media:
        seconds = min(media.duration_s, MAX_SECONDS)
        sound = media.waveform(0.0, seconds)
    return FileSpectrogram(
        log_mel=log_mel(StoredSamples(sound.samples)[:], front_end),
        profile=front_end,
        seconds=seconds,
        rms_dbfs=rms_dbfs(sound.samples),
    )
