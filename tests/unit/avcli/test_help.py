"""The help of every command: whole, within 80 columns, with examples, and with the defaults that count."""

import inspect
import re
import shlex
from dataclasses import MISSING
from typing import Any

import pytest
from typer.testing import CliRunner

from avcli.help import command_lines
from avcli.main import app
from avdata.audit.report import ReportConfig
from avdata.load.bench import LoaderBench
from avdata.load.bench_open import OpenBench
from avdata.prepare.bench import PrepareBench
from avdata.prepare.bench_sources import SourcesBench
from avdata.prepare.config import PrepareConfig
from avdata.prepare.spectrogram import file_spectrogram
from avmanifest.settings import declared, text_of
from avmodel.configs.apply import TASKS
from avmodel.evaluate.finetune.imported import convert_classifier
from avmodel.weights.convert import convert
from tests.cli_reference import PAGE, commands, help_of, page

COMMANDS = dict(commands())
ALONE = {name: context for name, context in COMMANDS.items() if not hasattr(context.command, "commands")}


def words_of(name: str, width: int = 80) -> str:
    """The help as a user gets it."""
    answer = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": str(width)}, prog_name="avkit")
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_there_are_as_many_commands_as_the_help_lists() -> None:
    assert len(COMMANDS) > 25
    for name, context in COMMANDS.items():
        listed = getattr(context.command, "commands", {})
        assert all(re.search(rf"^  {inner}  +\S", words_of(name), re.MULTILINE) for inner in listed)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_is_cut_or_wider_than_80_columns(name: str) -> None:
    lines = words_of(name).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert [line for line in lines if line.endswith(("...", "…")) and not line.startswith("Usage: ")] == []
    assert "\b" not in "".join(lines)
    assert lines[0].startswith(f"Usage: {name} [OPTIONS]")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_help_and_a_word_for_its_value(name: str) -> None:
    for parameter in COMMANDS[name].command.get_params(COMMANDS[name]):
        assert parameter.help, parameter.name
        assert parameter.help[0].isupper() or ":" in parameter.help, parameter.help
        assert parameter.help[-1] in ".]", parameter.help
        if parameter.param_type_name == "argument" or not parameter.is_flag:
            assert parameter.metavar, parameter.name
            assert parameter.metavar.upper() not in ("TEXT", "PATH", "FLOAT", "INTEGER") or parameter.name in (
                "table__label_separator",
                "prefix",
            ), parameter.name


@pytest.mark.parametrize("name", ALONE)
def test_examples_stand_at_the_end_and_are_commands_with_their_options(name: str) -> None:
    said = help_of(ALONE[name])
    block = re.split(r"^Examples?:$", said, flags=re.MULTILINE)[1].partition("\n\n")[0]
    lines = block.replace("\\\n", " ").strip().splitlines()
    assert any(shlex.split(line)[: len(name.split())] == name.split() for line in lines)
    for line in lines:
        words = [word for word in shlex.split(line) if word not in ("torchrun", "avcli.main", "-m")]
        known = [one for other, context in ALONE.items() if other.split()[1:] == words[1 : len(other.split())]
                 for one in context.command.get_params(context)] if words[0] == "avkit" else []  # fmt: skip
        options = {option for one in known for option in one.opts}
        assert words[0] != "avkit" or {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("width", [40, 60, 120])
def test_other_widths_are_readable_too(width: int) -> None:
    for name in ("avkit", "avkit prepare"):
        lines = words_of(name, width).splitlines()
        assert max(map(len, lines)) <= 80
        assert "Make verified shards" in " ".join(lines)


def test_every_default_of_a_setting_that_is_shown_is_the_real_one() -> None:
    shown = {
        option: parameter.help
        for name in ("avkit prepare", "avkit apply")
        for parameter in ALONE[name].command.get_params(ALONE[name])
        for option in parameter.opts
    }
    compared = 0
    for config in (PrepareConfig, *(task.config for task in TASKS.values())):
        for setting in declared(config):
            option = setting.option
            if option is None or option.default or setting.kind is bool or setting.default in (MISSING, None, ()):
                continue
            default = re.search(r"\[default: (.*)\]", shown[option.name])
            assert default, option.name
            assert text_of(setting.default) in default[1].removesuffix(", by task").split(" or "), option.name
            compared += 1
    assert compared > 30


@pytest.mark.parametrize(
    ("name", "bench", "fields"),
    [
        ("avkit bench prepare", PrepareBench(), {"clips": "num_clips", "memory_clips": "memory_clips"}),
        ("avkit bench sources", SourcesBench(), {"clips": "num_clips", "seconds": "clip_seconds", "rounds": "rounds"}),
        ("avkit bench loader", LoaderBench(), dict.fromkeys(("split", "samples", "rounds", "batch_size"))),
        ("avkit bench open", OpenBench(), dict.fromkeys(("samples", "frames"))),
        ("avkit inspect", ReportConfig(), {"samples": "num_samples", "thumbnails": "num_thumbnails", "seed": "seed"}),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_defaults_of_other_options_are_those_of_their_settings(
    name: str, bench: Any, fields: dict[str, Any]
) -> None:
    shown = {parameter.name: parameter.show_default for parameter in ALONE[name].command.get_params(ALONE[name])}
    for option, field in fields.items():
        assert shown[option] == text_of(getattr(bench, field or option)), option


def test_the_other_defaults_are_those_of_the_functions_that_are_called() -> None:
    for name, option, function, argument in (
        ("avkit spectrogram", "mel", file_spectrogram, "mel"),
        ("avkit convert", "family", convert, "family"),
        ("avkit convert", "mode", convert_classifier, "mode"),
    ):
        shown = {parameter.name: parameter.show_default for parameter in ALONE[name].command.get_params(ALONE[name])}
        assert shown[option] == inspect.signature(function).parameters[argument].default


def test_headings_are_bold_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bold = "\x1b[1mData:\x1b[0m"
    assert "\x1b" not in words_of("avkit")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    context = COMMANDS["avkit"]
    assert bold in context.command.get_help(context)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
        assert "\x1b" not in context.command.get_help(context)
        monkeypatch.delenv(name)
        monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ("avkit status data", ["avkit status data"]),
        ("avkit status data/vggsound --watch", ["avkit status \\", "    data/vggsound \\", "    --watch"]),
        ("avkit x --where 'a b c d e f g h'", ["avkit x \\", "    --where 'a b c d e f g h'"]),
        ("avkit x --a 'it is' \"q ' q\"", ["avkit x --a 'it is' \\", '    "q \' q"']),
    ],
)
def test_a_long_command_is_broken_so_that_a_shell_reads_the_same(command: str, lines: list[str]) -> None:
    assert command_lines(command, 24) == lines
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == shlex.split(command)


def test_the_page_of_commands_is_the_help() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.cli_reference writes it anew"
