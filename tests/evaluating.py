"""What evaluations need in tests: a tiny pretrained model, a small labeled dataset, one process."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table, table_from_rows, write_table
from avmodel.checkpoint import save_checkpoint
from avmodel.distributed import World
from avmodel.evaluate.config import EvalDataConfig
from avmodel.evaluate.data import open_split, scoring_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import Extraction
from avmodel.evaluate.loading import load_pretrained
from avmodel.models.deepavfusion import DeepAVFusion
from avmodel.rundir import CHECKPOINTS
from tests.runs import TINY
from tests.shards import CLASSES, draw_dataset

DATA = EvalDataConfig(num_workers=0)  # the checkpoint tells of 1 s windows
TRAIN, TEST = 24, 15


def tiny_model(seed: int = 0) -> DeepAVFusion:
    """TINY with weights that no longer are as drawn."""
    torch.manual_seed(seed)
    model = DeepAVFusion(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """A run's folder with a checkpoint of `tiny_model`."""
    notes = {"profile": "paper", "window_s": "1.0"}
    save_checkpoint(folder / CHECKPOINTS, 7, tiny_model(seed), TINY, {"step": 7}, notes=notes)
    return folder


def draw_splits(root: Path, *, labels: Any = None, **sample: Any) -> Path:
    """A dataset of TRAIN and TEST samples of 1.5 s, three classes in turn."""
    labels = labels or (lambda number: [CLASSES[number % len(CLASSES)]])
    options = {"seconds": 1.5, "num_frames": 2, "flac": False, **sample}
    draw_dataset(root, TRAIN, 12, labels=labels, **options)
    return draw_dataset(root, TEST, 8, split="test", first=TRAIN, labels=labels, **options)


def evaluation_of(run: Path, data: Path | Sequence[str], out: Path, **changes: Any) -> Evaluation:
    """An evaluation by one process on the CPU."""
    device = torch.device("cpu")
    found = Evaluation(
        loaded=load_pretrained(run, device), test=data, train=None, out=out / "task", world=World(0, 1, device)
    )
    return replace(found, **changes)


def change_manifest(root: Path, split: str, **columns: object) -> None:
    """Set columns of all rows of a merged manifest; a function gets the row's number."""
    path = Layout(root).manifest(split)
    rows = read_table(path, CLIP_SCHEMA).to_pylist()
    for number, row in enumerate(rows):
        row.update({name: value(number) if callable(value) else value for name, value in columns.items()})
    write_table(table_from_rows(rows, CLIP_SCHEMA), path)


def job(run: Evaluation, *, windows: int | None = None, **changes: object) -> Extraction:
    """An extraction of the training split, by batches of 5."""
    split = open_split(DATA, run.test, "train")
    found = Extraction(
        run.loaded,
        split,
        scoring_view(replace(DATA, windows=windows or 1), run.loaded),
        DATA,
        "audio-visual",
        5,
        "float32",
    )
    return found._replace(**changes)
