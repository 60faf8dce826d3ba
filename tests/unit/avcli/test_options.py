"""Options of commands that stand for settings."""

from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.prepare.config import PrepareConfig
from avmanifest.settings import declared


def test_settings_that_are_true_or_false_are_switches_of_prepare() -> None:
    switches = {field.name for field in fields(PrepareConfig) if isinstance(field.default, bool)}
    assert switches >= {"append", "overwrite", "verify"}
    assert {one.path for one in declared(PrepareConfig) if one.option is not None and one.path in switches} == switches


@pytest.mark.parametrize("words", [["spectrogram", "~/no.mp4"], ["spectrogram", "no.mp4", "--png=~/no/such.png"]])
def test_the_home_is_found_where_a_shell_leaves_its_sign(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    found = CliRunner().invoke(app, words)
    assert "~" not in str(found.exception) + found.output
