"""A server on loopback that serves only those who know its password, and its files only to those with a valid token."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.running import Handler, Server, running


class GuardedServer(Server):
    """Serves a folder, with ranges, directly and as its own proxy. `refused` counts requests without the secrets."""

    def __init__(self, root: Path, user: str, password: str, token: str) -> None:
        super().__init__(_Handler)
        self.root = root
        self.token = token  # of .mp4 and, with a query, of .tar; may be renewed
        self.authorization = f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{user}:{password}@{self.host}"
        self.served = 0
        self.refused = 0
        self.proxied = 0  # requests to the proxy with the password


class _Handler(Handler):
    server: GuardedServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        server, url = self.server, urlsplit(self.path)
        if url.netloc:
            server.proxied += self.headers.get("Proxy-Authorization") == server.authorization
        needs_token = url.path.endswith(".mp4") or (url.path.endswith(".tar") and url.query)
        if self.headers.get("Authorization") != server.authorization or (
            needs_token and parse_qs(url.query).get("sig") != [server.token]
        ):
            server.refused += 1
            return self.send_error(403)
        path = server.root / unquote(url.path).lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        server.served += 1
        content = self.send_range(path.read_bytes())
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
        return None


@contextmanager
def guarding(root: Path, user: str, password: str, token: str) -> Iterator[GuardedServer]:
    """A server of the folder, for the length of a with block."""
    with running(GuardedServer(root, user, password, token)) as server:
        yield server
