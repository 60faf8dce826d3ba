"""The page of a dataset of any size, served to this machine alone: clips are asked for as they are looked at.

Only 127.0.0.1 is listened on. Every address begins with a random token, the Host header must name the server itself, so
that no other site can reach it through a name of its own, and nothing is written. Addresses hold numbers of rows, never
names of files.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import numpy as np

from avdata.audit.choice import all_rows
from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.report import MapMaker, keys_of_samples, report_page
from avdata.audit.rows import ClipRows, parse_query
from avdata.audit.sample import SampleReader, StoredSample
from avdata.audit.shown import sample_data, thumbnails
from avdata.draw.page import page_policy
from avdata.draw.thumbnails import WEBP
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.wording import counted

HOST: Final = "127.0.0.1"
_KEPT_SAMPLES: Final = 16
_KEPT_THUMBNAILS: Final = 4096  # of some two kilobytes
_TIMEOUT_S: Final = 30.0  # of a connection that sends nothing
_TOKEN_BYTES: Final = 24
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_JSON: Final = "application/json"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class ClipServer:
    """Serves the page of a dataset, and the clips that it asks for.

    Args:
        dataset: The dataset.
        found: Its summary, from `summarize`.
        make_maps: Makes maps of features from the keys of the rows.
    """

    def __init__(self, dataset: AuditDataset, found: Mapping[str, Any], make_maps: MapMaker | None = None) -> None:
        table = all_rows(dataset)
        rows = ClipRows(table=table, columns=dataset.columns)
        self.rows = rows if make_maps is None else rows.with_maps(make_maps(keys_of_samples(table)))
        has_media = dataset.kind is not DatasetKind.MANIFEST
        self._reader = SampleReader(dataset) if has_media else None
        whole = counted(len(table), "clip")
        said = (
            f"All {whole}, read from the shards as they are looked at." if has_media else f"All {whole} of a manifest."
        )
        clips = {**self.rows.choices(), "served": True, "media": has_media, "truth": has_media}
        self.rows.warm()
        self._page = report_page(dataset, found, None, clips, said, served=True).encode()
        self.sample = lru_cache(_KEPT_SAMPLES)(self._read)
        self.thumbnails = lru_cache(_KEPT_THUMBNAILS)(self._thumbnails)

    def page(self) -> bytes:
        """The page as HTML."""
        return self._page

    def query(self, text: str) -> dict[str, Any]:
        """The answer to a query of JSON. Raises ConfigError if it is none."""
        return self.rows.answer(parse_query(text))

    def row(self, place: int) -> dict[str, Any]:
        """One row. Raises ConfigError if there is none."""
        self._require(place)
        return {"row": next(self.rows.row_data(np.array([place])))}

    def sample_data(self, place: int) -> dict[str, Any]:
        """A sample with all frames and its spectrogram; the sound has an address of its own. Raises as `sample`."""
        sample = self.sample(place)
        return sample_data(sample, f"sound/{place}" if sample.sound else "")

    def _require(self, place: int) -> None:
        if not 0 <= place < len(self.rows):
            raise ConfigError(f"row {place} is not one of the {len(self.rows):,}")

    def _read(self, place: int) -> StoredSample:
        """Read a sample. Raises ConfigError if the row has none, ShardError for damage."""
        self._require(place)
        row = self.rows.table.select(["split", "key", "shard", "status"]).slice(place, 1).to_pylist()[0]
        if self._reader is None or row["status"] != "ok" or row["shard"] is None:
            raise ConfigError(f"{row['key']}: no sample to show")
        return self._reader.read(row["split"], row["key"], row["shard"])

    def _thumbnails(self, place: int) -> tuple[bytes, bytes]:
        return thumbnails(self.sample(place))


class PageServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1 and answers from a ClipServer."""

    daemon_threads = True

    def __init__(self, clips: ClipServer, port: int = 0) -> None:
        """Raises ConfigError if the port cannot be taken; 0 takes a free one."""
        self.clips = clips
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"port {port} of {HOST}: cannot be listened on ({reason}). Give another --port."
            ) from error
        self.hosts = frozenset(f"{name}:{self.server_port}" for name in (HOST, "localhost"))

    @property
    def url(self) -> str:
        """The address of the page, with its token."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closed its connection is no error."""


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD below the token. What is refused is told in JSON."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "avkit"
    sys_version = ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:  # the name that http.server calls
        """Answer a request."""
        try:
            self._answer()
        except ConfigError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except AvkitError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_HEAD = do_GET  # likewise

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged: addresses hold the token."""

    def _answer(self) -> None:
        if self.headers.get_all("Host") is None or set(self.headers.get_all("Host") or ()) - self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "the Host header does not name this server")
            return
        address = urlsplit(self.path)
        _, token, *rest = [*address.path.split("/"), ""]
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the address lacks the token. Open the one that avkit inspect printed")
            return
        clips, what = self.server.clips, rest[0] if rest else ""
        if what == "" and len(rest) == 2:
            policy = {"Content-Security-Policy": page_policy(served=True)}
            self._send(clips.page(), "text/html; charset=utf-8", policy)
        elif what == "query" and len(rest) == 2:
            self._send_json(clips.query(parse_qs(address.query, max_num_fields=4).get("q", [""])[0]))
        elif what in _OF_A_ROW and len(rest) == 3:
            _OF_A_ROW[what](self, clips, _place(rest[1]))
        else:
            raise ConfigError("nothing has this address")

    def _send_row(self, clips: ClipServer, place: int) -> None:
        self._send_json(clips.row(place))

    def _send_sample(self, clips: ClipServer, place: int) -> None:
        self._send_json(clips.sample_data(place))

    def _send_frame(self, clips: ClipServer, place: int) -> None:
        self._send_thumbnail(clips.thumbnails(place)[0])

    def _send_mel(self, clips: ClipServer, place: int) -> None:
        self._send_thumbnail(clips.thumbnails(place)[1])

    def _send_thumbnail(self, content: bytes) -> None:
        self._send(content, WEBP, {"Cache-Control": "private, max-age=3600"})

    def _send_sound(self, clips: ClipServer, place: int) -> None:
        """The sound, or the range of its bytes that is asked for: browsers seek so."""
        sample = clips.sample(place)
        if not sample.sound:
            raise ConfigError(f"{sample.key}: has no sound")
        size = len(sample.sound)
        asked = self.headers.get("Range")
        if asked is None:
            self._send(sample.sound, sample.sound_type, {"Accept-Ranges": "bytes"})
            return
        bounds = _range(asked, size)
        if bounds is None:
            self._refuse(
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "no such range", {"Content-Range": f"bytes */{size}"}
            )
            return
        start, stop = bounds
        headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        self._send(sample.sound[start:stop], sample.sound_type, headers, HTTPStatus.PARTIAL_CONTENT)

    def _refuse(self, status: HTTPStatus, problem: str, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps({"error": problem}).encode()
        self._send(content, _JSON, headers or {}, status)

    def _send_json(self, content: Mapping[str, Any]) -> None:
        self._send(json.dumps(content, allow_nan=False, separators=(",", ":")).encode(), _JSON, {})

    def _send(self, content: bytes, kind: str, headers: Mapping[str, str], status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS, **headers}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


_OF_A_ROW: Final[Mapping[str, Callable[[_Handler, ClipServer, int], None]]] = {
    "row": _Handler._send_row,
    "sample": _Handler._send_sample,
    "frame": _Handler._send_frame,
    "mel": _Handler._send_mel,
    "sound": _Handler._send_sound,
}


def _place(text: str) -> int:
    """The number of a row in an address: `12`, or `12.webp` for a picture."""
    number = text.removesuffix(".webp")
    if not re.fullmatch(r"[0-9]{1,12}", number):
        raise ConfigError("an address of a row ends with its number")
    return int(number)


def _range(asked: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a Range header; None if nothing can be given for it."""
    match = _RANGE.fullmatch(asked.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        start, stop = max(size - int(match[2]), 0), size
    else:
        start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    return (start, stop) if start < stop else None
