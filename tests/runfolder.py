"""The folder of a training run, without a model."""

import json
from pathlib import Path

import cv2
import numpy as np


def write_run(folder: Path) -> Path:
    """What `avkit pretrain` leaves: config, metrics cut within a line, a probe, two pictures, a checkpoint."""
    (folder / "checkpoints" / "step-00000040").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "config.json").write_text(json.dumps({"name": "<i>demo</i>", "steps": 50, "optim.lr": 1e-3}))
    lines = [{"step": n, "epoch": n / 10, "loss": 2.0 / n, "lr": 0.1, "data_wait": 0.01} for n in range(1, 41)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41, "lo')
    (folder / "probe.jsonl").write_text("".join(json.dumps({"step": n, "all": 10.0 + n}) + "\n" for n in (20, 40)))
    for step in (20, 40):
        cv2.imwrite(str(folder / "pictures" / f"step-{step:08d}.png"), np.full((60, 200, 3), step, np.uint8))
    return folder
