"""Tolerant reading of one stream of a container."""

import io
import math
from collections.abc import Iterator, Sequence
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

from avmanifest.errors import DecodeError

MAX_BAD_SHARE = 0.2  # of the packets read; more is media_corrupt
TIME_TOLERANCE_S = 1e-6  # a time that was written with microseconds still finds its own frame
MAX_READ_ERRORS = 32  # read errors in a row that count as the end of the file

if TYPE_CHECKING:
    AnyPacket: TypeAlias = Packet[Any]  # generic in the stubs alone
else:
    AnyPacket = Packet

MediaSource: TypeAlias = Path | BinaryIO | io.IOBase  # a file that can seek

AnyStream = TypeVar("AnyStream", VideoStream, AudioStream)


class Reader:
    """A container and who stands in it: its two tracks read from one file position."""

    def __init__(self, container: InputContainer, name: str, origin_s: float) -> None:
        self.container = container
        self.name = name
        self.origin_s = origin_s
        self.holder: object = None  # nobody has read yet

    def let_go(self) -> None:
        """Whoever reads next has to seek."""
        self.holder = self


class Track(Generic[AnyStream]):
    """Tolerant packet reading of one stream; counts what was read and what was bad."""

    def __init__(self, reader: Reader, stream: AnyStream) -> None:
        name = reader.name
        if stream.codec_context is None:
            raise DecodeError("media_corrupt", f"{name}: no decoder for its {stream.type} stream")
        stream.codec_context.thread_count = 1
        self.reader = reader
        self.container = reader.container
        self.stream: AnyStream = stream
        self.name = name
        self.tick_s = float(stream.time_base or 0)
        if not self.tick_s > 0:
            raise DecodeError("media_corrupt", f"{name}: its {stream.type} stream has no time base")
        self.origin_s = reader.origin_s
        self.num_packets = 0
        self.num_bad = 0

    @property
    def start_s(self) -> float:
        return self.time_of(self.stream.start_time) if self.stream.start_time is not None else 0.0

    @property
    def promised_end_s(self) -> float:
        """Where the container says the stream ends; infinity if it does not say."""
        if self.stream.duration is not None:
            return self.start_s + self.stream.duration * self.tick_s
        if self.container.duration is not None:
            return self.container.duration / av.time_base
        return math.inf

    def time_of(self, tick: int) -> float:
        return tick * self.tick_s - self.origin_s

    def tick_at(self, time_s: float) -> int:
        """The last tick at or before a time."""
        return math.floor((time_s + self.origin_s + TIME_TOLERANCE_S) / self.tick_s)

    def seek(self, tick: int) -> None:
        """Move the container to a packet at or before a tick, or to the start if it cannot: AVI and FLV refuse times
        before their first packet, and damaged indexes some others.
        """
        # Matroska indexes the video alone: seeking by the audio would read everything up to the tick.
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

    def packets(self) -> Iterator[AnyPacket]:
        """Packets of this stream from where the container stands, ending with the one that flushes the decoder."""
        self.reader.holder = self
        for other in self.container.streams:
            other.discard = Discard.default if other.index == self.stream.index else Discard.all
        errors_in_a_row = 0
        while errors_in_a_row < MAX_READ_ERRORS:
            try:
                for packet in self.container.demux(self.stream):
                    errors_in_a_row = 0
                    yield packet
            except av.error.FFmpegError:
                errors_in_a_row += 1
                self.num_bad += 1
            except IndexError:
                break  # how PyAV ends a file in which another stream turned up on the way
            else:
                return
        yield Packet()

    def decode(self, packet: AnyPacket) -> Sequence[VideoFrame | AudioFrame]:
        flush = is_flush(packet)
        if packet.size == 0 and not flush:
            return ()  # an empty packet in the middle would end the decoder's work
        self.num_packets += not flush
        try:
            return self.stream.codec_context.decode(None if flush else packet)
        except av.error.FFmpegError:
            self.num_bad += not flush
            return ()

    def refuse_if_damaged(self) -> None:
        if self.num_bad > MAX_BAD_SHARE * self.num_packets:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: {self.num_bad} of {self.num_packets} {self.stream.type} packets are bad "
                f"(at most {MAX_BAD_SHARE:.0%} is accepted). Fetch the file again.",
            )


def is_flush(packet: AnyPacket) -> bool:
    return packet.size == 0 and packet.dts is None and packet.pts is None


def presentation_tick(frame: VideoFrame | AudioFrame) -> int:
    assert frame.pts is not None
    return frame.pts
