"""What steps may return, and what becomes of it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from avdata.images import encode_jpeg
from avdata.prepare.steps.run import ClipMedia, StepError, StepsResult, run_steps
from avdata.prepare.steps.step import Need, Step
from avdata.waveform import StoredSamples
from avmanifest.schema import StatusClass, find_status, status_class, status_meaning
from tests.steps import Chance, Light, Odd

ROW = {"key": "k-000001", "labels": ["a"], "split": "train"}
FACTS = {"duration_s": 1.0, "frame_times_s": [0.5]}


def ran(*steps: Step, level: int = 128, seconds: dict[str, float] | None = None) -> StepsResult:
    image = np.full((32, 48, 3), level, np.uint8)
    samples = StoredSamples(np.linspace(-0.5, 0.5, 16_000, dtype=np.float32))
    media = ClipMedia([encode_jpeg(image)], [0.5], samples, [(0.0, image), (0.5, image)])
    return run_steps(steps, ROW, FACTS, media, 0, seconds=seconds)


def test_columns_and_members_come_in_the_order_of_the_steps() -> None:
    seconds: dict[str, float] = {}
    found = ran(Odd(), Light(), Chance(), seconds=seconds)
    assert found.status == "ok"
    assert list(found.members) == ["odd.txt", "chance.npy"]
    assert list(found.values) == ["odd", "light", "is_dim", "num_video_frames", "dice"]
    assert found.values["light"] == pytest.approx(128 / 255)
    assert found.values["is_dim"] is False
    assert type(found.values["dice"]) is int
    assert list(seconds) == ["odd", "light", "chance"]


def test_chance_depends_on_key_seed_and_step_alone() -> None:
    assert ran(Chance()).members == ran(Light(), Chance()).members
    assert ran(Chance()).members != run_steps([Chance()], ROW, FACTS, ClipMedia([], [], np.ones(9, "f4")), 1).members


def test_a_dropped_clip_keeps_its_columns_and_later_steps_do_not_run() -> None:
    seconds: dict[str, float] = {}
    with pytest.raises(StepError):
        ran(Odd(("raises",)), seconds=seconds)
    assert list(seconds) == ["odd"], "what failed took time, too"
    seconds.clear()
    found = ran(Light(least=0.9), Odd(("raises",)), seconds=seconds)
    assert (found.status, found.reason) == ("filtered_light", "brightness 0.502 is below 0.9")
    assert found.values["num_video_frames"] == 2
    assert (found.members, list(seconds)) == ({}, ["light"])


def test_a_filtered_status_is_known() -> None:
    assert status_class("filtered_light") is StatusClass.FILTERED
    assert status_meaning("filtered_light") == "dropped by the step light"
    assert find_status("filtered_") is None
    assert status_meaning("no_status") == ""


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raises", "RuntimeError: no more"),
        ("writes frames", "read-only"),
        ("undeclared column", "returned the column even, which it does not declare; declared: odd"),
        ("text", "the column odd is 'high', not a finite double or None"),
        ("bool", "the column odd is True, not a finite double or None"),
        ("nan", "the column odd is nan, not a finite double or None"),
        ("no member", "returned the members []; declared, and the same in every sample: ['odd.txt']"),
        ("undeclared member", "returned the members ['even.txt', 'odd.txt']"),
        ("huge member", "the member odd.txt is 67,108,865 bytes"),
        ("none", "returned None, not a StepResult"),
        ("exits", "SystemExit: enough"),
    ],
)
def test_what_a_step_may_not_do_names_the_step(how: str, says: str) -> None:
    with pytest.raises(StepError) as caught:
        ran(Odd((how,)))
    assert str(caught.value).startswith("step odd")
    assert says in str(caught.value)


def test_a_step_cannot_change_what_others_see() -> None:
    assert ran(Odd(("writes rows",)), Chance()).members["chance.npy"] == ran(Chance()).members["chance.npy"]
    assert (ROW["labels"], FACTS["frame_times_s"]) == (["a"], [0.5])


@dataclass(frozen=True)
class Greedy(Chance):
    """Reads what it does not need."""

    needs: ClassVar[tuple[Need, ...]] = ("frames",)


def test_a_clip_gives_only_what_its_step_asked_for() -> None:
    with pytest.raises(StepError, match=r"step chance reads waveform, but its needs are .* name 'waveform' there"):
        ran(Greedy())


def test_without_the_video_a_step_that_needs_it_says_so() -> None:
    with pytest.raises(StepError, match="step light needs every frame of the video"):
        run_steps([Light()], ROW, FACTS, ClipMedia([], [], np.zeros(9, "f4")), 0)
