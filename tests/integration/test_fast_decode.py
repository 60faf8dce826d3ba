"""`--fast-decode` is recorded, said on the card and compared on a resume; older datasets go on without."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.prepare.job import prepare
from avdata.prepare.operations.add_step import AddStep
from avdata.prepare.operations.run import run_operation
from avdata.prepare.steps.registry import load_steps
from avmanifest.errors import ConfigError
from tests.videos import SMALL, synth_config

FAST = replace(SMALL, fast_decode=True)


def recorded(out: Path) -> dict:
    return json.loads((out / "dataset.json").read_text())["config"]


def test_a_dataset_goes_on_with_the_same_value_only_and_says_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = synth_config(out, num_clips=2, sample=FAST)
    assert prepare(config).ok == 2
    assert recorded(out)["fast_decode"] is True
    assert "without the loop filter" in (out / "README.md").read_text()
    assert prepare(config).exit_code == 0
    with pytest.raises(ConfigError, match="another configuration: fast_decode True -> False"):
        prepare(synth_config(out, num_clips=2))
    (step,) = load_steps(("levels",))
    assert run_operation(out, AddStep(step)).changed
    assert recorded(out)["fast_decode"] is True
    assert "without the loop filter" in (out / "README.md").read_text()
    assert not verify(open_audit_dataset(str(out)), deep=True).faults


def test_a_dataset_that_was_begun_before_goes_on_without(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(synth_config(out, num_clips=1))
    assert "loop filter" not in (out / "README.md").read_text()
    description = json.loads((out / "dataset.json").read_text())
    del description["config"]["fast_decode"]
    (out / "dataset.json").write_text(json.dumps(description))
    assert prepare(synth_config(out, num_clips=1)).exit_code == 0
    with pytest.raises(ConfigError, match="another configuration: fast_decode False -> True"):
        prepare(synth_config(out, num_clips=1, sample=FAST))


def test_the_option_is_refused_with_decord(tmp_path: Path) -> None:
    asked = ["prepare", "synth", "--out", str(tmp_path / "out"), "--fast-decode", "--decoder", "decord"]
    found = CliRunner().invoke(app, asked)
    assert isinstance(found.exception, ConfigError)
    assert "--fast-decode works with --decoder pyav, not with --decoder decord" in str(found.exception)
    assert not (tmp_path / "out").exists()
