"""Checkpoints on disks that fill up and under processes that die."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from avmanifest.errors import AvkitError, StorageError
from avmanifest.files import is_unfinished, unfinished_path
from avmodel.checkpoint import load_model, load_trainer_state, save_checkpoint
from avmodel.checkpoint_folder import latest_checkpoint
from avmodel.models.deepavfusion import DeepAVFusion
from tests.faults.disks import full_disk
from tests.runs import TINY


def model_of(seed: int) -> DeepAVFusion:
    torch.manual_seed(seed)
    return DeepAVFusion(TINY)


def assert_usable(folder: Path, seed: int, step: int) -> None:
    model, config = load_model(folder)
    assert config == TINY
    assert torch.equal(model.encoder.fusion_tokens, model_of(seed).encoder.fusion_tokens)
    assert load_trainer_state(folder)["step"] == step


# The weights alone fail; the weights fit but the optimizer's state fails; not even the pointer fits.
@pytest.mark.parametrize(("file_bytes", "state_numbers"), [(100_000, 10), (2_000_000, 3_000_000), (0, 0)])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path, file_bytes: int, state_numbers: int) -> None:
    save_checkpoint(tmp_path, 1, model_of(1), TINY, {"step": 1})
    before = sorted(tmp_path.rglob("*"))
    with full_disk(file_bytes), pytest.raises(StorageError, match=r"checkpoint not written .*Earlier checkpoints"):
        save_checkpoint(tmp_path, 2, model_of(2), TINY, {"step": 2, "big": torch.zeros(state_numbers)})
    assert sorted(tmp_path.rglob("*")) == before
    assert_usable(tmp_path, seed=1, step=1)
    save_checkpoint(tmp_path, 2, model_of(2), TINY, {"step": 2})
    assert_usable(tmp_path, seed=2, step=2)


def test_a_cut_file_is_named_not_loaded(tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, 1, model_of(1), TINY, {"step": 1})
    for name, load in (("model.safetensors", load_model), ("trainer.pt", load_trainer_state)):
        file = saved / name
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(AvkitError, match=name):
            load(tmp_path)


def test_remains_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, model_of(1), TINY, {"step": 1})
    remains = tmp_path / ".unfinished-step-00000002"
    remains.mkdir()
    (remains / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".unfinished-latest").write_text("step-0")  # of an earlier version
    unfinished_path(tmp_path / "step-00000003").mkdir()
    assert_usable(tmp_path, seed=1, step=1)
    save_checkpoint(tmp_path, 2, model_of(2), TINY, {"step": 2})
    assert_usable(tmp_path, seed=2, step=2)
    assert not [path for path in tmp_path.iterdir() if is_unfinished(path.name)]


WRITER = """
import sys
from pathlib import Path
import torch
from avmodel.checkpoint import save_checkpoint
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.models.deepavfusion import DeepAVFusion
from tests.faults.disks import full_disk
from tests.runs import TINY
config = DeepAVFusionConfig(
    size="128x4x4", image_size=(32, 32), audio_size=(32, 48), image_mask_ratio=0.5,
    decoder_embed_dim=64, decoder_depth=1, decoder_num_heads=4,
)
model = DeepAVFusion(config)
step = 0
while True:
    step += 1
    torch.nn.init.constant_(model.encoder.fusion_tokens, step)
    save_checkpoint(Path(sys.argv[1]), step, model, config, {"step": step}, keep=2)
    print(step, flush=True)
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_a_whole_latest(tmp_path: Path) -> None:
    for wait_s in (0.02, 0.1):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(wait_s)
        writer.kill()
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        latest = latest_checkpoint(tmp_path)
        assert latest is not None
        model, _ = load_model(latest)
        step = load_trainer_state(latest)["step"]
        assert step >= acknowledged
        assert (model.encoder.fusion_tokens == step).all()
