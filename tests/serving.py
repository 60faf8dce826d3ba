"""A web server on loopback that does what tests tell it to."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.running import Handler, Server, running


class FileServer(Server):
    """Serves a folder, with ranges; `url` is its address."""

    def __init__(self, root: Path) -> None:
        super().__init__(_Handler)
        self.root = root
        self.requests: list[str] = []  # paths whose content was asked for
        self.sent_bytes: Counter[str] = Counter()  # content sent of each path
        self.statuses: deque[int] = deque()  # answers to the next requests, before anything is served
        self.change: Callable[[str, bytes], bytes] = lambda path, content: content
        self.cut_after: deque[int] = deque()  # break the next answers off after so many bytes
        self.tells_size = True
        self.sends_ranges = True
        self.headers: Callable[[str], dict[str, str]] = lambda path: {}  # more headers of the next answer
        self.tells_version_early = True  # False: those headers come with content only
        self.drip_s = 0.0  # seconds between single bytes of a content; 0: all at once
        self.closing = threading.Event()

    def count(self, name: str) -> int:
        """How often content of that name was asked for; ranges of one file count once if they follow each other."""
        return sum(path.endswith(name) for path in self.requests)


class _Handler(Handler):
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server = self.server
        if body and self.headers.get("Range") != "bytes=0-0":  # one byte: what is asked for is the version
            server.requests.append(self.path)
        if server.statuses:
            self.send_error(server.statuses.popleft())
            return
        path = server.root / self.path.split("?")[0].lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        headers = server.headers(self.path)
        content = server.change(self.path, path.read_bytes())
        content = self.send_range(content, allowed=server.tells_size and server.sends_ranges)
        if server.tells_size:
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Accept-Ranges", "bytes")
        if body or server.tells_version_early:
            for name, value in headers.items():
                self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        if server.drip_s:
            for byte in content:
                self.wfile.write(bytes([byte]))
                if server.closing.wait(server.drip_s):
                    return
        if server.cut_after:
            content = content[: server.cut_after.popleft()]
        server.sent_bytes[self.path] += len(content)
        self.wfile.write(content)


@contextmanager
def serving(root: Path) -> Iterator[FileServer]:
    """A server of the folder, for the length of a with block."""
    with running(FileServer(root)) as server:
        yield server
