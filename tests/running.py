"""Servers of tests, on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


@contextmanager
def running(server: Server) -> Iterator[Server]:
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
