"""Statuses for YouTube's messages, sections around clips, and the messages before the first download."""

import datetime
import errno
import re
import socket
from functools import partial

import pytest
from yt_dlp.utils import DownloadError as YtDlpError
from yt_dlp.utils import ExtractorError, GeoRestrictedError

from avdata.prepare.config import YoutubeOptions
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.youtube import YoutubeSource, classify
from avdata.prepare.sources.youtube.errors import disk_error, final_status, message_of, messages
from avdata.prepare.sources.youtube.fetch import VideoFetcher, padded_sections
from avdata.prepare.sources.youtube.source import preflight_lines
from avmanifest.errors import ConfigError, DownloadError
from avmanifest.schema import STATUSES
from tests.drawn import draw_media


def raised(message, cause=None):
    """The error as yt-dlp wraps it."""
    inner = ExtractorError(message, expected=True, cause=cause)
    return YtDlpError(f"ERROR: {message}", (type(inner), inner, None))


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("Video unavailable", "blocked_soft"),
        ("Video unavailable. Playback on other websites has been disabled by the video owner", "blocked_soft"),
        ("Video unavailable. This content isn’t available.", "blocked_soft"),
        ("This video is not available", "blocked_soft"),
        ("Sorry, this content is not available on this device", "blocked_soft"),
        ("Video unavailable. The uploader has closed their YouTube account", "unavailable_removed"),
        ("This request was detected as a bot", "blocked_bot"),
        (
            "The following content is not available on this app.. Watch on the latest version of YouTube.",
            "blocked_soft",
        ),
        ("We're processing this video. Check back later.", "blocked_soft"),
        ("This content isn't available, try again later.", "blocked_rate"),
        (
            "Video unavailable. This video is no longer available because the account has been terminated",
            "unavailable_removed",
        ),
        ("Video unavailable. This video is private", "unavailable_private"),
        (
            "Video unavailable. This video contains content from X, who has blocked it in your country",
            "unavailable_geo",
        ),
        ("This video has been removed for violating YouTube's Terms of Service", "unavailable_removed"),
        ("This video is available to this channel's members on level: Gold", "unavailable_members"),
        ("This live event will begin in 3 hours.", "unavailable_live"),
        ("This live stream recording is not available.", "unavailable_live"),
        ("Sign in to confirm you’re not a bot", "blocked_bot"),
        ("YouTube is requiring a captcha challenge before playback", "blocked_bot"),
        ("Requested format is not available. Use --list-formats", "blocked_token"),
        ("unable to download video data: HTTP Error 403: Forbidden", "blocked_token"),
        ("Unable to download API page: HTTP Error 503: Service Unavailable", "net_http"),
        ("<urlopen error [Errno -2] Name or service not known>", "net_dns"),
        ("The read operation timed out", "net_timeout"),
        ("something that nobody has seen", "net_http"),
    ],
)
def test_messages_of_youtube_become_statuses(message, status):
    assert classify(raised(message)) == status


def test_every_message_is_a_pattern_of_a_known_status_and_the_second_answer_is_final():
    assert len(messages()) > 15
    for message in messages():
        re.compile(message.text)
        assert {message.status, message.ends or message.status} <= STATUSES.keys()
        assert bool(message.ends) == (message.status == "blocked_soft")
    assert final_status(raised("Video unavailable")) == "unavailable_removed"
    assert final_status(raised("We're processing this video")) == "blocked_soft"
    assert final_status(raised("Private video")) == "unavailable_private"


@pytest.mark.parametrize(
    "message",
    [
        "This video is unavailable on this device.",
        "Video unavailable. This content isn’t available on this app",
        "Sorry, this content is not available on this device",
    ],
)
def test_what_a_client_may_not_show_is_never_a_removed_video(message):
    assert (classify(raised(message)), final_status(raised(message))) == ("blocked_soft", "blocked_token")


class Answers:
    """yt-dlp whose answers depend on the video and the clients."""

    def __init__(self, answers, asked, params):
        self.answers, self.asked = answers, asked
        self.clients = "second" if "extractor_args" in params else "first"

    def extract_info(self, url, download=True):
        video = url.rpartition("=")[2]
        self.asked.append((video, self.clients))
        if (video, self.clients) in self.answers:
            raise raised(self.answers[video, self.clients])
        return {"id": video}

    def close(self):
        pass


CANARY = "canary_____"
GONE = {("gone_______", "first"): "Video unavailable", ("gone_______", "second"): "This video is not available"}


