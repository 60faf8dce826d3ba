"""Video frames and audio of a media file at given times, on one clock.

Time 0 is the earliest start of a stream, so an MPEG-TS file whose timestamps begin at 100 s begins at 0 here. Video and
audio are both placed by their own timestamps on that clock, never by index. Start offsets and edit lists are applied:
a sample stores the frame that a player displays while it plays that audio.

Images are as a player displays them: the display matrix is applied, and pixels are square (the width is multiplied by
the sample aspect ratio). Colors follow the stream's tags; untagged streams are read as BT.601, as FFmpeg does. Frames
that hold two fields are deinterlaced, and HDR (PQ, HLG) is tone-mapped to SDR, unless the caller wants them as stored.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import av.error
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Float32, UInt8

from avdata.prepare.config import DECODERS
from avdata.prepare.decode.audio import MAX_AUDIO_JUMP_S, AudioTrack, NativeAudio
from avdata.prepare.decode.clock import SCANNED, UNMEASURED, last_end_s, scan
from avdata.prepare.decode.decord import decord_frame_reader, import_decord
from avdata.prepare.decode.hdr import has_wide_gamut, to_sdr, transfer_of
from avdata.prepare.decode.tracks import TIME_TOLERANCE_S, MediaSource, SharedDemuxer, merged
from avdata.prepare.decode.video import (
    MAX_FRAME_AGE_S,
    FrameReader,
    Orientation,
    TimedImage,
    VideoTrack,
    orientation_of,
)
from avdata.prepare.frames import Span
from avdata.samples import PIECE, SampleFile
from avmanifest.errors import ConfigError, DecodeError
from avmanifest.files import NotAFile, require_file

# Containers that hold video. Playlists, scripts and image sequences are excluded: they refer to other files and URLs.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,wav,mxf"
MAX_OVERSTATED_S = 2.0  # by which a container may declare a longer duration than its packets have; more: it was cut
DURATION_TOLERANCE_S = 0.1  # a declared duration is believed if the packets end within this of it
TAIL_S = 3.0  # at the end of a file, where the packets are looked at to learn its true end
MIN_AUDIO_SHARE = 0.9  # of the audio that the container declares inside a span; less is media_corrupt
RESAMPLE_MARGIN_S = 0.1  # extra audio on both sides of a span while resampling; longer than the filter
MAX_DURATION_S = 7 * 86_400.0  # longer media are taken for damage
MAX_START_S = 4e9  # of a file's own times from 0, in either direction; clocks that count from 1970 are below
MAX_OVERLAP_SHARE = 0.1  # of a span's audio whose timestamps say that it is played twice; more is media_corrupt
# Of a span, without sound and behind the last picture; more than both: the timestamps jump.
MAX_AUDIO_GAP_S, MAX_AUDIO_GAP_SHARE = 60.0, 0.5
MAX_PIXEL_ASPECT = 4.0  # sample aspect ratios beyond 1:4 and 4:1 are taken for damage and ignored
MAX_PROPORTION = 16.0  # of an image's sides; more is damage, and the scaled image would be very large
# A file whose metadata is not UTF-8 must still open. PyAV accepts it from version 19 on.
_METADATA_ERRORS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

SCALABLE = ("yuv420p", "yuvj420p", "yuv420p10le")  # the pixel formats of nearly all videos
# Without these flags the SIMD paths of swscale differ in the last bit; equal inputs must give equal bytes everywhere.
SCALING = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """Properties of a media file, as its container declares them. A missing stream has the values 0, 0.0 and "".

    width and height are of the displayed image: after rotation, with square pixels. Starts are on the media's own
    clock, whose 0 is the earliest stream start. audio_video_offset_s is audio start minus video start.
    num_bad_packets counts, in what has been read so far, the packets that cannot be read or decoded without damage.
    audio_gap_s is the duration within the span of `waveform` for which an intact stream has no audio: silence.
    deinterlaced and tone_mapped (`pq`, `hlg` or empty) say what was done to the frames that were read.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    video_codec: str
    audio_codec: str
    audio_rate: int
    audio_channels: int
    video_start_s: float
    audio_start_s: float
    audio_video_offset_s: float
    num_bad_packets: int
    audio_gap_s: float
    deinterlaced: bool
    tone_mapped: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """RGB images [h w 3], one per requested time, and the presentation time of each in seconds."""

    images: list[UInt8[np.ndarray, "_ _ 3"]]
    times_s: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Mono audio of a span in [-1, 1], exactly round((end - start) * sample_rate) samples.

    real_s is the duration that was decoded, in seconds. The rest is 0: a late start, a gap, a stream that ends early.
    """

    samples: Float32[np.ndarray, "n"]
    sample_rate: int
    real_s: float


class Media:
    """An open media file. Created by `open_media`; usable only inside its `with` block."""

    def __init__(
        self,
        container: InputContainer,
        name: str,
        duration_s: float | None = None,
        *,
        deinterlace: bool = True,
        tone_map: bool = True,
        fast: bool = False,
    ) -> None:
        self.name = name
        self._container = container
        video = container.streams.best("video")
        if video is not None and Disposition.attached_pic in video.disposition:
            video = None  # cover art
        audio = container.streams.best("audio", related=video)
        self.origin_s = _origin_s(container, [stream for stream in (video, audio) if stream])  # in the file's own times
        streams = [stream for stream in (video, audio) if stream]
        is_scanned = container.format.name in SCANNED
        demuxer = SharedDemuxer(container, name, self.origin_s, scan(container, streams) if is_scanned else None)
        self._video = VideoTrack(demuxer, video, fast=fast) if isinstance(video, VideoStream) else None
        self._audio = AudioTrack(demuxer, audio) if isinstance(audio, AudioStream) else None
        self._demuxer = demuxer
        if is_scanned:
            self._rewind()
        if self._video is not None:
            self._video.deinterlace = deinterlace
        self._tone_map, self._tone_mapped = tone_map, ""
        self._scaler, self._converter = VideoReformatter(), VideoReformatter()
        self._audio_gap_s = 0.0
        self._orientation: Orientation | None = None
        self._displayed_size = (0, 0)
        self._read_frames: FrameReader = self._read_with_pyav
        self.duration_s = self._measure_duration() if duration_s is None else duration_s
        self._refuse_nonsense()

    @property
    def info(self) -> MediaInfo:
        """Properties of the file. Read it last: if no frame was decoded yet, one is, to find the rotation."""
        video, audio = self._video, self._audio
        if video is not None and self._orientation is None:
            self._update_display(next(video.frames_at([0.0]))[0])
        return MediaInfo(
            duration_s=self.duration_s,
            fps=video.fps if video else 0.0,
            width=self._displayed_size[0],
            height=self._displayed_size[1],
            video_codec=video.stream.codec_context.codec.canonical_name if video else "",
            audio_codec=audio.stream.codec_context.codec.canonical_name if audio else "",
            audio_rate=audio.stream.codec_context.sample_rate if audio else 0,
            audio_channels=audio.stream.codec_context.layout.nb_channels if audio else 0,
            video_start_s=video.start_s if video else 0.0,
            audio_start_s=audio.start_s if audio else 0.0,
            audio_video_offset_s=audio.start_s - video.start_s if audio and video else 0.0,
            num_bad_packets=sum(len(track.bad_packets) for track in (video, audio) if track),
            audio_gap_s=self._audio_gap_s,
            deinterlaced=video is not None and video.has_deinterlaced,
            tone_mapped=self._tone_mapped,
        )

    @property
    def num_packets(self) -> int:
        """Packets decoded so far."""
        return sum(track.num_packets for track in (self._video, self._audio) if track)

    def clip_span(self, start_s: float, end_s: float, min_s: float) -> tuple[float, float]:
        """The part of a clip that lies inside the media: start_s unchanged, end_s at most the media's end.

        Raises:
            DecodeError: media_window if the clip begins at or after the end, media_short if less than min_s seconds
                are left.
        """
        self._refuse_window(start_s, end_s)
        end_s = min(end_s, self.duration_s)
        if end_s - start_s < min_s - TIME_TOLERANCE_S:
            raise DecodeError(
                "media_short",
                f"{self.name}: {end_s - start_s:.3f} s of media from {start_s:.3f} s on; at least {min_s} s are "
                "required.",
            )
        return start_s, end_s

    def frames(self, times_s: Sequence[float], short_side: int | None = 256) -> Frames:
        """The frames displayed at the given times, in their order.

        Before the first frame it is the first, after the last the last.

        Args:
            times_s: Times on the media's clock, in seconds, in any order.
            short_side: Length of the images' short side, in pixels. None: the displayed size.

        Raises:
            DecodeError: media_no_video without a video stream; media_corrupt where damage leaves no frame for a time.
        """
        if self._video is None:
            raise DecodeError("media_no_video", f"{self.name}: no video stream")
        order = sorted(range(len(times_s)), key=lambda position: times_s[position])
        by_position = dict(
            zip(order, self._read_frames([times_s[position] for position in order], short_side), strict=True)
        )
        return Frames(
            images=[by_position[position][0] for position in range(len(order))],
            times_s=[by_position[position][1] for position in range(len(order))],
        )

    def small_frames(self, start_s: float, end_s: float, short_side: int) -> Iterator[TimedImage]:
        """Every intact frame displayed in [start_s, end_s), in the order of display; all images have one size.

        Each is decoded, by PyAV with any decoder. None is deinterlaced.

        Args:
            start_s: Start in seconds on the media's clock.
            end_s: End in seconds.
            short_side: Length of the images' short side, in pixels.

        Yields:
            RGB image, and its presentation time in seconds. The first one may begin before the start.
        """
        if self._video is None:
            raise DecodeError("media_no_video", f"{self.name}: no video stream")
        first: tuple[int, ...] = ()
        for frame, time_s in self._video.all_frames(start_s, end_s):
            image = self._image(frame, short_side)
            first = first or image.shape
            if image.shape != first:  # the size or the rotation changes within the stream
                image = np.asarray(cv2.resize(image, (first[1], first[0]), interpolation=cv2.INTER_AREA), np.uint8)
            yield image, time_s

    def refuse_frames_outside(self, times_s: Sequence[float], end_s: float) -> None:
        """Raise DecodeError if a displayed frame begins after the end of a clip, or before the media begin.

        A clip without video until its end is media_window. Frames outside of the media are media_corrupt.
        """
        for time_s in times_s:
            if not -MAX_FRAME_AGE_S <= time_s <= self.duration_s + MAX_FRAME_AGE_S:
                raise DecodeError(
                    "media_corrupt",
                    f"{self.name}: a frame is at {time_s:.3f} s, outside of the media, which end at "
                    f"{self.duration_s:.3f} s. Fetch the file again.",
                )
            if time_s > end_s:
                raise DecodeError(
                    "media_window",
                    f"{self.name}: no frame until {end_s:.3f} s, the end of the clip: the next one is at "
                    f"{time_s:.3f} s. Check the clip's times in the list.",
                )

    @property
    def has_damaged_frames(self) -> bool:
        """Whether damage touches frames among those decoded so far."""
        return self._video is not None and bool(self._video.num_bad)

    def find_damaged_frames(self, start_s: float, end_s: float) -> list[Span]:
        """Spans inside [start_s, end_s) in which the displayed frame is damaged. Decodes all frames of the span.

        Raises DecodeError media_corrupt if too many packets are bad.
        """
        return self._video.find_damage(start_s, end_s) if self._video is not None else []

    def damaged_share(self, start_s: float, end_s: float) -> float:
        """The share of [start_s, end_s) in which frames or audio are damaged, 0 to 1, as far as they were decoded."""
        spans = merged(sorted(span for track in (self._video, self._audio) if track for span in track.damaged_spans()))
        inside_s = sum(max(0.0, min(end_s, span[1]) - max(start_s, span[0])) for span in spans)
        return inside_s / (end_s - start_s)

    def waveform(self, start_s: float, end_s: float, sample_rate: int = 16_000) -> Waveform:
        """Mono audio of [start_s, end_s), in seconds on the media's clock, resampled to `sample_rate` (Hz).

        Raises:
            DecodeError: media_no_audio without an audio stream; media_window where the stream has nothing in the
                span; media_corrupt where less than MIN_AUDIO_SHARE of the declared audio can be decoded, or where it
                has gaps behind the last picture of more than MAX_AUDIO_GAP_S and MAX_AUDIO_GAP_SHARE of the span.
        """
        with self.waveform_file(start_s, end_s, sample_rate) as (samples, real_s):
            return Waveform(samples=samples[:], sample_rate=sample_rate, real_s=real_s)

    @contextmanager
    def waveform_file(
        self, start_s: float, end_s: float, sample_rate: int = 16_000, folder: Path | None = None
    ) -> Iterator[tuple[SampleFile, float]]:
        """As `waveform`, for audio of any length: the samples in a temporary file, and the seconds that were decoded.

        Args:
            start_s: Start in seconds on the media's clock.
            end_s: End in seconds.
            sample_rate: Of the result, in Hz.
            folder: Where temporary files are written: 4 bytes a sample of the file's own rate. None: the system's
                temporary folder.
        """
        audio = self._require_audio(start_s, end_s)
        first, num_samples = round(start_s * sample_rate), round((end_s - start_s) * sample_rate)
        from_s, until_s = start_s - RESAMPLE_MARGIN_S, end_s + RESAMPLE_MARGIN_S
        real_s, overlap_s, covered_until_s = 0.0, 0.0, start_s
        gaps: list[Span] = []
        gap_from_s = max(start_s, audio.start_s)  # a late start is no gap
        native: dict[int, NativeAudio] = {}
        with SampleFile(folder) as samples:
            with SampleFile(folder) as decoded:
                for run in audio.runs(from_s, until_s, decoded):
                    if run.rate not in native:
                        native[run.rate] = NativeAudio(decoded, run.rate, sample_rate, from_s, until_s)
                    native[run.rate].place(run)
                    if run.start_s > gap_from_s + MAX_AUDIO_JUMP_S:
                        gaps.append((gap_from_s, max(gap_from_s, min(end_s, run.start_s))))
                    gap_from_s = max(gap_from_s, run.end_s)
                    real_s += max(0.0, min(end_s, run.end_s) - max(covered_until_s, run.start_s))
                    overlap_s += max(0.0, min(end_s, run.end_s, covered_until_s) - max(start_s, run.start_s))
                    covered_until_s = max(covered_until_s, min(end_s, run.end_s))
                if audio.continues and end_s > gap_from_s + MAX_AUDIO_JUMP_S:
                    gaps.append((gap_from_s, end_s))
                self._audio_gap_s = 0.0 if audio.num_bad or audio.has_wrong_rate else sum((b - a for a, b in gaps), 0.0)
                self._refuse_lost_audio(audio, start_s, end_s, real_s + self._audio_gap_s)
                self._refuse_jump(gaps, start_s, end_s)
                if overlap_s > max(MAX_OVERLAP_SHARE * (end_s - start_s), MAX_AUDIO_JUMP_S):
                    raise DecodeError(
                        "media_corrupt",
                        f"{self.name}: the timestamps of {overlap_s:.3f} s of audio between {start_s:.3f} and "
                        f"{end_s:.3f} s are taken already: its clock starts again, or its sample rate is wrong.",
                    )
                streams = [sound.resampled(first, num_samples) for sound in native.values()]
                while len(samples) < num_samples:
                    sound = np.zeros(min(PIECE, num_samples - len(samples)), np.float32)
                    for stream in streams:
                        sound += next(stream)
                    samples.append(np.clip(sound, -1.0, 1.0, out=sound))
            yield samples, real_s

    def _require_audio(self, start_s: float, end_s: float) -> AudioTrack:
        self._refuse_window(start_s, end_s)
        if self._audio is None:
            raise DecodeError("media_no_audio", f"{self.name}: no audio stream")
        return self._audio

    def _refuse_window(self, start_s: float, end_s: float) -> None:
        if not 0 <= start_s < min(end_s, self.duration_s):
            raise DecodeError(
                "media_window",
                f"{self.name}: the span {start_s:.3f}-{end_s:.3f} s is empty or outside the media, which ends at "
                f"{self.duration_s:.3f} s. Check the clip's times in the list.",
            )

    def _refuse_lost_audio(self, audio: AudioTrack, start_s: float, end_s: float, real_s: float) -> None:
        audio.refuse_if_damaged()
        if audio.num_bad and self._video is not None:
            self._video.refuse_if_doubtful()
        promised_s = min(end_s, audio.promised_end_s, self.duration_s) - max(start_s, audio.start_s)
        if promised_s <= 0:
            raise DecodeError(
                "media_window",
                f"{self.name}: nothing in the span {start_s:.3f}-{end_s:.3f} s: its audio lasts from "
                f"{audio.start_s:.3f} s to {audio.promised_end_s:.3f} s. Check the clip's times in the list.",
            )
        # Codecs lose up to a tenth of a second at the ends (priming, padding).
        if promised_s - real_s > max(0.1, (1 - MIN_AUDIO_SHARE) * promised_s):
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: {real_s:.3f} s of audio between {start_s:.3f} and {end_s:.3f} s where the container "
                f"declares {promised_s:.3f} s. Fetch the file again.",
            )

    def _refuse_jump(self, gaps: Sequence[Span], start_s: float, end_s: float) -> None:
        """Raise DecodeError for a gap long after the last picture. In a pause pictures go on, in a jump they don't."""
        last_s = math.inf if self._video is None else self._video.promised_end_s
        unseen_s = sum(max(0.0, end - max(begin, last_s)) for begin, end in gaps)
        if self._audio_gap_s and unseen_s > max(MAX_AUDIO_GAP_S, MAX_AUDIO_GAP_SHARE * (end_s - start_s)):
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: no sound for {unseen_s:.3f} s between {start_s:.3f} and {end_s:.3f} s, after the last "
                f"picture at {last_s:.3f} s: its timestamps jump. Fetch the file again, or name a part of it that has "
                "sound.",
            )

    def _measure_duration(self) -> float:
        """Seconds from the earliest start to the latest end of a stream. If not in the header, all packets are read."""
        declared_s = (self._container.duration or 0) / av.time_base
        if declared_s > 0:
            return self._declared_duration(declared_s)
        end_s = 0.0
        for track in (self._video, self._audio):
            if track is not None:
                ends = (packet.pts + (packet.duration or 0) for packet in track.packets() if packet.pts is not None)
                end_s = max(end_s, track.time_of(max(ends, default=0)))
                track.seek(track.stream.start_time or 0)
        self._demuxer.release_position()
        self._demuxer.is_complete = True
        return end_s

    def _declared_duration(self, declared_s: float) -> float:
        """The container's duration, unless its packets end later, or earlier by MAX_OVERSTATED_S at most."""
        scanned_s = self._demuxer.clock.end_s - self.origin_s
        if scanned_s > -math.inf:  # what such formats declare is a guess of FFmpeg
            self._demuxer.is_complete = True
            return declared_s if abs(scanned_s - declared_s) <= DURATION_TOLERANCE_S else scanned_s
        if self._container.format.name in UNMEASURED:
            end_s = self._last_end_s(declared_s)
        else:
            return declared_s
        self._demuxer.is_complete = end_s > declared_s - MAX_OVERSTATED_S
        is_wrong = self._demuxer.is_complete and abs(end_s - declared_s) > DURATION_TOLERANCE_S
        return end_s if is_wrong else declared_s

    def _last_end_s(self, declared_s: float) -> float:
        """End of the last packet, in seconds. Of a file that has none where its end should be, all packets are read."""
        streams = [track.stream for track in (self._video, self._audio) if track]
        with contextlib.suppress(av.error.FFmpegError, OverflowError):
            self._container.seek(round(max(0.0, declared_s + self.origin_s - TAIL_S) * av.time_base))
        for _ in range(2):
            for stream in self._container.streams:
                stream.discard = Discard.default
            end_s = last_end_s(self._container, streams) - self.origin_s
            self._rewind()
            if end_s > -math.inf:
                break
        return end_s

    def _rewind(self) -> None:
        """Go back to the first packet."""
        track = self._video or self._audio
        if track is not None:
            track.seek(track.stream.start_time or 0)
        self._demuxer.release_position()

    def _refuse_nonsense(self) -> None:
        """Raise DecodeError media_corrupt for times that cannot be true.

        A length is checked before memory is taken for it. A container may declare a little more than its tracks have.
        """
        tracks_end_s = max((track.promised_end_s for track in (self._video, self._audio) if track), default=math.inf)
        problem = ""
        if not abs(self.origin_s) <= MAX_START_S:
            problem = f"its times begin at {self.origin_s:,.0f} s"
        elif not 0 <= self.duration_s <= MAX_DURATION_S:
            problem = f"it declares a length of {self.duration_s:,.0f} s; accepted are {MAX_DURATION_S:,.0f}"
        elif self.duration_s > 2 * tracks_end_s + 10:
            problem = f"it declares a length of {self.duration_s:,.3f} s, but its tracks end at {tracks_end_s:,.3f} s"
        elif self._video is not None and 0 < self._video.fps * self.duration_s < 0.5:
            problem = f"its video has {self._video.fps:.3g} frames a second, none in its {self.duration_s:,.3f} s"
        elif any(track.stands_still for track in (self._video, self._audio) if track):
            problem = "all packets in its index are of one time"
        if problem:
            raise DecodeError("media_corrupt", f"{self.name}: {problem}. Fetch the file again.")

    def _update_display(self, frame: VideoFrame) -> tuple["Orientation", float]:
        """The orientation of a frame and its pixel aspect ratio; both also update the displayed size."""
        assert self._video is not None
        orientation = orientation_of(frame)
        aspect = float(self._video.stream.sample_aspect_ratio or 1)
        if not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
            aspect = 1.0
        size = (round(frame.width * aspect), frame.height)
        self._orientation = orientation
        self._displayed_size = size[::-1] if orientation.transpose else size
        return orientation, aspect

    def _read_with_pyav(self, times_s: list[float], short_side: int | None) -> Iterator["TimedImage"]:
        assert self._video is not None
        for frame, time_s in self._video.frames_at(times_s):
            yield self._image(frame, short_side), time_s

    def _image(self, frame: VideoFrame, short_side: int | None) -> UInt8[np.ndarray, "_ _ 3"]:
        """The frame as it is displayed."""
        orientation, aspect = self._update_display(frame)
        width, height = frame.width * aspect, float(frame.height)
        if max(width, height) > MAX_PROPORTION * min(width, height):
            raise DecodeError(
                "media_corrupt",
                f"{self.name}: a frame of {width:.0f} x {height:.0f} pixels: one side is more than {MAX_PROPORTION:g} "
                "times as long as the other, which is taken for damage. Fetch the file again.",
            )
        scale = 1.0 if short_side is None else short_side / min(width, height)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return orientation.apply(self._to_rgb(frame, *size))

    def _to_rgb(self, frame: VideoFrame, width: int, height: int) -> UInt8[np.ndarray, "_ _ 3"]:
        # Scaling before the conversion takes a third of the time of one combined call; values differ by half a level.
        if (frame.width, frame.height) != (width, height) and frame.format.name in SCALABLE:
            frame = self._scaler.reformat(frame, width, height, interpolation=SCALING, threads=1)
        transfer = transfer_of(frame) if self._tone_map else ""
        if transfer:
            self._tone_mapped = transfer
            wide_gamut = has_wide_gamut(frame)
            signal = self._converter.reformat(frame, width, height, format="rgb48le", interpolation=SCALING, threads=1)
            return to_sdr(signal.to_ndarray(), transfer, wide_gamut=wide_gamut)
        rgb = self._converter.reformat(frame, width, height, format="rgb24", interpolation=SCALING, threads=1)
        return rgb.to_ndarray()

    def use_decord(self, source: MediaSource) -> None:
        """Read video frames with decord from now on. Raises DecodeError where decord would return wrong frames."""
        if self._video is not None:
            self._read_frames = decord_frame_reader(source, self._video, self.name)


