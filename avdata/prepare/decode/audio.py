"""Audio of a time span: decoded at its own rate, averaged to mono, placed by timestamp, then resampled once."""

import itertools
import math
from array import array
from collections.abc import Iterator

import numpy as np
import soxr
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.plane import AudioPlane
from av.audio.stream import AudioStream
from av.codec.context import Flags2
from jaxtyping import Float32, Shaped

from avdata.prepare.decode.tracks import AnyPacket, SharedDemuxer, Track, presentation_tick
from avdata.samples import PIECE, SampleFile, pieces
from avmanifest.errors import DecodeError

MAX_AUDIO_JUMP_S = 0.1  # a larger jump of the timestamps starts a new run; a smaller one is treated as jitter
AUDIO_PREROLL_S = 0.3  # decoded before a span and dropped: packets depend on earlier ones (Opus 80 ms, MP3 reservoir)
AUDIO_CHUNK = 8192  # samples per channel that are converted to mono together
SAMPLE_RATES = range(4_000, 768_001)  # Hz
MAX_CHANNELS = 64
WRONG_STRIDES = (1.05, 8.0)  # from frame to frame, in durations of a frame, that a wrong sample rate can give
WRONG_SHARE = 0.8  # of the frames
_SAMPLE_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}


class AudioTrack(Track[AudioStream]):
    """The audio stream of a media file, read in runs of gapless samples."""

    def __init__(self, demuxer: SharedDemuxer, stream: AudioStream) -> None:
        super().__init__(demuxer, stream)
        self._is_new = True  # the decoder has returned no frame yet
        self.continues = False  # there are packets after the span that was read last
        self._strides = array("d")  # from the start of each frame to that of the next one, in durations of the frame

    def runs(self, start_s: float, end_s: float, native: SampleFile) -> Iterator["AudioRun"]:
        """Runs of gapless audio that together cover the span; the first and last reach beyond it.

        The samples are appended to `native`, one run after the other.

        A run ends at a bad packet, at a change of format, or where a timestamp is off by more than MAX_AUDIO_JUMP_S.
        """
        run: AudioRun | None = None
        for frame, follows_damage in self.frames(start_s, end_s):
            time_s = self.time_of(presentation_tick(frame))
            if run is not None and (follows_damage or not run.is_continued_by(frame, time_s)):
                run.end()
                yield run
                run = None
            if run is None:
                run = AudioRun(frame, native)
            run.append(frame, time_s)
        if run is not None:
            run.end()
            yield run

    def frames(self, start_s: float, end_s: float) -> Iterator[tuple[AudioFrame, bool]]:
        """Intact frames of the span, each with whether damaged ones came directly before it.

        The frame after a bad packet is damaged as well: transform codecs add the second half of the one before to it.
        """
        from_tick = self.tick_at(start_s - AUDIO_PREROLL_S)
        end_tick = self.tick_at(end_s)
        next_pts = self.stream.start_time or 0
        self.continues = False
        self._strides = array("d")
        newest_pts: int | None = None
        follows_damage = overlaps_damage = False
        for packet in self._packets_from(from_tick):
            if packet.pts is not None and packet.pts > end_tick:
                self.continues = True
                break
            if packet.pts is not None and packet.pts + (packet.duration or 0) < from_tick:
                continue
            frames, bad = self._decode_with_padding(packet)
            if bad:
                self.count_bad(packet.dts)
            if (bad or overlaps_damage) and packet.pts is not None:
                self.damaged_ticks[packet.pts] = packet.duration or 0
            for frame in frames:
                self._refuse_nonsense(frame)
                if frame.pts is None:
                    frame.pts = next_pts
                length = frame.samples / frame.sample_rate / self.tick_s
                if newest_pts is not None and length > 0:
                    self._strides.append((frame.pts - newest_pts) / length)
                newest_pts = frame.pts
                next_pts = frame.pts + round(length)
                if not bad and not overlaps_damage:
                    yield frame, follows_damage
                    follows_damage = False
                overlaps_damage = False
            if bad:
                follows_damage = overlaps_damage = True

    @property
    def has_wrong_rate(self) -> bool:
        """Whether nearly every frame read last begins later than the one before ended, as with a wrong sample rate.

        Real gaps lie between few frames, or, where a codec sends nothing in silence, are many times a frame long.
        """
        strides = np.asarray(self._strides)
        wrong = (strides > WRONG_STRIDES[0]) & (strides < WRONG_STRIDES[1])
        return len(strides) > 0 and float(wrong.mean()) > WRONG_SHARE

    def _refuse_nonsense(self, frame: AudioFrame) -> None:
        """Raise DecodeError media_corrupt for a rate or a number of channels that no recording has."""
        if frame.sample_rate not in SAMPLE_RATES:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: its audio has {frame.sample_rate} Hz; accepted are {SAMPLE_RATES[0]} to "
                f"{SAMPLE_RATES[-1]} Hz. Fetch the file again.",
            )
        if frame.layout.nb_channels > MAX_CHANNELS:
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: its audio has {frame.layout.nb_channels} channels; accepted are {MAX_CHANNELS}. Fetch "
                "the file again.",
            )

    def _decode_with_padding(self, packet: AnyPacket) -> tuple[list[AudioFrame], bool]:
        """Frames of a packet and whether it is bad, including samples that a new decoder would wrongly drop as padding.

        The encoder's padding, and what an edit list hides before the start, must be dropped from the file's first
        packet, which carries their number of samples. From FFmpeg 9 on, a new decoder drops that many samples from
        the first packet it gets, wherever that lies in the file. In a clip that was cut without re-encoding that
        would remove half a second or more from the middle. With the flag `skip_manual` the decoder returns these
        samples.
        """
        context = self.stream.codec_context
        if self._is_new and getattr(context, "initial_padding", 0) > 0:
            if any(side.data_type == "skip_samples" for side in packet.iter_sidedata()):
                self._is_new = False
            else:
                context.flags2 |= Flags2.skip_manual
        frames, bad = self.decode(packet)
        if frames:
            context.flags2 &= ~Flags2.skip_manual
            self._is_new = False
        if packet.is_discard:  # hidden by an edit list
            return [], bad
        return [frame for frame in frames if isinstance(frame, AudioFrame)], bad

    def _packets_from(self, tick: int) -> Iterator[AnyPacket]:
        """Packets from a tick or shortly before it, or from the first packet if the stream starts later."""
        begins = self.tick_at(self.start_s)
        if self.demuxer.position_owner is None and tick <= begins:
            return self.packets()
        if self.demuxer.clock.jumps:
            self.seek(begins)
            return self.packets()
        for margin_s in (0.0, 2.0, 30.0):
            self.seek(max(tick - round(margin_s / self.tick_s), begins - round(1 / self.tick_s)))
            packets = self.packets()
            first = next(packets)
            if first.pts is not None and first.pts <= max(tick, begins):
                return itertools.chain([first], packets)
        self.seek(begins - round(1 / self.tick_s))
        return self.packets()


