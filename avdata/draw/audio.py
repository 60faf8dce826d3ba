"""Audio for an HTML page."""

import io

import numpy as np
import soundfile
from jaxtyping import Float


def to_wav(waveform: Float[np.ndarray, " n"], sample_rate: int) -> bytes:
    """Encode a mono waveform in [-1, 1] as a 16-bit WAV file."""
    content = io.BytesIO()
    soundfile.write(content, waveform, sample_rate, format="WAV", subtype="PCM_16")
    return content.getvalue()
