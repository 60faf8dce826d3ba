"""Tone mapping against the values of the standards that it names."""

import numpy as np
import pytest

from avdata.prepare.decode.hdr import PEAK_NITS, WHITE_NITS, compressed, hlg_light, pq_light, pq_signal, to_sdr


def gray(*signals: float) -> np.ndarray:
    """A row of gray pixels, 16 bits."""
    return np.repeat(np.rint(np.array(signals) * 65535).astype(np.uint16)[None, :, None], 3, axis=2)


def test_pq_is_that_of_st_2084():
    # ITU-R BT.2408, table 1, and ST 2084: signal of some luminances.
    np.testing.assert_allclose(
        pq_signal(np.array([0, 100, 203, 1000, 10_000], np.float32)), [0, 0.508, 0.581, 0.752, 1], atol=6e-4
    )
    light = np.array([0.01, 1, 48, 203, 4000], np.float32)
    np.testing.assert_allclose(pq_light(pq_signal(light)), light, rtol=2e-3)


def test_hlg_is_that_of_bt_2100():
    # ITU-R BT.2408, table 1: 75 % HLG is diffuse white, 203 cd/m2, and 38 % is 26 cd/m2, on a display of 1000 cd/m2.
    light = hlg_light(np.repeat(np.array([0, 0.38, 0.75, 1], np.float32)[None, :, None], 3, axis=2))
    np.testing.assert_allclose(light[0, :, 0], [0, 26, 203, 1000], rtol=0.02, atol=1e-3)


def test_the_curve_keeps_dark_light_and_brings_the_peak_to_white():
    dark = np.array([0.1, 5, 50], np.float32)
    np.testing.assert_allclose(compressed(dark), dark, rtol=1e-3)
    np.testing.assert_allclose(compressed(np.array([PEAK_NITS, 4000], np.float32)), WHITE_NITS, rtol=1e-3)
    rising = compressed(np.geomspace(1, 1000, 50).astype(np.float32))
    assert np.all(np.diff(rising) > 0)


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_gray_stays_gray_and_rises(transfer):
    row = to_sdr(gray(*np.linspace(0, 1, 21)), transfer)[0].astype(int)
    assert row[0].tolist() == [0, 0, 0]
    assert row.max() == 255
    assert np.ptp(row, axis=1).max() <= 1
    assert np.all(np.diff(row[:, 1]) >= 0)


def test_a_picture_at_diffuse_white_is_bright_and_untouched_colors_keep_their_hue():
    white_pq = float(pq_signal(np.array([WHITE_NITS], np.float32))[0])
    assert 215 < to_sdr(gray(white_pq), "pq")[0, 0, 0] < 245
    red = np.zeros((1, 1, 3), np.uint16)
    red[..., 0] = 30_000
    tame, wide = to_sdr(red, "pq", wide_gamut=False)[0, 0], to_sdr(red, "pq")[0, 0]
    assert tame[0] > 0
    assert tame[1] == tame[2] == 0
    assert wide[0] > tame[0], "the red of BT.2020 is more saturated than BT.709's, and is clipped"
