"""Fixtures that several rooms' tests share. They import what they need when they are asked for."""

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.shape_checks import check_cheaply
from tests.slowness import note_own_mark, wrongly_marked

# A cache of their own for all tests: what a user's cache has, such as the compiled loader, changes no result.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ.setdefault("UV_CACHE_DIR", str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "uv"))
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="avkit-tests-")
os.environ.setdefault("SOURCE_DATE_EPOCH", "1767225600")  # a dataset prepared before midnight equals one prepared after
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")  # to ask a silent name server takes a second, not ten

check_cheaply()

settings.register_profile("avkit", deadline=None)  # a busy machine is no failure
settings.load_profile("avkit")


def pytest_unconfigure() -> None:
    """Remove the cache of the tests."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for no garbage while tests and all that they import are loaded: that stays, and looking takes an eighth."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note which tests have the marker `slow` themselves."""
    for item in items:
        note_own_mark(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List tests whose marker `slow` is not true."""
    reports = [report for report in terminalreporter.stats.get("passed", ()) if isinstance(report, pytest.TestReport)]
    if lines := wrongly_marked(reports):
        terminalreporter.section("tests with a wrong marker (see tests/slowness.py)")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven drawn videos: five of train, two of test. Not to be changed."""
    from tests.videos import draw_folder

    names = [f"train/{'ab'[i % 2]}/v{i}.mp4" for i in range(5)] + [f"test/b/v{i}.mp4" for i in (5, 6)]
    return draw_folder(tmp_path_factory.mktemp("videos"), names)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 20 samples of 5 s in 4 shards: log-mel, 5 frames of 48 x 64, FLAC. Not to be changed."""
    from tests.shards import draw_dataset

    return draw_dataset(tmp_path_factory.mktemp("drawn") / "set", 20, 6)


@pytest.fixture(scope="session")
def prepared(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report of a finished run over `videos`; its folder is not to be changed."""
    from avdata.prepare.job import prepare
    from tests.videos import folder_config

    return prepare(folder_config(videos, tmp_path_factory.mktemp("prepared") / "out"))


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn file of every kind in `tests.kinds.KINDS`. Not to be changed."""
    from tests.kinds import draw_kinds

    return draw_kinds(tmp_path_factory.mktemp("kinds"))