class AudioRun:
    """Gapless audio of one format, converted to mono and appended to a file of samples as frames come.

    Attributes:
        rate: Samples per second.
        first: Number of the run's first sample in the file.
        num_samples: Length of the run.
    """

    def __init__(self, frame: AudioFrame, native: SampleFile) -> None:
        self.rate = frame.sample_rate
        self.first, self.num_samples = len(native), 0
        self._native = native
        self._format = frame.format.name, frame.layout.name
        self._starts_s = array("d")
        # A packet holds about 1,000 samples: converting each packet alone would cost as much as decoding it.
        self._fifo = AudioFifo()

    def is_continued_by(self, frame: AudioFrame, time_s: float) -> bool:
        """Whether the frame has the run's format and begins at its end, within MAX_AUDIO_JUMP_S."""
        begins_s = time_s - self.num_samples / self.rate
        same_format = (frame.sample_rate, frame.format.name, frame.layout.name) == (self.rate, *self._format)
        return same_format and abs(begins_s - self._starts_s[0]) <= MAX_AUDIO_JUMP_S

    def append(self, frame: AudioFrame, time_s: float) -> None:
        """Add the samples of a frame that begins at `time_s`."""
        self._starts_s.append(time_s - self.num_samples / self.rate)
        self.num_samples += frame.samples
        frame.pts = None  # AudioFifo refuses irregular timestamps
        self._fifo.write(frame)
        if self._fifo.samples >= AUDIO_CHUNK:
            self._drain()

    def end(self) -> None:
        """Write the last samples; call it after the last frame."""
        self._drain()

    def _drain(self) -> None:
        if (frame := self._fifo.read()) is not None:
            self._native.append(_mono(frame))

    @property
    def start_s(self) -> float:
        """Start in seconds: the median over the frames' timestamps, so that jitter and rounding cancel out."""
        return float(np.median(self._starts_s))

    @property
    def end_s(self) -> float:
        """End in seconds."""
        return self.start_s + self.num_samples / self.rate


