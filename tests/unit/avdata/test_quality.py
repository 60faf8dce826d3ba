import numpy as np

from avdata.images import decode_jpeg, encode_jpeg
from avdata.prepare.quality import SILENT_DBFS, largest_difference, quality_flags
from tests.drawn import numbered_picture, sine

MOVING = [numbered_picture(number) for number in range(4)]
TONE = sine(3, 16_000)


def test_a_good_clip_has_no_flags() -> None:
    flags = quality_flags(TONE, MOVING, asked_s=3.0, real_s=2.99)
    assert not (flags.silent or flags.still or flags.short)


def test_a_clip_below_the_silence_level_is_silent() -> None:
    hum = sine(3, 16_000, 50, amplitude=10 ** ((SILENT_DBFS - 6) / 20))
    for waveform in (np.zeros_like(TONE), hum):
        assert quality_flags(waveform, MOVING, 3.0, 3.0).silent
    assert not quality_flags(10 * hum, MOVING, 3.0, 3.0).silent


def test_one_image_coded_at_different_qualities_is_still() -> None:
    smooth = np.linspace(0, 255, 160, dtype=np.uint8)[None, :, None].repeat(120, 0).repeat(3, 2)
    coded = [decode_jpeg(encode_jpeg(smooth, quality=quality)) for quality in (85, 90, 95)]
    assert quality_flags(TONE, coded, 3.0, 3.0).still


def test_one_image_alone_does_not_tell_that_nothing_moves() -> None:
    assert not quality_flags(TONE, MOVING[:1], 3.0, 3.0).still
    assert quality_flags(TONE, [MOVING[0]] * 2, 3.0, 3.0).still


def test_two_alternating_images_are_not_still() -> None:
    assert not quality_flags(TONE, [MOVING[0], MOVING[0], MOVING[3]], 3.0, 3.0).still


def test_the_largest_difference_of_few_or_unequal_images() -> None:
    assert largest_difference([]) == largest_difference(MOVING[:1]) == 0.0
    assert largest_difference([MOVING[0], MOVING[1][:50]]) == 255.0
    black = np.zeros((8, 8, 3), np.uint8)
    assert largest_difference([black, black + 255]) == 255.0


def test_a_clip_that_ends_early_is_short() -> None:
    assert quality_flags(TONE, MOVING, asked_s=10.0, real_s=8.7).short
