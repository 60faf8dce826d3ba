"""The log-mel front ends by name, and what follows from their numbers alone."""

from dataclasses import dataclass

from avmanifest.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MelProfile:
    """Log-mel front end. Defaults: the profile `paper` (128 x 196 for 3 s).

    The window is Hann, the spectrum is power, the mel scale is HTK's without area normalization. `kaldi=True` takes
    Kaldi's filter bank in its place, and of the fields below only the lengths, n_mels, f_min and pad_columns.
    """

    name: str = "paper"
    sample_rate: int = 16_000  # Hz
    win_length: int = 800  # samples: 50 ms
    hop_length: int = 240  # samples: 15 ms
    n_fft: int = 1024
    n_mels: int = 128
    f_min: float = 0.0  # Hz; the upper edge is half the sample rate
    centered: bool = False  # column k is centered on sample k * hop_length, the signal reflected at its ends
    drop_last: bool = False  # leave out the last column
    floor: float = 1e-7  # added to the power before log10
    kaldi: bool = False
    pad_columns: int = 0  # exact number of columns, cut or filled with 0.0; 0: as many as the waveform gives

    def __post_init__(self) -> None:
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise ConfigError(
                f"profile {self.name!r}: hop_length={self.hop_length}, win_length={self.win_length} and "
                f"n_fft={self.n_fft} must not decrease in this order. Raise the later ones."
            )


PROFILES = {
    # The paper's text: 50 ms windows every 15 ms. Not centered, so (48000 - 1024) // 240 + 1 = 196 columns for 3 s.
    "paper": MelProfile(),
    # The released code: 15.625 ms steps, centered; 192 columns for 3 s. The released checkpoints need it.
    "released": MelProfile(name="released", hop_length=250, n_fft=800, centered=True, drop_last=True),
    # CAV-MAE and AVSiam: 25 ms every 10 ms, from 20 Hz, natural log; 10 s give 998 columns, filled to 1024.
    "kaldi": MelProfile(
        name="kaldi", win_length=400, hop_length=160, n_fft=512, f_min=20.0, kaldi=True, pad_columns=1024
    ),
}


def profile(name: str) -> MelProfile:
    """The profile of that name. Raises ConfigError, which lists the known, for another."""
    if name not in PROFILES:
        raise ConfigError(f"unknown spectrogram profile {name!r}; known: {', '.join(PROFILES)}")
    return PROFILES[name]


def num_frames(num_samples: int, profile: MelProfile) -> int:
    """Columns that log_mel makes of a waveform of that many samples."""
    window = profile.win_length if profile.kaldi else profile.n_fft
    needed = profile.n_fft // 2 + 1 if profile.centered else window
    if num_samples < needed:
        raise ConfigError(f"profile {profile.name!r} needs {needed} samples at least; the waveform has {num_samples}")
    if profile.pad_columns:
        return profile.pad_columns
    num_columns = 1 + (num_samples - (0 if profile.centered else window)) // profile.hop_length
    return num_columns - profile.drop_last


def window_columns(start_s: float, duration_s: float, profile: MelProfile) -> tuple[int, int]:
    """First column and number of columns of a window of a clip's log-mel.

    The window begins at the column nearest to start_s, at most half a hop away: `column_start_s` says where.
    """
    start_column = round(start_s * profile.sample_rate / profile.hop_length)
    return start_column, num_frames(round(duration_s * profile.sample_rate), profile)


def column_start_s(column: int, profile: MelProfile) -> float:
    """Where the window whose first column this is begins, in seconds.

    Not centered, column k depends on the samples [k * hop_length, k * hop_length + n_fft) alone.
    """
    return column * profile.hop_length / profile.sample_rate
