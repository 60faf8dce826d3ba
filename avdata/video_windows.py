"""Reads a video of any length window by window, in bounded memory."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from avdata.prepare.decode import Media, open_media
from avdata.waveform import StoredSamples
from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from avmanifest.errors import ConfigError, DecodeError
from avmanifest.names import no_such

MIN_TAIL_S = 0.01  # a shorter rest at the end of a video gets no window of its own


def iter_windows(path: Path | str, config: WindowConfig | None = None) -> Iterator[Window]:
    """Iterate over the windows of a video from start to end. Each is decoded when it is requested.

    A video shorter than a window gives one window. The waveform is silent where the audio begins late, ends early or
    has a gap; it is None if the file has no audio track.

    Args:
        path: A local media file.
        config: Window length, hop and frames; None: the defaults.

    Raises:
        ConfigError: The file does not exist.
        DecodeError: The file is no media file (playlists and scripts are refused), has no video although the config
            needs it, or is too damaged to decode a window.
    """
    config = config or WindowConfig()
    path = Path(path)
    try:
        with open_media(path) as media:
            has_video, has_sound = _has_video(media, config), _has_sound(path, media.duration_s)
            if not has_video and not has_sound:
                raise DecodeError("media_corrupt", f"{path}: neither video nor audio in it")
            size: tuple[int, int] | None = None
            for number in range(num_windows(media.duration_s, config)):
                start_s = number * config.step_s
                end_s = min(start_s + config.window_s, media.duration_s)
                times_s = frame_times(start_s, end_s, config) if has_video else ()
                frames = _frames(media, times_s, config.short_side, size) if has_video else None
                size = None if frames is None else (frames.shape[1], frames.shape[2])
                yield Window(
                    number=number,
                    start_s=start_s,
                    end_s=end_s,
                    duration_s=media.duration_s,
                    waveform=_waveform(path, media, start_s, end_s, config.window_s) if has_sound else None,
                    frames=frames,
                    times_s=times_s,
                )
    except FileNotFoundError as error:
        raise ConfigError(no_such("video", path)) from error


def num_windows(duration_s: float, config: WindowConfig) -> int:
    """Number of windows that cover a video of that duration; at least 1."""
    beyond_s = duration_s - config.window_s - MIN_TAIL_S
    return 1 + max(0, math.ceil(beyond_s / config.step_s))


def frame_times(start_s: float, end_s: float, config: WindowConfig) -> tuple[float, ...]:
    """Times of the frames to decode in a window, in seconds of the video.

    With fps, a window that contains no multiple of 1 / fps gets one frame, at its middle.
    """
    if config.fps is None:
        part_s = (end_s - start_s) / config.num_frames
        return tuple(start_s + (number + 0.5) * part_s for number in range(config.num_frames))
    first, end = (math.ceil(time_s * config.fps - 1e-6) for time_s in (start_s, end_s))
    return tuple(number / config.fps for number in range(first, end)) or ((start_s + end_s) / 2,)


def _has_video(media: Media, config: WindowConfig) -> bool:
    try:
        media.frames([0.0], config.short_side)
    except DecodeError as error:
        if error.status != "media_no_video" or config.needs_video:
            raise
        return False
    return True


def _has_sound(path: Path, duration_s: float) -> bool:
    try:
        with open_media(path, duration_s=duration_s) as media:
            media.waveform(0.0, min(duration_s, MIN_TAIL_S))
    except DecodeError as error:
        return error.status != "media_no_audio"  # other damage is reported when a window is decoded
    return True


def _frames(
    media: Media, times_s: Sequence[float], short_side: int, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "f h w 3"]:
    """The frames at these times, resized to `size` (height, width); None: to the size of the first frame."""
    images = media.frames(times_s, short_side).images
    height, width = size or images[0].shape[:2]
    return np.stack(
        [
            image
            if image.shape[:2] == (height, width)
            else np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            for image in images
        ]
    )


def _waveform(path: Path, media: Media, start_s: float, end_s: float, window_s: float) -> Float32[np.ndarray, " n"]:
    """The audio of a span, padded with silence to a whole window; equal to what prepare stores for the span.

    The file is opened again for each window. AAC decoders fill bands with noise that depends on what they decoded
    before, and a reader that alternates between video and audio would decode parts of both twice.
    """
    waveform = np.zeros(round(window_s * SAMPLE_RATE), np.float32)
    try:
        with open_media(path, duration_s=media.duration_s) as audio:
            samples = audio.waveform(start_s, end_s, SAMPLE_RATE).samples
    except DecodeError as error:
        if error.status != "media_window":  # the audio track has not begun, or has ended
            raise
        return waveform
    waveform[: len(samples)] = StoredSamples(samples)[: len(waveform)]
    return waveform
