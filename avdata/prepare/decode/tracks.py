"""Reading and decoding one stream of a container, with a limited tolerance for damaged packets."""

import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, TypeAlias, TypeVar

import av
import av.error
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from avdata.prepare.decode.clock import UNMEASURED, Clock
from avdata.prepare.decode.damage import AV1_OPTIONS, DECODER_OPTIONS, FAST_OPTIONS, DecoderMessages, report_damage
from avdata.prepare.frames import Span
from avmanifest.errors import DecodeError

MAX_BAD_SHARE = 0.2  # of the packets read; more is media_corrupt
TIME_TOLERANCE_S = 1e-6  # times are often rounded to microseconds; a rounded time must select the same frame
MAX_READ_ERRORS = 32  # consecutive read errors after which the file is treated as ended

if TYPE_CHECKING:
    AnyPacket: TypeAlias = Packet[Any]  # generic only in PyAV's type stubs
else:
    AnyPacket = Packet

MediaSource: TypeAlias = Path | BinaryIO | io.IOBase  # a path or an open, seekable binary file

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream)


class SharedDemuxer:
    """An open container and the track that currently owns its read position.

    The video and the audio track read from one position, so a track must seek after the other one has read.
    """

    def __init__(self, container: InputContainer, name: str, origin_s: float, clock: Clock | None = None) -> None:
        self.container = container
        self.name = name
        self.origin_s = origin_s
        self.clock = clock or Clock()
        self.is_complete = False  # the file is known to have packets until its declared end
        self.position_owner: object = None  # None: at the start of the file, nothing has been read

    def release_position(self) -> None:
        """Make both tracks seek before they read again."""
        self.position_owner = self


