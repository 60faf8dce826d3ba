"""Options of commands, made from the fields of dataclasses; JSON output."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from avcli.help import OUTPUT, SETTINGS, width
from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
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
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="Change any setting that --explain lists, such as seed=1. Repeatable.",
        rich_help_panel=SETTINGS,
    ),
]
CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings from a TOML file, as --explain --toml writes it.",
        rich_help_panel=SETTINGS,
    ),
]


def where_option(panel: str | None = None) -> Any:
    """The option --where, under this heading."""
    text = "Only clips for which this SQL condition on manifest columns is true."
    return typer.Option("--where", metavar="SQL", help=text, rich_help_panel=panel)


WHERE = Annotated[str | None, where_option()]
EXPLAIN = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="List all settings with description, unit, choices and default; do nothing else.",
        rich_help_panel=SETTINGS,
    ),
]
TOML = Annotated[
    bool,
    typer.Option("--toml", help="With --explain: write a TOML file for --config to stdout.", rich_help_panel=SETTINGS),
]
MODEL_WEIGHTS = Annotated[
    str,
    typer.Option(
        "--weights", metavar="[model|ema]", help="The weights, or their moving average, where a run keeps one."
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.", rich_help_panel=OUTPUT)]


def flat_options(
    *config_types: type, panels: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command with an option for each setting of these dataclasses that declares one.

    Help, default, choices and unit are those of the field. The command gets the texts of the given options as `given`,
    by setting path: `given_values` reads them.

    Args:
        config_types: One dataclass, or one for each task that the command does: a task has some of the options.
        panels: The headings of the help, in their order.
    """
    by_path: dict[str, list[Setting]] = {}
    for config_type in config_types:
        for setting in declared(config_type):
            if setting.option is not None:
                by_path.setdefault(setting.path, []).append(setting)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def called(**arguments: Any) -> None:
            texts = {path: arguments.pop(_parameter_name(path)) for path in by_path}
            given = {path: value for path, value in texts.items() if value is not None and value is not False}
            command(**arguments, given={path: value for path, value in given.items() if value != []})

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
        made = [_parameter(settings) for settings in by_path.values()]
        required = [parameter for parameter in own if parameter.default is inspect.Parameter.empty]
        others = [parameter for parameter in own if parameter.default is not inspect.Parameter.empty]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*required, *others, *made)]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        called.__annotations__ = {one.name: one.annotation for one in parameters}
        called.__doc__, called.__name__ = command.__doc__, command.__name__
        called.panels = panels  # type: ignore[attr-defined]  # what HelpCommand reads
        return called

    return decorate


def _parameter_name(path: str) -> str:
    return path.replace(".", "__")


def _parameter(settings: Sequence[Setting]) -> inspect.Parameter:
    """The option of a setting that one or several configs have."""
    setting = settings[0]
    option = setting.option
    assert option is not None
    is_switch = setting.kind is bool
    defaults = dict.fromkeys(_shown_default(one) for one in settings)
    several = " or ".join(one or "none" for one in defaults)
    default = next(iter(defaults)) if len(defaults) == 1 else f"{several}, by task"
    parts = (option.help or setting.description, "Repeatable." if setting.is_many else "")
    shown = typer.Option(
        option.name,
        help=" ".join([*filter(None, parts), *([f"[default: {default}]"] if default else [])]),
        metavar=None if is_switch else setting.word,
        show_default=False,
        rich_help_panel=option.panel,
    )
    kind: Any = bool if is_switch else list[str] | None if setting.is_many else str | None
    return inspect.Parameter(
        _parameter_name(setting.path),
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_switch else None,
        annotation=Annotated[kind, shown],
    )


def _shown_default(setting: Setting) -> str:
    assert setting.option is not None
    if setting.option.default:
        return setting.option.default
    return "" if setting.default in (None, ()) or setting.kind is bool else text_of(setting.default)


def option_names(*config_types: type) -> dict[str, str]:
    """The options that the settings of these dataclasses declare, by path."""
    settings = [setting for config_type in config_types for setting in declared(config_type)]
    return {setting.path: setting.option.name for setting in settings if setting.option is not None}


def given_values(
    config_type: type, given: Mapping[str, Any], owner: str = "", names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values, by setting path, of the texts that a command got as `given`.

    Args:
        config_type: The dataclass of the settings.
        given: Texts by path; of a setting with several values, a list; of a switch, true.
        owner: What has these settings, such as a task, for the message on an option that it lacks.
        names: All options of the command by path, for that message.

    Raises:
        ConfigError: A text is no value of its setting, or the dataclass lacks the setting; the message has the option.
    """
    known = {one.path: one for one in declared(config_type) if one.option is not None}
    if strange := [path for path in given if path not in known]:
        name = (names or {}).get(strange[0], strange[0])
        raise ConfigError(
            f"{name} is not an option of {owner}, which has {', '.join(option_names(config_type).values())}"
        )
    values: dict[str, Any] = {}
    for path, value in given.items():
        setting = known[path]
        assert setting.option is not None
        values |= dict.fromkeys((path, *setting.option.also), _parsed(setting, value, setting.option.name))
    return values


def _parsed(setting: Setting, value: Any, name: str) -> Any:
    if setting.kind is bool:
        return not setting.default
    if not setting.is_many:
        return setting.parse(value, name)
    if value == ["none"] and type(None) in options_of(setting.kind):
        return None
    if any(get_args(kind)[:1] in ((str,), (Any,)) for kind in options_of(setting.kind)):
        return setting.require(tuple(value), name)  # a text may have commas
    return tuple(item for text in value for item in setting.parse(text, name))


def keywords_of(config_type: type) -> dict[str, Setting]:
    """The settings that have an option, by its name as a keyword of a Python function: clip_seconds, no_audio."""
    settings = [one for one in declared(config_type) if one.option is not None]
    return {one.option.name.removeprefix("--").replace("-", "_"): one for one in settings if one.option}


def keyword_values(config_type: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values, by setting path, of options given as keywords of a Python function; None: not given.

    An option that may be repeated takes a value, or a list of them; a switch takes true or false. Raises ConfigError
    for an unknown keyword, with those that are like it, and for a value that the setting does not take.
    """
    known = keywords_of(config_type)
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(unknown_name("option", name, known))
        setting = known[name]
        if value is None:
            continue
        if setting.kind is bool and not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r} is not true or false")
        if setting.kind is bool and not value:
            continue
        given_as: Any = text_of(value)
        if setting.is_many:
            given_as = list(value) if isinstance(value, list | tuple) else [value]
        parsed = _parsed(setting, given_as, name)
        values |= dict.fromkeys((setting.path, *(setting.option.also if setting.option else ())), parsed)
    return values


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
    return "\n\n".join(part for part in (before, explain(config, width(100)), after) if part)


def require_explain(*, explain: bool, toml: bool) -> None:
    """Raise ConfigError for --toml without --explain."""
    if toml and not explain:
        raise ConfigError("--toml is a format of --explain: give both")


def require_weights(weights: str) -> None:
    """Raise ConfigError for a value of --weights that is none."""
    from avmodel.configs.choices import WEIGHTS

    if weights not in WEIGHTS:
        raise ConfigError(f"--weights {weights}: unknown; known: {', '.join(WEIGHTS)}")


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave. Defaults are in the dataclasses."""
    return {name: value for name, value in options.items() if value is not None and value != []}


def print_json(content: Any) -> None:
    """Print an object as JSON to stdout, without the secrets in its URLs."""
    typer.echo(json.dumps(shown_content(content), indent=1, ensure_ascii=False))