def failure(tmp_path, answers, video="gone_______", canary=CANARY):
    asked = []
    fetcher = VideoFetcher(YoutubeOptions(open=partial(Answers, answers, asked), canary=canary))
    folder = tmp_path / "part"
    folder.mkdir(exist_ok=True)
    with pytest.raises(DownloadError) as raised_error:
        fetcher(f"https://www.youtube.com/watch?v={video}", ((0.0, 1.0),), folder)
    return raised_error.value, asked


def test_a_video_is_gone_only_when_two_clients_say_so(tmp_path):
    error, asked = failure(tmp_path, GONE, canary=None)
    assert (error.status, asked) == ("unavailable_removed", [("gone_______", "first"), ("gone_______", "second")])
    assert "Video unavailable; other clients: This video is not available" in error.message
    private = GONE | {("gone_______", "second"): "Private video"}
    assert failure(tmp_path, private, canary=None)[0].status == "unavailable_private"
    refused = GONE | {("gone_______", "second"): "Sign in to confirm you're not a bot"}
    assert failure(tmp_path, refused, canary=None)[0].status == "blocked_bot"
    definite = {("gone_______", "first"): "This video has been removed by the uploader"}
    assert failure(tmp_path, definite)[1] == [("gone_______", "first")]


def test_a_canary_that_cannot_be_had_says_that_the_video_may_exist(tmp_path):
    nothing = GONE | {(CANARY, "first"): "Requested format is not available"}
    error, asked = failure(tmp_path, nothing)
    assert (error.status, asked[-1]) == ("blocked_soft", (CANARY, "first"))
    assert "canary canary_____, a video that exists, cannot be had either: Requested format" in error.message
    assert not list(tmp_path.glob("canary-*"))
    assert failure(tmp_path, GONE)[0].status == "unavailable_removed"
    assert failure(tmp_path, GONE)[1][-1][0] != CANARY, "found a moment ago"
    next(tmp_path.glob("canary-*")).unlink()
    broken = {(video, "first"): "No video formats found!" for video in ("gone_______", CANARY)}
    assert failure(tmp_path, broken)[0].status == "blocked_soft"


def test_the_type_of_the_error_decides_where_the_message_does_not():
    geo = GeoRestrictedError("no", countries=["DE"])
    assert classify(YtDlpError("no", (type(geo), geo, None))) == "unavailable_geo"
    assert classify(raised("no", socket.gaierror(-2, "who"))) == "net_dns"
    assert classify(raised("no", TimeoutError())) == "net_timeout"


def test_the_message_is_kept_with_earlier_warnings():
    error = YtDlpError("\x1b[0;31mERROR:\x1b[0m [youtube] x: Private video")
    assert message_of(error, ["warned", "warned"]) == "[youtube] x: Private video (earlier warnings: warned)"


def test_a_full_disk_is_not_a_network_error():
    full = OSError(errno.ENOSPC, "No space left on device")
    assert disk_error(raised("unable to write data", full)) is full
    assert disk_error(raised("unable to read", ConnectionResetError(errno.ECONNRESET, "reset"))) is None


@pytest.mark.parametrize(
    ("spans", "sections"),
    [
        ([(30.0, 40.0)], [(25.0, 45.0)]),
        ([(2.0, 12.0)], [(0.0, 17.0)]),
        ([(595.0, 605.0)], [(590.0, 600.0)]),
        ([(100.0, 110.0), (30.0, 40.0), (48.0, 58.0)], [(25.0, 63.0), (95.0, 115.0)]),
        ([(700.0, 710.0)], []),
    ],
)
def test_sections_hold_the_clips_and_a_margin(spans, sections):
    assert padded_sections(spans, 5.0, 600.0) == sections


def test_every_row_with_a_youtube_id_has_an_address():
    source = YoutubeSource(YoutubeOptions())
    found = source.locate(ClipRequest("-__tbvLNH6F", 110.0, 120.0))
    assert found is not None
    assert (str(found.address), found.is_clip) == ("https://www.youtube.com/watch?v=-__tbvLNH6F", False)
    again = source.locate(ClipRequest("-__tbvLNH6F", 0.0, 10.0))
    assert again is not None
    assert again.fetch_key == found.fetch_key
    assert source.locate(ClipRequest("x;rm -rf /;x")) is None
    assert source.refused.total() == 1


