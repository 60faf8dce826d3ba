"""Sound of a span: native channels, plain mean in float, placed by timestamps, resampled once."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import soxr
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from jaxtyping import Float32, Shaped

from avdata.prepare.decode.tracks import AnyPacket, Reader, Track, presentation_tick
from avmanifest.errors import DecodeError

MAX_AUDIO_JUMP_S = 0.1  # larger jumps of the audio timestamps are real; smaller ones are jitter that cancels out
AUDIO_PREROLL_S = 0.3  # decoded before a span and thrown away: codecs overlap packets (Opus 80 ms, MP3 reservoir)
AUDIO_CHUNK = 8192  # samples that become mono at once
SAMPLE_RATES = range(4_000, 768_001)  # Hz
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class AudioTrack(Track[AudioStream]):
    """Sound of a span: native channels, plain mean in float, placed by timestamps, resampled once."""

    def __init__(self, reader: Reader, stream: AudioStream) -> None:
        super().__init__(reader, stream)
        self._is_new = True  # its decoder has given no frame yet

    def runs(self, start_s: float, end_s: float) -> Iterator["Run"]:
        """Stretches of gapless sound that together cover the span, and a little more.

        A stretch ends at a bad packet, a change of format, or a timestamp more than MAX_AUDIO_JUMP_S off.
        """
        run: Run | None = None
        for frame, follows_damage in self.frames(start_s, end_s):
            if frame.sample_rate not in SAMPLE_RATES:
                raise DecodeError("media_corrupt", f"{self.name}: sound at {frame.sample_rate} Hz")
            time_s = self.time_of(presentation_tick(frame))
            if run is not None and (follows_damage or not run.goes_on_with(frame, time_s)):
                yield run
                run = None
            if run is None:
                run = Run(frame)
            run.append(frame, time_s)
        if run is not None:
            yield run

    def frames(self, start_s: float, end_s: float) -> Iterator[tuple[AudioFrame, bool]]:
        """Decoded frames of the span, and whether a bad packet came just before."""
        from_tick = self.tick_at(start_s - AUDIO_PREROLL_S)
        end_tick = self.tick_at(end_s)
        next_pts = self.stream.start_time or 0
        follows_damage = False
        for packet in self._packets_from(from_tick):
            if packet.pts is not None and packet.pts > end_tick:
                break
            if packet.pts is not None and packet.pts + (packet.duration or 0) < from_tick:
                continue
            num_bad = self.num_bad
            for frame in self._decode_all_of(packet):
                if frame.pts is None:
                    frame.pts = next_pts
                next_pts = frame.pts + round(frame.samples / frame.sample_rate / self.tick_s)
                yield frame, follows_damage
                follows_damage = False
            follows_damage |= self.num_bad > num_bad

    def _decode_all_of(self, packet: AnyPacket) -> Iterator[AudioFrame]:
        """Frames of a packet, also where a new decoder would drop them as the padding at the start of the file.

        An encoder's padding, and what an edit list hides before the start, are to be dropped from the file's first
        packet, which carries their number of samples. From FFmpeg 9 on a new decoder drops as many from whichever
        packet it gets first: with a clip that was cut without encoding again, half a second or more of a span in its
        middle. With `skip_manual` the decoder hands them out and forgets the number.
        """
        context = self.stream.codec_context
        if self._is_new and getattr(context, "initial_padding", 0) > 0:
            if any(side.data_type == "skip_samples" for side in packet.iter_sidedata()):
                self._is_new = False
            else:
                context.flags2 |= Flags2.skip_manual
        frames = self.decode(packet)
        if frames:
            context.flags2 &= ~Flags2.skip_manual
            self._is_new = False
        for frame in frames:
            assert isinstance(frame, AudioFrame)
            if not packet.is_discard:  # hidden by an edit list
                yield frame

    def _packets_from(self, tick: int) -> Iterator[AnyPacket]:
        """Packets from a tick or a little before; from the first of the file if that is later."""
        begins = self.tick_at(self.start_s)
        if self.reader.holder is None and tick <= begins:
            return self.packets()
        for margin_s in (0.0, 2.0, 30.0):
            self.seek(max(tick - round(margin_s / self.tick_s), begins - round(1 / self.tick_s)))
            packets = self.packets()
            first = next(packets)
            if first.pts is not None and first.pts <= max(tick, begins):
                return itertools.chain([first], packets)
        self.seek(begins - round(1 / self.tick_s))
        return self.packets()


class Run:
    """Gapless sound, made mono as it comes in."""

    def __init__(self, frame: AudioFrame) -> None:
        self.rate = frame.sample_rate
        self._format = frame.format.name, frame.layout.name
        self._num_samples = 0
        self._starts_s: list[float] = []
        # Packets hold a thousand samples: converting them one by one would cost as much as decoding them.
        self._fifo = AudioFifo()
        self._mono: list[Float32[np.ndarray, " _"]] = []

    def goes_on_with(self, frame: AudioFrame, time_s: float) -> bool:
        begins_s = time_s - self._num_samples / self.rate
        same_format = (frame.sample_rate, frame.format.name, frame.layout.name) == (self.rate, *self._format)
        return same_format and abs(begins_s - self._starts_s[0]) <= MAX_AUDIO_JUMP_S

    def append(self, frame: AudioFrame, time_s: float) -> None:
        self._starts_s.append(time_s - self._num_samples / self.rate)
        self._num_samples += frame.samples
        frame.pts = None  # the fifo refuses timestamps that jitter
        self._fifo.write(frame)
        if self._fifo.samples >= AUDIO_CHUNK:
            self._drain()

    def _drain(self) -> None:
        if (frame := self._fifo.read()) is not None:
            self._mono.append(_mono(frame))

    @property
    def start_s(self) -> float:
        """The median of what the timestamps say: jitter and rounding cancel out, a real shift counts."""
        return float(np.median(self._starts_s))

    def pieces(self) -> list[Float32[np.ndarray, " _"]]:
        """Mono sound in pieces, each where the one before ends."""
        self._drain()
        return self._mono

    @property
    def end_s(self) -> float:
        return self.start_s + self._num_samples / self.rate


class NativeSound:
    """Mono sound at its own rate on the media's clock, to be resampled once.

    It begins where a native sample and an output sample coincide, so that every span of a file is a slice of the whole.
    """

    def __init__(self, rate: int, sample_rate: int, start_s: float, end_s: float) -> None:
        common = math.gcd(rate, sample_rate)
        begin = math.floor(start_s * common)
        self._rate, self._sample_rate = rate, sample_rate
        self._first_native, self._first_output = begin * (rate // common), begin * (sample_rate // common)
        self._samples = np.zeros(math.ceil(end_s * rate) - self._first_native, np.float32)

    def place(self, run: Run) -> None:
        """Write a run where it belongs; what sticks out on either side is cut."""
        offset = round(run.start_s * self._rate) - self._first_native
        for mono in run.pieces():
            inside = mono[max(0, -offset) :]
            target = self._samples[max(0, offset) :][: len(inside)]
            target[:] = inside[: len(target)]
            offset += len(mono)

    def resampled(self, first: int, num_samples: int) -> Float32[np.ndarray, " n"]:
        samples = self._samples
        if self._rate != self._sample_rate:
            samples = soxr.resample(samples, self._rate, self._sample_rate, "HQ")
        return samples[first - self._first_output :][:num_samples]


def _channels(frame: AudioFrame) -> Shaped[np.ndarray, "c n"]:
    """The samples of each channel, in the type they were decoded to."""
    num_channels = frame.layout.nb_channels
    dtype = _SAMPLE_TYPES[frame.format.name.removesuffix("p")]
    if frame.format.is_planar:
        # frame.planes counts up to a null pointer, which eight channels and more do not leave: it crashes (PyAV 18) or
        # raises (19), and PyAV's own conversion with it.
        planes = [AudioPlane(frame, channel) for channel in range(num_channels)]
        return np.stack([np.frombuffer(memoryview(plane), dtype, frame.samples) for plane in planes])
    interleaved = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * num_channels)
    return interleaved.reshape(-1, num_channels).T


def _mono(frame: AudioFrame) -> Float32[np.ndarray, " n"]:
    """Plain mean over the channels, full scale 1; samples that are not finite become silence."""
    samples = _channels(frame)
    mono: Float32[np.ndarray, " n"] = samples.mean(axis=0, dtype=np.float32)
    if samples.dtype == np.uint8:
        mono = (mono - 128) / 128
    elif samples.dtype.kind == "i":
        mono /= 2 ** (8 * samples.dtype.itemsize - 1)
    return mono if np.isfinite(mono.sum()) else np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)
