"""Statuses of the manifest for yt-dlp's exceptions and YouTube's messages.

YouTube explains only in a message for people why a video is not available, and yt-dlp passes that message on. So the
text is matched before the types of most exceptions.
"""

import re
import socket
from collections.abc import Iterator, Sequence
from typing import Final

from avmanifest.files import DISK_ERRORS

_COLOR: Final = re.compile(r"\x1b\[[0-9;]*m")

# The first match counts: "Video unavailable. This video is private" is private, and a bot check mentions "sign in".
_STATUS_OF_TEXT: Final[tuple[tuple[str, str], ...]] = (
    (r"not a bot|captcha|unusual traffic", "blocked_bot"),
    (r"rate-?limited|too many requests|http error 429|isn't available, try again later", "blocked_rate"),
    (r"confirm your age|age-restricted|inappropriate for some users", "unavailable_age"),
    (r"members-only|channel's members|join this channel|premium members|requires payment", "unavailable_members"),
    (r"private video|video is private", "unavailable_private"),
    (r"in your country|from your location|geo.?restrict", "unavailable_geo"),
    (r"live event|live stream|premieres? (in|will)|will begin in|is not currently live", "unavailable_live"),
    (r"drm.protected", "media_corrupt"),
    (r"page needs to be reloaded", "blocked_token"),
    (r"requested format is not available|only images are available|no video formats", "blocked_token"),
    (
        r"has been removed|no longer available|terminated|account .{0,40}closed|does not exist|been deleted"
        r"|violat\w+ youtube|video (is )?(unavailable|not available)",
        "unavailable_removed",
    ),
    (r"fragment \d+ not found", "net_http"),
    (r"name or service not known|failed to resolve|getaddrinfo|name resolution", "net_dns"),
    (r"proxy", "net_http"),
    (r"timed? ?out", "net_timeout"),
    (r"http error 40[13]", "blocked_token"),
    (r"sign in|log ?in", "blocked_bot"),
)
_PATTERNS: Final = [(re.compile(words), status) for words, status in _STATUS_OF_TEXT]


def classify(error: BaseException) -> str:
    """The status for an error of yt-dlp; net_http for an unknown one."""
    # Imported here because only the child processes that download need it.
    from yt_dlp.networking.exceptions import HTTPError, ProxyError  # noqa: PLC0415
    from yt_dlp.utils import GeoRestrictedError, UserNotLive  # noqa: PLC0415

    chain = list(_causes(error))
    for cause in chain:
        match cause:
            case GeoRestrictedError():
                return "unavailable_geo"
            case UserNotLive():
                return "unavailable_live"
            case ProxyError():
                return "net_http"
            case HTTPError() if cause.status == 429:
                return "blocked_rate"
    text = message_of(error).lower().replace("’", "'")
    for pattern, status in _PATTERNS:
        if pattern.search(text):
            return status
    for cause in chain:
        match cause:
            case HTTPError() if cause.status in (401, 403):
                return "blocked_token"
            case socket.gaierror():
                return "net_dns"
            case TimeoutError():
                return "net_timeout"
    return "net_http"


def disk_error(error: BaseException) -> OSError | None:
    """The OSError of a full or failing disk that caused a yt-dlp error; None if there is none."""
    causes = (cause for cause in _causes(error) if isinstance(cause, OSError))
    return next((cause for cause in causes if cause.errno in DISK_ERRORS), None)


def message_of(error: BaseException, warnings: Sequence[str] = ()) -> str:
    """yt-dlp's message without terminal colors, with up to three earlier warnings."""
    text = _COLOR.sub("", str(error)).removeprefix("ERROR: ").strip() or repr(error)
    earlier = [_COLOR.sub("", warning).strip() for warning in dict.fromkeys(warnings)]
    return text if not earlier else f"{text} (earlier warnings: {'; '.join(earlier[:3])})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        info = getattr(cause, "exc_info", None)
        inner = info[1] if isinstance(info, tuple) and len(info) > 1 else None
        waiting += [inner if isinstance(inner, BaseException) else None]
        own = getattr(cause, "cause", None)
        waiting += [own if isinstance(own, BaseException) else None, cause.__cause__, cause.__context__]
