"""A small folder of drawn videos, a run of prepare over it, and what it left on disk."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from avdata.prepare.config import PrepareConfig, SampleConfig, Supervision, SynthConfig
from avdata.prepare.report import SilentListener
from avdata.prepare.sources.synth import synth_clip, write_clip
from avmanifest.recipe import load_recipe

SMALL = SampleConfig(num_frames=2, short_side=32)
DRAWN = SynthConfig(width=96, height=64, seconds=3.2, fps=10)


def draw_folder(root: Path, names: list[str]) -> Path:
    """Real H.264/AAC clips of 3.2 s below root, one for each relative name."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(DRAWN, synth_clip(DRAWN, index), path)
    return root


def folder_config(videos: Path, out: Path, **changes: Any) -> PrepareConfig:
    """The run that makes a dataset of two clips a shard from a folder."""
    usual: dict[str, Any] = {
        "recipe": load_recipe("folder"),
        "out": out,
        "sources": (f"local:{videos}",),
        "sample": SMALL,
        "shard_size": 2,
        "supervision": Supervision(num_workers=2),
    }
    return PrepareConfig(**usual | changes)


def synth_config(out: Path, num_clips: int = 7, **changes: Any) -> PrepareConfig:
    """The run that makes a drawn dataset of two clips a shard."""
    usual: dict[str, Any] = {
        "recipe": load_recipe("synth"),
        "out": out,
        "synth": replace(DRAWN, num_clips=num_clips),
        "sample": SMALL,
        "shard_size": 2,
        "supervision": Supervision(num_workers=1),
    }
    return PrepareConfig(**usual | changes)


def tree(out: Path) -> dict[str, str]:
    """sha256 of every file of a dataset by its relative path, but for what lies aside."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in ("_tmp", "_quarantine")
    }


class Notes(SilentListener):
    """A listener that stores the events."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.statuses: list[str] = []
        self.steps: list[str] = []
        self.num_planned = 0

    def planned(self, plan: pa.Table, num_to_do: int) -> None:
        self.num_planned = len(plan)

    def clip_ended(self, status: str) -> None:
        self.statuses.append(status)

    def step(self, name: str) -> None:
        self.steps.append(name)

    def note(self, text: str) -> None:
        self.notes.append(text)
