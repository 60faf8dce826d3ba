import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avdata.prepare.frames import draw_frame_times


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**63),
    key=st.text(min_size=1, max_size=20),
    start_s=st.floats(0, 1e5),
    length_s=st.floats(0.01, 1e3),
    num_frames=st.integers(1, 32),
)
def test_each_equal_part_has_one_time(seed: int, key: str, start_s: float, length_s: float, num_frames: int) -> None:
    end_s = start_s + length_s
    times_s = draw_frame_times(seed, key, start_s, end_s, num_frames)
    span_s = (end_s - start_s) / num_frames
    assert len(times_s) == num_frames
    for i, time_s in enumerate(times_s):
        assert start_s + i * span_s - 1e-9 <= time_s <= start_s + (i + 1) * span_s + 1e-9
        assert start_s <= time_s < end_s


def test_the_times_do_not_change_between_releases() -> None:
    """These numbers are part of the format: every release must select the same frames."""
    assert draw_frame_times(0, "vgg-abc_000010", 10.0, 20.0, 3) == pytest.approx(
        [11.755781046190062, 13.994952862925151, 18.579326232906872], abs=1e-12
    )


def test_times_differ_by_seed_and_key() -> None:
    draws = {tuple(draw_frame_times(seed, key, 0.0, 10.0, 5)) for seed in range(5) for key in ("a", "b")}
    assert len(draws) == 10


def test_times_are_uniform_within_their_span() -> None:
    times_s = np.array([draw_frame_times(7, f"clip-{i}", 0.0, 4.0, 4) for i in range(4000)])
    fractions = times_s % 1.0
    assert np.abs(fractions.mean(0) - 0.5).max() < 0.02
    assert np.abs(fractions.var(0) - 1 / 12).max() < 0.005
    assert np.abs(np.corrcoef(fractions.T) - np.eye(4)).max() < 0.06


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 2**63),
    bounds=st.lists(st.integers(0, 100), max_size=8, unique=True),
    num_frames=st.integers(1, 12),
)
def test_no_time_is_in_a_damaged_span_and_the_others_stay(seed: int, bounds: list[int], num_frames: int) -> None:
    spans = [(start / 10, end / 10) for start, end in zip(sorted(bounds)[::2], sorted(bounds)[1::2], strict=False)]
    intact = draw_frame_times(seed, "clip", 0.0, 10.0, num_frames)
    times_s = draw_frame_times(seed, "clip", 0.0, 10.0, num_frames, spans)
    assert len(times_s) == num_frames and times_s == sorted(times_s)
    if spans != [(0.0, 10.0)]:
        assert not any(start_s <= time_s < end_s for time_s in times_s for start_s, end_s in spans)
        assert all(0.0 <= time_s < 10.0 for time_s in times_s)
    kept = [time_s for time_s in intact if not any(start_s <= time_s < end_s for start_s, end_s in spans)]
    assert set(kept) <= set(times_s)


def test_a_time_stays_in_its_part_where_something_of_it_is_intact() -> None:
    times_s = draw_frame_times(0, "clip", 0.0, 10.0, 5, [(0.0, 1.5), (4.2, 6.0)])
    assert [int(time_s // 2) for time_s in times_s] == [0, 1, 2, 3, 4]
    assert 1.5 <= times_s[0] < 2.0 and 4.0 <= times_s[2] < 4.2
