"""Limits on the requests per hour to a source, shared by all runs on this machine that use the same proxy."""

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from avdata.prepare.config import DownloadConfig
from avdata.prepare.sources import RemoteSource
from avmanifest.errors import ConfigError
from avmanifest.files import sha256_of
from avmanifest.secrets import Url

BURST: Final = 5
"""Requests that may be sent at once after an idle time."""


@runtime_checkable
class RateLimit(Protocol):
    """A limit on the rate of requests."""

    def take(self) -> float:
        """Count one request if it may be sent now.

        Returns:
            0 if the request was counted and may be sent, else the seconds to wait before the next call.
        """
        ...


class NoRateLimit:
    """Allows every request at once."""

    def take(self) -> float:
        """Always 0."""
        return 0.0


class FileRateLimit:
    """A limit shared by all processes of this machine and user through one locked file.

    The file holds the wall-clock time until which the budget is spent (the generic cell rate algorithm). A clock
    that is set back costs one interval at most.

    Args:
        path: The shared file; created if it does not exist.
        per_hour: Requests an hour.
    """

    def __init__(self, path: Path, per_hour: float) -> None:
        self._path = path
        self._interval_s = 3600.0 / per_hour

    def take(self) -> float:
        """See RateLimit."""
        with self._path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            now = time.time()
            slack_s = (BURST - 1) * self._interval_s
            try:
                spent_until = min(float(file.read()), now + slack_s + self._interval_s)
            except ValueError:
                spent_until = 0.0
            spent_until = max(spent_until, now)
            if spent_until > now + slack_s:
                return spent_until - now - slack_s
            file.truncate(0)
            file.write(repr(spent_until + self._interval_s).encode())
            return 0.0


def source_rate_limit(source: RemoteSource, config: DownloadConfig) -> RateLimit:
    """The limit of a source on this machine: the configured rate, or else the source's default."""
    kind = source.name.partition(":")[0]
    return machine_rate_limit(kind, source.proxy, config.rate_per_hour or source.rate_per_hour, config.pace_dir)


def machine_rate_limit(source: str, proxy: Url | None, per_hour: float | None, folder: Path | None = None) -> RateLimit:
    """The limit that all runs of this machine and user share for one source and proxy.

    Args:
        source: The kind of source, part of the shared file's name.
        proxy: Address of the proxy; None: a direct connection.
        per_hour: Requests an hour; None: no limit.
        folder: Where the shared file is kept; None: a folder of this user in the temporary folder.

    Raises:
        ConfigError: The folder belongs to another user, or is a link.
    """
    if per_hour is None:
        return NoRateLimit()
    folder = folder or Path(tempfile.gettempdir()) / f"avkit-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    route = sha256_of(str(proxy or ""))[:16]
    return FileRateLimit(folder / f"pace-{source}-{route}", per_hour)
