"""What a pretraining leaves, and the commands that come next."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from avcli.typed import Words, shown_command
from avdata.urls import is_tar, local_path
from avmanifest.errors import CheckpointError
from avmodel.checkpoint_folder import latest_checkpoint
from avmodel.configs.run import RunConfig
from avmodel.evaluate.linear_probe.config import preset_words
from avmodel.inputs import Source, with_mix
from avmodel.rundir import CHECKPOINTS, PICTURES, read_parts
from avmodel.train import Report

_AGAIN = ("--resume", "--resume-from", "--profile")


def end_lines(report: Report, config: RunConfig, source: Source | None, typed: Words) -> Iterator[str]:
    """The newest checkpoint and picture of a run, and what to do next, a line each. Commands are quoted for a shell.

    Args:
        report: How the run ended.
        config: Its settings.
        source: What it is trained on.
        typed: The command that was typed.
    """
    out = report.out
    try:
        checkpoint = latest_checkpoint(out / CHECKPOINTS)
    except CheckpointError:
        checkpoint = None
    if checkpoint is not None:
        yield f"checkpoint: {checkpoint}"
    if pictures := sorted((out / PICTURES).glob("step-*.png")):
        yield f"picture: {pictures[-1]}"
    if report.step < report.steps:
        yield f"go on: {shown_command(resumed_words(typed, os.environ))}"
        return
    yield f"look: {shown_command(['avkit', 'inspect', str(out), '--html', f'{out}.html'])}"
    if words := evaluate_words(out, config, source):
        yield f"next: {shown_command(words)}"


def resumed_words(typed: Words, environment: Mapping[str, str]) -> list[str]:
    """The command that goes on with the run, under torchrun where this one is."""
    start, *rest = [group for group in typed.groups() if group[0].partition("=")[0] not in _AGAIN] or [["avkit"]]
    if int(environment.get("WORLD_SIZE", "1")) > 1:
        here = environment.get("LOCAL_WORLD_SIZE", environment["WORLD_SIZE"])
        start = ["torchrun", "--nproc-per-node", here, "-m", "avcli.main"]
    return [*start, *(word for group in rest for word in group), "--resume"]


def evaluate_words(out: Path, config: RunConfig, source: Source | None) -> list[str]:
    """The command of a linear probe on the first of the run's datasets; empty if that has no split to test on.

    The preset is the one for the number of samples that the run was trained on, if its folder says it.
    """
    data = first_dataset(config, source)
    if is_tar(data):
        return []
    folder = local_path(data)
    if folder is not None and not (folder / "manifest" / "test.parquet").exists():
        return []
    words = ["avkit", "evaluate", "linear-probe", str(out), "--data", data, *_preset(out)]
    learned = getattr(config.model, "modalities", "audio-visual")
    return words if learned == "audio-visual" else [*words, "--set", f"data.mode={learned}"]


def first_dataset(config: RunConfig, source: Source | None) -> str:
    """The folder or URL of the first dataset, without its amount in a mixture."""
    _, found = with_mix(config.data, source)
    return str(found if isinstance(found, str | Path) else found[0])


def _preset(out: Path) -> list[str]:
    parts = read_parts(out)
    return preset_words(int(parts[0]["samples"])) if parts else []