class Track(Generic[AnyStream]):
    """One stream of a container. Skips packets that cannot be read or decoded, and counts them.

    A tick is one unit of the stream's time base. Times in seconds are on the media's clock, whose 0 lies at
    `origin_s` in the file's own times.
    """

    def __init__(self, demuxer: SharedDemuxer, stream: AnyStream, *, fast: bool = False) -> None:
        name = demuxer.name
        if stream.codec_context is None:
            raise DecodeError("media_corrupt", f"{name}: no decoder for its {stream.type} stream")
        stream.codec_context.thread_count = 1
        is_av1 = stream.codec_context.name == "libdav1d"
        stream.codec_context.options = (
            DECODER_OPTIONS | (AV1_OPTIONS if is_av1 else {}) | (FAST_OPTIONS if fast else {})
        )
        self.demuxer = demuxer
        self.container = demuxer.container
        self.stream: AnyStream = stream
        self.name = name
        self.tick_s = float(stream.time_base or 0)
        if not self.tick_s > 0:
            raise DecodeError("media_corrupt", f"{name}: its {stream.type} stream has no time base")
        self.origin_s = demuxer.origin_s
        self.num_packets = 0
        self.num_bad = 0  # times that a bad packet was met; a packet that is read again counts again
        self._messages = DecoderMessages()
        self._has_gap = False  # the container could not read something before the next packet
        self.ended_s: float | None = None  # end of the last packet, in seconds, once the end of the file was reached
        self._joint_ticks: set[int | None] = set()  # presentation times of the last packets before a joint
        self._position = 0  # of the newest packet in the file, in bytes
        self._newest_end = -math.inf  # in ticks, of the packets read so far
        self.bad_packets: set[int | None] = set()  # their decoding times
        self.damaged_ticks: dict[int, int] = {}  # presentation time: duration, of what damage touches in what was read

    @property
    def start_s(self) -> float:
        """Start of the stream according to the container; 0 if the container does not say."""
        return self.time_of(self.stream.start_time) if self.stream.start_time is not None else 0.0

    @property
    def promised_end_s(self) -> float:
        """End of the stream according to the container; infinity if the container does not say.

        The length of a container is that of its longest stream. So in a complete file whose streams have no length of
        their own, as in WebM, a stream ends where its packets end.
        """
        if (scanned_s := self.demuxer.clock.ends_s.get(self.stream.index)) is not None:
            return scanned_s - self.origin_s
        if self.stream.duration is not None and self.container.format.name not in UNMEASURED:
            return self.start_s + self.stream.duration * self.tick_s
        is_matroska = "matroska" in self.container.format.name  # copies in other formats keep the tag of their source
        tagged_s = _tagged_end_s(self.stream.metadata.get("DURATION", "")) if is_matroska else None
        if tagged_s is not None:
            return tagged_s - self.origin_s
        if self.demuxer.is_complete and self.ended_s is not None:
            return self.ended_s
        return self.container.duration / av.time_base if self.container.duration else math.inf

    @property
    def stands_still(self) -> bool:
        """Whether the container's index has several packets, all of one time."""
        index = self.stream.index_entries
        if len(index) < 3 or index[0].is_discard:  # hidden by an edit list, as in a copy that was cut without encoding
            return False
        return index[0].timestamp == index[len(index) - 1].timestamp

    def time_of(self, tick: int) -> float:
        """The time of a tick, in seconds."""
        return tick * self.tick_s - self.origin_s

    def tick_at(self, time_s: float) -> int:
        """The last tick at or before a time in seconds."""
        return math.floor((time_s + self.origin_s + TIME_TOLERANCE_S) / self.tick_s)

    def seek(self, tick: int) -> None:
        """Seek to a packet at or before a tick, or to the start of the stream if that seek fails.

        AVI and FLV refuse times before their first packet, and a damaged index refuses some others. Raises DecodeError
        media_corrupt if seeking to the start fails too.
        """
        self._select()
        self._position = 0
        self._has_gap = False
        if self.demuxer.clock.jumps:  # times do not say where a packet is
            self.container.seek(0, unsupported_byte_offset=True)
            return
        # Matroska indexes only the video: a seek in the audio stream would read everything up to the tick.
        has_index = len(self.stream.index_entries) > 0
        for target in (tick, self.stream.start_time or 0):
            try:
                if has_index or isinstance(self.stream, VideoStream):
                    self.container.seek(target, stream=self.stream)
                else:
                    self.container.seek(round(target * self.tick_s * av.time_base))
            except (av.error.FFmpegError, OverflowError) as error:
                failure = error
            else:
                return
        raise DecodeError("media_corrupt", f"{self.name}: cannot seek to {self.time_of(tick):.3f} s") from failure

    def _select(self) -> None:
        """Make the container return packets of this stream only. MPEG-TS cannot seek in a stream that it discards."""
        self.demuxer.position_owner = self
        for other in self.container.streams:
            other.discard = Discard.default if other.index == self.stream.index else Discard.all

    def packets(self) -> Iterator[AnyPacket]:
        """Packets of this stream from the current read position on; the last one flushes the decoder."""
        self._select()
        errors_in_a_row = 0
        packets = self.container.demux(self.stream)
        has_packet_index = "mp4" in self.container.format.name  # it does not search for packets behind damage
        while errors_in_a_row < MAX_READ_ERRORS:
            try:
                if has_packet_index:
                    packet = next(packets)
                else:
                    with self._messages as messages:
                        packet = next(packets)
                    self._has_gap |= bool(messages) and report_damage(messages, self.container.format.name)
            except av.error.FFmpegError:
                errors_in_a_row += 1
                self._has_gap = True
                packets = self.container.demux(self.stream)
            except IndexError:
                break  # PyAV raises it at the end of a file in which a stream first appeared after the header
            except StopIteration:
                return
            else:
                errors_in_a_row = 0
                if is_flush(packet):
                    self._note_end()
                else:
                    self._place(packet)
                yield packet
        self._note_end()
        yield Packet()

    def _place(self, packet: AnyPacket) -> None:
        """Put the packet's times on the joined clock of a file whose clock jumps, and note its end."""
        if packet.pos is not None and packet.pos >= 0:
            self._position = packet.pos  # several packets of one PES have only one position
        if (self.stream.index, self._position) in self.demuxer.clock.outliers:
            packet.pts = packet.dts = None  # frames without times follow the one before
        shift = round(self.demuxer.clock.shift_s(self._position) / self.tick_s)
        if shift:
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None:
            self._newest_end = max(self._newest_end, time + (packet.duration or 0))

    def _note_end(self) -> None:
        if self._newest_end > -math.inf:
            self.ended_s = self.time_of(int(self._newest_end))

    def decode(self, packet: AnyPacket) -> tuple[Sequence[VideoFrame | AudioFrame], bool]:
        """The frames that the decoder returns for a packet, and whether something in them or the packet is damaged."""
        flush = is_flush(packet)
        if packet.size == 0 and not flush:
            return (), False  # the decoder would take an empty packet for the end of the stream
        self.num_packets += not flush
        frames: Sequence[VideoFrame | AudioFrame] = ()
        if (self.stream.index, self._position) in self.demuxer.clock.joints and packet.pts is not None:
            self._joint_ticks.add(packet.pts)
        bad = (packet.is_corrupt and packet.pts not in self._joint_ticks) or self._has_gap
        self._has_gap = False
        with self._messages as messages:
            try:
                frames = self.stream.codec_context.decode(None if flush else packet)
            except av.error.FFmpegError:
                bad = bad or not flush
        return frames, bad or any(map(self.is_corrupt, frames)) or (bool(messages) and report_damage(messages))

    def is_corrupt(self, frame: VideoFrame | AudioFrame) -> bool:
        """Whether the decoder calls the frame corrupt, and not only because it is the last one before a joint."""
        return frame.is_corrupt and frame.pts not in self._joint_ticks

    def count_bad(self, dts: int | None) -> None:
        """Count a packet that cannot be read or decoded, or that is damaged."""
        self.num_bad += 1
        self.bad_packets.add(dts)

    def damaged_spans(self) -> list[Span]:
        """Start and end in seconds of everything that damage touches, in what was read so far."""
        spans = sorted((self.time_of(tick), self.time_of(tick + ticks)) for tick, ticks in self.damaged_ticks.items())
        return merged(spans)

    def refuse_if_damaged(self) -> None:
        """Raise DecodeError media_corrupt if more than MAX_BAD_SHARE of the packets read so far are bad."""
        if self.num_bad > MAX_BAD_SHARE * self.num_packets:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: {self.num_bad} of {self.num_packets} {self.stream.type} packets are bad "
                f"(accepted: {MAX_BAD_SHARE:.0%}). Fetch the file again.",
            )


def _tagged_end_s(tag: str) -> float | None:
    """The end of a stream that Matroska's tag DURATION gives (`00:00:10.008000000`), in seconds; None: no such tag."""
    match = re.fullmatch(r"(\d{1,3}):(\d{2}):(\d{2}(?:\.\d{1,9})?)", tag)
    return None if match is None else int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])


def merged(spans: Iterable[Span]) -> list[Span]:
    """Sorted spans, with overlapping ones made one."""
    result: list[Span] = []
    for start_s, end_s in spans:
        if result and start_s <= result[-1][1]:
            result[-1] = result[-1][0], max(result[-1][1], end_s)
        else:
            result.append((start_s, end_s))
    return result


def is_flush(packet: AnyPacket) -> bool:
    """Whether this is the packet without data that ends a stream."""
    return packet.size == 0 and packet.dts is None and packet.pts is None


def presentation_tick(frame: VideoFrame | AudioFrame) -> int:
    """The frame's presentation timestamp. Only for frames that have one, as those of VideoTrack and AudioTrack do."""
    assert frame.pts is not None
    return frame.pts
