"""The encoder of every family as a program of its own, equal to the model for batches of any size."""

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import config as jaxtyping_config
from torch import Tensor, nn
from typer.testing import CliRunner

from avcli.main import app
from avmanifest.errors import ConfigError, StorageError
from avmodel.checkpoint import save_checkpoint
from avmodel.evaluate.loaded import LoadedModel
from avmodel.exporting import BOUND, NOTE, Encoder, NotExportedError, export_model, largest_difference
from avmodel.models import build_model
from avmodel.rundir import CHECKPOINTS
from tests.faults.disks import FailingDisk
from tests.runs import TINY_MAE, TINY_MODELS

HAS_ONNX = all(map(find_spec, ("onnx", "onnxruntime", "onnxscript")))


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    """What torch.export imports is no test's time."""
    import torch._dynamo  # noqa: F401


@pytest.fixture(autouse=True)
def without_shape_checks() -> Iterator[None]:
    """Torch cannot trace the shape checks of the tests."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


HEARD = replace(TINY_MAE, modalities="audio")  # the smallest: one modality, two layers


def loaded(config: Any) -> LoadedModel:
    torch.manual_seed(0)
    return LoadedModel(
        model=build_model(config).eval(), origin={"license": "MIT"}, folder=Path(), profile="paper", window_s=1.0
    )


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.slow
def test_the_program_of_every_family_equals_its_model(family: str, tmp_path: Path) -> None:
    model = loaded(TINY_MODELS[family])
    done = export_model(model, tmp_path / "model.pt2")
    assert (done.family, done.format) == (family, "pt2")
    assert done.difference <= BOUND
    note: dict[str, str] = {NOTE: ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=note).module()
    encoder = Encoder(model.model)
    inputs = encoder.draw(3, seed=9)
    with torch.no_grad():
        found, expected = program(*inputs), encoder(*inputs)
    assert list(found) == list(expected) == list(done.outputs)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)
        assert done.outputs[name] == ("batch", *value.shape[1:])
    said = json.loads(note[NOTE])
    assert (said["family"], said["profile"], said["license"]) == (family, "paper", "MIT")
    assert said["inputs"]["images"] == ["batch", 3, *model.model.config.image_size]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]


def test_a_model_of_one_modality_takes_its_input_alone(tmp_path: Path) -> None:
    done = export_model(loaded(HEARD), tmp_path / "model.pt2")
    assert list(done.inputs) == ["log_mel"]
    assert list(done.outputs) == ["audio", "audio_tokens"]


@pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")
@pytest.mark.parametrize("family", ["deepavfusion", "cavmae_sync"])
@pytest.mark.slow
def test_onnxruntime_gives_what_the_model_gives(family: str, tmp_path: Path) -> None:
    import onnx

    done = export_model(loaded(TINY_MODELS[family]), tmp_path / "model.onnx")
    assert (done.format, done.difference < BOUND) == ("onnx", True)
    read = onnx.load(tmp_path / "model.onnx")
    assert [one.name for one in read.graph.output] == list(done.outputs)
    assert json.loads({one.key: one.value for one in read.metadata_props}["avkit"])["family"] == family


@pytest.mark.skipif(HAS_ONNX, reason="the extra onnx is installed")
def test_onnx_without_its_extra_says_what_installs_it(tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["export-model", "runs/first", "--to", str(tmp_path / "model.onnx")])
    assert "pip install 'avkit[onnx]'" in str(refused.exception)


class Drifting(nn.Module):
    """An encoder whose program would differ: it counts its calls."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def draw(self, size: int, seed: int = 0) -> tuple[Tensor, ...]:
        return (torch.full((size, 1), float(seed + 1)),)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"x": x}


@pytest.mark.parametrize(
    ("by", "far"), [(0.0, 0.0), (1e-3, 1e-3), (float("nan"), None)], ids=["equal", "near", "not a number"]
)
def test_the_difference_is_relative_and_never_hidden_by_what_is_no_number(by: float, far: float | None) -> None:
    encoder: Any = Drifting(by)
    found = largest_difference(encoder, lambda inputs: {"x": inputs[0] * (1 + by)})
    assert found == pytest.approx(far, rel=1e-3) if far is not None else found != found
    assert largest_difference(encoder, lambda inputs: {"x": inputs[0][:1]}) == float("inf")


def test_a_program_that_differs_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(NotExportedError, match=r"outputs of the program differ .* not written"):
        export_model(loaded(HEARD), tmp_path / "model.pt2", bound=-1.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("model.pth", None, r"give a name that ends in \.pt2 or \.onnx"),
        ("model.onnx", "pt2", r"give a name that ends in \.pt2"),
        ("model.pt2", "tflite", "unknown; known: pt2, onnx"),
        ("there.pt2", None, "is there already"),
        ("folder.pt2", None, "is there already"),
    ],
)
def test_wrong_names_are_refused_before_anything_is_made(
    name: str, format: str | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "there.pt2").write_bytes(b"mine")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(ConfigError, match=message):
        export_model(loaded(HEARD), tmp_path / name, format=format, overwrite=name.startswith("folder"))
    assert (tmp_path / "there.pt2").read_bytes() == b"mine"


def test_a_disk_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with FailingDisk(tmp_path, 1), pytest.raises(StorageError, match="not written"):
        export_model(loaded(HEARD), tmp_path / "out" / "model.pt2")


@pytest.mark.slow
def test_the_command_exports_a_run_and_says_what_it_takes(tmp_path: Path) -> None:
    run, notes = tmp_path / "run", {"profile": "paper", "window_s": "1.0"}
    save_checkpoint(run / CHECKPOINTS, 7, loaded(HEARD).model, HEARD, {"step": 7}, notes=notes)
    words = ["export-model", str(run), "--to", str(tmp_path / "model.pt2")]
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    assert "input  log_mel" in ended.output and "output audio_tokens" in ended.output
    assert "largest difference from the model: 0.0e+00" in ended.output
    again = CliRunner().invoke(app, words)
    assert "is there already" in str(again.exception)
    facts = json.loads(CliRunner().invoke(app, [*words, "--overwrite", "--json"]).output)
    assert facts["family"] == "mae" and facts["inputs"]["log_mel"][0] == "batch"
