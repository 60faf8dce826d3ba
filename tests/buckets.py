"""Object stores for tests: a real S3 server on loopback, what may go wrong on the way to it, and one in memory."""

import hashlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.running import Handler, Server, running

BUCKET = "avkit-test"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_MAX_ATTEMPTS": "1",
    # Time-outs that tests can wait for.
    "FSSPEC_S3": '{"config_kwargs": {"connect_timeout": 2, "read_timeout": 2, "retries": {"max_attempts": 0}}}',
}

Fault = Literal["500", "silence", "lost answer"]
"""`silence`: the request is taken and never answered. `lost answer`: it is carried out, and never answered."""


class FaultyRoad(Server):
    """Stands in front of an S3 server. `faults` says what becomes of a request, by method and path."""

    def __init__(self, port: int) -> None:
        super().__init__(_Forward)
        self.backend = port
        self.faults: Callable[[str, str], Fault | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.closing = threading.Event()


class _Forward(Handler):
    server: FaultyRoad
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        method, path = self.command, self.path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((method, path))
        fault = self.server.faults(method, path)
        if fault == "silence":
            self.server.closing.wait(10)
            self.close_connection = True
            return
        if fault == "500":
            content = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
            self._answer(500, [("Content-Type", "application/xml")], content)
            return
        backend = http.client.HTTPConnection("127.0.0.1", self.server.backend, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        backend.request(method, path, body, headers)
        answer = backend.getresponse()
        content = answer.read()
        backend.close()
        if fault == "lost answer":
            self.close_connection = True
            return
        kept = [pair for pair in answer.getheaders() if pair[0].lower() not in ("connection", "transfer-encoding")]
        self._answer(answer.status, kept, content)

    do_PUT = do_POST = do_DELETE = do_HEAD = do_GET

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of moto's server, in a process of its own."""
    command = [sys.executable, "-c", "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    ) as run:
        try:
            assert run.stderr is not None
            line = next((line for line in run.stderr if "Running on http://" in line), None)
            assert line, "moto's server did not start"
            threading.Thread(target=run.stderr.read, daemon=True).start()  # its log may not fill the pipe
            yield int(line.split("Running on http://")[1].split()[0].rsplit(":", 1)[1])
        finally:
            run.kill()


@contextmanager
def faulty_road(port: int) -> Iterator[FaultyRoad]:
    """A road to the S3 server at the port, for the length of a with block."""
    with running(FaultyRoad(port)) as road:
        yield road


class UnreliableMemory(MemoryFileSystem):
    """fsspec's memory, apart from other tests', whose writes can be made to fail."""

    cachable = False
    protocol = "memory"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.is_down: Callable[[str], bool] = lambda path: False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._fail(path)
        super().pipe_file(path, value, mode=mode, **kwargs)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        self._fail(rpath)
        super().put_file(lpath, rpath, **kwargs)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        self._fail(path2)
        super().cp_file(path1, path2, **kwargs)

    def _fail(self, path: str) -> None:
        if self.is_down(path):
            raise OSError(f"{path}: the store is down")


def bucket_tree(url: str) -> dict[str, str]:
    """sha256 of every object of a dataset by its relative name, but for what lies aside."""
    filesystem, base = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return {
        name[len(base) + 1 :]: hashlib.sha256(filesystem.cat_file(name)).hexdigest()
        for name in sorted(filesystem.find(base))
        if name[len(base) + 1 :].split("/")[0] not in ("_tmp", "_quarantine")
    }


def use_s3(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> str:
    """Have this process write to an S3 server, from a mirror of its own; the URL of a new prefix."""
    import s3fs

    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint, "XDG_CACHE_HOME": str(cache)}.items():
        monkeypatch.setenv(name, value)
    config: dict[str, Any] = {}
    fsspec.config.set_conf_env(config)
    monkeypatch.setitem(fsspec.config.conf, "s3", config["s3"])
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem()
    if not filesystem.exists(BUCKET):
        filesystem.mkdir(BUCKET)
    return f"s3://{BUCKET}/{time.monotonic_ns()}"
