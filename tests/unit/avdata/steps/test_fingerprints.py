"""Fingerprints of pictures and of sounds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from avdata.images import decode_jpeg, encode_jpeg
from avdata.prepare.decode import open_media
from avdata.prepare.near_duplicates import MAX_DISTANCE, same_sound
from avdata.prepare.sources import synth
from avdata.prepare.sources.synth.picture import render_frame
from avdata.prepare.sources.synth.sound import render_mix
from avdata.prepare.steps.fingerprints import HOP, PLAIN, picture_hash, sound_fingerprint
from avdata.samples import SampleFile
from tests.videos import DRAWN

CLIPS = [synth.synth_clip(DRAWN, index) for index in range(6)]
PICTURES = [render_frame(DRAWN, clip, 1.0) for clip in CLIPS]
SOUNDS = [render_mix(DRAWN, clip, 16_000) for clip in CLIPS]


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_keeps_its_hash_when_it_is_coded_and_scaled(picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    found = picture_hash(picture)
    assert found.bit_count() == 32
    assert distance(found, picture_hash(decode_jpeg(encode_jpeg(picture, 50)))) <= MAX_DISTANCE
    for scale in (0.6, 1.7):
        scaled = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        assert distance(found, picture_hash(scaled)) <= MAX_DISTANCE
    assert distance(found, picture_hash((picture * 0.8 + 10).astype(np.uint8))) <= MAX_DISTANCE


def test_other_pictures_have_other_hashes() -> None:
    hashes = [picture_hash(picture) for picture in PICTURES]
    assert min(distance(one, other) for i, one in enumerate(hashes) for other in hashes[:i]) > 2 * MAX_DISTANCE


def test_a_plain_picture_has_no_hash() -> None:
    noisy = np.random.default_rng(0).integers(100, 106, (48, 64, 3)).astype(np.uint8)
    assert picture_hash(noisy) == picture_hash(np.zeros((48, 64, 3), np.uint8)) == PLAIN


@pytest.mark.parametrize("sound", SOUNDS)
def test_a_sound_is_known_at_another_level_and_with_a_shift(sound: np.ndarray) -> None:
    found = sound_fingerprint(sound)
    assert found.dtype == np.uint32
    assert same_sound(found, sound_fingerprint(sound * 0.2))
    for shift in (HOP // 2, 5 * HOP + 300):
        assert same_sound(found, sound_fingerprint(sound[shift:]))
        assert same_sound(sound_fingerprint(sound[shift:]), found)


def test_other_sounds_are_other_sounds() -> None:
    different = [sound_fingerprint(SOUNDS[number]) for number in range(len(SOUNDS))]
    different += [sound_fingerprint(np.random.default_rng(seed).normal(0, 0.1, 48_000)) for seed in range(4)]
    assert not any(same_sound(one, other) for i, one in enumerate(different) for other in different[:i])


def test_silence_has_no_items() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 80_000).astype(np.float32)
    assert not sound_fingerprint(np.zeros(80_000, np.float32)).any()
    sound[40_000:] = 0
    items = sound_fingerprint(sound)
    assert items[:15].all()
    assert not items[-15:].any()
    assert len(sound_fingerprint(sound[:6_000])) == len(sound_fingerprint(sound[:0])) == 0


def test_a_sound_in_a_file_has_the_fingerprint_of_the_array() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000 * 70).astype(np.float32)
    with SampleFile() as file:
        file.append(sound)
        np.testing.assert_array_equal(sound_fingerprint(file), sound_fingerprint(sound))


def test_a_sound_is_known_after_lossy_coding(videos: Path) -> None:
    for number in range(2):
        path = videos / f"train/{'ab'[number]}/v{number}.mp4"
        with open_media(path) as media:
            coded = media.waveform(0.0, 3.1).samples  # AAC
        drawn = render_mix(DRAWN, synth.synth_clip(DRAWN, number), 16_000)
        assert same_sound(sound_fingerprint(coded), sound_fingerprint(drawn))
        assert not same_sound(sound_fingerprint(coded), sound_fingerprint(SOUNDS[number + 2]))