class NativeAudio:
    """Mono audio of a span at its native rate (`rate`, Hz), to be resampled once to `sample_rate` (Hz).

    It begins at a time at which a native sample and an output sample coincide. So the samples of a span equal those of
    the same span in the whole file. Parts without audio are 0.
    """

    def __init__(self, native: SampleFile, rate: int, sample_rate: int, start_s: float, end_s: float) -> None:
        common = math.gcd(rate, sample_rate)
        begin = math.floor(start_s * common)
        self._native = native
        self._rate, self._sample_rate = rate, sample_rate
        self._first_native, self._first_output = begin * (rate // common), begin * (sample_rate // common)
        self._length = math.ceil(end_s * rate) - self._first_native
        self._placed: list[tuple[int, int, int]] = []  # per run: start in the span, first in the file, number

    def place(self, run: AudioRun) -> None:
        """Place a run at its time; samples outside the span are dropped, earlier runs are written over."""
        offset = round(run.start_s * self._rate) - self._first_native
        self._placed.append((offset, run.first, run.num_samples))

    def __len__(self) -> int:
        """Number of native samples in the span."""
        return self._length

    def __getitem__(self, span: slice, /) -> Float32[np.ndarray, " _"]:
        """The native samples from span.start to span.stop of the span."""
        start, stop, _ = span.indices(self._length)
        samples = np.zeros(max(stop - start, 0), np.float32)
        for offset, first, number in self._placed:
            begin, end = max(start, offset), min(stop, offset + number)
            if begin < end:
                samples[begin - start : end - start] = self._native[first + begin - offset : first + end - offset]
        return samples

    def resampled(self, first: int, num_samples: int) -> Iterator[Float32[np.ndarray, " _"]]:
        """`num_samples` samples at the output rate, from the output sample number `first` of the media on, in pieces.

        All pieces have PIECE samples, except for the last.
        """
        skip, waiting = first - self._first_output, np.zeros(0, np.float32)
        for piece in self._all_resampled():
            waiting = np.concatenate([waiting, piece[skip:]])
            skip = max(skip - len(piece), 0)
            while len(waiting) >= PIECE < num_samples:
                yield waiting[:PIECE]
                waiting, num_samples = waiting[PIECE:], num_samples - PIECE
        yield waiting[:num_samples]

    def _all_resampled(self) -> Iterator[Float32[np.ndarray, " _"]]:
        if self._rate == self._sample_rate:
            yield from pieces(self)
            return
        stream = soxr.ResampleStream(self._rate, self._sample_rate, 1, dtype="float32", quality="HQ")
        for start in range(0, self._length, PIECE):
            yield stream.resample_chunk(self[start : start + PIECE], last=start + PIECE >= self._length)


def _channels(frame: AudioFrame) -> Shaped[np.ndarray, "c n"]:
    """The samples of each channel, in the decoder's sample type."""
    num_channels = frame.layout.nb_channels
    dtype = _SAMPLE_TYPES[frame.format.name.removesuffix("p")]
    if frame.format.is_planar:
        # frame.planes counts planes up to a null pointer. With eight or more channels there is none: PyAV 18 crashes,
        # PyAV 19 raises, and PyAV's own conversion to an array fails the same way.
        planes = [AudioPlane(frame, channel) for channel in range(num_channels)]
        return np.stack([np.frombuffer(memoryview(plane), dtype, frame.samples) for plane in planes])
    interleaved = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * num_channels)
    return interleaved.reshape(-1, num_channels).T


def _mono(frame: AudioFrame) -> Float32[np.ndarray, " n"]:
    """Mean over the channels, scaled to [-1, 1]; samples that are not finite become 0."""
    samples = _channels(frame)
    mono: Float32[np.ndarray, " n"] = samples.mean(axis=0, dtype=np.float32)
    if samples.dtype == np.uint8:
        mono = (mono - 128) / 128
    elif samples.dtype.kind == "i":
        mono /= 2 ** (8 * samples.dtype.itemsize - 1)
    return mono if np.isfinite(mono.sum()) else np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)
