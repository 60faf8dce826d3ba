"""The log-mel of any file, with the code that prepare uses: to look at the front end on a clip of one's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from avdata.melspec import log_mel
from avdata.prepare.decode import open_media
from avdata.profiles import MelProfile, profile
from avdata.waveform import rms_dbfs
from avmanifest.errors import ConfigError

SOUND_FORMATS = ("flac", "mp3", "aac", "aiff", "caf", "au")
MAX_SECONDS = 600.0  # of a file; a picture of more shows nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpectrogram:
    """A file's sound as prepare would store it."""

    log_mel: Float32[np.ndarray, "mel t"]
    profile: MelProfile
    seconds: float
    rms_dbfs: float


def file_spectrogram(path: Path, mel: str = "paper") -> FileSpectrogram:
    """The log-mel of a video or audio file, from its beginning, of ten minutes at most.

    Raises ConfigError for a file that is not there or an unknown profile, DecodeError for one without sound.
    """
    front_end = profile(mel)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with open_media(path, more_formats=SOUND_FORMATS) as media:
        seconds = min(media.duration_s, MAX_SECONDS)
        sound = media.waveform(0.0, seconds)
    return FileSpectrogram(
        log_mel=log_mel(sound.samples, front_end),
        profile=front_end,
        seconds=seconds,
        rms_dbfs=rms_dbfs(sound.samples),
    )
