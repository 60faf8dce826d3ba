"""The definition of Kaldi's filter bank, apart from avkit's own."""

import numpy as np


def kaldi_log_mel(waveform: np.ndarray) -> np.ndarray:
    """128 log-mels of a 16 kHz waveform, written out in float64: [128, frames].

    Frames, their mean, pre-emphasis, window, power, triangles in mel.
    """
    frames = np.lib.stride_tricks.sliding_window_view(waveform.astype(np.float64), 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2

    def mel(hertz: np.ndarray) -> np.ndarray:
        return 1127 * np.log(1 + hertz / 700)

    low, high = mel(np.array([20.0, 8000.0]))
    edges = low + (high - low) / 129 * np.arange(130)
    bins = mel(np.arange(256) * 31.25)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    energy = power[:, :256] @ np.maximum(0, np.minimum(rise, fall)).T
    return np.log(np.maximum(energy, np.finfo(np.float32).eps)).T