def _origin_s(container: InputContainer, streams: Sequence[Any]) -> float:
    if (start := cast(int | None, container.start_time)) is not None:
        return start / av.time_base
    starts = [float(stream.start_time * stream.time_base) for stream in streams if stream.start_time is not None]
    return min(starts, default=0.0)


def media_extent_s(path: Path) -> tuple[float, float]:
    """Start and end of a file in seconds, in the file's own timestamps. Raises the same errors as `open_media`."""
    with open_media(path) as media:
        return media.origin_s, media.origin_s + media.duration_s


@contextmanager
def open_media(
    source: MediaSource,
    decoder: str = "pyav",
    more_formats: Sequence[str] = (),
    duration_s: float | None = None,
    *,
    deinterlace: bool = True,
    tone_map: bool = True,
    fast: bool = False,
) -> Iterator[Media]:
    """Open a media file for the duration of a `with` block.

    Args:
        source: A path, or an open, seekable binary file.
        decoder: `pyav`, or `decord` for the video frames (an extra of avkit). Audio is always read with PyAV.
        more_formats: Container formats to accept beside those in FORMATS, such as `mp3`.
        duration_s: The duration in seconds if it is known from an earlier opening. Without it, a file whose header
            has no duration is read to its end.
        deinterlace: Whether frames that hold two fields become whole pictures. Not done by decord.
        tone_map: Whether HDR frames become SDR; see `avdata.prepare.decode.hdr`. Not done by decord.
        fast: Whether the decoder leaves out the loop filter: less work for H.264, HEVC and VP8, and slightly other
            pixels, the more so the farther from the key frame. Decoders of VP9, AV1 and codecs without a loop filter
            give the same pixels. Refused with decord.

    Yields:
        The open file.

    Raises:
        ConfigError: The decoder is unknown or not installed, or cannot be fast.
        DecodeError: media_corrupt if the source is not a media file.
        FileNotFoundError: The path does not exist.

    Example:
        with open_media(Path("clip.mp4")) as media:
            frames = media.frames([0.0, 1.5])
            audio = media.waveform(0.0, 3.0)
    """
    if decoder not in DECODERS:
        raise ConfigError(f"unknown decoder {decoder!r}; known: {', '.join(DECODERS)}")
    if decoder == "decord":
        if fast:
            raise ConfigError("decoder 'decord' cannot leave out the loop filter. Use decoder pyav, or fast=False.")
        import_decord()
    if isinstance(source, Path):
        try:
            require_file(source)
        except NotAFile as error:
            raise DecodeError("media_corrupt", f"{source}: {error.strerror}") from error
    name = str(source) if isinstance(source, Path) else str(getattr(source, "name", "stream"))
    try:
        container = av.open(
            f"file:{source}" if isinstance(source, Path) else source,
            mode="r",
            container_options={
                "format_whitelist": ",".join((FORMATS, *more_formats)),
                "protocol_whitelist": "file",
            },
            **_METADATA_ERRORS,
        )
    except av.error.FFmpegError as error:
        raise DecodeError("media_corrupt", f"{name}: not a media file, or its end with the index is missing") from error
    with container:
        media = Media(container, name, duration_s, deinterlace=deinterlace, tone_map=tone_map, fast=fast)
        if decoder == "decord":
            media.use_decord(source)
        yield media


def decode_same_packets(
    source: MediaSource, times_s: Sequence[float], start_s: float, end_s: float, *, drop: bool = False
) -> int:
    """Decode the packets that `frames(times_s)` and `waveform(start_s, end_s)` need, discard them, return their number.

    A lower bound for the cost of preparing a clip: the same seeks and packets, but no scaling, color conversion or
    resampling. Every frame of a group of pictures is decoded, as PyAV does by default. With `drop`, frames that no
    other frame refers to are skipped where `frames` skips them.
    """
    with open_media(source) as media:
        if media._video is not None:
            media._video.can_drop &= drop
            for _ in media._video.frames_at(sorted(times_s)):
                pass
        if media._audio is not None:
            for _ in media._audio.frames(start_s - RESAMPLE_MARGIN_S, end_s + RESAMPLE_MARGIN_S):
                pass
        return media.num_packets
