"""A Hugging Face hub on loopback that serves models from a folder: ROOT/USER/NAME/FILE."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.running import running

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Every model has one commit, which is `main` and `v1`. `requests` has the paths that were asked for."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.requests: list[str] = []
        self.closed_to: set[str] = set()  # models that are gated
        self.is_down = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no matter."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        server = self.server
        server.requests.append(self.path)
        user, name, _, revision, *rest = [*self.path.strip("/").split("/"), "", "", "", ""]
        file = server.root / user / name / "/".join(filter(None, rest))
        if server.is_down:
            self._refuse(503, "")
        elif not (server.root / user / name).is_dir():
            self._refuse(404, "RepoNotFound")
        elif f"{user}/{name}" in server.closed_to:
            self._refuse(403, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self._refuse(404, "RevisionNotFound")
        elif not file.is_file():
            self._refuse(404, "EntryNotFound")
        else:
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving_hub(root: Path) -> Iterator[Hub]:
    """A hub of the models in a folder, for the length of a with block."""
    with running(Hub(root)) as server:
        yield server
