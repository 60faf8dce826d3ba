"""`--profile`: a trace that a viewer opens, and a table of what takes time; the run computes what it would without."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.distributed import World
from avmodel.train import Listener, train
from tests.runs import DrawnBatches, curve, tiny_run

HERE = World(0, 1, torch.device("cpu"))


class Told(Listener):
    """Keeps the lines that a run shows."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def events(path: Path) -> list[dict[str, Any]]:
    """A Chrome trace's events."""
    found: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return found


@pytest.mark.slow
def test_three_steps_are_recorded_after_four(tmp_path: Path) -> None:
    """The last of them is the run's last."""
    told, run = Told(), tiny_run(steps=7, device_batch_size=2)
    train(run, DrawnBatches(2), tmp_path / "run", HERE, profile_steps=True, listener=told)
    folder = tmp_path / "run" / "profile"
    assert [path.name for path in folder.iterdir()] == ["steps-5-7.json.gz"]
    names = [event.get("name", "") for event in events(folder / "steps-5-7.json.gz")]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 3
    assert names.count("losses") == 6  # two micro-steps each
    assert {"data", "aten::addmm", "Optimizer.step#AdamW.step"} <= set(names)
    table = told.said.index(next(text for text in told.said if text.startswith("profile of 3 steps: ")))
    rows = told.said[table + 1 : table + 11]
    shares = [float(row.split("%")[0]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.1
    assert any("aten::" in row for row in rows)
    assert told.said[table + 11] == (
        f"{folder / 'steps-5-7.json.gz'}: the trace of steps 5 to 7. Open it in ui.perfetto.dev."
    )
    train(run, DrawnBatches(2), tmp_path / "plain", HERE)
    assert curve(tmp_path / "run") == curve(tmp_path / "plain")


@pytest.mark.slow
def test_a_resumed_run_records_its_own_steps_and_one_that_stops_early_says_so(tmp_path: Path) -> None:
    out, run, told = tmp_path / "run", tiny_run(steps=12), Told()
    batches = DrawnBatches()
    train(run, batches, out, HERE, profile_steps=True, listener=told, stop=lambda: batches.done >= 12)
    done = len(curve(out))
    assert done < 7
    assert told.said[-1] == "--profile: stopped before step 7; no trace was written"
    assert not (out / "profile").exists()
    train(run, DrawnBatches(), out, HERE, resume=True, profile_steps=True)
    assert [path.name for path in (out / "profile").iterdir()] == [f"steps-{done + 5}-{done + 7}.json.gz"]


def test_a_run_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--profile records steps 5 to 7, and the run ends after 6\. Set steps to"):
        train(tiny_run(steps=6), DrawnBatches(), tmp_path / "run", HERE, profile_steps=True)
