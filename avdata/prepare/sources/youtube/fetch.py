"""Downloading one video from YouTube: the whole video, or padded sections around the clips of a long one."""

import contextlib
import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from avdata.ffmpeg import ffmpeg_binary
from avdata.prepare.config import BROWSER, YoutubeOptions
from avdata.prepare.decode import media_extent_s
from avdata.prepare.sources.remote import FetchedFile, Span
from avdata.prepare.sources.youtube.cookies import readable_cookies
from avdata.prepare.sources.youtube.errors import classify, disk_error, final_status, message_of
from avmanifest.errors import DownloadError
from avmanifest.files import read_text, replace_text

SHORT_S: Final = 0.25
"""Seconds by which a downloaded section may end early."""
SECOND_CLIENTS: Final = ("web_safari", "mweb")
"""Clients of YouTube that yt-dlp does not ask by default."""
CANARY_S: Final = 600.0
"""Seconds for which a canary that was found proves that YouTube answers."""
LENGTH_TOLERANCE_S: Final = 1.0
"""Seconds. YouTube reports durations in whole seconds."""


@runtime_checkable
class YoutubeDL(Protocol):
    """The methods of yt_dlp.YoutubeDL that are used here."""

    def extract_info(self, url: str, download: bool = True) -> dict[str, Any] | None:
        """Download the video and return its metadata."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def open_youtube_dl(params: dict[str, Any]) -> YoutubeDL:
    """Create a yt_dlp.YoutubeDL that loads no plugins and no configuration files."""
    os.environ["YTDLP_NO_PLUGINS"] = "1"
    import yt_dlp  # noqa: PLC0415 - takes a second; only the child processes need it

    youtube_dl: YoutubeDL = yt_dlp.YoutubeDL(params)
    return youtube_dl


@dataclass(slots=True)
class _Log:
    """yt-dlp's logger. Keeps warnings and prints nothing."""

    warnings: list[str] = field(default_factory=list)

    def debug(self, message: str) -> None:
        """Ignore it."""

    def info(self, message: str) -> None:
        """Ignore it."""

    def warning(self, message: str) -> None:
        """Keep it for the reason in the manifest row."""
        self.warnings.append(message)

    def error(self, message: str) -> None:
        """Ignore it: yt-dlp also raises an exception."""


