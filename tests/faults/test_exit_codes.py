"""Every command on paths that are not what it takes: exit code 2 and a line, whatever is there in their place."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from avcli.main import app, code_of
from avmanifest.errors import AvkitError, ExitCode
from avmodel.checkpoint import save_weights
from avmodel.checkpoint_folder import MODEL_FILE, TRAINER_FILE, latest_checkpoint
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import draw_splits, save_tiny, tiny_model
from tests.runs import TINY
from tests.videos import draw_folder

TEXT = "id,label\nhello there\n"
DEMO = "pretrain demo --data {set} --set batch_size=4 --set device_batch_size=4 --set steps=1 --set device=cpu"

# Of each command with {bad} in place of one path: what the path should be.
COMMANDS = {
    "prepare folder --source local:{bad} --out {out}": "folder",
    "prepare vggsound --list {list} --source wds:{bad} --out {out}": ".tar",
    "prepare table --source local:{videos} --list {bad} --out {out}": ".csv",
    "prepare vggsound --source local:{videos} --list {bad} --out {out}": ".csv",
    "prepare {bad} --source local:{videos} --out {out}": ".toml",
    "prepare folder --source local:{videos} --config {bad} --out {out} --dry-run": "settings",
    "prepare folder --source local:{videos} --out {bad}": "out",
    "status {bad}": "folder",
    "export {bad} --to {out}": "folder",
    "inspect {bad}": "folder",
    "inspect --verify {bad}": ".csv",
    "inspect --json {bad}": ".tar",
    "inspect {bad} --key k": ".parquet",
    "inspect {set} --lists {bad}": "lists",
    "inspect {set} --html {bad}": "new file",
    "verify {bad}": "folder",
    "verify --deep {bad}": ".tar",
    "verify --json {bad}": ".parquet",
    "diff {bad} {set}": "folder",
    "diff {set} {bad}": ".parquet",
    "spectrogram {bad}": ".mp4",
    "spectrogram {video} --png {bad}": "new file",
    "pretrain demo --data {bad} --out {out}": "folder",
    "pretrain avsiam-b --data {bad} --out {out}": ".tar",
    "pretrain demo --data {set} --out {out} --config {bad}": "settings",
    DEMO + " --out {out} --set image_weights={bad}": ".pth",
    DEMO + " --out {out} --set audio_weights={bad}": ".safetensors",
    DEMO + " --out {bad}": "out",
    "evaluate knn {bad} --data {set} --out {out}": "folder",
    "evaluate linear-probe {bad} --data {set} --out {out}": ".safetensors",
    "evaluate embed {bad} --data {set} --out {out}": ".pth",
    "evaluate knn {run} --data {bad} --out {out}": "folder",
    "evaluate embed {run} --data {bad} --out {out}": ".tar",
    "evaluate linear-probe {run} --data {set} --train {bad} --out {out}": "folder",
    "apply {bad} {video} --task embed --out {out}": "folder",
    "apply {bad} {video} --task localize --out {out}": ".safetensors",
    "apply {bad} {video} --task classify --out {out}": "folder",
    "apply {bad} {video} --task separate --out {out}": ".safetensors",
    "apply {run} {bad} --task embed --out {out}": ".mp4",
    "apply {run} {video} --task retrieve --gallery {bad} --out {out}": "folder",
    "apply {run} {video} --task embed --out {bad}": "out",
    "convert {bad} --out {out}.safetensors": ".pth",
    "convert {bad} --family cavmae --out {out}.safetensors": ".pth",
    "bench loader {bad}": "folder",
    "bench prepare {bad}": "folder",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, a dataset, a video and a list, none of which is changed."""
    root = tmp_path_factory.mktemp("place")
    save_tiny(root / "run")
    draw_splits(root / "set")
    draw_folder(root / "videos", ["a/clip.mp4"])
    (root / "list.csv").write_text("abcdefghijk,10,playing harp,train\n")
    return root


def bad_paths(folder: Path, kind: str) -> dict[str, Path]:
    """Paths that are not what was asked for, by what is wrong with them."""
    file, bare = folder / "file.txt", folder / "folder"
    file.write_text(TEXT)
    bare.mkdir()
    suffix = kind if kind.startswith(".") else ""
    loop = folder / f"loop{suffix}"
    loop.symlink_to(loop)
    if kind == "out":  # a folder that is made
        return {"a file": file, "below a file": file / "out", "locked": bare / "out", "loop": loop}
    if kind == "new file":
        return {
            "a folder": bare, "below a file": file / "new", "locked": folder / "locked" / "new",
            "in a loop": loop / "new",
        }  # fmt: skip
    found = {name: folder / f"{name}{suffix}" for name in ("missing", "text", "empty", "other", "locked")}
    found["text"].write_text(TEXT)
    found["empty"].write_bytes(b"")
    found["other"].mkdir()
    found["loop"] = loop
    if suffix:
        found["locked"].write_text(TEXT)
    else:
        found["locked"].mkdir()
    if kind == "settings":
        del found["empty"]  # a file without settings changes none
    if kind == "lists":
        del found["other"]  # an empty folder of lists has none
    return found


