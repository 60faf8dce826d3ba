"""The faults of remote sources, each with its expected and its actual status."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from avdata.prepare.config import HttpOptions, RemoteOptions
from avdata.prepare.job import prepare
from tests.faults.fault import Fault
from tests.faulty import FaultyServer, failing
from tests.loopback_youtube import loopback_youtube, video_id
from tests.remote import HASTE, impatient, remote_config, rows_of
from tests.videos import draw_folder

# fault: (id, status). Through one run of prepare each for http and YouTube.
HTTP = {
    "429": ("refused429", "blocked_rate"),
    "private (403)": ("refused403", "net_http"),
    "missing (404)": ("gone404", "unavailable_missing"),
    "removed (410)": ("gone410", "unavailable_removed"),
    "refused by law (451)": ("law451", "unavailable_geo"),
    "server error (500)": ("broken500", "net_http"),
    "server error once (503)": ("once503", "ok"),
    "slow drip": ("drip", "net_timeout"),
    "stalled socket": ("stall", "net_timeout"),
    "redirect loop": ("loop", "net_http"),
    "wrong Content-Length": ("wronglength", "net_http"),
    "a page instead of a video": ("html", "net_http"),
    "connection cut mid-file": ("cut", "ok"),
    "file changed while it was fetched": ("changed", "ok"),
    "packed with gzip": ("gzip", "ok"),
    "packed with gzip, and cut": ("gzipcut", "net_http"),
    "packed with gzip to far more than it is": ("bomb", "net_http"),
    "packed with brotli": ("brotli", "net_http"),
    "server without ranges": ("noranges", "ok"),
    "id starting with -": ("-dash", "ok"),
    "id with a path in it": ("../../etc/good", "ok"),
    "nothing wrong": ("good", "ok"),
}
YOUTUBE = {
    "429": ("toomany", "blocked_rate"),
    "session rate-limited": ("session", "blocked_rate"),
    "bot check": ("bot", "blocked_bot"),
    "private": ("private", "unavailable_private"),
    "removed": ("removed", "unavailable_removed"),
    "gone for both clients": ("gone", "unavailable_removed"),
    "no content for both clients": ("content", "unavailable_removed"),
    "still processed": ("process", "blocked_soft"),
    "client too old": ("oldapp", "blocked_token"),
    "refused to the embedded client": ("embedded", "ok"),
    "private for the second client": ("softprivate", "unavailable_private"),
    "account ended": ("ended", "unavailable_removed"),
    "geo": ("geo", "unavailable_geo"),
    "age": ("age", "unavailable_age"),
    "members-only": ("members", "unavailable_members"),
    "live": ("live", "unavailable_live"),
    "premiere": ("premiere", "unavailable_live"),
    "token 403": ("token", "blocked_token"),
    "page must be reloaded": ("reload", "blocked_token"),
    "missing fragment": ("fragment", "net_http"),
    "missing JavaScript runtime": ("noruntime", "blocked_token"),
    "stalled socket": ("stall", "net_timeout"),
    "redirect loop": ("loop", "net_http"),
    "wrong Content-Length": ("wronglength", "net_http"),
    "non-UTF-8 title": ("title", "ok"),
    "id starting with -": ("-dash", "ok"),
    "id starting with __": ("__under", "ok"),
    "connection cut mid-file": ("cut", "ok"),
    "nothing wrong": ("good", "ok"),
}
# One run each: the whole run is set up for the fault.
ALONE = {
    "youtube: slow drip": "net_timeout",
    "youtube: proxy refused": "net_http",
    "http: proxy refused": "net_http",
    "http: host name not found": "net_dns",
}
EXPECTED = (
    {f"http: {fault}": status for fault, (_, status) in HTTP.items()}
    | {f"youtube: {fault}": status for fault, (_, status) in YOUTUBE.items()}
    | ALONE
)


def http_rows(server: FaultyServer, folder: Path) -> dict[str, dict[str, Any]]:
    """The row of each fault of HTTP."""
    # Two attempts: what passes must pass.
    config = remote_config(
        folder,
        [name for name, _ in HTTP.values()],
        f"http:{server.url}/{{id}}.mp4",
        remote=RemoteOptions(http=replace(HASTE, max_bytes=5_000_000)),
        downloads=impatient(folder, attempts=2),
    )
    prepare(config)
    rows = rows_of(config)
    return {f"http: {fault}": rows[name] for fault, (name, _) in HTTP.items()}


def youtube_rows(server: FaultyServer, folder: Path) -> dict[str, dict[str, Any]]:
    """The row of each fault of YOUTUBE."""
    ids = {fault: video_id(name) for fault, (name, _) in YOUTUBE.items()}
    youtube = RemoteOptions(youtube=loopback_youtube(server.url))
    config = remote_config(folder, ids.values(), "youtube", remote=youtube)
    prepare(config)
    rows = rows_of(config)
    return {f"youtube: {fault}": rows[name] for fault, name in ids.items()}


def proxy_rows(server: FaultyServer, folder: Path) -> dict[str, dict[str, Any]]:
    """Both sources with a proxy that does not exist; only the second accepts an id that is not YouTube's."""
    closed = "http://127.0.0.1:9"  # the discard port: nobody listens
    options = RemoteOptions(http=HttpOptions(proxy=closed), youtube=loopback_youtube(server.url, proxy=closed))
    ids = {"youtube: proxy refused": video_id("proxied"), "http: proxy refused": "proxied.by.http"}
    sources = ("youtube", f"http:{server.url}/{{id}}.mp4")
    config = remote_config(folder, ids.values(), "", sources=sources, remote=options)
    prepare(config)
    rows = rows_of(config)
    return {fault: rows[name] for fault, name in ids.items()}


def drip_rows(server: FaultyServer, folder: Path) -> dict[str, dict[str, Any]]:
    """yt-dlp with an endless, slow response: the deadline ends it."""
    youtube = RemoteOptions(youtube=loopback_youtube(server.url))
    name = video_id("drip")
    config = remote_config(folder, [name], "youtube", remote=youtube, downloads=impatient(folder, deadline_s=4.0))
    prepare(config)
    return {"youtube: slow drip": rows_of(config)[name]}


def no_host_rows(server: FaultyServer, folder: Path) -> dict[str, dict[str, Any]]:
    """A host name without an address."""
    del server
    config = remote_config(folder, ["good"], "http:http://no-such-host.invalid/{id}.mp4")
    prepare(config)
    return {"http: host name not found": rows_of(config)["good"]}


def all_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest row in which each fault of EXPECTED ended."""
    video = (draw_folder(folder / "drawn", ["v.mp4"]) / "v.mp4").read_bytes()
    rows: dict[str, dict[str, Any]] = {}
    for run in (http_rows, youtube_rows, proxy_rows, drip_rows, no_host_rows):
        with failing(video) as server:
            rows |= run(server, folder / run.__name__)
    return rows


def source_faults(folder: Path) -> Iterator[Fault]:
    """The rows of the fault table."""
    rows = all_rows(folder)
    for fault, expected in EXPECTED.items():
        yield Fault(fault, "prepare of one clip", expected, rows[fault]["status"])
