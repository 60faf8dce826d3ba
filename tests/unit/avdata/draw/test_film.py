"""Frames of a film: where there is color, where the cursor is, and sizes of every kind."""

import numpy as np
import pytest

from avdata.draw.film import FilmDrawing, FilmScale, SoundPage
from avdata.draw.images import tint
from avdata.profiles import PROFILES

GRAY = np.full((40, 60, 3), 128, np.uint8)
SCALE = FilmScale(low=0.0, high=0.4, threshold=0.5)
MAP = np.array([[0.1, 0.3]], np.float32)


def page_of(start_s: float = 0.0, end_s: float = 4.0) -> SoundPage:
    log_mel = np.random.default_rng(0).uniform(-7, 0, (128, 200)).astype(np.float32)
    return SoundPage(log_mel=log_mel, start_s=start_s, end_s=end_s, color_range=(-7.0, 0.0))


def drawing_of(height: int = 40, width: int = 60, scale: FilmScale = SCALE, profile: str = "paper") -> FilmDrawing:
    return FilmDrawing((height, width), scale, PROFILES[profile], of="cosine", silence_note="silence")


def test_only_what_is_above_the_threshold_is_tinted_and_equal_scores_equally() -> None:
    scores = np.array([[0.0, 0.2, 0.21, 0.4, 9.0]], np.float32)
    found = tint(np.full((1, 5, 3), 128, np.uint8), scores, 0.0, 0.4, 0.5)[0].astype(int)
    assert (found[:2] == 128).all()
    assert (found[2:] != 128).any(axis=1).all()
    assert (found[3] == found[4]).all()  # beyond the scale: its last color
    other = tint(np.full((1, 2, 3), 128, np.uint8), np.array([[0.3, 0.1]], np.float32), 0.0, 0.4, 0.5)
    again = tint(np.full((1, 2, 3), 128, np.uint8), np.array([[0.3, 0.39]], np.float32), 0.0, 0.4, 0.5)
    assert (other[0, 0] == again[0, 0]).all()  # whatever else is in the frame


@pytest.mark.parametrize(("low", "high", "threshold"), [(0.3, 0.3, 0.5), (0.5, 0.3, 0.0), (0.0, 0.4, 1.0)])
def test_a_scale_without_length_and_a_threshold_of_one_color_nothing(low: float, high: float, threshold: float) -> None:
    assert (tint(GRAY, np.full((40, 60), 0.4, np.float32), low, high, threshold) == GRAY).all()


def test_a_frame_is_tinted_where_its_map_is_high_and_not_at_all_in_silence() -> None:
    drawing, page = drawing_of(), page_of()
    sounding, silent = drawing.draw(GRAY, MAP, page, 1.0), drawing.draw(GRAY, None, page, 1.0)
    assert (silent[drawing.picture_place] == GRAY).all()
    tinted = (sounding[drawing.picture_place] != GRAY).any(axis=2)
    assert tinted[:, 45:].all()
    assert not tinted[:, :15].any()
    legend = slice(drawing.picture_place[0].stop, None)
    assert (sounding[legend] != silent[legend]).any()  # silence is said there


def test_the_legend_has_the_colors_of_the_scale_and_none_below_the_threshold() -> None:
    low, high = (
        drawing_of(scale=FilmScale(low=0.0, high=1.0, threshold=threshold)).draw(GRAY, None, page_of(), 0.0)
        for threshold in (0.25, 0.75)
    )
    colored = [int((frame[-56:].max(axis=2) - frame[-56:].min(axis=2) > 40).any(axis=0).sum()) for frame in (low, high)]
    assert colored[0] == pytest.approx(3 * colored[1], abs=4)


def test_the_cursor_is_where_the_sound_is() -> None:
    drawing, page = drawing_of(), page_of(10.0, 20.0)
    _, columns = drawing.sound_place
    places = [drawing.cursor_column(page, time_s) for time_s in (10.0, 12.5, 15.0, 20.0, 99.0)]
    width = columns.stop - columns.start
    assert [(place - columns.start) / width for place in places] == pytest.approx([0, 0.25, 0.5, 1, 1], abs=0.01)
    frames = [drawing.draw(GRAY, None, page, time_s).astype(int) for time_s in (12.5, 15.0)]
    moved = np.flatnonzero((frames[0] != frames[1]).any(axis=(0, 2)))
    assert {places[1], places[2]} <= set(moved)
    assert len(moved) < 20  # nothing else moves


@pytest.mark.parametrize("profile", ["paper", "released", "kaldi"])
@pytest.mark.parametrize(
    ("height", "width"), [(16, 16), (17, 31), (16, 284), (640, 360), (360, 641), (1080, 1921), (361, 61)]
)
def test_frames_of_every_size_and_shape_hold_the_whole_picture(height: int, width: int, profile: str) -> None:
    drawing = drawing_of(height, width, profile=profile)
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    frame = drawing.draw(picture, None, page_of(3600.0, 3600.01), 3600.0)
    assert frame.shape == (*drawing.canvas_size, 3)
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
    assert (frame[drawing.picture_place] == picture).all()
