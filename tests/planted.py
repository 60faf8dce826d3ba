"""A folder of drawn videos with one fault of each kind in it, and names that no page should believe."""

import shutil
from pathlib import Path

import numpy as np

from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth import synth_clip, write_clip
from tests.drawn import draw_media, sine

HOSTILE_LABEL = '<b onmouseover=alert(1)>bell & "dove"</b>'
HOSTILE_VIDEO = "<img src=x onerror=alert(1)>"
SECONDS = 3.2
FAULTS = {
    "silent": "train/bell/silent",
    "still": "train/bell/still",
    "original": "train/drum/v2",
    "copy": "train/drum/copy of v2",
    "leak": "test/drum/leaked v1",
    "leaked": "train/drum/v1",
    "truncated": f"train/bell/{HOSTILE_VIDEO}",
}
"""Video ids by what is wrong with them."""


def draw_planted(root: Path, config: SynthConfig, num_clips: int = 4) -> Path:
    """`num_clips` good clips of drums in train, one in test, one of a hostile label; and the FAULTS."""
    for index in range(num_clips):
        _clip(config, index, root / f"train/drum/v{index}.mp4")
    _clip(config, num_clips, root / "test/drum/t0.mp4")
    _clip(config, num_clips + 1, root / "train" / HOSTILE_LABEL.replace("/", "∕") / "h0.mp4")
    copy_from(root, "original", "copy")
    copy_from(root, "leaked", "leak")
    whole = _clip(config, num_clips + 2, root / "whole.mp4")
    truncated = root / f"{FAULTS['truncated']}.mp4"
    truncated.parent.mkdir(parents=True, exist_ok=True)
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.unlink()
    frames = round(SECONDS * 25)
    draw_media(
        root / f"{FAULTS['silent']}.mp4", num_frames=frames, sound=np.zeros((1, round(44_100 * SECONDS)), np.float32)
    )
    draw_media(
        root / f"{FAULTS['still']}.mp4",
        num_frames=frames,
        picture=lambda _: np.repeat(np.linspace(40, 200, 160, dtype=np.uint8)[None, :, None], 120, 0).repeat(3, 2),
        sound=sine(SECONDS, 44_100)[None],
    )
    return root


def copy_from(root: Path, one: str, other: str) -> None:
    target = root / f"{FAULTS[other]}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / f"{FAULTS[one]}.mp4", target)


def _clip(config: SynthConfig, index: int, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(config, synth_clip(config, index), path)
    return path
