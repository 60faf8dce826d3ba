"""Statuses of the manifest for yt-dlp's exceptions and YouTube's messages.

YouTube explains only in a text message why a video is not available, and yt-dlp passes that message on. So the
text is matched before the types of most exceptions.
"""

import re
import socket
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from avmanifest.files import DISK_ERRORS

_COLOR: Final = re.compile(r"\x1b\[[0-9;]*m")
_MESSAGES: Final = Path(__file__).with_name("messages.toml")


@dataclass(frozen=True, slots=True)
class Message:
    """An entry of messages.toml, which describes the fields."""

    text: str
    status: str
    ends: str = ""  # status when a second client gets a blocked_soft answer too; empty: the same
    since: str = ""
    source: str = ""


@cache
def messages() -> tuple[Message, ...]:
    """The known messages, in the order in which they are tried."""
    return tuple(Message(**entry) for entry in tomllib.loads(_MESSAGES.read_text())["message"])


def classify(error: BaseException) -> str:
    """The status for an error of yt-dlp; net_http for an unknown one."""
    return verdict(error).status


def final_status(error: BaseException) -> str:
    """The status for an error that two clients of YouTube got."""
    found = verdict(error)
    return found.ends or found.status


def verdict(error: BaseException) -> Message:
    """What an error of yt-dlp means: an entry of messages.toml, or one made from the error's type."""
    # Imported here because only the child processes that download need it.
    from yt_dlp.networking.exceptions import HTTPError, ProxyError  # noqa: PLC0415
    from yt_dlp.utils import GeoRestrictedError, UserNotLive  # noqa: PLC0415

    chain = list(_causes(error))
    for cause in chain:
        match cause:
            case GeoRestrictedError():
                return Message("", "unavailable_geo")
            case UserNotLive():
                return Message("", "unavailable_live")
            case ProxyError():
                return Message("", "net_http")
            case HTTPError() if cause.status == 429:
                return Message("", "blocked_rate")
    text = message_of(error).lower().replace("’", "'")
    for message in messages():
        if re.search(message.text, text):
            return message
    for cause in chain:
        match cause:
            case HTTPError() if cause.status in (401, 403):
                return Message("", "blocked_token")
            case socket.gaierror():
                return Message("", "net_dns")
            case TimeoutError():
                return Message("", "net_timeout")
    return Message("", "net_http")


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
