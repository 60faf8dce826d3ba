"""A video of any length as windows, one after the other: memory holds the one returned and the one being decoded."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from avdata.prepare.decode import Media, open_media
from avdata.windows import SAMPLE_RATE, Window, WindowConfig
from avmanifest.errors import ConfigError, DecodeError

LEAST_TAIL_S = 0.01  # less than this at a video's end, beyond the last window, is let go


def iter_windows(path: Path | str, config: WindowConfig | None = None) -> Iterator[Window]:
    """The windows of a video from its start to its end, decoded by timestamps as they are asked for.

    A video shorter than a window gives one. Where its sound begins late, ends early or has a gap there is silence;
    the waveform is None where the file has no sound at all. Raises ConfigError for a path that isn't there, DecodeError
    for what is no media file (playlists and scripts among them), for one without pictures if the config needs them, and
    for damage that leaves no picture or too little sound for a window.
    """
    config = config or WindowConfig()
    path = Path(path)
    try:
        with open_media(path) as seen:
            has_video, has_sound = _has_video(seen, config), _has_sound(path, seen.duration_s)
            if not has_video and not has_sound:
                raise DecodeError("media_corrupt", f"{path}: neither pictures nor sound in it")
            size: tuple[int, int] | None = None
            for number in range(num_windows(seen.duration_s, config)):
                start_s = number * config.step_s
                end_s = min(start_s + config.window_s, seen.duration_s)
                times_s = frame_times(start_s, end_s, config) if has_video else ()
                frames = _frames(seen, times_s, config.short_side, size) if has_video else None
                size = None if frames is None else (frames.shape[1], frames.shape[2])
                yield Window(
                    number=number,
                    start_s=start_s,
                    end_s=end_s,
                    duration_s=seen.duration_s,
                    waveform=_waveform(path, seen, start_s, end_s, config.window_s) if has_sound else None,
                    frames=frames,
                    times_s=times_s,
                )
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such video") from error


def num_windows(duration_s: float, config: WindowConfig) -> int:
    """Windows that reach a video's end; at least one."""
    beyond_s = duration_s - config.window_s - LEAST_TAIL_S
    return 1 + max(0, math.ceil(beyond_s / config.step_s))


def frame_times(start_s: float, end_s: float, config: WindowConfig) -> tuple[float, ...]:
    """When the frames of a span are on screen. With fps, the middle where none of its times is in the span."""
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
            media.waveform(0.0, min(duration_s, LEAST_TAIL_S))
    except DecodeError as error:
        return error.status != "media_no_audio"  # what else is wrong, its window will say
    return True


def _frames(
    media: Media, times_s: Sequence[float], short_side: int, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "f h w 3"]:
    """The pictures at these times; a video that changes its size on the way keeps its first."""
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
    """The sound of a span, as preparing just this span gives it, filled up to a window.

    Opened anew: the noise that AAC decoders fill bands with depends on all that they decoded before, and one reader
    that went back and forth between pictures and sound would decode much of both again.
    """
    waveform = np.zeros(round(window_s * SAMPLE_RATE), np.float32)
    try:
        with open_media(path, duration_s=media.duration_s) as heard:
            samples = heard.waveform(start_s, end_s, SAMPLE_RATE).samples
    except DecodeError as error:
        if error.status != "media_window":  # the sound has not begun, or is over
            raise
        return waveform
    waveform[: len(samples)] = samples[: len(waveform)]
    return waveform
