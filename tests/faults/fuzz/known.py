"""Targets whose outcome is known: one for each outcome that the fuzzer tells apart. They test the fuzzer."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from avmanifest.errors import ManifestError
from tests.faults.fuzz.mutators import Mutated
from tests.faults.fuzz.targets import Target


def _target(answer: Callable[[], object], *, notices: bool = False) -> Target:
    """A target whose intact file is read as 1, and whose mutants have that answer."""

    def read(folder: Path) -> object:
        return 1 if (folder / "a").read_bytes() == b"intact" else answer()

    def change(name: str, content: bytes, chance: object) -> Mutated:
        return "changed", b"changed"

    return Target(make=lambda folder: (folder / "a").write_bytes(b"intact"), read=read, mutate=change, notices=notices)


def _raise(error: Exception) -> object:
    raise error


class LongError(ManifestError):
    """An error whose text is too long to read."""

    def __str__(self) -> str:
        return "x" * 10**6


def _spin() -> object:
    while True:
        pass


TARGETS = {
    "traceback": _target(lambda: {}["missing"]),
    "memory": _target(lambda: np.empty(1 << 40, np.uint8)),
    "silent": _target(lambda: 2, notices=True),
    "crash": _target(lambda: os._exit(3)),
    "hang": _target(_spin),
    "unreadable": _target(lambda: _raise(LongError())),
    "refused": _target(lambda: _raise(ManifestError("a: damaged"))),
    "harmless": _target(lambda: 1),
}
