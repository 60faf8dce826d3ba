"""What a command leaves unimported, in its own process and in those it starts.

Add a row for a command that shall answer without a heavy library. Modules are counted, never seconds.
"""

import subprocess
import sys
from os import environ, pathsep
from pathlib import Path
from typing import Any

import pytest

from tests.runfolder import write_run
from tests.videos import draw_folder

HEAVY = ("torch", "timm", "torchaudio", "torchvision", "scipy", "matplotlib", "pandas", "sklearn")

# Every Python process of the command imports this first, the fork server and its children too.
WATCHER = """
import os, sys

def hook(event, arguments):
    # A library whose import was tried and refused imports nothing of its own.
    if event == "import" and "." in arguments[0] and arguments[0].partition(".")[0] in {heavy!r}:
        with open({log!r}, "a") as log:
            log.write(arguments[0] + "\\n")

sys.addaudithook(hook)
"""

EVALUATIONS = (
    "linear-probe",
    "finetune",
    "knn",
    "retrieval",
    "localization",
    "segmentation",
    "separation",
    "embed",
)
COMMANDS = [
    # (the command line, its exit code, heavy modules that it may import)
    # CLIPS: a folder of three videos; DATASET: a prepared dataset; OUT: a path that is free
    # RUN: the folder of a training run; PAGE, PICTURE: files that are free
    ("--help", 0, ()),
    ("--version", 0, ()),
    ("prepare --help", 0, ()),
    ("prepare folder --source local:CLIPS --out OUT --frames 2 --workers 1", 0, ()),
    ("prepare folder --source local:CLIPS --out OUT --dry-run", 0, ()),
    ("inspect DATASET", 0, ()),
    ("inspect DATASET --json", 0, ()),
    ("inspect DATASET --where true", 0, ()),
    ("export DATASET --to OUT", 0, ()),
    ("status DATASET", 0, ()),
    ("prepare folder --explain", 0, ()),
    ("prepare folder --out OUT", 2, ()),
    ("prepare synth --out OUT --frames ten", 2, ()),
    ("diff --help", 0, ()),
    ("dataset --help", 0, ()),
    ("dataset add-mel NOWHERE released", 2, ()),
    ("pretrain deepavfusion --explain", 0, ()),
    ("pretrain crossmae --explain --set model.teacher=ema", 0, ()),
    ("pretrain deepavfusion --set model.fusion=sparse", 2, ()),
    ("pretrain deepavfusion --explain --toml", 0, ()),
    ("pretrain deepavfusion --set optim.lrr=1", 2, ()),
    ("pretrain unknown", 2, ()),
    ("pretrain demo", 2, ()),
    ("pretrain demo --data NOWHERE", 2, ()),
    ("pretrain demo --data DATASET=0.5 --data NOWHERE=0.5", 2, ()),
    ("evaluate knn NOWHERE --data DATASET", 2, ()),
    ("evaluate knn RUN --data DATASET --train NOWHERE", 2, ()),
    ("models", 0, ()),
    ("models mae-vit-b --json", 0, ()),
    ("download mae-vitb", 2, ()),
    ("reproduce deepavfusion --list", 0, ()),
    ("reproduce crossmae --dry-run", 0, ()),
    ("evaluate linear-probe x --explain", 0, ()),
    ("evaluate finetune x --explain", 0, ()),
    ("evaluate knn x --explain", 0, ()),
    ("evaluate retrieval x --explain", 0, ()),
    ("evaluate localization x --explain", 0, ()),
    ("evaluate segmentation x --explain", 0, ()),
    ("evaluate separation x --explain", 0, ()),
    ("evaluate embed x --explain", 0, ()),
    ("evaluate knn x --explain --toml", 0, ()),
    ("evaluate knn x", 2, ()),
    ("evaluate knn x --data y --set kk=1", 2, ()),
    ("inspect RUN", 0, ()),
    ("inspect RUN --json", 0, ()),
    ("inspect RUN --html PAGE", 0, ()),
    ("inspect RUN --png PICTURE", 0, ("matplotlib",)),
    *((f"evaluate {task} x --explain", 0, ()) for task in EVALUATIONS),
    ("evaluate smell x --explain", 2, ()),
    ("evaluate knn x --preset smell", 2, ()),
    ("evaluate knn x --set k=0", 2, ()),
    ("evaluate separation x --set target=smell", 2, ()),
    ("apply RUN CLIPS/dog/a.mp4 --task smell --out OUT", 2, ()),
    ("apply RUN CLIPS/dog/a.mp4 --task classify --top 0 --out OUT", 2, ()),
    ("apply RUN CLIPS/dog/a.mp4 --task classify --out OUT", 2, ()),
    ("apply RUN CLIPS/dog/a.mp4 --task segment --out OUT", 2, ()),
    ("apply RUN CLIPS/dog/a.mp4 --task separate --out OUT", 2, ()),
    ("apply RUN CLIPS/dog/a.mp4 --task retrieve --out OUT", 2, ()),
    ("apply NOWHERE CLIPS/dog/a.mp4 --task embed --out OUT", 2, ()),
    ("apply RUN CLIPS/none.mp4 --task embed --out OUT", 2, ()),
]


def heavy_imports(line: str, folder: Path, allowed: tuple[str, ...] = (), code: int = 0) -> list[str]:
    """Run `avkit LINE`, which ends with that exit code; the heavy libraries it imported beside those allowed."""
    folder.mkdir(exist_ok=True)
    log = folder / "imported.txt"
    log.write_text("")
    (folder / "sitecustomize.py").write_text(WATCHER.format(heavy=HEAVY, log=str(log)))
    path = pathsep.join(part for part in (str(folder), environ.get("PYTHONPATH", "")) if part)
    done = subprocess.run(
        [sys.executable, "-c", "from avcli.main import run; run()", *line.split()],
        env={**environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return sorted({name.partition(".")[0] for name in log.read_text().split()} - set(allowed))


def test_the_watcher_sees_an_import(tmp_path: Path) -> None:
    """In a child process as well; a test that watched nothing would pass for ever."""
    (tmp_path / "sitecustomize.py").write_text(WATCHER.format(heavy=("wsgiref",), log=str(tmp_path / "log")))
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import wsgiref.util'], check=True)"
    subprocess.run([sys.executable, "-c", code], env={**environ, "PYTHONPATH": str(tmp_path)}, check=True)
    assert "wsgiref.util" in (tmp_path / "log").read_text().split()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("videos"), ["dog/a.mp4", "dog/b.mp4", "cat/c.mp4"])


@pytest.mark.parametrize(("line", "code", "allowed"), COMMANDS, ids=[line for line, *_ in COMMANDS])
def test_a_command_imports_no_heavy_library(
    line: str, code: int, allowed: tuple[str, ...], clips: Path, prepared: Any, tmp_path: Path
) -> None:
    places = {
        "CLIPS": str(clips),
        "OUT": str(tmp_path / "out"),
        "DATASET": str(prepared.out),
        "RUN": str(write_run(tmp_path / "run")),
        "PAGE": str(tmp_path / "page.html"),
        "PICTURE": str(tmp_path / "picture.png"),
    }
    for name, value in places.items():
        line = line.replace(name, value)
    assert heavy_imports(line, tmp_path / "watched", allowed, code) == []
