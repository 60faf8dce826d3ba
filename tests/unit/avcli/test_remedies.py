"""What is advised after a run: by status, with the command that was typed, changed, quoted and without secrets."""

import shlex
from pathlib import Path

import pytest

from avcli.remedies import advice_for, changed_words
from avcli.typed import Words, shown_command
from avdata.prepare.config import PrepareConfig, SampleConfig, Supervision
from avmanifest.recipe import load_recipe
from avmanifest.schema import STATUSES, is_failure

FLAGS = frozenset(("--overwrite", "--no-audio", "--append", "--json"))


def typed(text: str) -> Words:
    return Words(tuple(shlex.split(text)), FLAGS)


@pytest.mark.parametrize(
    ("before", "options", "after"),
    [
        ("--out o", "--retry all", "--out o --retry all"),
        ("--retry none --out o", "--retry all", "--out o --retry all"),
        ("--retry=none --out o", "--retry all", "--out o --retry all"),
        ("--no-audio y --overwrite --json --out o", "--retry all", "--no-audio y --out o --retry all"),
        ("--source local:a --out o", "--source local:b", "--source local:b --source local:a --out o"),
        ("--out o --set a=1", "--set b=2", "--out o --set a=1 --set b=2"),
        ("--executor array --task-index 0 --num-tasks 8 --out o", "--retry all", "--out o --retry all"),
        ("--executor ray --out o", "--retry all", "--executor ray --out o --retry all"),
        ("--executor=array --out o", "--deadline 9", "--executor=array --out o --deadline 9"),
        ("--out", "--retry all", "--out --retry all"),
    ],
)
def test_a_command_with_other_options(before: str, options: str, after: str) -> None:
    words = changed_words(typed(f"avkit prepare x {before}"), shlex.split(options))
    assert shlex.join(words) == f"avkit prepare x {after}"


def config_of(recipe: str = "vggsound", out: str = "my data/out", **sample: float) -> PrepareConfig:
    return PrepareConfig(
        recipe=load_recipe(recipe), out=Path(out), sources=("local:v",), sample=SampleConfig(**sample),
        supervision=Supervision(deadline_s=30.0),
    )  # fmt: skip


def commands(
    config: PrepareConfig, words: str = "avkit prepare vggsound --out 'my data/out' --deadline 30"
) -> dict[str, str]:
    statuses = {"ok": 9, "filtered_light": 3} | {name: 1 for name in STATUSES if is_failure(name)}
    return {one.status: one.command for one in advice_for(statuses, config, typed(words))}


def test_each_status_has_the_command_of_its_own() -> None:
    found = commands(config_of())
    start = "avkit prepare vggsound"
    assert found["media_short"] == f"{start} --deadline 30 --clip-seconds 1 --out 'my data/out-1s'"
    assert found["decode_timeout"] == f"{start} --out 'my data/out' --deadline 60 --retry transient"
    assert found["decode_crash"].endswith("--workers 1 --set supervision.memory_bytes=8589934592 --retry transient")
    assert found["media_no_audio"].endswith("--source local:FOLDER --retry all")
    assert found["net_timeout"].endswith("--download-deadline 1800 --retry transient")
    assert "filtered_light" not in found
    assert all(found.values())


def test_no_command_is_given_that_would_be_refused() -> None:
    assert commands(config_of(clip_seconds=0.5))["media_short"] == ""
    assert "--clip-seconds 0.5 --out 'my data/out-0.5s'" in commands(config_of(clip_seconds=1.0))["media_short"]
    # The list of recipe folder is what its sources hold: with another source it would be another list.
    assert commands(config_of("folder"))["media_no_audio"].endswith("--deadline 30 --retry all")
    assert set(commands(config_of(), "").values()) == {""}


def test_a_command_is_shown_quoted_and_without_secrets() -> None:
    words = ["avkit", "prepare", "x", "--source", "https://me:hunter2@h/{id}.mp4", "--out", "a b;rm -rf $HOME"]
    shown = shown_command(words)
    assert "hunter2" not in shown
    assert shlex.split(shown)[-1] == "a b;rm -rf $HOME"
