"""Names in figures, and the colors of log-mels."""

import matplotlib as mpl
import numpy as np

from avdata.draw.figures import MAX_NAME_LENGTH, printable
from avdata.draw.images import color_log_mel, color_range


def test_names_are_printable_and_short() -> None:
    assert printable("vgg-abc_000010") == "vgg-abc_000010"
    assert printable("数") == "\\u6570"
    assert len(printable("k" * 500)) == MAX_NAME_LENGTH


def test_a_log_mel_has_the_same_colors_in_figures_and_in_pages() -> None:
    """Figures are colored by matplotlib, pages without it."""
    log_mel = np.random.default_rng(0).normal(-4, 2, (16, 40)).astype(np.float32)
    low, high = color_range(log_mel)
    expected = mpl.colormaps["magma"](np.clip((log_mel[::-1] - low) / (high - low), 0, 1))[..., :3] * 255
    assert np.abs(color_log_mel(log_mel) - expected).max() <= 1
