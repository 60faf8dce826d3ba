"""One clock for files whose own clock jumps or is not to be trusted, from one look at all packets.

MPEG transport streams that were joined with `cat`, as recordings of HLS are, begin to count again in the middle. They
are joined here as FFmpeg's command joins them: each part goes on where the last packet of the part before it ended.
"""

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import av.error
from av.container import InputContainer

SCANNED: Final = frozenset({"mpegts", "mpeg"})
"""Formats all of whose packets are looked at: their times may jump, and their lengths are guesses of FFmpeg."""

UNMEASURED: Final = frozenset({"matroska,webm", "flv", "asf", "ogg"})
"""Formats that declare one length, that of the longest stream, or none. FFmpeg hands it to the others."""

JUMP_BACK_S: Final = 0.1  # FFmpeg's own thresholds for such formats
JUMP_AHEAD_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Clock:
    """The parts of a file, and what is added to the times of their packets.

    Attributes:
        ends_s: By stream, the end of its last packet in the file's own times, after the shifts.
        positions: First byte of each part after the first.
        shifts_s: What is added to the times of each of these parts, in seconds.
        joints: Stream and first byte of each stream's last two packets before a part. FFmpeg takes one of them for
            damaged, because the count of TS packets jumps there: the last one, or the one that its parser ends there.
        outliers: Stream and first byte of packets whose times are wrong: the packets after them go on from before.
    """

    ends_s: dict[int, float] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)
    shifts_s: list[float] = field(default_factory=list)
    joints: set[tuple[int, int]] = field(default_factory=set)
    outliers: set[tuple[int, int]] = field(default_factory=set)

    @property
    def end_s(self) -> float:
        """End of the last packet of any stream; -inf if there is none."""
        return max(self.ends_s.values(), default=-math.inf)

    @property
    def jumps(self) -> bool:
        """Whether the file has more than one part."""
        return bool(self.positions)

    def shift_s(self, position: int) -> float:
        """What is added to the times of a packet at a byte of the file."""
        part = bisect.bisect_right(self.positions, position)
        return self.shifts_s[part - 1] if part else 0.0


@dataclass(slots=True)
class _Doubt:
    """A packet, or all packets of one PES, that did not begin where the one before ended."""

    position: int
    shift_s: float  # of the clock before it
    before_s: float  # on that clock, the begin of the packet before it
    begins_s: float
    expected_s: float  # on that clock, the begin of the packet after it if its times are wrong


def scan(container: InputContainer, streams: Sequence[Any]) -> Clock:
    """Look at all packets of some streams, from the current position to the end. The caller seeks afterwards."""
    ends_s: dict[int, float] = {}  # by stream: the end of its last packet of the newest part, on the joined clock
    older_ends_s: dict[int, float] = {}  # of the part before
    times: dict[int, int] = {}  # by stream, as `steps`: of the last packet, in ticks
    steps: dict[int, int] = {}
    begun_s: dict[int, float] = {}  # by stream: the begin of its last packet, on the joined clock
    doubts: dict[int, _Doubt] = {}  # by stream
    recent: dict[int, tuple[int, int]] = {}  # by stream: the positions of its last two packets
    shift_s = 0.0
    clock = Clock()
    for packet in _packets(container, streams):
        tick_s = float(packet.time_base)
        time = packet.dts if packet.dts is not None else packet.pts
        step = packet.duration or time - times.get(packet.stream_index, time)
        times[packet.stream_index] = time
        usual_step = steps.get(packet.stream_index, 0)
        if 0 < step * tick_s <= JUMP_AHEAD_S / 10:
            steps[packet.stream_index] = step
        length_s = steps.get(packet.stream_index, 0) * tick_s  # without a duration, the time since the last packet
        older, before = recent.get(packet.stream_index, (0, 0))
        # Several packets of one PES have only one position.
        position = packet.pos if packet.pos is not None and packet.pos >= 0 else before
        if position != before:
            recent[packet.stream_index] = before, position
        if clock.jumps and position < clock.positions[-1]:
            # Streams are interleaved: of the part before, or the true beginning of this part.
            begins_s = time * tick_s + clock.shift_s(position)
            if not _fits(begins_s, older_ends_s.get(packet.stream_index)):
                clock.positions[-1] = position
        if not clock.jumps or position >= clock.positions[-1]:
            doubt = doubts.get(packet.stream_index)
            if doubt is not None and doubt.position != position:
                del doubts[packet.stream_index]
                begins_s = time * tick_s + doubt.shift_s
                is_ordered = doubt.before_s <= doubt.begins_s < begins_s
                if abs(begins_s - doubt.expected_s) <= JUMP_BACK_S and not is_ordered:
                    clock.outliers.add((packet.stream_index, doubt.position))
                    clock.ends_s.clear()
                    if clock.positions[-1:] == [doubt.position]:
                        del clock.positions[-1], clock.shifts_s[-1]
                    shift_s, ends_s = doubt.shift_s, {}
            begins_s = time * tick_s + shift_s
            expected_s = ends_s.get(packet.stream_index)
            before_s = begun_s.get(packet.stream_index, -math.inf)
            is_shorter = expected_s is not None and before_s < begins_s < expected_s  # a higher frame rate, no jump
            if expected_s is not None and not is_shorter and abs(begins_s - expected_s) > JUMP_BACK_S:
                doubts.setdefault(packet.stream_index, _Doubt(position, shift_s, before_s, begins_s, expected_s))
                if not packet.duration:
                    steps[packet.stream_index] = usual_step
                    length_s = usual_step * tick_s
            if expected_s is not None and not is_shorter and not _fits(begins_s, expected_s):
                shift_s += expected_s - begins_s
                begins_s = expected_s
                clock.positions.append(position)
                clock.shifts_s.append(shift_s)
                ends_s, older_ends_s = {}, ends_s  # the other streams begin a part, too
            begun_s[packet.stream_index] = begins_s
            ends_s[packet.stream_index] = begins_s + length_s
            if packet.stream_index in doubts:
                doubts[packet.stream_index].expected_s += length_s
            if clock.jumps and before < clock.positions[-1]:
                clock.joints.update([(packet.stream_index, older), (packet.stream_index, before)])
        shown_s = 0.0 if packet.pts is None else (packet.pts - time) * tick_s
        end_s = begins_s + shown_s + length_s
        clock.ends_s[packet.stream_index] = max(clock.ends_s.get(packet.stream_index, -math.inf), end_s)
    return clock


def _fits(begins_s: float, expected_s: float | None) -> bool:
    """Whether a packet goes on where the one before ended, within the thresholds of a jump."""
    return expected_s is None or -JUMP_BACK_S <= begins_s - expected_s <= JUMP_AHEAD_S


def last_end_s(container: InputContainer, streams: Sequence[Any]) -> float:
    """End of the last packet of any stream from the current position on, in the file's own times; -inf: no packet."""
    return max(
        (
            float(packet.time_base) * ((packet.dts if packet.pts is None else packet.pts) + (packet.duration or 0))
            for packet in _packets(container, streams)
        ),
        default=-math.inf,
    )


def _packets(container: InputContainer, streams: Sequence[Any]) -> Iterator[Any]:
    """Packets that have content and a time, up to the end of the file or to an error."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, IndexError, av.error.FFmpegError):
            return
        if packet.size and packet.time_base is not None and (packet.dts is not None or packet.pts is not None):
            yield packet
