"""Video frames read with decord, an optional alternative to PyAV. Files that decord reads wrongly are refused."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avdata.images import resize_short_side
from avdata.prepare.decode.tracks import TIME_TOLERANCE_S, MediaSource
from avdata.prepare.decode.video import FrameReader, TimedImage, VideoTrack
from avmanifest.errors import ConfigError, DecodeError


def import_decord() -> Any:
    """The module decord. Raises ConfigError with the command to install it if it is missing."""
    try:
        import decord  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "decoder 'decord' is not installed. Run pip install 'avkit[decord]', or use --decoder pyav."
        ) from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _decord_source(source: MediaSource) -> str | io.BytesIO:
    """What decord opens: the path, or a copy of an open file, because PyAV reads from the same file position."""
    if isinstance(source, Path):
        return str(source)
    position = source.tell()
    source.seek(0)
    content = source.read()
    source.seek(position)
    return io.BytesIO(content)


def decord_frame_reader(source: MediaSource, video: VideoTrack, name: str) -> FrameReader:
    """A FrameReader that uses decord.

    Raises DecodeError media_corrupt where decord would return wrong images: non-square pixels, an edit list (decord's
    frame numbers count hidden frames), a video that does not start at 0.
    """
    decord = import_decord()
    failures = (RuntimeError, decord.DECORDError)
    refusal = "decord returns wrong frames here. Prepare it with --decoder pyav."
    if video.stream.sample_aspect_ratio not in (None, 0, 1):
        raise DecodeError("media_corrupt", f"{name}: its pixels are not square: {refusal}")
    try:
        reader = decord.VideoReader(_decord_source(source), num_threads=1)
        begins_s = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))))[:, 0]
    except failures as error:
        raise DecodeError("media_corrupt", f"{name}: decord cannot read it: {str(error).splitlines()[0]}") from error

    num_displayed = sum(not packet.is_discard and packet.size > 0 for packet in video.packets())
    video.demuxer.release_position()
    if len(reader) != num_displayed or begins_s[0] < 0:
        raise DecodeError("media_corrupt", f"{name}: it has an edit list: {refusal}")
    if abs(begins_s[0] - video.start_s - video.origin_s) > 0.001:
        raise DecodeError("media_corrupt", f"{name}: its video does not start at 0: {refusal}")

    def read(times_s: list[float], short_side: int | None) -> Iterator[TimedImage]:
        stream_times_s = np.asarray(times_s) + video.origin_s + TIME_TOLERANCE_S
        positions = np.maximum(np.searchsorted(begins_s, stream_times_s, side="right") - 1, 0)
        for position in positions.tolist():
            try:
                image = reader[position].asnumpy()
            except failures as error:
                raise DecodeError("media_corrupt", f"{name}: decord cannot read frame {position}") from error
            resized = image if short_side is None else resize_short_side(image, short_side)
            yield resized, float(begins_s[position]) - video.origin_s

    return read
