"""A web server on loopback that fails in every way known: the name of a file says how."""

import gzip
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tests.running import Handler, Server, running

STATUSES = {"gone404": 404, "gone410": 410, "law451": 451, "refused403": 403, "refused429": 429, "broken500": 500}


class FaultyServer(Server):
    """Serves one video under every name. `served` counts its bytes, `asked` the requests, both by name."""

    def __init__(self, video: bytes) -> None:
        super().__init__(_Handler)
        self.video = video
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.refusing: set[str] = set()  # names that get a 429 while they are in here
        self.release = threading.Event()  # what "held" waits for
        self.closing = threading.Event()


class _Handler(Handler):
    server: FaultyServer

    def do_GET(self) -> None:
        server, name = self.server, self.path.rpartition("/")[2].partition(".")[0].strip("-_").rstrip("x")
        if self.path.startswith("/watch/"):
            server.asked[f"watch/{name}"] += 1
            if name not in STATUSES and name not in server.refusing:
                return self._send(b"page", "text/plain")
        server.asked[name] += 1
        if name in STATUSES or name in server.refusing:
            return self.send_error(STATUSES.get(name, 429))
        if name == "once503" and server.asked[name] == 1:
            return self.send_error(503)
        if name == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if name == "html":
            return self._send(b"<html>Please log in</html>", "text/html")
        return self._video(name)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _video(self, name: str) -> None:
        server, video = self.server, self.server.video
        version = "a"
        if name == "changed" and server.asked[name] > 1:
            version, video = "b", video + b"\0" * 64
        is_same = self.headers.get("If-Range", f'"{version}"') == f'"{version}"'
        rest = self.send_range(video, allowed=is_same and name != "noranges")
        if name in ("gzip", "gzipcut", "bomb", "brotli"):
            rest = gzip.compress(bytes(8_000_000) if name == "bomb" else video)[: -9 if name == "gzipcut" else None]
            self.send_header("Content-Encoding", "br" if name == "brotli" else "gzip")
        self.send_header("Content-Type", "video/mp4")
        self.send_header("ETag", f'"{version}"')
        self.send_header("Content-Length", str(len(rest) + (1000 if name == "wronglength" else 0)))
        self.end_headers()
        if name == "drip":
            while not server.closing.wait(0.02):
                self._write(name, rest[:1])
            return None
        if name == "held":
            server.asked["held, and released"] += server.release.wait(30)
        if name == "stall":
            self._write(name, rest[:100])
            server.closing.wait(30)
            return None
        cut = name in ("cut", "changed") and server.asked[name] == 1
        return self._write(name, rest[: len(rest) // 2] if cut else rest)

    def _write(self, name: str, content: bytes) -> None:
        self.server.served[name] += len(content)  # before the client has it: tests look at the number then
        self.wfile.write(content)
        self.wfile.flush()


@contextmanager
def failing(video: bytes) -> Iterator[FaultyServer]:
    """A server of the video, for the length of a with block."""
    with running(FaultyServer(video)) as server:
        yield server
