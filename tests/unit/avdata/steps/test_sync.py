"""Agreement in time of sound and picture."""

from dataclasses import replace

import numpy as np
import pytest

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources import synth
from avdata.prepare.sources.synth.picture import render_frame
from avdata.prepare.sources.synth.sound import render_mix
from avdata.prepare.steps.sync import Agreement, agreement, motion_energy, onset_strength
from avdata.samples import SampleFile

DRAWN = SynthConfig(num_clips=24, num_classes=24, seconds=5.0, fps=20, width=96, height=64)
BALL, ARROW = 0, 17  # struck at each bounce; rattles while it moves


def drawn(class_index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Motion energy, times of the frames, and sound of a drawn clip with one object."""
    clip = synth.synth_clip(DRAWN, class_index)
    item = replace(clip.objects[clip.sounding[0]], class_index=class_index)
    clip = replace(clip, objects=(item,), sounding=(0,))
    times_s = np.arange(DRAWN.num_frames) / DRAWN.fps
    frames = [render_frame(DRAWN, clip, time_s) for time_s in times_s.tolist()]
    return motion_energy(frames), times_s, render_mix(DRAWN, clip, 16_000)


def shifted(sound: np.ndarray, seconds: float) -> np.ndarray:
    """The sound, later by some seconds, of the same length."""
    number = round(abs(seconds) * 16_000)
    gap = np.zeros(number, np.float32)
    return np.concatenate([gap, sound])[: len(sound)] if seconds > 0 else np.concatenate([sound[number:], gap])


def measure(motion: np.ndarray, times_s: np.ndarray, sound: np.ndarray) -> Agreement:
    found = agreement(motion, times_s, onset_strength(sound))
    assert found is not None
    return found


@pytest.mark.parametrize("class_index", [BALL, ARROW])
def test_the_lag_follows_the_sound_when_it_is_shifted(class_index: int) -> None:
    motion, times_s, sound = drawn(class_index)
    in_time = measure(motion, times_s, sound)
    assert abs(in_time.lag_s) < 0.1
    assert in_time.score > 0.3
    for shift_s in (-0.3, -0.1, 0.2, 0.4):
        moved = measure(motion, times_s, shifted(sound, shift_s))
        assert moved.lag_s == pytest.approx(in_time.lag_s + shift_s, abs=0.03)
        assert moved.score > 0.3


def test_the_sound_of_another_clip_agrees_less() -> None:
    motion, times_s, sound = drawn(ARROW)
    _, _, other = drawn(BALL)
    assert measure(motion, times_s, other).score < measure(motion, times_s, sound).score / 2


def test_gain_changes_little() -> None:
    motion, times_s, sound = drawn(BALL)
    quiet, loud = measure(motion, times_s, sound * 0.1), measure(motion, times_s, sound)
    assert quiet.lag_s == loud.lag_s
    assert quiet.score == pytest.approx(loud.score, abs=0.1)


def test_without_motion_or_onsets_or_time_there_is_no_score() -> None:
    motion, times_s, sound = drawn(BALL)
    onsets = onset_strength(sound)
    assert agreement(np.zeros_like(motion), times_s, onsets) is None
    assert agreement(motion, times_s, np.zeros_like(onsets)) is None
    assert agreement(motion[:30], times_s[:30], onsets) is None
    assert agreement(motion, times_s, onsets[:50]) is None
    assert agreement(motion[:0], times_s[:0], onsets) is None


def test_an_onset_is_at_its_point_of_the_grid() -> None:
    click = np.zeros(16_000, np.float32)
    click[8_000:8_100] = 0.5
    assert abs(int(np.argmax(onset_strength(click))) - 25) <= 1


def test_a_sound_in_a_file_has_the_onsets_of_the_array() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000 * 100).astype(np.float32)
    with SampleFile() as file:
        file.append(sound)
        np.testing.assert_array_equal(onset_strength(file), onset_strength(sound))
    start = onset_strength(sound[:16_000])[:-2]
    np.testing.assert_allclose(onset_strength(sound)[: len(start)], start, rtol=1e-6)