@contextmanager
def without_rights(path: Path) -> Iterator[bool]:
    """Take all rights from a path, or the folder it is in; False where the user may do everything, as root may."""
    taken = path if path.exists() else path.parent
    if not taken.exists():
        taken.mkdir()
    before = taken.stat().st_mode
    taken.chmod(0)
    try:
        yield not os.access(taken, os.R_OK)
    finally:
        taken.chmod(before)


def end_of(words: list[str]) -> tuple[int | None, str]:
    """Exit code and message; None: a traceback."""
    result = CliRunner().invoke(app, words)
    error = result.exception
    if error is None or isinstance(error, SystemExit):
        return result.exit_code, result.output
    return (code_of(error) if isinstance(error, AvkitError | OSError) else None), repr(error)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_not_what_was_asked_for_is_misuse(place: Path, tmp_path: Path, command: str) -> None:
    out, known = tmp_path / "out", {name: place / name for name in ("set", "run", "videos")}
    known |= {"video": place / "videos" / "a" / "clip.mp4", "list": place / "list.csv", "out": out}
    seen = {}
    for name, path in bad_paths(tmp_path, COMMANDS[command]).items():
        words = [word.format(bad=path, **known) for word in command.split()]
        if name == "locked":
            with without_rights(path) as locked:
                seen[name] = end_of(words) if locked else (ExitCode.MISUSED, "not tried")
        else:
            seen[name] = end_of(words)
        shutil.rmtree(out, ignore_errors=True)
    assert {name: end for name, end in seen.items() if end[0] != ExitCode.MISUSED} == {}


def test_a_damaged_checkpoint_has_a_code_of_its_own_in_every_command(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    checkpoint = latest_checkpoint(run / CHECKPOINTS)
    assert checkpoint is not None
    content = bytearray((checkpoint / MODEL_FILE).read_bytes())
    content[-5] ^= 1
    (checkpoint / MODEL_FILE).write_bytes(content)
    data, out, video = f"--data={place / 'set'}", f"--out={tmp_path / 'out'}", str(place / "videos" / "a" / "clip.mp4")
    for path in (str(run), str(checkpoint), str(checkpoint / MODEL_FILE)):
        assert end_of(["evaluate", "knn", path, data, out])[0] == ExitCode.BROKEN_CHECKPOINT
        assert end_of(["apply", path, video, "--task=embed", out])[0] == ExitCode.BROKEN_CHECKPOINT
    start = ["--set=image_weights=" + str(run), "--set=batch_size=4", "--set=steps=1"]
    assert end_of(["pretrain", "demo", data, out, *start])[0] == ExitCode.BROKEN_CHECKPOINT


def test_weights_that_are_not_finite_are_refused_by_name_in_every_command(place: Path, tmp_path: Path) -> None:
    weights = tiny_model().state_dict()
    weights["encoder.audio.norm.bias"][1] = torch.nan
    save_weights(tmp_path / "nan.safetensors", weights, TINY)
    (tmp_path / "run" / CHECKPOINTS / "step-00000007").mkdir(parents=True)
    shutil.copy(tmp_path / "nan.safetensors", tmp_path / "run" / CHECKPOINTS / "step-00000007" / MODEL_FILE)
    data, out, video = f"--data={place / 'set'}", f"--out={tmp_path / 'out'}", str(place / "videos" / "a" / "clip.mp4")
    for path in (str(tmp_path / "nan.safetensors"), str(tmp_path / "run")):
        for words in (["evaluate", "knn", path, data, out], ["apply", path, video, "--task=embed", out]):
            code, said = end_of(words)
            assert code == ExitCode.BROKEN_CHECKPOINT
            assert "not finite: encoder.audio.norm.bias (1 value)" in said


def test_a_run_without_a_whole_checkpoint_is_not_resumed(place: Path, tmp_path: Path) -> None:
    words = ["pretrain", "demo", f"--data={place / 'set'}", f"--out={tmp_path / 'out'}", "--set=batch_size=4"]
    words += ["--set=model.size=32x2x4", "--set=steps=1", "--set=pictures_every=none", "--set=probe_every=none"]
    words += ["--set=data.window_s=1.0", "--set=device=cpu", "--set=model.audio_size=128,48"]
    words += ["--set=model.image_size=32,32", "--set=model.decoder_embed_dim=16", "--set=model.decoder_num_heads=4"]
    code, said = end_of(words)
    assert code == ExitCode.DONE, said
    checkpoint = latest_checkpoint(tmp_path / "out" / CHECKPOINTS)
    assert checkpoint is not None
    assert end_of([*words, "--resume-from=9"])[0] == ExitCode.MISUSED
    (checkpoint / TRAINER_FILE).unlink()
    assert end_of([*words, "--resume"])[0] == ExitCode.BROKEN_CHECKPOINT
    assert end_of([*words, "--resume-from=1"])[0] == ExitCode.BROKEN_CHECKPOINT
