"""The parts of the packages wandb and trackio that are used: they keep what they are given."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class FakeImage:
    path: str


@dataclass
class FakeRun:
    tracker: "FakeTracker"

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        if self.tracker.fails:
            raise ConnectionError("no network")
        self.tracker.logged.append((step, values))

    def finish(self, **how: Any) -> None:
        self.tracker.finished.append(how)


@dataclass
class FakeTracker:
    """Stands in for a package."""

    __name__: str
    started: list[dict[str, Any]] = field(default_factory=list)
    logged: list[tuple[int | None, dict[str, Any]]] = field(default_factory=list)
    finished: list[dict[str, Any]] = field(default_factory=list)
    fails: bool = False
    refuses: bool = False
    Image: type = FakeImage

    def finish(self) -> None:
        print(f"* {self.__name__} ends")
        self.finished.append({})

    def init(self, **given: Any) -> FakeRun:
        print(f"* {self.__name__} begins")
        if self.refuses:
            raise ValueError("not logged in")
        self.started.append(given)
        if "dir" in given:
            Path(given["dir"], "wandb").mkdir(exist_ok=True)
        return FakeRun(self)


def fake_tracker(monkeypatch: pytest.MonkeyPatch, name: str) -> FakeTracker:
    """Put a stand-in in the place of a package."""
    found = FakeTracker(name)
    monkeypatch.setitem(sys.modules, name, found)  # type: ignore[arg-type]
    return found
