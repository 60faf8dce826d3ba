"""Properties of every generated clip."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources import synth
from avdata.prepare.sources.synth import SynthClip

CONFIGS = st.builds(
    lambda size, **drawn: SynthConfig(num_clips=10_000, width=size[0], height=size[1], **drawn),
    size=st.sampled_from([(160, 120), (96, 160), (64, 64), (320, 80), (128, 72)]),
    num_classes=st.integers(8, 24),
    max_objects=st.integers(1, 3),
    seconds=st.floats(1, 2),
    seed=st.integers(0, 2**63 - 1),
)
INDEXES = st.integers(0, 9_999)


@settings(max_examples=40, deadline=None)
@given(CONFIGS, INDEXES)
def test_labels_are_the_sounding_objects(config: SynthConfig, index: int) -> None:
    clip = synth.synth_clip(config, index)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", clip.key)
    classes = [item.class_index for item in clip.objects]
    assert len(set(classes)) == len(classes)
    assert all(0 <= place < config.num_classes for place in classes)
    assert 1 <= len(clip.sounding) <= config.max_objects
    assert clip.labels == tuple(clip.objects[place].kind.name for place in clip.sounding)
    assert {place for place, item in enumerate(clip.objects) if item.sounding} == set(clip.sounding)


@settings(max_examples=40, deadline=None)
@given(CONFIGS, INDEXES, st.floats(0, 2))
def test_boxes_are_the_edges_of_the_masks(config: SynthConfig, index: int, time_s: float) -> None:
    clip = synth.synth_clip(config, index)
    mask = synth.render_masks(config, clip, time_s, config.height, config.width)
    assert set(np.unique(mask)) <= set(range(len(clip.objects) + 1))
    for number, (x0, y0, x1, y1) in enumerate(synth.boxes_at(config, clip, time_s), start=1):
        assert 0 <= x0 <= x1 <= 1
        assert 0 <= y0 <= y1 <= 1
        rows = slice(round(y0 * config.height), round(y1 * config.height))
        columns = slice(round(x0 * config.width), round(x1 * config.width))
        inside = mask[rows, columns] == number
        assert inside.sum() == (mask == number).sum()
        if inside.size:
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@settings(max_examples=40, deadline=None)
@given(CONFIGS, INDEXES, st.floats(0, 2))
def test_no_object_leaves_the_frame(config: SynthConfig, index: int, time_s: float) -> None:
    clip = synth.synth_clip(config, index)
    for item in clip.objects:
        alone = SynthClip(index=clip.index, key="a", split="train", objects=(item,), sounding=())
        mask = synth.render_masks(config, alone, time_s, config.height, config.width)
        assert mask.sum() > 0.15 * (2 * item.radius * config.height) ** 2


@settings(max_examples=20, deadline=None)
@given(CONFIGS, INDEXES)
def test_sound_never_clips_and_is_never_silent(config: SynthConfig, index: int) -> None:
    clip = synth.synth_clip(config, index)
    stems = synth.render_stems(config, clip, 16_000)
    assert stems.shape == (len(clip.sounding), round(config.seconds * 16_000))
    assert np.isfinite(stems).all()
    assert np.abs(stems.sum(axis=0)).max() <= 1
    assert np.abs(stems).max(axis=1).min() > 0.1


@settings(max_examples=20, deadline=None)
@given(CONFIGS, INDEXES, st.floats(0, 2))
def test_drawing_again_gives_the_same(config: SynthConfig, index: int, time_s: float) -> None:
    clip = synth.synth_clip(config, index)
    frame = synth.render_frame(config, clip, time_s)
    assert frame.shape == (config.height, config.width, 3)
    again = synth.synth_clip(config, index)
    assert again == clip
    assert np.array_equal(frame, synth.render_frame(config, again, time_s))
