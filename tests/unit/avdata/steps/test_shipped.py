"""The shipped steps: what they declare, and what each finds in a made clip."""

import re
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from avdata.prepare.steps import SHIPPED
from avdata.prepare.steps.step import Clip, Step, outside
from avmanifest.columns import check_extra
from avmanifest.errors import ConfigError

RNG = np.random.default_rng(0)
SCENES = [RNG.integers(0, 255, (6, 8, 3)).astype(np.uint8).repeat(10, 0).repeat(10, 1) for _ in range(2)]
BLACK = np.zeros((60, 80, 3), np.uint8)


def clip(**changes: Any) -> Clip:
    """3 s, 10 frames a second: another scene from 1.0 s on; 2.1 s of noise, then silence; 48 samples are clipped."""
    sound = np.concatenate([RNG.normal(0, 0.1, 33_600), np.zeros(14_400)]).astype(np.float32)
    sound[:48] = 1.0
    usual: dict[str, Any] = {
        "key": "a",
        "row": {},
        "facts": {},
        "duration_s": 3.0,
        "frames": (*SCENES, BLACK, BLACK),
        "frame_times_s": (0.4, 1.2, 2.0, 2.8),
        "waveform": sound,
        "video": [(number / 10, np.roll(SCENES[number >= 10], number % 3, axis=1)) for number in range(30)],
    }
    return Clip(**usual | changes)


def step_class(name: str) -> Any:
    module, _, of = SHIPPED[name].partition(":")
    return getattr(import_module(module), of)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_step_declares_what_it_gives(name: str) -> None:
    step = step_class(name)()
    assert isinstance(step, Step)
    assert step.name == name
    for column in step.columns:
        check_extra(replace(column, source=f"step {name}"))
        assert column.meaning
    result = step.run(clip())
    assert list(result.values) == [column.name for column in step.columns]
    assert dict(result.members) == {}
    assert result.dropped == ""
    assert step.run(clip()).values.keys() == result.values.keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cuts", {"num_cuts": 1, "cut_times_s": [1.0], "longest_shot_s": 2.0}),
        ("black", {"black_share": 0.5, "uniform_share": 0.5}),
        ("levels", {"silence_share": 0.3, "clipped_share": 0.001}),
        ("speech", {"speech_share": 0.0}),
    ],
)
def test_values_of_a_made_clip_are_right(name: str, expected: dict[str, Any]) -> None:
    values = step_class(name)().run(clip()).values
    assert {column: pytest.approx(value) for column, value in values.items()} == expected


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("cuts", {"max_cuts": 0}, "num_cuts is 1; at most 0"),
        ("cuts", {"min_shot_s": 2.5}, "longest_shot_s is 2; at least 2.5"),
        ("black", {"max_share": 0.4}, "black_share is 0.5; at most 0.4"),
        ("black", {"max_uniform_share": 0.4}, "uniform_share is 0.5; at most 0.4"),
        ("levels", {"max_silence_share": 0.25}, "silence_share is 0.3; at most 0.25"),
        ("levels", {"max_clipped_share": 0.0}, "clipped_share is 0.001; at most 0"),
        ("speech", {"min_share": 0.5}, "speech_share is 0; at least 0.5"),
        ("sync", {"min_score": 1.0}, "av_sync_score is .*; at least 1"),
    ],
)
def test_a_clip_outside_a_limit_is_dropped_with_the_value(name: str, settings: dict[str, Any], reason: str) -> None:
    step = step_class(name)(**settings)
    result = step.run(clip())
    assert re.match(reason, result.dropped)
    assert list(result.values) == [column.name for column in step.columns]


def test_a_value_that_is_not_known_is_within_all_limits() -> None:
    still = clip(video=[(number / 10, SCENES[0]) for number in range(30)])
    result = step_class("sync")(min_score=0.9, max_lag_s=0.0).run(still)
    assert result.values == {"av_sync_score": None, "av_sync_lag_s": None}
    assert result.dropped == ""
    assert outside({"x": 1.0}, x=(1.0, 1.0)) == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_settings_have_bounds(name: str) -> None:
    kind = step_class(name)
    for field in fields(kind):
        wrong = {"detector": "best", "max_cuts": -1}.get(field.name, -1000.0)
        with pytest.raises(ConfigError, match=f"{name}:{field.name}"):
            kind(**{field.name: wrong})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_clip_with_nothing_in_it_has_values(name: str) -> None:
    empty = Clip(key="a", row={}, facts={}, duration_s=0.01)
    result = step_class(name)().run(empty)
    assert list(result.values) == [column.name for column in step_class(name).columns]


def test_copies_have_equal_fingerprints() -> None:
    picture, sound = step_class("picture_hash")(), step_class("sound_fingerprint")()
    assert [found != 0 for found in picture.run(clip()).values["picture_hashes"]] == [True, True, False, False]
    one, quiet = clip(), clip(waveform=clip().waveform)
    assert len(sound.run(one).values["sound_fingerprint"]) == 37
    quiet = replace(one, waveform=one.waveform * np.float32(0.5))
    assert sound.run(quiet).values == sound.run(one).values
