"""The log-mel front ends (profiles) by name, and conversions between columns and seconds."""

from dataclasses import dataclass

from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class MelProfile:
    """Log-mel front end. Defaults: the profile `paper` (128 x 196 for 3 s).

    A Hann window, a power spectrum, and HTK's mel scale without area normalization. `kaldi=True` uses Kaldi's filter
    bank instead, which ignores centered, drop_last and floor.
    """

    name: str = "paper"
    sample_rate: int = 16_000  # Hz
    win_length: int = 800  # samples: 50 ms
    hop_length: int = 240  # samples: 15 ms
    n_fft: int = 1024
    n_mels: int = 128
    f_min: float = 0.0  # Hz; the upper edge is half the sample rate
    centered: bool = False  # center column k on sample k * hop_length; the signal is reflected at its ends
    drop_last: bool = False  # leave out the last column
    floor: float = 1e-7  # added to the power before log10
    kaldi: bool = False
    pad_columns: int = 0  # cut or pad with 0.0 to this number of columns; 0: do not

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
    """The profile with that name. Raises ConfigError for an unknown name."""
    if name not in PROFILES:
        raise ConfigError(unknown_name("spectrogram profile", name, PROFILES))
    return PROFILES[name]


def num_frames(num_samples: int, profile: MelProfile) -> int:
    """Columns of the log-mel of a waveform with num_samples samples.

    Raises:
        ConfigError: The waveform is shorter than one window.
    """
    window = profile.win_length if profile.kaldi else profile.n_fft
    needed = profile.n_fft // 2 + 1 if profile.centered else window
    if num_samples < needed:
        raise ConfigError(f"profile {profile.name!r} needs at least {needed} samples; the waveform has {num_samples}")
    if profile.pad_columns:
        return profile.pad_columns
    num_columns = 1 + (num_samples - (0 if profile.centered else window)) // profile.hop_length
    return num_columns - profile.drop_last


def window_columns(start_s: float, duration_s: float, profile: MelProfile) -> tuple[int, int]:
    """First column and number of columns of a window in a clip's log-mel.

    The window begins at the column nearest to start_s (in seconds), at most half a hop away; `column_start_s` returns
    its exact start.
    """
    start_column = round(start_s * profile.sample_rate / profile.hop_length)
    return start_column, num_frames(round(duration_s * profile.sample_rate), profile)


def column_start_s(column: int, profile: MelProfile) -> float:
    """Start of a column in seconds.

    In a profile that is not centered, column k depends on the samples [k * hop_length, k * hop_length + n_fft).
    """
    return column * profile.hop_length / profile.sample_rate
