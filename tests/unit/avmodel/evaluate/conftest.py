"""A tiny run and a small dataset, drawn once."""

from pathlib import Path

import pytest

from tests.evaluating import draw_splits, save_tiny


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return save_tiny(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return draw_splits(tmp_path_factory.mktemp("splits") / "set")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A dataset that the test may change."""
    return draw_splits(tmp_path / "own")
