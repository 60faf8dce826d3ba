"""Which picture is on screen at a time, and how it is turned."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from avdata.prepare.decode.tracks import AnyPacket, Reader, Track, is_flush, presentation_tick
from avmanifest.errors import DecodeError

MAX_FRAME_AGE_S = 0.5  # a picture older than this because of damage is not the picture at t: media_corrupt
FAR_S = 10.0  # jump ahead by a seek after this much when the container has no full index

Picture = tuple[UInt8[np.ndarray, "_ _ 3"], float]
Pictures = Callable[[list[float], int | None], Iterable[Picture]]


class VideoTrack(Track[VideoStream]):
    """The picture on screen at a time: the frame with the largest timestamp at or before it.

    Two ways to decode less, neither of which may change the answer. A seek, when a key frame lies between here and
    the target; one that lands too late steps back a key frame (indexes hold decoding times, not presentation times).
    And, on H.264 and HEVC, dropping frames that no other frame refers to until shortly before the target; when a
    dropped one turns out to lie between the answer and the target (a variable rate), it is decoded again in full.
    """

    def __init__(self, reader: Reader, stream: VideoStream) -> None:
        super().__init__(reader, stream)
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else 0.0
        self._frame_ticks = max(1, round(1 / (self.fps or 25.0) / self.tick_s))
        # AVI has no presentation timestamps: a decoder that starts in the middle counts them wrong.
        self._sequential = "avi" in self.container.format.name.split(",")
        self.can_drop = stream.codec_context.name in ("h264", "hevc") and not self._sequential
        self._index_is_full = 0 < stream.frames <= len(stream.index_entries)
        self._source: Iterator[AnyPacket] | None = self.packets()
        self._at_start = True
        self._landed_dts: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._frames: Iterator[VideoFrame] | None = None
        self._shown: VideoFrame | None = None  # the last picture at or before the target
        self._pending: VideoFrame | None = None  # the first one after it
        self._ended = False
        self._target = 0
        self._read_dts: int | None = None
        self._dropped_pts = -math.inf
        self._damaged_pts: int | None = None

    def on_screen(self, times_s: Sequence[float]) -> Iterator[tuple[VideoFrame, float]]:
        """Picture and its time for each of the sorted times."""
        if self.reader.holder not in (None, self):
            self._source = None
            self._forget()
        for time_s in times_s:
            frame = self._frame_at(self.tick_at(time_s))
            assert frame.pts is not None
            yield frame, self.time_of(frame.pts)
        self.refuse_if_damaged()

    def _frame_at(self, tick: int) -> VideoFrame:
        self._target = tick
        if self._should_seek(tick):
            self._seek_key(tick)
        while True:
            self._advance(tick)
            if self._dropped_pts > (presentation_tick(self._shown) if self._shown else -math.inf):
                self.can_drop = False
                self._seek_key(tick)
            elif self._shown is not None or not self._step_back():
                break
        frame = self._shown or self._pending
        if frame is None:
            raise DecodeError("media_corrupt", f"{self.name}: no decodable picture. Fetch the file again.")
        self._refuse_if_stale(frame, tick)
        return frame

    def _advance(self, tick: int) -> None:
        """Decode until a frame after the target is seen."""
        if self._frames is None:
            self._frames = self._intact_frames()
        while True:
            if self._pending is None:
                self._pending = next(self._frames, None)
            if self._pending is None:
                self._ended = True
                return
            if presentation_tick(self._pending) > tick:
                return
            self._shown, self._pending = self._pending, None

    def _intact_frames(self) -> Iterator[VideoFrame]:
        assert self._source is not None
        codec = self.stream.codec_context
        first_pts = None
        next_pts = self.stream.start_time or 0
        for packet in self._source:
            drop = self.can_drop and packet.pts is not None and packet.pts < self._target - 3 * self._frame_ticks
            codec.skip_frame = "NONREF" if drop else "DEFAULT"
            if not is_flush(packet):
                self._read_dts = packet.dts if packet.dts is not None else packet.pts
            if drop and not packet.is_discard:
                self._dropped_pts = max(self._dropped_pts, packet.pts or 0)
            if first_pts is None and not self._at_start:
                first_pts = packet.pts
            num_bad = self.num_bad
            for frame in self.decode(packet):
                assert isinstance(frame, VideoFrame)
                if frame.pts is None:
                    frame.pts = next_pts
                next_pts = frame.pts + self._frame_ticks
                if frame.is_corrupt:
                    self.num_bad += 1
                    self._damaged_pts = frame.pts
                # After a seek, pictures shown before the key frame may lean on what was not decoded.
                elif first_pts is None or frame.pts >= first_pts:
                    yield frame
            if self.num_bad > num_bad and packet.pts is not None:
                self._damaged_pts = packet.pts

    def _should_seek(self, tick: int) -> bool:
        if self._source is None:
            return True
        if self._shown is not None and tick < presentation_tick(self._shown):
            return True
        if self._sequential:
            return False
        index = self.stream.index_entries
        read_dts = self._read_dts
        if read_dts is None:
            if not len(index):
                # Matroska reads its index at the first seek.
                is_matroska = "matroska" in self.container.format.name
                return is_matroska or self.time_of(tick) > self.start_s + FAR_S
            read_dts = index[0].timestamp
        key = index.search_timestamp(tick) if len(index) else -1
        if key >= 0 and index[key].timestamp > read_dts:
            return True
        return not self._index_is_full and (tick - read_dts) * self.tick_s > FAR_S

    def _seek_key(self, tick: int) -> None:
        """Stand on the last key frame that is decoded at or before a tick, or on the first of the file."""
        if self._sequential:
            self._seek_start()
            return
        self._stand(tick, at_start=False)
        index = self.stream.index_entries
        if self._landed_dts is None or (len(index) and self._landed_dts <= index[0].timestamp):
            self._seek_start()

    def _seek_start(self) -> None:
        index = self.stream.index_entries
        self._stand(index[0].timestamp if len(index) else self.stream.start_time or 0, at_start=True)

    def _stand(self, tick: int, at_start: bool) -> None:
        self.seek(tick)
        target = self._target
        self._forget()
        self._target = target
        self._at_start = at_start
        packets = self.packets()
        first = next(packet for packet in packets if at_start or packet.is_keyframe or is_flush(packet))
        self._landed_dts = first.dts if first.dts is not None else first.pts
        self._source = itertools.chain([first], packets)

    def _step_back(self) -> bool:
        """Stand on an earlier key frame; False if there is none."""
        if self._at_start:
            return False
        landed = self._landed_dts
        if landed is not None:
            self._stand(landed - 1, at_start=False)
        if landed is None or self._landed_dts is None or self._landed_dts >= landed:
            self._seek_start()
        return True

    def _refuse_if_stale(self, frame: VideoFrame, tick: int) -> None:
        pts = presentation_tick(frame)
        shown_until_s = self.time_of(pts + max(frame.duration or 0, self._frame_ticks))
        if self._ended:
            damaged = min(self.time_of(tick), self.promised_end_s) - shown_until_s > MAX_FRAME_AGE_S
        else:
            late_s = (tick - pts) * self.tick_s
            damaged = late_s > MAX_FRAME_AGE_S and self._damaged_pts is not None and pts < self._damaged_pts <= tick
        if damaged:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: no intact picture between {shown_until_s:.3f} s and {self.time_of(tick):.3f} s. "
                "Fetch the file again.",
            )


@dataclass(frozen=True, slots=True)
class Orientation:
    """What a display matrix does to a picture, rounded to quarter turns and mirrors."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


def orientation_of(frame: VideoFrame) -> Orientation:
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return Orientation()
    # A column-major affine map in 16.16 fixed point: x' = a x + c y, y' = b x + d y.
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, matrix)), np.int32, 5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
