"""How often a source may be asked: one budget for every run on this machine that goes out the same way."""

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from avmanifest.errors import ConfigError
from avmanifest.files import sha256_of

BURST: Final = 5
"""Requests that may follow each other at once after a rest."""


@runtime_checkable
class Pace(Protocol):
    """A budget of requests."""

    def take(self) -> float:
        """0 if a request may go now, and it is counted; else the seconds after which to ask again."""
        ...


class Unlimited:
    """No budget."""

    def take(self) -> float:
        """Always now."""
        return 0.0


class FilePace:
    """So many requests an hour over all processes of this machine and user, counted in one locked file.

    The file holds the time until which the budget is spent (the generic cell rate algorithm); it is of the
    machine's wall clock, and a clock that is set back costs one interval at most.
    """

    def __init__(self, path: Path, per_hour: float) -> None:
        self._path = path
        self._interval_s = 3600.0 / per_hour

    def take(self) -> float:
        """Seconds until the next request may go; 0 counts it."""
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


def machine_pace(source: str, proxy: str | None, per_hour: float | None, folder: Path | None = None) -> Pace:
    """The budget of a source by the way the requests go out. ConfigError if another user sits on the folder."""
    if per_hour is None:
        return Unlimited()
    folder = folder or Path(tempfile.gettempdir()) / f"avkit-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    way = sha256_of(proxy or "")[:16]
    return FilePace(folder / f"pace-{source}-{way}", per_hour)
