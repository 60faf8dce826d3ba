"""The Dockerfile, and the scripts for SLURM and Ray, as far as they can be tested without Docker and a cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SCRIPTS = sorted([*ROOT.glob("examples/slurm/*.sbatch"), *ROOT.glob("examples/ray/*.sh"), ROOT / "demo.sh"])
LINTERS = Path(sys.executable).parent


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run([LINTERS / "shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([LINTERS / "hadolint", "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_images_have_fixed_bases_and_a_user_who_is_not_root() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    names = {name for _, name in stages}
    assert {"prepare", "cpu", "cuda"} <= names
    for base, name in stages:
        assert base in names or re.fullmatch(r"python:\d+\.\d+-slim-\w+", base), name
    runtime = DOCKERFILE.split(" AS runtime\n")[1].split("\nFROM ")[0]
    assert re.search(r"^USER [1-9]\d*$", runtime, re.MULTILINE)
    assert all(base == "runtime" for base, name in stages if name in {"prepare", "cpu", "cuda"})


def test_what_is_copied_into_the_image_is_there_and_nothing_else_is_sent() -> None:
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    assert all((ROOT / word).exists() for word in copied)
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(sent) == sorted(copied)


def test_the_versions_of_the_lock_hold_in_the_image(tmp_path: Path) -> None:
    (command,) = re.findall(r"^RUN (sed .*)$", DOCKERFILE, re.MULTILINE)
    (tmp_path / "requirements.lock").write_text((ROOT / "requirements.lock").read_text())
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    found = [Requirement(line) for line in (tmp_path / "constraints.txt").read_text().splitlines()]
    assert {"numpy", "pyarrow", "torch", "timm"} <= {one.name for one in found}
    assert len(found) == len(re.findall(r"^[a-z0-9].*==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Start a script with programs that write their arguments into `calls`; avkit and torchrun end with CODE."""
    programs = {
        "srun": 'exec "$@"',
        "avkit": 'echo "avkit $*" >> calls; exit "${CODE:-0}"',
        "torchrun": 'echo "torchrun $*" >> calls; [ -z "${SLEEP:-}" ] || sleep "$SLEEP"; exit "${CODE:-0}"',
        "scontrol": 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else echo "scontrol $*" >> calls; fi',
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def start(script: str, **env: str) -> "subprocess.Popen[str]":
        path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
        return subprocess.Popen(
            ["bash", ROOT / "examples" / script], cwd=tmp_path, env={**slurm, **env, "PATH": path}, text=True
        )

    return start


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (2, 2), (1, 1)])
def test_an_array_task_has_done_its_share_though_others_have_not(
    submit: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, code: int, expected: int
) -> None:
    done = submit("slurm/prepare.sbatch", CODE=str(code), SLURM_CPUS_PER_TASK="4", OUT="data/my set")
    assert done.wait(30) == expected
    said = (tmp_path / "calls").read_text().strip()
    assert said == (
        "avkit prepare vggsound --source local:data/vggsound-videos --out data/my set --executor array --workers 4"
    )


def test_a_pretraining_goes_on_where_it_was(submit: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    assert submit("slurm/pretrain.sbatch", SLURM_GPUS_ON_NODE="8").wait(30) == 0
    (tmp_path / "runs" / "deepavfusion").mkdir(parents=True)
    (tmp_path / "runs" / "deepavfusion" / "config.json").write_text("{}")
    assert submit("slurm/pretrain.sbatch", SLURM_GPUS_ON_NODE="8", CODE="1").wait(30) == 1
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert "--nnodes 2 --nproc-per-node 8 " in first
    assert "--rdzv-endpoint n1:29400 " in first
    assert first.endswith("-m avcli.main pretrain deepavfusion --data data/vggsound --out runs/deepavfusion")
    assert second == f"{first} --resume"


def test_a_pretraining_out_of_time_is_requeued(submit: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    running = submit("slurm/pretrain.sbatch", SLEEP="1")
    while not (tmp_path / "calls").exists():
        time.sleep(0.01)
    running.send_signal(signal.SIGUSR1)
    running.wait(30)
    assert "scontrol requeue 7" in (tmp_path / "calls").read_text()


def test_ray_takes_the_same_options(submit: Callable[..., "subprocess.Popen[str]"], tmp_path: Path) -> None:
    assert submit("ray/prepare.sh", RECIPE="music").wait(30) == 0
    assert (tmp_path / "calls").read_text().strip().endswith("--out data/vggsound --executor ray")
