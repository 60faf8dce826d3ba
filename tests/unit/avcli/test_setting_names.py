"""Every setting under the name that the user knows: its option as it was given, or its full path; and its unit."""

import ast
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from avcli.main import app
from avcli.options import given_values
from avdata.prepare.config import PrepareConfig, SynthConfig
from avmanifest.errors import ConfigError
from avmanifest.recipe import TableOptions, load_recipe
from avmanifest.settings import UNITS, Setting, declared, options_of, read_settings, read_toml
from avmodel.configs.apply import TASKS as APPLIED
from avmodel.evaluate.tasks import TASKS
from avmodel.presets import presets, run_config

ROOT = Path(__file__).parents[3]
WHOLE = PrepareConfig(recipe=load_recipe("folder"), out="o", synth=SynthConfig(), table=TableOptions())
RUNS = {type(run.model): run for run in map(run_config, presets())}
EVALUATIONS = {type(config): config for task in TASKS.values() for config in (make() for make in task.presets.values())}
CONFIGS = [WHOLE, *RUNS.values(), *EVALUATIONS.values(), *(task.config() for task in APPLIED.values())]
NO_UNIT = frozenset(
    (
        "seed", "weight", "weights", "temperature", "factor", "width", "height", "size", "side", "rate", "decay",
        "epsilon", "betas", "mean", "deviation", "momentum", "noise", "norm", "number", "quality", "dropout",
        "parameter", "smoothing", "perplexity", "what", "times",
    )
)  # fmt: skip
"""Words on which numbers without a unit are described."""


def settings_of(config: Any) -> list[Setting]:
    return list(declared(type(config), config=config))


def wrong_text(setting: Setting) -> str | None:
    """A text that is no value of the setting; None: any text is one."""
    if setting.choices:
        return "no such choice"
    if setting.bounds is not None:
        most, least = setting.bounds.most, setting.bounds.least
        return str(int(most) + 1) if most != math.inf else str(int(least) - 1)
    return "no such value" if not {str, Any, Path} & set(options_of(setting.kind)) and not setting.is_many else None


@pytest.mark.parametrize("config", CONFIGS, ids=lambda one: type(getattr(one, "model", one)).__name__)
def test_a_bad_value_is_refused_under_the_name_that_was_given(config: Any, tmp_path: Path) -> None:
    tried = 0
    for setting in settings_of(config):
        if (text := wrong_text(setting)) is None:
            continue
        tried += 1
        with pytest.raises(ConfigError, match=rf"^{re.escape(setting.path)}\b"):
            read_settings(config, [f"{setting.path}={text}"])
        table, _, name = setting.path.rpartition(".")
        value = text if re.fullmatch(r"-?\d+", text) else f'"{text}"'
        value = f"[{value}]" if setting.is_many else value
        file = tmp_path / "run.toml"
        file.write_text((f"[{table}]\n" if table else "") + f"{name} = {value}\n")
        with pytest.raises(ConfigError, match=rf"^--config {re.escape(str(file))}: {re.escape(setting.path)}\b"):
            read_toml(config, file)
        if setting.option is not None and setting.kind is not bool:
            given = {setting.path: [text] if setting.is_many else text}
            with pytest.raises(ConfigError, match=rf"^{setting.option.name}\b"):
                given_values(type(config), given)
    assert tried > 1


@cache
def nested_names() -> frozenset[str]:
    """Last names of settings of inner configs that no outer setting has."""
    paths = {setting.path for config in CONFIGS for setting in settings_of(config)}
    return frozenset(path.rpartition(".")[2] for path in paths if "." in path) - {
        path for path in paths if "." not in path
    }


