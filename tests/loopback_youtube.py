"""YouTube on loopback: an extractor behind yt-dlp's own interface, so that its errors are yt-dlp's own."""

from functools import partial
from typing import Any

import yt_dlp
from yt_dlp.extractor.common import InfoExtractor

from avdata.prepare.config import YoutubeOptions

# What YouTube answers instead of formats, by the video's id without its padding.
REASONS = {
    "bot": "Sign in to confirm you’re not a bot. This helps protect our community. Learn more",
    "session": "Video unavailable. This content isn't available, try again later. The current session has been "
    "rate-limited by YouTube for up to an hour.",
    "private": "Private video. Sign in if you've been granted access to this video",
    "removed": "Video unavailable. This video has been removed by the uploader",
    "ended": "This video is no longer available because the YouTube account associated with this video has been "
    "terminated.",
    "age": "Sign in to confirm your age. This video may be inappropriate for some users.",
    "members": "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    "premiere": "Premieres in 3 hours",
    "reload": "The page needs to be reloaded.",
    "gone": "Video unavailable",
    "content": "Video unavailable. This content isn’t available.",
    "process": "We’re processing this video. Check back later.",
    "oldapp": "The following content is not available on this app.. Watch on the latest version of YouTube.",
}
# What only yt-dlp's usual clients are answered.
FIRST_REASONS = {
    "embedded": "Video unavailable. Playback on other websites has been disabled by the video owner",
    "softprivate": "Video unavailable. This content isn’t available.",
}
# The words of yt-dlp's own YouTube extractor when it finds no runtime.
NO_RUNTIME = (
    "No supported JavaScript runtime could be found. Only deno is enabled by default; to use another runtime add "
    "--js-runtimes RUNTIME[:PATH]  to your command/config."
)


def video_id(fault: str) -> str:
    """An id of YouTube's form that stands for a fault."""
    return fault.ljust(11, "x")


class YoutubeIE(InfoExtractor):
    """Asks a page of the loopback server, as YouTube's extractor asks YouTube, then answers by the id."""

    _VALID_URL = r"https://www\.youtube\.com/watch\?v=(?P<id>[\w-]{11})"
    server = ""

    def _real_extract(self, url: str) -> dict[str, Any]:
        found = self._match_id(url)
        fault = found.strip("-_").rstrip("x")
        self._download_webpage(f"{self.server}/watch/{'refused429' if fault == 'toomany' else fault}", found)
        if fault in FIRST_REASONS and not self._configuration_arg("player_client", ie_key="youtube"):
            self.raise_no_formats(FIRST_REASONS[fault], expected=True)
        fault = {"embedded": "good", "softprivate": "private"}.get(fault, fault)
        if fault in REASONS:
            self.raise_no_formats(REASONS[fault], expected=True)
        if fault == "geo":
            self.raise_geo_restricted("The uploader has not made this video available in your country", ["DE"])
        if fault == "noruntime":
            self.report_warning(NO_RUNTIME)
        info: dict[str, Any] = {"id": found, "title": "drawn", "duration": 3.2, "ext": "mp4"}
        form: dict[str, Any] = {"url": f"{self.server}/{fault}.mp4", "ext": "mp4", "height": 64, "format_id": "18"}
        if fault == "live":
            info["is_live"] = True
        if fault == "title":
            info["title"] = "caf\udce9 \udcff \x1b[31m"
        if fault == "token":
            form["url"] = f"{self.server}/refused403.mp4"
        if fault == "fragment":
            form |= {
                "protocol": "http_dash_segments",
                "fragments": [{"url": f"{self.server}/{name}.mp4"} for name in ("good", "gone404", "good")],
            }
        if fault == "long":
            info["duration"] = 40.0
        return info | {"formats": [] if fault == "noruntime" else [form]}


def open_loopback(server: str, params: dict[str, Any]) -> yt_dlp.YoutubeDL:
    """yt-dlp that knows this extractor alone."""
    youtube_dl = yt_dlp.YoutubeDL(params, auto_init=False)
    extractor = YoutubeIE()
    extractor.server = server
    youtube_dl.add_info_extractor(extractor)
    return youtube_dl


def loopback_youtube(server: str, **changes: Any) -> YoutubeOptions:
    """Options with which YouTube is the loopback server, and patience is short."""
    usual: dict[str, Any] = {"retries": 1, "retry_sleep_s": 0.0, "socket_s": 2.0, "canary": video_id("canary")}
    return YoutubeOptions(open=partial(open_loopback, server), **usual | changes)
