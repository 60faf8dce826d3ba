"""YouTube as a source: the addresses of videos, and messages about yt-dlp before the first download."""

import datetime
import importlib.util
from collections import Counter
from typing import Final

from avdata.prepare.config import YoutubeOptions
from avdata.prepare.sources.names import YOUTUBE_ID, ClipRequest
from avdata.prepare.sources.remote import Fetcher, RemoteRef, fetch_key
from avdata.prepare.sources.youtube.cookies import cookies_problems
from avdata.prepare.sources.youtube.fetch import VideoFetcher
from avmanifest.files import read_text
from avmanifest.secrets import Url

OLD_DAYS: Final = 60
"""Age in days from which on yt-dlp counts as old: YouTube changes every few weeks."""


class YoutubeSource:
    """Any request with a YouTube id. Whether the video still exists is known only after the download."""

    name = "youtube"
    rate_per_hour: float | None = 250.0  # YouTube allows about 300 videos per hour without a login
    probes = True
    remedy = "Give --cookies or --cookies-from-browser of a signed-in browser, a lower --rate, or another --proxy."

    def __init__(self, options: YoutubeOptions) -> None:
        self.problems = [] if options.cookies is None else cookies_problems(read_text(options.cookies))
        self.refused: Counter[str] = Counter()
        self.proxy = None if options.proxy is None else Url(options.proxy)
        self.fetcher: Fetcher = VideoFetcher(options)
        self._max_height = options.max_height

    def locate(self, request: ClipRequest) -> RemoteRef | None:
        """The video's address; None if the id is not a YouTube id."""
        video_id = request.video_id
        if not YOUTUBE_ID.fullmatch(video_id):
            self.refused["the id is not a YouTube id: 11 letters, digits, - and _"] += 1
            return None
        return RemoteRef(
            address=Url(f"https://www.youtube.com/watch?v={video_id}"),
            fetch_key=fetch_key("youtube", video_id, str(self._max_height)),
            is_clip=False,
            source=self.name,
            name=video_id,
            request=request,
        )

    def preflight(self) -> list[str]:
        """Messages about yt-dlp's version and age and its JavaScript runtimes."""
        from yt_dlp.globals import supported_js_runtimes  # noqa: PLC0415
        from yt_dlp.version import __version__  # noqa: PLC0415

        by_name = {name: kind().info for name, kind in supported_js_runtimes.value.items() if name in ("deno", "node")}
        runtimes = [f"{name} {info.version}" for name, info in by_name.items() if info and info.supported]
        has_scripts = importlib.util.find_spec("yt_dlp_ejs") is not None
        return preflight_lines(__version__, runtimes, has_scripts, datetime.datetime.now(datetime.UTC).date())


def preflight_lines(version: str, runtimes: list[str], has_scripts: bool, today: datetime.date) -> list[str]:
    """One line about the installed versions, and one for each thing that is old or missing."""
    runtime = ", ".join(runtimes) or "none"
    lines = [f"youtube: yt-dlp {version}, JavaScript runtime: {runtime}; the first video is downloaded alone"]
    year, month, day = (int(part) for part in version.split(".")[:3])
    age_days = (today - datetime.date(year, month, day)).days
    if age_days > OLD_DAYS:
        lines.append(
            f"youtube: yt-dlp is {age_days} days old and may fail. Update it: pip install -U 'yt-dlp[default]'"
        )
    if not runtimes or not has_scripts:
        what = "no JavaScript runtime" if not runtimes else "no yt-dlp-ejs package"
        lines.append(
            f"youtube: {what}. Without it YouTube offers few formats. Install deno (or node 22) "
            "and run pip install 'yt-dlp[default]'"
        )
    return lines