def test_yt_dlp_skips_no_fragment_runs_no_program_and_writes_no_cookies(tmp_path):
    cookies = tmp_path / "cookies.txt"
    cookies.write_text("# Netscape HTTP Cookie File\n")
    seen = {}

    class Recorded:
        def __init__(self, params):
            seen.update(params)

        def extract_info(self, url, download=True):
            path = tmp_path / "media-0.mp4"
            path.write_bytes(b"x")
            return {"requested_downloads": [{"filepath": str(path)}]}

        def close(self):
            pass

    options = YoutubeOptions(open=Recorded, cookies=cookies, cookies_from_browser="firefox+kwallet:me::Work")
    (file,) = VideoFetcher(options)("https://www.youtube.com/watch?v=abc", ((0.0, 1.0),), tmp_path)
    assert file.name == "media-0.mp4"
    assert seen["skip_unavailable_fragments"] is False
    assert not {"postprocessors", "exec_cmd", "download_archive"} & seen.keys()
    assert seen["cookiefile"].read() == cookies.read_text()
    assert seen["cookiesfrombrowser"] == ("firefox", "me", "KWALLET", "Work")
    assert "title" not in seen["outtmpl"]["default"]


@pytest.mark.parametrize(
    ("line", "left"),
    [
        (".youtube.com\tTRUE\t/\tTRUE\t2000000000\tSID\tSECRET", 1),
        ("#HttpOnly_.youtube.com\tTRUE\t/\tTRUE\t0\tSID\tSECRET", 1),
        ("youtube.com TRUE / TRUE 2000000000 SID SECRET", 0),
        ("youtube.com\tTRUE\t/\tTRUE\tnever\tSID\tSECRET", 0),
        ('[{"name": "SID", "value": "SECRET"}]', 0),
    ],
)
def test_a_cookie_that_yt_dlp_cannot_read_is_named_by_its_line_and_not_printed(line, left, tmp_path, capfd):
    from yt_dlp.cookies import YoutubeDLCookieJar

    cookies = tmp_path / "cookies.txt"
    cookies.write_text(f"# Netscape HTTP Cookie File\n\n{line}\n")
    seen = {}

    class Recorded:
        def __init__(self, params):
            seen.update(params)
            raise OSError("no network")

    options = YoutubeOptions(open=Recorded, cookies=cookies)
    with pytest.raises(DownloadError, match="no network"):
        VideoFetcher(options)("https://www.youtube.com/watch?v=abc", ((0.0, 1.0),), tmp_path)
    jar = YoutubeDLCookieJar(seen["cookiefile"])
    jar.load()
    assert len(jar) == left
    problems = YoutubeSource(options).problems
    assert len(problems) == 1 - left
    assert all("(3)" in problem for problem in problems)
    assert "SECRET" not in str(problems) + "".join(capfd.readouterr())


def test_a_section_that_ends_early_is_refused(tmp_path):
    class Cut:
        def __init__(self, params):
            self.params = params

        def extract_info(self, url, download=True):
            (section,) = self.params["download_ranges"]({"duration": 600.0}, self)
            path = draw_media(tmp_path / "cut.mp4", num_frames=10, fps=5)
            return {"requested_downloads": [{"filepath": str(path), "section_number": section["index"]}]}

        def close(self):
            pass

    options = YoutubeOptions(open=Cut, sections_over_s=300.0)
    with pytest.raises(DownloadError, match=r"section to 15\.00 s ends at 2\.00 s"):
        VideoFetcher(options)("https://www.youtube.com/watch?v=abc", ((0.0, 10.0),), tmp_path)
    assert not (tmp_path / "cut.mp4").exists(), "or the next attempt would take it for the section"


def test_invalid_options_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        YoutubeOptions(cookies=tmp_path / "none")
    with pytest.raises(ConfigError, match="BROWSER"):
        YoutubeOptions(cookies_from_browser="$(reboot)")


def test_the_messages_name_what_is_old_or_missing():
    today = datetime.date(2026, 11, 25)
    assert len(preflight_lines("2026.10.26", ["deno 2.9"], True, today)) == 1
    old = preflight_lines("2026.01.02", ["deno 2.9"], True, today)
    assert "327 days old" in old[1]
    assert "Install deno" in preflight_lines("2026.10.26", [], True, today)[1]
    assert "yt-dlp-ejs" in preflight_lines("2026.10.26", ["deno 2.9"], False, today)[1]
