"""The video frame that is displayed at a given time, and its orientation."""

import heapq
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

from avdata.prepare.decode.damage import UNCHECKED_CODECS, DamageSpread
from avdata.prepare.decode.interlace import deinterlaced
from avdata.prepare.decode.tracks import AnyPacket, SharedDemuxer, Track, is_flush, merged, presentation_tick
from avdata.prepare.frames import Span
from avmanifest.errors import DecodeError

MAX_FRAME_AGE_S = 0.5  # if damage leaves only an older frame for a time, the clip is refused as media_corrupt
MAX_FPS = 1000.0  # a higher average rate is media_corrupt
MAX_LATE_SHARE = 0.5  # of the frames; copies of AVI in MP4 have a third whose times are out of order
FAR_S = 10.0  # without a full index, seek instead of decoding if the target is further ahead than this

TimedImage = tuple[UInt8[np.ndarray, "_ _ 3"], float]
"""An RGB image [h w 3] and its presentation time in seconds."""

FrameReader = Callable[[list[float], int | None], Iterable[TimedImage]]
"""From sorted times in seconds and the length of the short side in pixels (None: as displayed) to one image a time."""


class VideoTrack(Track[VideoStream]):
    """The video stream of a media file. Displayed at a time is the frame with the largest timestamp at or before it.

    Two shortcuts save decoding; neither changes the result. First, a seek, when a key frame lies between the last
    packet read and the target. If the seek lands after the target, the previous key frame is used (indexes hold
    decoding times, not presentation times). Second, on H.264 and HEVC, frames that no other frame refers to are skipped
    until shortly before the target. If a skipped frame turns out to lie between the result and the target (at a
    variable frame rate), the group of pictures is decoded again without skipping.
    """

    def __init__(self, demuxer: SharedDemuxer, stream: VideoStream, *, fast: bool = False) -> None:
        super().__init__(demuxer, stream, fast=fast)
        guess = float(stream.guessed_rate or 0)  # FFmpeg's, which can be the number of ticks in a second
        self.fps = float(stream.average_rate or 0) or (guess if guess <= MAX_FPS else 0.0)
        self._frame_ticks = max(1, round(1 / (self.fps or 25.0) / self.tick_s))
        # AVI has no presentation timestamps, and MPEG program streams have few. A decoder that starts in the middle
        # derives wrong ones.
        formats = self.container.format.name.split(",")
        self._untimed = "avi" in formats
        self._sequential = self._untimed or "mpeg" in formats or demuxer.clock.jumps
        self.num_frames = 0
        self.num_late = 0  # frames that are not later than the one before
        self.can_drop = stream.codec_context.name in ("h264", "hevc") and not self._sequential
        self._index_is_full = 0 < stream.frames <= len(stream.index_entries)
        self._packets: Iterator[AnyPacket] | None = self.packets()
        self._at_start = True
        self._key_frame_dts: int | None = None
        self.deinterlace = True  # return whole pictures of frames that hold two fields
        self.has_deinterlaced = False
        self._reset_decoding()

    def _reset_decoding(self) -> None:
        self._frames: Iterator[VideoFrame] | None = None
        self._previous: VideoFrame | None = None  # the frame before `_current`
        self._current: VideoFrame | None = None  # the last frame at or before the target
        self._following: VideoFrame | None = None  # the first frame after the target
        self._reached_end = False
        self._target_tick = 0
        self._last_read_dts: int | None = None
        self._dropped_pts = -math.inf
        self._recent_damage: list[int] = []  # presentation times of damaged frames since decoding began

    def frames_at(self, times_s: Sequence[float]) -> Iterator[tuple[VideoFrame, float]]:
        """The displayed frame, and its time in seconds, for each of the sorted times in seconds.

        Before the first frame it is the first, after the last the last. Raises DecodeError media_corrupt if no frame
        can be decoded, if damage leaves only a frame that is more than MAX_FRAME_AGE_S too old, or if too many packets
        are bad.
        """
        self._refuse_nonsense()
        if self.demuxer.position_owner not in (None, self):
            self._packets = None
            self._reset_decoding()
        for time_s in times_s:
            tick = self.tick_at(time_s)
            frame = self._frame_at(tick)
            begins_s = self.time_of(presentation_tick(frame))
            yield self._deinterlaced(tick) if frame.interlaced_frame and self.deinterlace else frame, begins_s
        if self.num_bad:
            self.refuse_if_doubtful()
        self.refuse_if_damaged()
        self._refuse_nonsense()

    def all_frames(self, start_s: float, end_s: float) -> Iterator[tuple[VideoFrame, float]]:
        """Every intact frame that is displayed in [start_s, end_s), with its time in seconds, in ascending order.

        Decodes all of them. Frames are not deinterlaced, and damage is not refused.
        """
        start, end = self._begin_whole(start_s, end_s)
        while True:
            frames = self._intact_frames()
            displayed, following = None, None
            for frame in frames:
                if presentation_tick(frame) > start:
                    following = frame
                    break
                displayed = frame
            if displayed is not None or not self._seek_earlier_key_frame():
                break
        newest = -math.inf
        for frame in itertools.chain(filter(None, (displayed, following)), frames):
            tick = presentation_tick(frame)
            if tick >= end:
                break
            if tick > newest:
                newest = tick
                yield frame, self.time_of(tick)
        self._packets = None
        self._reset_decoding()

    def _begin_whole(self, start_s: float, end_s: float) -> tuple[int, int]:
        """Begin to decode every picture of a span, and return its ticks."""
        start, end = self.tick_at(start_s), self.tick_at(end_s)
        self._reset_decoding()
        self.can_drop = False
        self._target_tick = start
        self._seek_key_frame(start)
        return start, end

    def _refuse_nonsense(self) -> None:
        """Raise DecodeError media_corrupt for a rate that no video has, or for times that do not grow."""
        problem = ""
        if not 0 <= self.fps <= MAX_FPS:
            problem = f"its video has {self.fps:,.0f} frames a second; accepted are {MAX_FPS:,.0f}"
        elif self.num_late > MAX_LATE_SHARE * self.num_frames:
            problem = f"{self.num_late} of {self.num_frames} frames are not later than the one before"
        if problem:
            raise DecodeError("media_corrupt", f"{self.name}: {problem}. Fetch the file again.")

    def refuse_if_doubtful(self) -> None:
        """Raise DecodeError media_corrupt if the decoder notices only some damage. Call it once a packet was bad."""
        codec = self.stream.codec_context.name
        if codec in UNCHECKED_CODECS:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: packets are damaged, and a decoder of {codec} does not notice all damage, so other "
                "frames may be wrong. Fetch the file again.",
            )

    def _frame_at(self, tick: int) -> VideoFrame:
        self._target_tick = tick
        if self._should_seek(tick):
            self._seek_key_frame(tick)
        while True:
            self._decode_past(tick)
            if self._dropped_pts > (presentation_tick(self._current) if self._current else -math.inf):
                self.can_drop = False
                self._seek_key_frame(tick)
            elif self._current is not None or not self._seek_earlier_key_frame():
                break
        frame = self._current or self._following
        if frame is None:
            raise DecodeError("media_corrupt", f"{self.name}: no frame can be decoded. Fetch the file again.")
        self._refuse_if_stale(frame, tick)
        return frame

    def _decode_past(self, tick: int) -> None:
        """Decode until a frame after the tick was decoded, or until the end."""
        if self._frames is None:
            self._frames = self._intact_frames()
        while True:
            if self._following is None:
                self._following = next(self._frames, None)
            if self._following is None:
                self._reached_end = True
                return
            if presentation_tick(self._following) > tick:
                return
            self._previous, self._current, self._following = self._current, self._following, None

    def _deinterlaced(self, tick: int) -> VideoFrame:
        """The displayed frame of a tick, which `_frame_at` found, without the motion between its two fields.

        That takes the frames before and after it, so none may be skipped and decoding may have to begin earlier.
        """
        self.has_deinterlaced = True
        if self.can_drop:
            self.can_drop = False
            self._seek_key_frame(tick)
            self._frame_at(tick)
        while self._previous is None and self._current is not None and self._seek_earlier_key_frame():
            self._decode_past(tick)
        if self._current is None:  # the tick lies before the first frame
            assert self._following is not None and self._frames is not None, "_frame_at found one"
            self._current, self._following = self._following, next(self._frames, None)
        return deinterlaced(self._current, self._previous, self._following)

    def _intact_frames(self) -> Iterator[VideoFrame]:
        for tick, frame in self._judged_frames():
            if frame is None:
                self._recent_damage.append(tick)
            else:
                yield frame

    def _judged_frames(self) -> Iterator[tuple[int, VideoFrame | None]]:
        """Presentation times of decoded pictures with their frames. None in place of a picture that damage touches."""
        assert self._packets is not None
        codec = self.stream.codec_context
        first_pts = None
        next_pts = self.stream.start_time or 0
        newest_pts = -math.inf
        waiting: list[int] = []  # decoding times of packets without presentation times: frames get them in order
        is_timed = True  # every packet has a presentation time
        spread = DamageSpread()
        for packet in self._packets:
            drop = self.can_drop and packet.pts is not None and packet.pts < self._target_tick - 3 * self._frame_ticks
            codec.skip_frame = "NONREF" if drop else "DEFAULT"
            if self._untimed and packet.size and packet.dts is not None:
                heapq.heappush(waiting, packet.dts)
            if not is_flush(packet):
                self._last_read_dts = packet.dts if packet.dts is not None else packet.pts
            if drop and not packet.is_discard:
                self._dropped_pts = max(self._dropped_pts, packet.pts or 0)
            if first_pts is None:
                first_pts = packet.pts
            # Frames displayed before the first key frame may refer to frames that are not decoded or not in the file.
            leads = packet.pts is not None and first_pts is not None and packet.pts < first_pts
            frames, bad = self.decode(packet)
            bad = bad and not leads
            if bad:
                self.count_bad(packet.dts)
            is_timed &= packet.pts is not None or is_flush(packet)
            touched = spread.judge(packet, bad)
            if touched and packet.pts is not None:
                self.damaged_ticks[packet.pts] = packet.duration or self._frame_ticks
                yield packet.pts, None
            for frame in frames:
                assert isinstance(frame, VideoFrame)
                if waiting:
                    frame.pts = heapq.heappop(waiting)
                elif frame.pts is None:
                    frame.pts = next_pts
                next_pts = frame.pts + self._frame_ticks
                if first_pts is not None and frame.pts < first_pts and (self.is_corrupt(frame) or not self._at_start):
                    continue
                self.num_frames += 1
                self.num_late += is_timed and frame.pts <= newest_pts
                newest_pts = max(newest_pts, frame.pts)
                damaged = self.is_corrupt(frame) or frame.pts in spread.ticks or (touched and not is_timed)
                if damaged:
                    self.damaged_ticks[frame.pts] = frame.duration or self._frame_ticks
                yield frame.pts, None if damaged else frame

    def find_damage(self, start_s: float, end_s: float) -> list[Span]:
        """Spans of time, in seconds, in which the displayed picture is damaged. Decodes every picture of the span."""
        self.refuse_if_doubtful()
        self.refuse_if_damaged()
        start, end = self._begin_whole(start_s, end_s)
        is_intact = self._judge_until(end)
        while min(is_intact, default=math.inf) > start and self._seek_earlier_key_frame():
            is_intact = self._judge_until(end)
        self._packets = None
        self._reset_decoding()
        ticks = sorted(is_intact)
        begins_s = [start_s, *(max(start_s, self.time_of(tick)) for tick in ticks[1:]), end_s]
        spans = itertools.pairwise(begins_s)
        return merged(
            span for span, tick in zip(spans, ticks, strict=False) if not is_intact[tick] and span[0] < span[1]
        )

    def _judge_until(self, end: int) -> dict[int, bool]:
        """Presentation times up to `end`, in ticks, each with whether its picture is intact."""
        is_intact: dict[int, bool] = {}
        far = end + round(FAR_S / self.tick_s)
        for tick, frame in self._judged_frames():
            if tick > far or (tick > end and frame is not None):
                break
            if tick <= end:
                is_intact[tick] = is_intact.get(tick, True) and frame is not None
        return is_intact

    def _should_seek(self, tick: int) -> bool:
        if self._packets is None:
            return True
        if self._current is not None and tick < presentation_tick(self._current):
            return True
        if self._sequential:
            return False
        index = self.stream.index_entries
        read_dts = self._last_read_dts
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

    def _seek_key_frame(self, tick: int) -> None:
        """Restart at the last key frame with a decoding time at or before a tick, or at the first frame of the file."""
        if self._sequential:
            self._seek_first_frame()
            return
        self._restart_at(tick, at_start=False)
        index = self.stream.index_entries
        if self._key_frame_dts is None or (len(index) and self._key_frame_dts <= index[0].timestamp):
            self._seek_first_frame()

    def _seek_first_frame(self) -> None:
        index = self.stream.index_entries
        self._restart_at(index[0].timestamp if len(index) else self.stream.start_time or 0, at_start=True)

    def _restart_at(self, tick: int, at_start: bool) -> None:
        """Seek to a tick and continue from the next key frame; with `at_start`, from the first packet found."""
        self.seek(tick)
        target = self._target_tick
        self._reset_decoding()
        self._target_tick = target
        self._at_start = at_start
        packets = self.packets()
        first = next(packet for packet in packets if at_start or packet.is_keyframe or is_flush(packet))
        self._key_frame_dts = first.dts if first.dts is not None else first.pts
        self._packets = itertools.chain([first], packets)

    def _seek_earlier_key_frame(self) -> bool:
        """Restart at an earlier key frame; False if decoding already began at the start of the file."""
        if self._at_start:
            return False
        landed = self._key_frame_dts
        if landed is not None:
            self._restart_at(landed - 1, at_start=False)
        if landed is None or self._key_frame_dts is None or self._key_frame_dts >= landed:
            self._seek_first_frame()
        return True

    def _refuse_if_stale(self, frame: VideoFrame, tick: int) -> None:
        pts = presentation_tick(frame)
        displayed_until_s = self.time_of(pts + max(frame.duration or 0, self._frame_ticks))
        shown_from = pts if pts <= tick else -math.inf  # nothing intact at or before the tick: shown too early
        is_far = abs(tick - pts) * self.tick_s > MAX_FRAME_AGE_S
        damaged = is_far and any(shown_from < damaged_tick <= max(tick, pts) for damaged_tick in self._recent_damage)
        if self._reached_end:
            damaged |= min(self.time_of(tick), self.promised_end_s) - displayed_until_s > MAX_FRAME_AGE_S
        if damaged:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: no intact frame between {displayed_until_s:.3f} s and {self.time_of(tick):.3f} s. "
                "Fetch the file again.",
            )


@dataclass(frozen=True, slots=True)
class Orientation:
    """The effect of a display matrix, rounded to quarter turns and mirrors. The transposition comes first."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """The image [h w 3] as it is displayed."""
        if self.transpose:
            image = image.swapaxes(0, 1)
        return np.ascontiguousarray(image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1])


def orientation_of(frame: VideoFrame) -> Orientation:
    """The orientation in the frame's display matrix; unchanged if it has none."""
    if (matrix := frame.side_data.get("DISPLAYMATRIX")) is None:
        return Orientation()
    # A column-major affine map in 16.16 fixed point: x' = a x + c y, y' = b x + d y.
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, matrix)), np.int32, 5).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, a < 0, d < 0)
    return Orientation(True, c < 0, b < 0)