def raised_texts(path: Path) -> Iterator[str]:
    """The texts in the `raise` statements of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and node.exc is not None:
            for inner in ast.walk(node.exc):
                if isinstance(inner, ast.JoinedStr):
                    yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in inner.values)
                elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    yield inner.value


def test_no_message_of_a_config_names_an_inner_setting_without_its_path() -> None:
    files = [
        ROOT / "avdata/prepare/config.py",
        *(ROOT / "avmodel/configs").glob("*.py"),
        *(ROOT / "avmodel/evaluate").rglob("config.py"),
    ]
    bare = re.compile(rf"(?<![\w.\-])({'|'.join(sorted(nested_names()))})=")
    texts = [(file.name, text) for file in files for text in raised_texts(file)]
    assert len(texts) > 60
    assert [(name, text) for name, text in texts if bare.search(text)] == []
    assert bare.search("image_mask_ratio=0.5 leaves nothing")
    assert not bare.search("model.image_mask_ratio=0.5 leaves nothing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prepare", "folder", "--fast-decode", "--decoder", "decord"), "--fast-decode works with --decoder pyav"),
        (("prepare", "folder", "--mel", "paper", "--mel", "paper"), "--mel paper, paper: give one log-mel profile or"),
        (
            ("prepare", "folder", "--executor", "array", "--task-index", "3", "--num-tasks", "2"),
            "--task-index 3",
        ),
        (("prepare", "synth", "--width", "161"), "--width 161 --height 240: yuv420p cannot store an odd side"),
        (("prepare", "folder", "--set", "sample.num_frames=0"), "sample.num_frames=0: must be from 1 to 100"),
        (("prepare", "folder", "--frames", "0"), "--frames=0: must be from 1 to 100"),
        (("pretrain", "deepavfusion", "--set", "model.decoder_num_heads=5"), "model.decoder_num_heads=5"),
        (("pretrain", "avsiam-b", "--set", "model.contrast_weight=0"), "model.contrast_weight=0 with model.stop_gra"),
        (("apply", "--task", "retrieve", "--target", "image"), "--target 'image': name the video's stream too, as --q"),
        (("apply", "--task", "separate", "--region", "0,0,2,1"), "--region 0,0,2,1: expected left,top,right,bottom"),
        (("apply", "--task", "classify", "--top", "0"), "--top=0: must be 1 or more"),
        (("apply", "--task", "embed", "--region", "0,0,1,1"), "--region is not an option of task embed"),
    ],
)
def test_what_does_not_go_together_is_named_by_its_options(words: tuple[str, ...], said: str) -> None:
    answer = CliRunner().invoke(app, [*words, *(("--out", "o") if words[0] == "prepare" else ()), "--explain"])
    assert isinstance(answer.exception, ConfigError)
    assert said in str(answer.exception)


def test_every_number_has_its_unit_or_needs_none() -> None:
    suffixes = {"_s": "seconds", "_gb": "GB", "_db": "dB", "_bytes": "bytes", "fps": "frames"}
    seen = {}
    for config in CONFIGS:
        for setting in settings_of(config):
            if {int, float} & set(options_of(setting.kind)):
                seen[setting.path, setting.description] = setting
    without = [
        setting
        for setting in seen.values()
        if not setting.unit and not NO_UNIT & {word.strip(".,;:") for word in setting.description.lower().split()[:5]}
    ]
    assert [(one.path, one.description) for one in without] == []
    assert len([one for one in seen.values() if one.unit]) > len(seen) / 2
    for setting in seen.values():
        for suffix, unit in suffixes.items():
            if setting.path.endswith(suffix) and not setting.path.endswith("_per_s"):
                assert setting.unit.startswith(unit), setting.path
    assert all(setting.unit.split()[0] in UNITS | {"bytes", "frames"} for setting in seen.values() if setting.unit)


def explained(*words: str) -> str:
    answer = CliRunner().invoke(app, [*words, "--explain", "--toml"])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.mark.parametrize(
    "words",
    [
        *(("prepare", recipe, "--out", "o") for recipe in ("folder", "table", "synth", "vggsound")),
        ("prepare", "folder", "--out", "o", "--step", "black:max_share=0.5", "--mel", "kaldi", "--no-audio"),
        *(("pretrain", run.name) for run in RUNS.values()),
        ("pretrain", "deepavfusion", "--set", "data.mix=a=0.5,b=2x", "--set", "model.fusion_layers=8,9"),
        *(("evaluate", task, "--preset", preset) for task, one in TASKS.items() for preset in one.presets),
        *(("apply", "--task", task) for task in APPLIED),
        ("apply", "--task", "separate", "--region", "0,0,0.5,1", "--region", "0.5,0,1,1", "--hop", "0.5"),
    ],
    ids=" ".join,
)
def test_settings_written_as_toml_and_read_again_are_the_same(words: tuple[str, ...], tmp_path: Path) -> None:
    written = explained(*words)
    (tmp_path / "run.toml").write_text(written, encoding="utf-8")
    bare = [*words[:4]] if words[0] == "prepare" else [*words[:3]] if words[0] == "apply" else [*words[:2]]
    assert explained(*bare, "--config", str(tmp_path / "run.toml")) == written
