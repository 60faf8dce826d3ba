"""Signs of damage in a stream, and how far damage spreads from one packet to the pictures that lean on it."""

import threading
from types import TracebackType
from typing import Final

import av.logging
from av.packet import Packet

UNCHECKED_CODECS: Final = frozenset({"hevc", "vp8", "vp9", "theora", "mjpeg", "msmpeg4v3", "wmv1", "wmv2"})
"""Codecs whose decoders notice only some damage. One bad packet makes all pictures of such a clip doubtful: each of 39
HEVC, VP8, VP9 and Theora files with ten flipped bits had visibly wrong pictures that its decoder passed as intact."""

MAX_PIXELS: Final = 2**26  # of a picture; twice those of an 8K video
MAX_PACKET_SAMPLES: Final = 2**22  # of a packet of sound and one channel: 87 s at 48 kHz

DECODER_OPTIONS: Final[dict[str, str]] = {
    "err_detect": "crccheck",  # checksums inside packets (FLAC, AC-3, ...)
    "max_pixels": str(MAX_PIXELS),  # a decoder takes memory for the size that a file claims
    "max_samples": str(MAX_PACKET_SAMPLES),
}
FAST_OPTIONS: Final[dict[str, str]] = {"skip_loop_filter": "all"}  # in effect for H.264, HEVC and VP8
AV1_OPTIONS: Final[dict[str, str]] = {"strict": "1"}  # dav1d then checks the padding that ends each tile

# Messages of level error about intact files that were cut without encoding: a picture that is to be forgotten was cut.
_HARMLESS: Final = ("mmco: unref short failure",)
_CONCEALED: Final = "concealing "  # of level info


class DecoderMessages:
    """A context in which the messages of FFmpeg's libraries are collected, of this thread only. It can be used again.

    The libraries' log level is a global state of the process: it is raised while any thread is inside, then restored.
    """

    _lock = threading.Lock()
    _num_inside = 0
    _before: tuple[int | None, bool] = (None, True)

    def __init__(self) -> None:
        self._capture = av.logging.Capture()
        self._thread = threading.get_ident()

    def __enter__(self) -> list[tuple[int, str, str]]:
        if self._thread != threading.get_ident():
            DecoderMessages.__init__(self)  # a capture is of the thread that made it
        self._capture.logs.clear()
        with self._lock:
            if not DecoderMessages._num_inside:
                DecoderMessages._before = av.logging.get_level(), av.logging.get_skip_repeated()
                av.logging.set_level(av.logging.INFO)
                av.logging.set_skip_repeated(False)
            DecoderMessages._num_inside += 1
        return self._capture.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._capture.__exit__(None, None, None)
        with self._lock:
            DecoderMessages._num_inside -= 1
            if not DecoderMessages._num_inside:
                level, skip_repeated = DecoderMessages._before
                av.logging.set_level(level)
                av.logging.set_skip_repeated(skip_repeated)


def report_damage(messages: list[tuple[int, str, str]], author: str | None = None) -> bool:
    """Whether messages (level, author, text) say that a decoder, or the author of that name, met damage."""
    return any(
        text.startswith(_CONCEALED) or (level <= av.logging.ERROR and not text.startswith(_HARMLESS))
        for level, name, text in messages
        if author in (None, name)
    )


class DamageSpread:
    """Which pictures of a video stream damage touches: a bad packet's, and those after it up to the next key frame.

    Pictures that follow a key frame in the file but are displayed before it may lean on pictures before the key frame.
    """

    def __init__(self) -> None:
        self.ticks: set[int] = set()  # presentation times of the pictures that damage touches
        self._touches_next = False  # packets from here to the next key frame lean on damage
        self._touches_leading = False  # of the last key frame
        self._key_tick: int | None = None

    def judge(self, packet: Packet, bad: bool) -> bool:  # type: ignore[type-arg]
        """Whether damage touches the pictures of a packet. Packets are given in decoding order."""
        if packet.is_keyframe:
            self._touches_leading, self._touches_next = self._touches_next, False
            self._key_tick = packet.pts
        leads = packet.pts is not None and self._key_tick is not None and packet.pts < self._key_tick
        if leads:
            self._touches_leading |= bad
        else:
            self._touches_next |= bad
        touched = self._touches_leading if leads else self._touches_next
        if touched and packet.pts is not None:
            self.ticks.add(packet.pts)
        return touched
