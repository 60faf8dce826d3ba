"""decord for the pictures, as users of its ecosystem expect: an extra, and refused where it is wrong."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avdata.images import resize_short_side
from avdata.prepare.decode.tracks import TIME_TOLERANCE_S, MediaSource
from avdata.prepare.decode.video import Picture, Pictures, VideoTrack
from avmanifest.errors import ConfigError, DecodeError


def import_decord() -> Any:
    try:
        import decord  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("decoder 'decord' is not installed: pip install 'avkit[decord]', or use pyav") from error
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _decord_source(source: MediaSource) -> str | io.BytesIO:
    """What decord opens; a file that PyAV reads from too is copied, because both would move its position."""
    if isinstance(source, Path):
        return str(source)
    position = source.tell()
    source.seek(0)
    content = source.read()
    source.seek(position)
    return io.BytesIO(content)


def decord_pictures(source: MediaSource, video: VideoTrack, name: str) -> Pictures:
    """Pictures from decord, whose frame numbers count what an edit list hides: such clips are refused."""
    decord = import_decord()
    failures = (RuntimeError, decord.DECORDError)
    refusal = "decord gives wrong pictures here. Prepare it with --decoder pyav."
    if video.stream.sample_aspect_ratio not in (None, 0, 1):
        raise DecodeError("media_corrupt", f"{name}: its pixels are not square: {refusal}")
    try:
        reader = decord.VideoReader(_decord_source(source), num_threads=1)
        begins_s = np.asarray(reader.get_frame_timestamp(list(range(len(reader)))))[:, 0]
    except failures as error:
        raise DecodeError("media_corrupt", f"{name}: decord cannot read it: {str(error).splitlines()[0]}") from error

    num_displayed = sum(not packet.is_discard and packet.size > 0 for packet in video.packets())
    video.reader.let_go()
    if len(reader) != num_displayed or begins_s[0] < 0:
        raise DecodeError("media_corrupt", f"{name}: it has an edit list: {refusal}")
    if abs(begins_s[0] - video.start_s - video.origin_s) > 0.001:
        raise DecodeError("media_corrupt", f"{name}: its video does not start at 0: {refusal}")

    def pictures(times_s: list[float], short_side: int | None) -> Iterator[Picture]:
        stream_times_s = np.asarray(times_s) + video.origin_s + TIME_TOLERANCE_S
        positions = np.maximum(np.searchsorted(begins_s, stream_times_s, side="right") - 1, 0)
        for position in positions.tolist():
            try:
                image = reader[position].asnumpy()
            except failures as error:
                raise DecodeError("media_corrupt", f"{name}: decord cannot read frame {position}") from error
            resized = image if short_side is None else resize_short_side(image, short_side)
            yield resized, float(begins_s[position]) - video.origin_s

    return pictures