@dataclass(slots=True)
class _Selection:
    """The part of the video to download. Decided when yt-dlp knows the duration."""

    options: YoutubeOptions
    spans: Sequence[Span]
    live: bool = False  # the video is a stream that has not ended, or a premiere
    sections: list[tuple[float, float]] | None = None  # None: the whole video
    duration_s: float = 0.0

    def refuse_live(self, info: Mapping[str, Any], *, incomplete: bool = False) -> str | None:
        """yt-dlp's match_filter: refuse a live stream, because its download would not end."""
        del incomplete  # the live status may be known before the whole page is read
        self.live = bool(info.get("is_live")) or info.get("live_status") in ("is_live", "is_upcoming", "post_live")
        return "a live stream" if self.live else None

    def ranges(self, info: Mapping[str, Any], youtube_dl: object) -> Iterable[dict[str, Any]]:
        """yt-dlp's download_ranges: the sections to download, in seconds; one empty entry means the whole video."""
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
    """Sections (start, end) in seconds that contain the spans with padding: sorted, disjoint, inside the video."""
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
    """Downloads one video with yt-dlp. A missing fragment is an error; it is never skipped."""

    options: YoutubeOptions

    def __call__(self, address: str, spans: tuple[Span, ...], folder: Path) -> tuple[FetchedFile, ...]:
        """Download the video or its sections. Raises DownloadError with yt-dlp's message.

        An answer that YouTube also gives to refused clients is asked of other clients. Before an answer counts as one
        about the video, the canary must have been found within CANARY_S.
        """
        try:
            return self._download(address, spans, folder, ())
        except DownloadError as error:
            if error.status == "blocked_soft":
                try:
                    return self._download(address, spans, folder, SECOND_CLIENTS)
                except DownloadError as second:
                    status = second.status if second.status != "blocked_soft" else _final(second)
                    failure = DownloadError(status, f"{error.message}; other clients: {second.message}")
            elif error.status == "blocked_token":
                failure = error
            else:
                raise
        if (problem := self._canary_problem(folder)) is not None:
            raise DownloadError(
                "blocked_soft",
                f"{failure.message}; the canary {self.options.canary}, a video that exists, cannot be had either: "
                f"{problem}",
            ) from failure
        raise failure

    def _download(
        self, address: str, spans: tuple[Span, ...], folder: Path, clients: Sequence[str]
    ) -> tuple[FetchedFile, ...]:
        log, selection = _Log(), _Selection(self.options, spans)
        _set_ffmpeg_path(ffmpeg_binary())
        info = self._ask(address, self._params(folder, log, selection, clients), log, download=True)
        if selection.live:
            raise DownloadError("unavailable_live", f"{address}: live status {info.get('live_status', 'is_live')}")
        if selection.sections == []:
            raise DownloadError(
                "media_window", f"{address}: every clip begins after the video's end at {selection.duration_s:g} s"
            )
        return tuple(_fetched(entry, selection, address) for entry in _downloads(info, address, log))

    def _ask(self, address: str, params: dict[str, Any], log: _Log, *, download: bool) -> dict[str, Any]:
        open_dl = self.options.open or open_youtube_dl
        try:
            with contextlib.closing(open_dl(params)) as youtube_dl:
                return youtube_dl.extract_info(address, download=download) or {}
        except _expected_errors() as error:
            if (refusal := disk_error(error)) is not None:
                raise refusal from error
            raise DownloadError(classify(error), message_of(error, log.warnings)) from error

    def _canary_problem(self, folder: Path) -> str | None:
        """Why the canary cannot be had; None if it can, or if there is no canary. Asked once in CANARY_S."""
        if self.options.canary is None:
            return None
        seen = folder.parent / f"canary-{self.options.canary}"
        with contextlib.suppress(FileNotFoundError):
            if time.time() - seen.stat().st_mtime < CANARY_S:
                return None
        log = _Log()
        address = f"https://www.youtube.com/watch?v={self.options.canary}"
        try:
            self._ask(address, self._params(folder, log, _Selection(self.options, ()), ()), log, download=False)
        except DownloadError as error:
            return error.message
        replace_text(seen, "")
        return None

    def _params(self, folder: Path, log: _Log, selection: _Selection, clients: Sequence[str]) -> dict[str, Any]:
        options = self.options

        def sleep_s(n: int) -> float:
            return min(options.retry_sleep_s * 2.0**n, 30.0)

        params: dict[str, Any] = {
            "format": "b/bv*+ba",
            "format_sort": [f"res:{options.max_height}"],  # the largest height up to it, else the smallest above it
            "merge_output_format": "mkv",
            "paths": {"home": str(folder), "temp": str(folder)},
            # The name contains the section, because yt-dlp continues a partial file of the same name.
            "outtmpl": {"default": "media-%(section_start|0)s-%(section_end|0)s.%(ext)s"},
            "cachedir": str(folder.parent / "yt-dlp"),
            "ffmpeg_location": ffmpeg_binary(),
            "external_downloader_args": {"ffmpeg_o": ["-copyts"]},  # sections keep the whole video's timestamps
            "skip_unavailable_fragments": False,
            "retries": options.retries,
            "fragment_retries": options.retries,
            "extractor_retries": options.retries,
            "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), sleep_s),
            "socket_timeout": options.socket_s,
            "match_filter": selection.refuse_live,
            "download_ranges": selection.ranges,
            "js_runtimes": {"deno": {}, "node": {}},  # the runtimes that yt-dlp runs without access to files
            "noplaylist": True,
            "fixup": "never",
            "updatetime": False,
            "quiet": True,
            "noprogress": True,
            "color": "never",
            "logger": log,
        }
        if clients:
            params["extractor_args"] = {"youtube": {"player_client": list(clients)}}
        if options.proxy is not None:
            params["proxy"] = options.proxy
        if options.cookies is not None:
            params["cookiefile"] = io.StringIO(readable_cookies(read_text(options.cookies))[0])
        if options.cookies_from_browser is not None:
            match = BROWSER.fullmatch(options.cookies_from_browser)
            assert match, "YoutubeOptions checks it"
            keyring = match["keyring"] and match["keyring"].upper()
            params["cookiesfrombrowser"] = (match["name"], match["profile"], keyring, match["container"])
        return params


def _final(error: DownloadError) -> str:
    assert error.__cause__ is not None, "it was raised from yt-dlp's error"
    return final_status(error.__cause__)


def _set_ffmpeg_path(path: str) -> None:
    """Set the ffmpeg binary for yt-dlp's downloader of sections, which does not read the parameters."""
    from yt_dlp.postprocessor.ffmpeg import FFmpegPostProcessor  # noqa: PLC0415

    FFmpegPostProcessor._ffmpeg_location.set(path)


def _expected_errors() -> tuple[type[BaseException], ...]:
    """The exceptions that yt-dlp raises when it cannot download a video."""
    from yt_dlp.cookies import CookieLoadError  # noqa: PLC0415
    from yt_dlp.utils import YoutubeDLError  # noqa: PLC0415

    return (YoutubeDLError, CookieLoadError, OSError)


def _downloads(info: Mapping[str, Any], address: str, log: _Log) -> list[dict[str, Any]]:
    """yt-dlp's metadata of the files that it wrote. Raises DownloadError if there are none."""
    entries = [entry for entry in info.get("requested_downloads") or [] if entry.get("filepath")]
    if not entries or not all(Path(entry["filepath"]).is_file() for entry in entries):
        warnings = f" (earlier warnings: {'; '.join(log.warnings[:3])})" if log.warnings else ""
        raise DownloadError("net_http", f"{address}: yt-dlp wrote no file{warnings}")
    return entries


def _fetched(entry: Mapping[str, Any], selection: _Selection, address: str) -> FetchedFile:
    """One downloaded file.

    Raises DownloadError for a section that ends early, because ffmpeg takes a lost connection for the end of the video.
    """
    path = Path(entry["filepath"])
    if selection.sections is None:
        return FetchedFile(path.name)
    start_s, end_s = selection.sections[int(entry["section_number"])]
    first_s, last_s = media_extent_s(path)
    if last_s < min(end_s - SHORT_S, selection.duration_s - LENGTH_TOLERANCE_S):
        path.unlink()
        raise DownloadError("net_http", f"{address}: the section to {end_s:.2f} s ends at {last_s:.2f} s")
    covers = start_s, (end_s if end_s < selection.duration_s else None)
    return FetchedFile(path.name, first_s, covers, selection.duration_s)
