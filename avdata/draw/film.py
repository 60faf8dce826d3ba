"""Frames of a film that shows where a sound comes from: a tinted picture, the spectrogram beside it, and a legend."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avdata.draw.images import color_log_mel, tint
from avdata.draw.mel_axis import TICKS_HZ, band_of, hertz_label, time_ticks
from avdata.profiles import MelProfile

_BACKGROUND, _TEXT, _UNTINTED, _CURSOR = (24, 24, 24), (225, 225, 225), (80, 80, 80), (255, 255, 255)
_DESIGN_SIDE: Final = 360  # pixels of the picture's short side at which the sizes below hold; larger ones scale them
_GAP, _MARGIN, _MIN_BODY, _LEGEND = 8, 8, 160, 56
_MIN_PANEL, _MAX_PANEL = 280, 480
_AXIS_LEFT, _AXIS_BOTTOM = 34, 20
_BAR_HEIGHT, _MAX_BAR, _NOTE_WIDTH = 10, 260, 150
_FONT_SCALE: Final = 0.38


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmScale:
    """The one color scale of a film."""

    low: float  # score of the first color
    high: float  # score of the last color
    threshold: float  # share of the scale up to which there is no color, 0 to 1

    @property
    def colored_above(self) -> float:
        """The score above which a place is tinted."""
        return self.low + self.threshold * (self.high - self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundPage:
    """The spectrogram that is beside the picture from start_s to end_s."""

    log_mel: Float[np.ndarray, "mel t"]
    start_s: float
    end_s: float
    color_range: tuple[float, float]  # log-mel values of the darkest and the brightest color, the same on all pages


class FilmDrawing:
    """Draws the frames of one film, RGB, all of the same even size: `canvas_size`, height and width in pixels."""

    def __init__(
        self, frame_size: tuple[int, int], scale: FilmScale, mel: MelProfile, *, of: str, silence_note: str
    ) -> None:
        """`frame_size`: height and width of the pictures; `of`: what scores are; `silence_note`: shown in silence."""
        self._height, self._width = frame_size
        self._unit = max(1.0, min(frame_size) / _DESIGN_SIDE)
        self._scale, self._mel, self._of, self._silence_note = scale, mel, of, silence_note
        self._body = max(self._height, self._px(_MIN_BODY))
        self._panel = min(max(self._width, self._px(_MIN_PANEL)), self._px(_MAX_PANEL))
        height, width = self._body + self._px(_LEGEND), self._width + self._px(_GAP) + self._panel
        self.canvas_size = height + height % 2, width + width % 2
        self._page: SoundPage | None = None
        self._drawn_page = np.zeros((0, 0, 3), np.uint8)

    @property
    def picture_place(self) -> tuple[slice, slice]:
        """Rows and columns of the picture."""
        top = (self._body - self._height) // 2
        return slice(top, top + self._height), slice(0, self._width)

    @property
    def sound_place(self) -> tuple[slice, slice]:
        """Rows and columns of the spectrogram, without its axes."""
        left = self._width + self._px(_GAP) + self._px(_AXIS_LEFT)
        right = self._width + self._px(_GAP) + self._panel - self._px(_MARGIN)
        return slice(self._px(_MARGIN), self._body - self._px(_AXIS_BOTTOM)), slice(left, right)

    def cursor_column(self, page: SoundPage, time_s: float) -> int:
        """Column of the cursor at a time of the page."""
        columns = self.sound_place[1]
        share = (time_s - page.start_s) / max(page.end_s - page.start_s, 1e-9)
        return int(columns.start + round(min(max(share, 0.0), 1.0) * (columns.stop - columns.start - 1)))

    def draw(
        self,
        picture: UInt8[np.ndarray, "h w 3"],
        scores: Float[np.ndarray, "r c"] | None,
        page: SoundPage,
        time_s: float,
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The frame at a time; `scores`: a map over all of the picture, of any size; None: there is silence."""
        if page is not self._page:
            self._page, self._drawn_page = page, self._with_page(page)
        canvas = self._drawn_page.copy()
        if scores is not None:
            smooth = cv2.resize(scores, (self._width, self._height), interpolation=cv2.INTER_LINEAR)
            picture = tint(
                picture, np.asarray(smooth, np.float32), self._scale.low, self._scale.high, self._scale.threshold
            )
        canvas[self.picture_place] = picture
        rows, column = self.sound_place[0], self.cursor_column(page, time_s)
        width = self._px(2)
        cv2.line(canvas, (column, rows.start), (column, rows.stop - 1), _BACKGROUND, width + 2)
        cv2.line(canvas, (column, rows.start), (column, rows.stop - 1), _CURSOR, width)
        if scores is None:
            left = 2 * self._px(_MARGIN) + self._bar_width
            self._write(canvas, self._silence_note, left, self._bar_top + self._px(_BAR_HEIGHT))
        return canvas

    @cached_property
    def _empty(self) -> UInt8[np.ndarray, "height width 3"]:
        """The background with the legend."""
        canvas = np.full((*self.canvas_size, 3), _BACKGROUND, np.uint8)
        scale, left, top = self._scale, self._px(_MARGIN), self._bar_top
        shown = f"{self._of}; color above {_number(scale.colored_above, scale)}"
        self._write(canvas, shown, left, top - self._px(6))
        scores = np.linspace(scale.low, scale.high, self._bar_width, dtype=np.float32)[None]
        bar = np.full((1, self._bar_width, 3), _UNTINTED, np.uint8)
        bar = tint(bar, scores, scale.low, scale.high, scale.threshold, opacity=1.0)
        canvas[top : top + self._px(_BAR_HEIGHT), left : left + self._bar_width] = bar
        below = top + self._px(_BAR_HEIGHT) + self._px(14)
        self._write(canvas, _number(scale.low, scale), left, below)
        self._write(canvas, _number(scale.high, scale), left + self._bar_width, below, align=1.0)
        return canvas

    @property
    def _bar_top(self) -> int:
        return self._body + self._px(22)

    @property
    def _bar_width(self) -> int:
        room = self.canvas_size[1] - 3 * self._px(_MARGIN) - self._px(_NOTE_WIDTH)
        return min(room, self._px(_MAX_BAR))

    def _with_page(self, page: SoundPage) -> UInt8[np.ndarray, "height width 3"]:
        canvas = self._empty.copy()
        rows, columns = self.sound_place
        height, width = rows.stop - rows.start, columns.stop - columns.start
        colors = color_log_mel(page.log_mel, page.color_range)
        canvas[rows, columns] = cv2.resize(colors, (width, height), interpolation=cv2.INTER_AREA)
        bands = len(page.log_mel)
        free_above = rows.stop + self._px(6)
        for hertz in TICKS_HZ:
            row = rows.stop - round((band_of(hertz, self._mel) + 0.5) / bands * height)
            if rows.start <= row <= free_above - self._px(12):
                self._write(canvas, hertz_label(hertz), columns.start - self._px(5), row + self._px(4), align=1.0)
                canvas[row - 1 : row, columns.start - self._px(3) : columns.start] = _TEXT
                free_above = row
        self._write(canvas, "Hz", self._width + self._px(_GAP), rows.stop + self._px(14))
        self._draw_times(canvas, page)
        return canvas

    def _draw_times(self, canvas: UInt8[np.ndarray, "height width 3"], page: SoundPage) -> None:
        rows, columns = self.sound_place
        times = time_ticks(page.end_s - page.start_s, about=5)
        step_s = times[1] - times[0] if len(times) > 1 else page.end_s - page.start_s
        first = int(np.ceil(page.start_s / step_s - 1e-6))
        for number in range(first, int(page.end_s / step_s + 1e-6) + 1):
            column = self.cursor_column(page, number * step_s)
            canvas[rows.stop : rows.stop + self._px(3), column : column + 1] = _TEXT
            share = (column - columns.start) / (columns.stop - columns.start)
            text = f"{number * step_s:.6g} s"
            self._write(canvas, text, column, rows.stop + self._px(14), align=1.0 if share > 0.9 else 0.5)

    def _write(
        self, canvas: UInt8[np.ndarray, "height width 3"], text: str, x: int, y: int, *, align: float = 0.0
    ) -> None:
        """Write a line whose baseline is at y; x is its left end, or with align=1 its right one. It is made to fit."""
        size, font = _FONT_SCALE * self._unit, cv2.FONT_HERSHEY_SIMPLEX
        room = canvas.shape[1] - self._px(_MARGIN) - (x if align == 0 else 0)
        (width, _), _ = cv2.getTextSize(text, font, size, self._px(1))
        if width > room:
            size, width = size * room / width, room
        place = round(x - align * width), y
        cv2.putText(canvas, text, place, font, size, _TEXT, self._px(1), cv2.LINE_AA)

    def _px(self, size: int) -> int:
        return round(size * self._unit)


def _number(value: float, scale: FilmScale) -> str:
    """The value with so many digits that the ends of the scale differ."""
    digits = next((digits for digits in (2, 3, 4) if scale.high - scale.low >= 20 * 10**-digits), 5)
    return f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no -0.00
