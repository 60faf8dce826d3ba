"""Decoding of media files to video frames and audio. No other package imports a decoder."""

from avdata.prepare.decode.media import (
    Frames,
    Media,
    MediaInfo,
    Waveform,
    decode_same_packets,
    media_extent_s,
    open_media,
)

__all__ = [
    "Frames",
    "Media",
    "MediaInfo",
    "Waveform",
    "decode_same_packets",
    "media_extent_s",
    "open_media",
]
