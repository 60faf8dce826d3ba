"""`avkit status` prints the progress of a dataset."""

import json

from typer.testing import CliRunner

from avcli.main import app


def test_status_prints_the_progress_of_a_dataset(prepared):
    answer = CliRunner().invoke(app, ["status", str(prepared.out), "--watch"])
    assert answer.exit_code == 0, answer.output
    assert f"{prepared.ok} of {prepared.requested} clips committed" in answer.output
    assert "no run works on it" in answer.output
    answer = CliRunner().invoke(app, ["status", str(prepared.out), "--json"])
    assert json.loads(answer.output)["committed"] == {"ok": prepared.ok}
