"""`avkit recipes`, `runs` and `tasks`: every name with a line, one whole, and as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avmanifest.errors import ConfigError
from avmanifest.recipe import load_recipe, recipe_names
from avmodel.configs.apply import TASKS as APPLIED
from avmodel.evaluate.tasks import TASKS
from avmodel.presets import presets, run_config

NAMES = {"recipes": recipe_names(), "runs": list(presets()), "tasks": [*TASKS, *APPLIED]}


def said(*words: str, columns: int = 80) -> str:
    answer = CliRunner().invoke(app, list(words), env={"COLUMNS": str(columns)})
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def content(*words: str) -> Any:
    return json.loads(said(*words, "--json"))


@pytest.mark.parametrize("command", NAMES)
@pytest.mark.parametrize("columns", [80, 120])
def test_every_name_has_a_line(command: str, columns: int) -> None:
    lines = said(command, columns=columns).splitlines()
    for name in NAMES[command]:
        assert [line for line in lines if line.startswith(f"  {name} ") and len(line.split()) > 2], name
    assert max(map(len, lines)) <= columns
    assert [one["name"] for one in content(command)] == NAMES[command]


def test_runs_of_one_function_are_told_apart() -> None:
    lines = [one["summary"] for one in content("runs") if one["name"].startswith("deepavfusion-layers-")]
    assert len(set(lines)) == len(lines) == 4
    assert lines[1].endswith("(count=3).")


def test_a_recipe_is_shown_whole() -> None:
    text = said("recipes", "vggsound", columns=120)
    recipe = load_recipe("vggsound")
    for part in (recipe.title, recipe.licence, recipe.homepage, recipe.key, *(spec.url for spec in recipe.lists)):
        assert part in text
    assert "train 183,730" in text
    assert "avkit prepare vggsound --source local:FOLDER --out data/vggsound" in text
    facts = content("recipes", "vggsound")
    assert (facts["name"], facts["counts"]["train"], len(facts["labels"])) == ("vggsound", 183730, 309)


def test_a_recipe_of_ones_own_is_shown_without_its_secrets_and_control_characters(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "A\\u001b[31mB"\nhomepage = "https://anna:hunter2@host/page"\nlicence = "mine"\n'
        'key = "m-{video_id}"\n[[lists]]\nformat = "pattern"\npattern = "(?P<video_id>.+)"\n'
        'url = "https://host/list.csv?token=hunter2"\n'
    )
    text = said("recipes", str(tmp_path / "mine.toml")) + said("recipes", str(tmp_path / "mine.toml"), "--json")
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "https://***@host/page" in text


def test_a_run_is_shown_with_what_it_changes() -> None:
    text = said("runs", "deepavfusion-l")
    assert "of the family deepavfusion" in text
    assert "\n  model.size=large\n" in text
    facts = content("runs", "deepavfusion-l")
    assert facts["changes"]["model.size"] == "large"
    assert content("runs", "mae")["family"] == "mae"
    assert str(run_config("demo").batch_size) == content("runs", "demo")["changes"]["batch_size"]


def test_a_task_is_shown_with_its_presets_and_both_commands_that_have_it() -> None:
    text = said("tasks", "embed")
    assert "avkit evaluate embed CHECKPOINT --data DATA" in text
    assert "avkit apply CHECKPOINT VIDEO --task embed --out FOLDER" in text
    for name, task in TASKS.items():
        shown = said("tasks", name)
        assert all(f"\n  {preset} " in shown for preset in task.presets)
        assert all(content("tasks", name)[0]["presets"].values())
        assert f"Headline of the scores: {task.headline}." in shown
    listed = " ".join(said("tasks").split())
    assert "Headline: sdr in dB, as BSS-eval version 3, the mean over sources and mixtures." in listed
    assert listed.count("Headline: ") == len(TASKS) - 1, "embed has no scores"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("recipes", "vgsound"), "unknown recipe 'vgsound'; did you mean vggsound or vggsounder?"),
        (("recipes", "VGGSound"), "did you mean vggsound"),
        (("runs", "deepavfuson"), "unknown run 'deepavfuson'; did you mean deepavfusion"),
        (("tasks", "lineer-probe"), "unknown task 'lineer-probe'; did you mean linear-probe?"),
        (("pretrain", "crosmae", "--explain"), "did you mean crossmae"),
        (("evaluate", "fintune", "--explain"), "unknown task 'fintune'; did you mean finetune?"),
        (("evaluate", "knn", "--preset", "train-galery", "--explain"), "did you mean train-gallery?"),
        (("apply", "--task", "locali", "--explain"), "did you mean localize?"),
        (("pretrain", "demo", "--set", "optim.base_rl=1"), "did you mean optim.base_lr"),
        (("pretrain", "demo", "--set", "optim.optimizer=adamv"), "did you mean adam or adamw?"),
        (("prepare", "folder", "--out", "o", "--retry", "transient_"), "did you mean transient?"),
        (("reproduce", "deepavfuson", "--list"), "unknown paper 'deepavfuson'; did you mean deepavfusion?"),
    ],
)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(words: tuple[str, ...], hint: str) -> None:
    answer = CliRunner().invoke(app, list(words))
    assert isinstance(answer.exception, ConfigError)
    assert hint in str(answer.exception)


@pytest.mark.parametrize(
    ("words", "hint"),
    [(("pretain",), "Did you mean 'pretrain'?"), (("prepare", "folder", "--frame", "3"), "--frames")],
)
def test_so_are_commands_and_options(words: tuple[str, ...], hint: str) -> None:
    answer = CliRunner().invoke(app, list(words))
    assert answer.exit_code == 2
    assert hint in answer.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare",), "RECIPE is missing: "),
        (("pretrain",), "RUN is missing: The run: demo, "),
        (("inspect",), "DATASET|RUN... is missing: "),
        (("apply", "runs/first", "clip.mp4"), "--task is missing: "),
        (("dataset", "reshard", "data"), "--shard-size is missing: "),
        (("bench",), ""),
    ],
)
def test_what_has_to_be_given_is_said_with_an_example(words: tuple[str, ...], said: str) -> None:
    answer = CliRunner().invoke(app, list(words))
    if not said:
        assert "Usage: " in answer.output
        return
    assert isinstance(answer.exception, ConfigError)
    assert str(answer.exception).startswith(said)
    command = " ".join(word for word in words[:2] if word.isalpha())
    assert f" For example: avkit {command} " in str(answer.exception)
