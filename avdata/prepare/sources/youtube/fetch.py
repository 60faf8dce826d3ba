"""One video from YouTube to files: whole, or, of a long one, padded sections around its clips."""

import contextlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import BROWSER, YoutubeOptions
from avdata.prepare.decode import media_extent_s
from avdata.prepare.sources.remote import FetchedFile, Span
from avdata.prepare.sources.youtube.errors import classify, disk_error, message_of
from avmanifest.errors import DownloadError

SHORT_S: Final = 0.25
"""A section may lack so much of its end."""
LENGTH_TOLERANCE_S: Final = 1.0
"""YouTube gives lengths in whole seconds."""


@runtime_checkable
class YoutubeDL(Protocol):
    """What is used of yt_dlp.YoutubeDL."""

    def extract_info(self, url: str, download: bool = True) -> dict[str, Any] | None:
        """Fetch the video; what is known of it."""
        ...

    def close(self) -> None:
        """Give up connections."""
        ...


def open_youtube_dl(params: dict[str, Any]) -> YoutubeDL:
    """yt-dlp, with nothing in it but what it came with: no plugins, no configuration files."""
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    import yt_dlp  # noqa: PLC0415 - the children that fetch need it, and it takes a second

    youtube_dl: YoutubeDL = yt_dlp.YoutubeDL(params)
    return youtube_dl


@dataclass(slots=True)
class _Talk:
    """yt-dlp's logger: keeps the warnings, prints nothing."""

    warnings: list[str] = field(default_factory=list)

    def debug(self, message: str) -> None:
        """What it does; nobody asks."""

    def info(self, message: str) -> None:
        """Likewise."""

    def warning(self, message: str) -> None:
        """Kept for the row's reason."""
        self.warnings.append(message)

    def error(self, message: str) -> None:
        """Comes as an exception too."""


@dataclass(slots=True)
class _Choice:
    """What of the video is fetched, decided once yt-dlp knows its length."""

    options: YoutubeOptions
    spans: Sequence[Span]
    live: bool = False
    sections: list[tuple[float, float]] | None = None  # None: the whole video
    duration_s: float = 0.0

    def refuse_live(self, info: Mapping[str, Any], *, incomplete: bool = False) -> str | None:
        """yt-dlp's match_filter: a stream that has not ended would be fetched for ever."""
        del incomplete  # what little is known before the page is read may say it already
        self.live = bool(info.get("is_live")) or info.get("live_status") in ("is_live", "is_upcoming", "post_live")
        return "a live stream" if self.live else None

    def ranges(self, info: Mapping[str, Any], youtube_dl: object) -> Iterable[dict[str, Any]]:
        """yt-dlp's download_ranges."""
        del youtube_dl
        self.duration_s = float(info.get("duration") or 0.0)
        if self.duration_s <= self.options.sections_over_s or any(end_s is None for _, end_s in self.spans):
            return [{}]
        self.sections = padded_sections(self.spans, self.options.padding_s, self.duration_s)
        return [
            {"start_time": start_s, "end_time": end_s, "index": number}
            for number, (start_s, end_s) in enumerate(self.sections)
        ]


def padded_sections(spans: Sequence[Span], padding_s: float, duration_s: float) -> list[tuple[float, float]]:
    """The stretches of a video that hold the spans and the padding, in order and apart; none past its end."""
    sections: list[tuple[float, float]] = []
    for start_s, end_s in sorted((start_s, end_s or duration_s) for start_s, end_s in spans if start_s < duration_s):
        first, last = max(start_s - padding_s, 0.0), min(end_s + padding_s, duration_s)
        if sections and first <= sections[-1][1]:
            sections[-1] = sections[-1][0], max(last, sections[-1][1])
        else:
            sections.append((first, last))
    return sections


