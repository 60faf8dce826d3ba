"""`avkit pretrain` as a user types it: output, exit codes, and a run's whole life."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from avmodel.checkpoint_folder import latest_checkpoint
from avmodel.rundir import CHECKPOINTS, CONFIG_FILE
from tests.forks import avkit, call, finish, launch
from tests.runs import assert_same_run, curve
from tests.shards import draw_dataset

STEPS = 60
SETTINGS = [
    "model.size=32x2x4", "model.image_size=32,32", "model.audio_size=128,48", "model.image_mask_ratio=0.5",
    "model.num_fusion_tokens=4", "model.num_aggr_image_tokens=2", "model.num_aggr_audio_tokens=2",
    "model.decoder_embed_dim=16", "model.decoder_depth=1", "data.window_s=1", "data.num_workers=0",
    "batch_size=4", "device_batch_size=4", f"steps={STEPS}", "save_every=1000", "pictures_every=none",
    "probe_every=1000", "device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = draw_dataset(tmp_path_factory.mktemp("data") / "out", 14, seconds=1.5, num_frames=2, flac=False)
    return draw_dataset(root, 4, split="val", first=14, seconds=1.5, num_frames=2, flac=False)


def words(data: Path, out: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["pretrain", "demo", "--data", str(data), "--out", str(out), *settings, *more]


def full_disk_avkit(file_bytes: int, *command: str) -> None:
    """The command where no file can grow beyond that."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    avkit(*command)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert call(avkit, *words(data, folder / "run"), log=folder / "log") == 0, (folder / "log").read_text()
    return folder / "run"


def test_a_run_says_how_it_goes_and_leaves_its_numbers(straight: Path) -> None:
    said = (straight.parent / "log").read_text()
    assert "60 steps, 20.0 epochs" in said
    assert "step 60/60  epoch 20.00  loss" in said
    assert "samples/s" in said
    assert "waited for data" in said
    assert "step 60: nearest neighbor shares a class: image" in said
    lines = curve(straight)
    assert f"loss {lines[0]['loss']:.4f} -> {lines[-1]['loss']:.4f}" in said
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.2
    assert f"checkpoint: {straight}/checkpoints/step-000000{STEPS}\n" in said
    assert f"look: avkit inspect {straight} --html {straight}.html\n" in said
    assert "Traceback" not in said
    assert "Warning" not in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_life_of_a_run(data: Path, straight: Path, tmp_path: Path, number: int) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    process = launch(avkit, *words(data, out), log=log)
    while not (out / CONFIG_FILE).exists():
        assert process.exitcode is None
        time.sleep(0.005)
    os.kill(process.pid, number)
    assert finish(process) == 3, log.read_text()
    done = len(curve(out))
    assert 1 <= done < STEPS
    assert f"stopped after step {done} of 60 and saved; --resume goes on" in log.read_text()
    assert "go on: avkit pretrain demo --data" in log.read_text()
    saved = latest_checkpoint(out / CHECKPOINTS)

    for more, code, answer in (
        ([], 2, "holds a run already. --resume goes on with it"),
        (["--resume", "--set", "optim.lr=1", "--set", "seed=3"], 2, "optim.lr: 0.002 -> 1.0; seed: 0 -> 3"),
        (["--resume", "--data", str(tmp_path)], 2, "is not"),
    ):
        here = log.with_suffix(f".{len(more)}")
        assert call(avkit, *words(data, out, *more), log=here) == code, here.read_text()
        if "--data" not in more:
            assert answer in here.read_text()
        assert "Traceback" not in here.read_text()

    here = log.with_suffix(".full")
    assert call(full_disk_avkit, 100_000, *words(data, out, "--resume", "--set", "save_every=40"), log=here) == 3
    assert "checkpoint not written" in here.read_text()
    assert "free space on that disk" in here.read_text()
    assert "Traceback" not in here.read_text()
    assert latest_checkpoint(out / CHECKPOINTS) == saved

    assert call(avkit, *words(data, out, "--resume"), log=log) == 0, log.read_text()
    assert f"60 steps, 20.0 epochs; {done} are done" in log.read_text()
    assert_same_run(out, straight)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--resume"], "holds no run to resume. Leave --resume out to begin one here."),
        (["--set", "precision=bfloat16"], "precision=bfloat16 on cpu: it needs a CUDA device"),
        (["--set", "model.audio_mask_ratio=0.99"], "audio_mask_ratio=0.99 leaves nothing to see"),
        (["--set", "batch_size=64", "--set", "device_batch_size=64"], "14 samples, fewer than one batch of 64"),
        (["--set", "data.profile=kaldi"], "kaldi"),
        (["--set", "wandb_project=mine"], "the package wandb is not installed"),
        (["--set", "image_weights=mae.pth"], "image_weights=mae.pth: no such file"),
    ],
)
def test_what_cannot_run_is_said_in_a_line_before_it_starts(
    data: Path, tmp_path: Path, more: list[str], said: str
) -> None:
    log = tmp_path / "log"
    assert call(avkit, *words(data, tmp_path / "run", *more), log=log) == 2, log.read_text()
    assert said in log.read_text()
    assert len(log.read_text().splitlines()) <= 2
    assert "Traceback" not in log.read_text()


def test_without_data_and_under_an_unknown_name(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call(avkit, "pretrain", "demo", log=log) == 2
    assert call(avkit, "pretrain", "vggsound", "--data", tmp_path, log=log) == 2
    assert "--data is missing" in log.read_text()
    assert "unknown run 'vggsound'; avkit runs lists all " in log.read_text()


def test_explain_tells_a_run_and_all_its_settings(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert call(avkit, "pretrain", "deepavfusion-mid", "--explain", "--set", "seed=4", log=log) == 0
    said = log.read_text()
    assert "avkit pretrain deepavfusion-mid --data data/vggsound --out runs/mid" in said
    for line in ("model.fusion_layers=mid", "seed=4", "optim.lr=none", "compile=blocks", "optim.betas=0.9,0.95"):
        assert f"\n  {line}\n" in said


@pytest.mark.slow
def test_under_torchrun_two_processes_train_what_one_does(data: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    command += ["--nproc-per-node", "2", "-m", "avcli.main", *words(data, out)]
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("60 steps, 20.0 epochs") == 1
    assert answer.stderr.count("loss 2") >= 1
    found, wanted = curve(out), curve(straight)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    for name in ("loss", "loss_image", "loss_audio"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in wanted], rel=1e-3)
    assert json.loads((out / "probe.jsonl").read_text()).keys() >= {"step", "fusion"}
