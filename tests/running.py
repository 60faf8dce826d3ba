"""Servers of tests, on loopback."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar


class Server(ThreadingHTTPServer):
    """A web server on a free port; `url` is its address."""

    daemon_threads = True

    def __init__(self, handler: "type[Handler]") -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter."""


class Handler(BaseHTTPRequestHandler):
    """Answers requests, and says nothing of them."""

    def send_range(self, content: bytes, *, allowed: bool = True) -> bytes:
        """Begin the answer with content, of which a range is sent if one is asked for. Returns what is to be sent."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or not allowed:
            self.send_response(200)
            return content
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        return content[first : last + 1]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


Running = TypeVar("Running", bound=Server)


@contextmanager
def running(server: Running) -> Iterator[Running]:
    """The server, answering for the length of a with block. At the end its event `closing`, if it has one, is set."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        if (closing := getattr(server, "closing", None)) is not None:
            closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