@dataclass(frozen=True, slots=True)
class VideoFetcher:
    """Fetches one video by yt-dlp: missing fragments are errors, never left out."""

    options: YoutubeOptions

    def __call__(self, address: str, spans: tuple[Span, ...], folder: Path) -> tuple[FetchedFile, ...]:
        """Fetch the video, or its sections. Raises DownloadError with yt-dlp's own words in its message."""
        talk, choice = _Talk(), _Choice(self.options, spans)
        _name_ffmpeg(ffmpeg_binary())
        open_dl = self.options.open or open_youtube_dl
        try:
            with contextlib.closing(open_dl(self._params(folder, talk, choice))) as youtube_dl:
                info = youtube_dl.extract_info(address, download=True) or {}
        except _expected_errors() as error:
            if (full := disk_error(error)) is not None:
                raise full from error
            raise DownloadError(classify(error), message_of(error, talk.warnings)) from error
        if choice.live:
            raise DownloadError("unavailable_live", f"{address}: live status {info.get('live_status', 'is_live')}")
        if choice.sections == []:
            raise DownloadError("media_window", f"{address}: every clip lies past its end at {choice.duration_s:g} s")
        return tuple(_fetched(entry, choice, address) for entry in _downloads(info, address, talk))

    def _params(self, folder: Path, talk: _Talk, choice: _Choice) -> dict[str, Any]:
        options = self.options

        def sleep_s(n: int) -> float:
            return min(options.retry_sleep_s * 2.0**n, 30.0)

        params: dict[str, Any] = {
            "format": "b/bv*+ba",
            "format_sort": [f"res:{options.max_height}"],  # the largest up to it, else the smallest above
            "merge_output_format": "mkv",
            "paths": {"home": str(folder), "temp": str(folder)},
            # A file that an earlier attempt left is gone on with, so its name says what it holds.
            "outtmpl": {"default": "media-%(section_start|0)s-%(section_end|0)s.%(ext)s"},
            "cachedir": str(folder.parent / "yt-dlp"),
            "ffmpeg_location": ffmpeg_binary(),
            "external_downloader_args": {"ffmpeg_o": ["-copyts"]},  # a section keeps the video's times
            "skip_unavailable_fragments": False,
            "retries": options.retries,
            "fragment_retries": options.retries,
            "extractor_retries": options.retries,
            "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), sleep_s),
            "socket_timeout": options.socket_s,
            "match_filter": choice.refuse_live,
            "download_ranges": choice.ranges,
            "js_runtimes": {"deno": {}, "node": {}},  # the two that yt-dlp runs without access to files
            "noplaylist": True,
            "fixup": "never",
            "updatetime": False,
            "quiet": True,
            "noprogress": True,
            "color": "never",
            "logger": talk,
        }
        if options.proxy is not None:
            params["proxy"] = options.proxy
        if options.cookies is not None:
            params["cookiefile"] = io.StringIO(options.cookies.read_text())
        if options.cookies_from_browser is not None:
            match = BROWSER.fullmatch(options.cookies_from_browser)
            assert match, "it was checked when the options were made"
            keyring = match["keyring"] and match["keyring"].upper()
            params["cookiesfrombrowser"] = (match["name"], match["profile"], keyring, match["container"])
        return params


def _name_ffmpeg(path: str) -> None:
    """Tell yt-dlp's downloaders where ffmpeg is: what fetches sections looks here, not at the parameters."""
    from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor  # noqa: PLC0415

    FFmpegPostProcessor._ffmpeg_location.set(path)


def _expected_errors() -> tuple[type[BaseException], ...]:
    """What yt-dlp raises when it cannot get a video."""
    from yt_dlp.cookies import CookieLoadError  # noqa: PLC0415
    from yt_dlp.utils import YoutubeDLError  # noqa: PLC0415

    return (YoutubeDLError, CookieLoadError, OSError)


def _downloads(info: Mapping[str, Any], address: str, talk: _Talk) -> list[dict[str, Any]]:
    """yt-dlp's account of the files that it wrote."""
    entries = [entry for entry in info.get("requested_downloads") or [] if entry.get("filepath")]
    if not entries or not all(Path(entry["filepath"]).is_file() for entry in entries):
        said = f" (before it: {'; '.join(talk.warnings[:3])})" if talk.warnings else ""
        raise DownloadError("net_http", f"{address}: yt-dlp ended without a file{said}")
    return entries


def _fetched(entry: Mapping[str, Any], choice: _Choice, address: str) -> FetchedFile:
    """One of the files. Raises DownloadError for a section that ends early: to ffmpeg a cut connection is an end."""
    path = Path(entry["filepath"])
    if choice.sections is None:
        return FetchedFile(path.name)
    start_s, end_s = choice.sections[int(entry["section_number"])]
    first_s, last_s = media_extent_s(path)
    if last_s < min(end_s - SHORT_S, choice.duration_s - LENGTH_TOLERANCE_S):
        path.unlink()
        raise DownloadError("net_http", f"{address}: the section to {end_s:.2f} s ends at {last_s:.2f} s")
    covers = start_s, (end_s if end_s < choice.duration_s else None)
    return FetchedFile(path.name, first_s, covers, choice.duration_s)
