"""Deinterlacing: whole pictures from frames that hold two fields of different times."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av.filter
from av.video.frame import VideoFrame

_ANY_TIME_BASE: Final = Fraction(1, 1000)  # the filter uses only the order of the frames


def deinterlaced(frame: VideoFrame, previous: VideoFrame | None, following: VideoFrame | None) -> VideoFrame:
    """The frame without its second field's motion, by FFmpeg's bwdif; the same as in a read of the whole stream.

    Args:
        frame: A frame whose `interlaced_frame` is set.
        previous: The frame displayed before it; None at the start of the stream.
        following: The frame displayed after it; None at the end.
    """
    frames = [other for other in (previous, frame, following) if other is not None and _is_alike(other, frame)]
    return _filtered(frames)[frames.index(frame)]


def _is_alike(frame: VideoFrame, other: VideoFrame) -> bool:
    """Whether both can pass one filter graph."""
    return (frame.width, frame.height, frame.format.name) == (other.width, other.height, other.format.name)


def _filtered(frames: Sequence[VideoFrame]) -> list[VideoFrame]:
    graph, first = av.filter.Graph(), frames[0]
    source = graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=_ANY_TIME_BASE)
    bwdif, sink = graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    for frame in frames:
        source.push(frame)
    source.push(None)
    pulled = [sink.pull() for _ in frames]
    return [frame for frame in pulled if isinstance(frame, VideoFrame)]
