"""docs/adding-a-model.md, done from scratch: its file is saved, its line is run, its commands are given."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avmanifest.errors import ConfigError
from avmodel.models import FAMILIES, FamilyEntry, build_model
from avmodel.weights.convert import importer_of
from avmodel.weights.starting import start_from_weights

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-model.md"

pytestmark = pytest.mark.slow


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FamilyEntry]:
    """The family of the page, from its file and its line alone."""
    file, line = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "toy.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(line.splitlines()) == 1
    exec(line, {"FAMILIES": FAMILIES, "FamilyEntry": FamilyEntry})
    yield FAMILIES["toy"]
    del FAMILIES["toy"]
    sys.modules.pop("toy", None)


def avkit(line: str) -> str:
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_page_from_its_file_to_its_scores(toy: FamilyEntry) -> None:
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    said = {" ".join(line.split()[1:3]): avkit(line) for line in commands.splitlines() if "--explain" not in line}
    assert list(said) == ["prepare synth", "pretrain toy", "evaluate knn", "bench step"]
    assert "toy" in said["bench step"]
    assert Path("runs/toy/checkpoints/step-00000002/model.safetensors").exists()
    assert list(Path("runs/toy").glob("**/results.json"))


def test_its_settings_are_explained_and_listed(toy: FamilyEntry) -> None:
    said = avkit("avkit pretrain toy --explain --set model.mask_ratio=0.25")
    assert "model.mask_ratio=0.25" in said
    assert "model.temperature=0.07" in said
    assert "toy" in avkit("avkit runs")


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_weights_that_nobody_said_how_to_start_from_are_refused(toy: FamilyEntry, modality: str) -> None:
    model = build_model(toy.config_type())
    with pytest.raises(ConfigError, match=rf"{modality}_weights=x\.pth: Toy has no import of published {modality}"):
        start_from_weights(model, modality, Path("x.pth"))
    with pytest.raises(ConfigError, match="unknown --family 'toy'; known: deepavfusion, avsiam, cavmae"):
        importer_of("toy")
