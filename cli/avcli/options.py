"""Options of commands, made from the fields of dataclasses; JSON output."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from avcli.typed import TYPED, Words
from avmanifest.errors import ConfigError
from avmanifest.secrets import shown_content
from avmanifest.settings import (
    Setting,
    declared,
    explain,
    options_of,
    read_settings,
    read_toml,
    text_of,
    to_toml,
    with_values,
)

SET = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change any setting of --explain. Repeatable.")
]
CONFIG = Annotated[
    Path | None, typer.Option("--config", metavar="TOML", help="Settings from a file, as --explain --toml writes it.")
]
WHERE = Annotated[
    str | None,
    typer.Option("--where", metavar="SQL", help="Only clips for which this SQL condition on manifest columns is true."),
]
EXPLAIN = Annotated[
    bool, typer.Option("--explain", help="Show all settings with type, value and description; do nothing else.")
]
TOML = Annotated[bool, typer.Option("--toml", help="With --explain: as a TOML file for --config, on stdout.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flat:
    """A command-line option of its own for a setting. What is not given here comes from the field."""

    path: str  # sample.num_frames
    name: str  # --frames
    panel: str  # heading in the help
    also: tuple[str, ...] = ()  # settings that get the same value
    flag: str | None = None  # value of the option, which then takes none: "true" or "false"
    help: str | None = None  # in place of the field's description
    default: str | None = None  # shown in place of the field's default

    @property
    def parameter(self) -> str:
        """The name of its parameter in Python."""
        return self.path.replace(".", "__")


class PanelCommand(TyperCommand):
    """A command whose help shows its options under headings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the words as they were typed: messages name the command that goes on."""
        flags = (option for one in self.params if getattr(one, "is_flag", False) for option in one.opts)
        TYPED.set(Words(("avkit", self.name or "", *args), frozenset(flags)))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options of each panel in the order of their first option."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for name, records in panels.items():
            with formatter.section(name):
                formatter.write_dl(records)


def flat_options(config_type: type, options: Sequence[Flat]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command with an option for each of these settings, with help, default and choices of the dataclass.

    The command gets the values of the given options as `given`, by setting path.
    """
    known = {one.path: one for one in declared(config_type)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def called(**arguments: Any) -> None:
            given: dict[str, Any] = {}
            for option in options:
                value = arguments.pop(option.parameter)
                if value is not None and value is not False and value != []:
                    parsed = _parsed(option, known[option.path], value)
                    given |= dict.fromkeys((option.path, *option.also), parsed)
            command(**arguments, given=given)

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
        made = [_parameter(option, known[option.path]) for option in options]
        required = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
        others = [parameter for parameter in own if parameter.default is not inspect.Parameter.empty]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*required, *made, *others)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        called.__doc__, called.__name__ = command.__doc__, command.__name__
        return called

    return decorate


def _parameter(option: Flat, setting: Setting) -> inspect.Parameter:
    is_flag = option.flag is not None
    absent = setting.default is None or setting.default == () or is_flag
    default = option.default or (None if absent else text_of(setting.default))
    shown = typer.Option(
        option.name,
        help=" ".join(
            part
            for part in (
                option.help or setting.description,
                "Repeatable." if setting.is_many else "",
                f"[default: {default}]" if default is not None else "",
            )
            if part
        ),
        metavar=None if is_flag else _metavar(setting),
        show_default=False,
        rich_help_panel=option.panel,
    )
    kind: Any = bool if is_flag else list[str] | None if setting.is_many else str | None
    return inspect.Parameter(
        option.parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_flag else None,
        annotation=Annotated[kind, shown],
    )


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return f"[{'|'.join(setting.choices)}]"
    words = {"a whole number": "INTEGER", "a number": "NUMBER", "a path": "PATH"}
    return next((word for form, word in words.items() if form in setting.form), "TEXT")


def _parsed(option: Flat, setting: Setting, value: Any) -> Any:
    if option.flag is not None:
        return setting.parse(option.flag)
    if setting.is_many:
        is_none = value == ["none"] and type(None) in options_of(setting.kind)
        return None if is_none else tuple(value)
    return setting.parse(value, option.name)


def configured(
    config: Any,
    *,
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
    settings: Sequence[str] | None = None,
) -> Any:
    """The config with the settings of a file, then of options, then of --set; later ones override earlier ones."""
    values = {} if file is None else read_toml(config, file)
    return with_values(config, {**values, **(given or {}), **read_settings(config, settings or [])})


def explained(config: Any, *, toml: bool, before: str = "", after: str = "") -> str:
    """The output of --explain: the settings between two texts; with `toml` only the settings, as a TOML file."""
    if toml:
        return to_toml(config).rstrip()
    return "\n\n".join(part for part in (before, explain(config), after) if part)


def require_explain(*, explain: bool, toml: bool) -> None:
    """Raise ConfigError for --toml without --explain."""
    if toml and not explain:
        raise ConfigError("--toml is a format of --explain: give both")


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave. Defaults are in the dataclasses."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def print_json(content: Any) -> None:
    """Print an object as JSON to stdout, without the secrets in its URLs."""
    typer.echo(json.dumps(shown_content(content), indent=1, ensure_ascii=False))
