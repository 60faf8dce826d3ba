"""A server on loopback that is also a proxy, so that hosts of any name answer: with a redirect or with content."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.running import Handler, Server, running


class ProxyServer(Server):
    """Answers each URL of `redirects` with its Location, any other one with `content`. Keeps all requests."""

    def __init__(self, content: bytes) -> None:
        super().__init__(_Handler)
        self.content = content
        self.redirects: dict[str, str] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []  # the URL as it was asked for, and the headers

    def headers_of(self, host: str) -> list[Mapping[str, str]]:
        """The headers of each request for a host."""
        return [headers for url, headers in self.requests if urlsplit(url).netloc == host]


class _Handler(Handler):
    server: ProxyServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = self.path if "://" in self.path else f"http://{self.headers['Host']}{self.path}"
        self.server.requests.append((url, {name.lower(): value for name, value in self.headers.items()}))
        location = self.server.redirects.get(url.partition("?")[0])
        self.send_response(200 if location is None else 302)
        content = self.server.content if location is None else b""
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def redirecting(content: bytes = b"content") -> Iterator[ProxyServer]:
    """A server, for the length of a with block."""
    with running(ProxyServer(content)) as server:
        yield server
