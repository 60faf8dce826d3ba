"""Settings: fields of frozen dataclasses, read from the command line or a TOML file, and explained by --explain.

A field declares its description beside its type: `warmup: Annotated[float, "share of the run ..."] = 0.2`. From the
fields come the options of a command, the paths of `--set optim.warmup=0.1`, the text of `--explain` and the entries
of a TOML file. A field marked `NOT_A_SETTING` is none of these.
A tuple beside the description lists the choices, `Bounds` the least and greatest value: `check` refuses other values.
The description of a number begins with its unit: "Seconds of a window." An `Option` makes the setting an option of its
command.
"""

import inspect
import json
import math
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from avmanifest.errors import ConfigError
from avmanifest.files import read_text
from avmanifest.names import did_you_mean, either, near
from avmanifest.parsing import parse_toml
from avmanifest.secrets import holds_secret, shown_url

Config = TypeVar("Config")  # a dataclass

BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

NOT_A_SETTING: Final = object()
"""Marks a field that neither a command line nor a file sets: `recipe: Annotated[Recipe, NOT_A_SETTING]`."""

_NOTE_COLUMN: Final = 34  # column of the comments of --toml

UNITS: Final = frozenset(
    (
        "seconds", "bytes", "GB", "dB", "Hz", "pixels", "frames", "clips", "samples", "steps", "epochs",
        "files", "processes", "threads", "windows", "attempts", "retries", "redirects", "resumes", "pauses",
        "refusals", "blocks", "layers", "tokens", "heads", "columns", "bins", "batches", "checkpoints",
        "neighbors", "labels", "sounds", "objects", "classes", "tasks", "shares", "share", "probability",
        "cards", "videos", "rounds", "mixtures", "passes", "views",
    )
)  # fmt: skip
"""Words that a description of a number may begin with, and that then are its unit."""

_RATE_UNIT: Final = re.compile(r"\w+ (?:per|a) (?:second|minute|hour)\b")
_HEAD_END: Final = re.compile(
    r"[,.;:(]| (?:of|that|in|to|by|after|for|between|over|which|before|around|from|without|under|whose|during|at|and|"
    r"where|downloaded) "
)  # what follows the unit at the beginning of a description


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A further text form of a setting beside that of its type: `Annotated[float | None, "...", Reader(...)]`."""

    read: Callable[[str], Any]  # raises ValueError or ConfigError for other text
    form: str  # shown in help and errors: "a rate such as 250/h"


@dataclass(frozen=True, slots=True)
class Option:
    """The command-line option of a setting: `Annotated[int, "Frames of a clip.", Option("--frames", "A sample")]`.

    One for a setting that is true or false takes no value: it sets the opposite of the default.
    """

    name: str
    panel: str  # heading in the help
    word: str = ""  # stands for the value in the help, such as FOLDER; empty: the unit, or a word for the type
    also: tuple[str, ...] = ()  # paths of other settings that get the same value
    help: str = ""  # in place of the field's description
    default: str = ""  # shown in place of the field's default


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and greatest value of a number, or of each number of a tuple: `Annotated[float, "...", Bounds(0, 1)]`.

    None is within all bounds; infinity and NaN are within none.
    """

    least: float
    most: float = math.inf
    above: bool = False  # whether the value must be above `least`, not only equal to it

    def allow(self, value: float) -> bool:
        """Whether the value is within the bounds."""
        return math.isfinite(value) and self.least <= value <= self.most and not (self.above and value == self.least)

    @property
    def form(self) -> str:
        """The bounds in words, such as `from 0 to 1`."""
        if self.most == math.inf:
            return f"above {self.least:g}" if self.above else f"{self.least} or more"
        return f"above {self.least:g} and at most {self.most}" if self.above else f"from {self.least} to {self.most}"


POSITIVE: Final = Bounds(0, above=True)
SHARE: Final = Bounds(0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One field of a config, as its dataclass declares it."""

    path: str  # optim.lr
    kind: Any  # its type
    description: str
    default: Any  # MISSING: it has none
    reader: Reader | None = None
    listed: tuple[str, ...] = ()  # the choices that its field lists
    bounds: Bounds | None = None
    option: Option | None = None

    @property
    def unit(self) -> str:
        """The unit of a number, such as `seconds`: the beginning of the description; empty if it names none."""
        if not {int, float} & {item for kind in options_of(self.kind) for item in (get_args(kind) or (kind,))}:
            return ""
        text = re.sub(r"^(?:With [^:]+|\w+): ", "", self.description)
        if rate := _RATE_UNIT.match(text):
            return rate[0].lower()
        words = _HEAD_END.split(text, maxsplit=1)[0].split()
        return next((word for word in (words[-1:] and (words[-1], words[-1].lower())) if word in UNITS), "")

    @property
    def word(self) -> str:
        """What stands for a value in help: `SECONDS`, `FOLDER`, `[none|all]`."""
        if self.option is not None and self.option.word:
            return self.option.word
        if self.choices:
            return f"[{'|'.join(self.choices)}]"
        words = {"a whole number": "NUMBER", "a number": "NUMBER", "a path": "PATH"}
        return self.unit.replace(" ", "-").upper() or next(
            (word for form, word in words.items() if form in self.form), "TEXT"
        )

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it can have; empty if they are not listed."""
        return self.listed or tuple(name for kind in options_of(self.kind) for name in _choices(kind))

    @property
    def is_many(self) -> bool:
        """Whether it is a tuple of any length."""
        return any(get_args(kind)[1:] == (...,) for kind in options_of(self.kind))

    @property
    def form(self) -> str:
        """The form of its values in words, such as `a whole number or none`."""
        if self.listed:
            return ", ".join([*self.listed, *(["none"] if type(None) in options_of(self.kind) else [])])
        forms = [name_of(kind) for kind in options_of(self.kind)]
        return " or ".join(([self.reader.form] if self.reader else []) + forms)

    @property
    def facts(self) -> str:
        """Unit, choices or type, bounds, default and option in one line."""
        form = f"{self.form}, {self.bounds.form}" if self.bounds else self.form
        parts = [f"Unit: {self.unit}."] if self.unit else []
        parts.append(f"{'Choices' if self.choices else 'Value'}: {form}.")
        if self.default is not MISSING:
            parts.append(f"Default: {shown(self.default) or 'empty'}.")
        return " ".join([*parts, *([f"Option: {self.option.name}."] if self.option else [])])

    @property
    def note(self) -> str:
        """Type, choices or bounds, and description in one line."""
        form = f"{self.form}, {self.bounds.form}" if self.bounds else self.form
        return f"{form}; {self.description}" if self.description else form

    def parse(self, text: str, name: str | None = None) -> Any:
        """The value of a text.

        Raises ConfigError, with the setting's path or the given name, for other text, and as `require`.
        """
        if self.reader is not None:
            try:
                return self.require(self.reader.read(text), name)
            except ValueError:
                pass  # then as the type says
        return self.require(parse(text, self.kind, name or self.path, self.form, self.choices), name)

    def require(self, value: Any, name: str | None = None) -> Any:
        """The value. Raises ConfigError for one that is none of the choices or outside of the bounds."""
        for item in value if isinstance(value, tuple) else (value,):
            if self.listed and item is not None and str(item) not in self.listed:
                raise ConfigError(_not_a_choice(name or self.path, str(item), self.form, self.listed))
            if self.bounds is not None and item is not None and not self.bounds.allow(item):
                raise ConfigError(f"{name or self.path}={item}: must be {self.bounds.form}")
        return value


def declared(config_type: type, prefix: str = "", config: object = None) -> Iterator[Setting]:
    """The settings of a dataclass in the order of its fields, nested ones by their dotted path.

    Args:
        config_type: The dataclass.
        prefix: Put before each path.
        config: An instance of it. Its nested configs may be of another type than their field names (a family's model).
    """
    for name, kind, notes, default in _fields(config_type):
        if NOT_A_SETTING in notes:
            continue
        value = None if config is None else getattr(config, name)
        nested = type(value) if is_dataclass(value) else _nested(kind)
        if nested is not None:
            yield from declared(nested, f"{prefix}{name}.", value if is_dataclass(value) else None)
            continue
        yield Setting(
            path=prefix + name,
            kind=kind,
            description=next((note for note in notes if isinstance(note, str)), ""),
            default=default,
            reader=next((note for note in notes if isinstance(note, Reader)), None),
            listed=next((tuple(map(str, note)) for note in notes if isinstance(note, tuple)), ()),
            bounds=next((note for note in notes if isinstance(note, Bounds)), None),
            option=next((note for note in notes if isinstance(note, Option)), None),
        )


def faults(config: object, prefix: str = "") -> Iterator[str]:
    """A message for each field whose value is none of its choices or outside of its bounds.

    Args:
        config: A dataclass with fields such as `Annotated[str, "...", ("lars", "adamw")]`. Fields of nested configs
            are not looked at: each config checks its own.
        prefix: Put before each field's name: the path of the config in the one that holds it.
    """
    config_type: Any = type(config)
    for name, _, notes, _ in _fields(config_type):
        value = getattr(config, name)
        for item in value if isinstance(value, tuple) else (value,):
            for note in notes:
                if isinstance(note, tuple) and item is not None and item not in note:
                    hint = did_you_mean(str(item), map(str, note)) or ";"
                    yield f"unknown {prefix}{name} {item!r}{hint} known: {', '.join(map(str, note))}"
                if isinstance(note, Bounds) and item is not None and not note.allow(item):
                    yield f"{prefix}{name}={item}: must be {note.form}"


def check(config: object, prefix: str = "") -> None:
    """Raise ConfigError for the first of the config's `faults`. A config calls it in `__post_init__`."""
    for fault in faults(config, prefix):
        raise ConfigError(fault)


@cache
def _fields(config_type: type) -> tuple[tuple[str, Any, tuple[Any, ...], Any], ...]:
    """Name, type, notes and default of each field.

    A field that a derived config declares again without notes, to change its default, keeps the notes of its base.
    """
    hints = get_type_hints(config_type, include_extras=True)
    notes: dict[str, tuple[Any, ...]] = {}
    for base in reversed(config_type.__mro__):
        for name, hint in get_type_hints(base, include_extras=True).items():
            if get_origin(hint) is Annotated:
                notes[name] = get_args(hint)[1:]
    declarations = []
    for declaration in fields(config_type):
        name, hint = declaration.name, hints[declaration.name]
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        default = declaration.default if declaration.default_factory is MISSING else declaration.default_factory()
        declarations.append((name, kind, notes.get(name, ()), default))
    return tuple(declarations)


def _nested(kind: Any) -> type | None:
    """The dataclass in the type of a field; None if there is none."""
    return next((option for option in options_of(kind) if isinstance(option, type) and is_dataclass(option)), None)


def override(config: Config, settings: Sequence[str]) -> Config:
    """The config with settings such as `optim.lr=3e-4` applied; later ones override earlier ones.

    None is written `none`, a tuple `128,192`. Raises ConfigError for an unknown path, a value of another type, or a
    value that the config refuses.
    """
    return with_values(config, read_settings(config, settings))


def read_settings(config: object, settings: Sequence[str]) -> dict[str, Any]:
    """The values, by path, of texts such as `optim.lr=3e-4`. Raises ConfigError as `override` does."""
    known = {setting.path: setting for setting in _declared_of(config)}
    values = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {shown_url(setting)!r}: expected key=value, such as optim.lr=3e-4")
        path = path.strip()
        if path not in known:
            raise unknown(list(known), path)
        values[path] = known[path].parse(text.strip())
    return values


def read_values(config: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values, by path, of Python values or texts by path. Raises ConfigError as `override` does."""
    known = {setting.path: setting for setting in _declared_of(config)}
    values = {}
    for path, value in given.items():
        if path not in known:
            raise unknown(list(known), path)
        values[path] = _of_toml(known[path], list(value) if isinstance(value, tuple) else value, path)
    return values


def read_toml(config: object, path: Path) -> dict[str, Any]:
    """The values, by path, of a TOML file of settings, such as `--explain --toml` writes.

    Raises ConfigError for a file that can't be read, and as `override` does.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path}: not a TOML file of settings ({error})") from error
    content = parse_toml(text, f"--config {path}: not a TOML file of settings", ConfigError)
    known = {setting.path: setting for setting in _declared_of(config)}
    values = {}
    for name, value in _leaves(content, ""):
        if name not in known:
            raise ConfigError(f"--config {path}: {unknown(list(known), name)}")
        values[name] = _of_toml(known[name], value, f"--config {path}: {name}")
    return values


def _declared_of(config: object) -> Iterator[Setting]:
    """The settings of a config, or of a config's type."""
    return declared(config) if isinstance(config, type) else declared(type(config), config=config)


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _of_toml(setting: Setting, value: Any, name: str) -> Any:
    """A value of a TOML file as the setting's type. None, which TOML doesn't have, is written "none"."""
    if not isinstance(value, list):
        return setting.parse(_text(value), name)
    for kind in options_of(setting.kind):
        if get_origin(kind) is tuple:
            try:
                return setting.require(_tuple_of([_text(item) for item in value], get_args(kind)), name)
            except ValueError:
                continue
    raise ConfigError(
        f"{name}={[shown(item) if isinstance(item, str) else item for item in value]!r} is not {setting.form}"
    )


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with values by dotted path in place of its own. Raises ConfigError for what the config refuses.

    A nested config that is None is made with its defaults.
    """
    nested: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for path, value in values.items():
        outer, _, rest = path.partition(".")
        if rest:
            nested.setdefault(outer, {})[rest] = value
        else:
            changes[outer] = value
    kind_of: Any = type(config)
    kinds = {name: kind for name, kind, *_ in _fields(kind_of)}
    for name, inner in nested.items():
        current = getattr(config, name)
        if current is None:
            made = _nested(kinds[name])
            assert made is not None, name
            current = made()
        changes[name] = with_values(current, inner)
    try:
        return replace(config, **changes)  # type: ignore[type-var]  # a dataclass
    except ValueError as error:
        raise ConfigError(str(error)) from error


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The value of every setting by its dotted path, in the order of the fields."""
    for setting in declared(type(config), config=config):
        yield prefix + setting.path, value_of(config, setting.path)


def changed(config: object, base: object) -> dict[str, Any]:
    """The settings of a config that differ from those of another one of its kind, by path."""
    values = dict(flatten(base))
    return {path: value for path, value in flatten(config) if path not in values or values[path] != value}


def value_of(config: object, path: str) -> Any:
    """The value of the setting at a path; None if the config that holds it is None."""
    value: Any = config
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def unknown(known: Sequence[str], path: str) -> ConfigError:
    """The error for an unknown path; it names the nearest paths, or all if none is near."""
    found = near(path, known)
    last = path.rpartition(".")[2]
    found += [other for other in known if other.rpartition(".")[2] == last and other not in found]
    if found:
        return ConfigError(f"unknown setting {path!r}; did you mean {either(found)}? --explain lists all settings")
    return ConfigError(f"unknown setting {path!r}; known: {', '.join(known)}")


def _present(config: object) -> Iterator[Setting]:
    """The settings of a config, without those of nested configs that are None."""
    for setting in declared(type(config), config=config):
        holder = setting.path.rpartition(".")[0]
        if not holder or value_of(config, holder) is not None:
            yield setting


def explain(config: object, width: int = 80) -> str:
    """All settings as `--set` takes them, grouped: description, unit, choices or bounds, default, and option.

    Lines have at most `width` characters where the words allow it. URLs are shown without their secrets.
    """
    import textwrap  # noqa: PLC0415  # other commands start without it

    groups: dict[str, list[str]] = {}
    for setting in _present(config):
        lines = groups.setdefault(setting.path.rpartition(".")[0], [])
        lines.append(f"  {setting.path}={shown(value_of(config, setting.path))}")
        for text in (setting.description, setting.facts):
            lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n\n".join(
        "\n".join([*textwrap.wrap(_heading(config, group), width), *lines]) for group, lines in groups.items()
    )


def _heading(config: object, group: str) -> str:
    """The heading of a group of settings: its path and the first sentence on its config."""
    held = value_of(config, group) if group else config
    document = inspect.getdoc(type(held)) or ""
    if document.startswith(f"{type(held).__name__}("):
        document = ""  # what dataclasses write where there is none
    text = " ".join(document.partition("\n\n")[0].split())
    first = text.partition(". ")[0].rstrip(".")
    return f"{group or 'general'}: {first}." if first else f"{group or 'general'}:"


def to_toml(config: object) -> str:
    """The config as a TOML file for `--config`, with a comment on each setting.

    Read back, it gives the equal config. A value with a secret in a URL is left out, with a comment.
    """
    tables: dict[str, list[str]] = {"": []}
    for setting in _present(config):
        table, _, name = setting.path.rpartition(".")
        value = value_of(config, setting.path)
        entry = f"{name} = {_toml(value)}"
        if _holds_secret(value):
            entry = f"# {name} is left out, because its URL holds a password or a token: set it again."
        tables.setdefault(table, []).append(f"{entry.ljust(_NOTE_COLUMN)}  # {setting.note}")
    parts = [(f"[{table}]\n" if table else "") + "\n".join(lines) + "\n" for table, lines in tables.items() if lines]
    return "\n".join(parts)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # A JSON string is a TOML string, except for one character and surrogates.
    return json.dumps(_text(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _holds_secret(value: Any) -> bool:
    """Whether a setting's value, or an item of a tuple, is a URL with a secret."""
    return any(map(_holds_secret, value)) if isinstance(value, tuple) else holds_secret(_text(value))


def shown(value: Any) -> str:
    """A value as `--set` takes it, with URLs without their secrets: for output and files of a run."""
    if not isinstance(value, tuple):
        return shown_url(_text(value))
    return (";" if any(isinstance(item, tuple) for item in value) else ",").join(map(shown, value))


def text_of(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(_text, value)) if isinstance(value, tuple) else _text(value)


def _text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def parse(text: str, kind: Any, key: str, form: str = "", choices: Sequence[str] = ()) -> Any:
    """The value of a text as a type. Raises ConfigError, with the key and the expected `form`, for other text."""
    for option in _reading_order(kind):
        try:
            return _parse_one(text, option)
        except ValueError:
            continue
    form = form or " or ".join(map(name_of, options_of(kind)))
    raise ConfigError(_not_a_choice(key, text, form, choices))


def _not_a_choice(key: str, text: str, form: str, choices: Sequence[str]) -> str:
    return f"{key}={shown_url(text)!r} is not {form}{did_you_mean(text, choices)}"


def options_of(kind: Any) -> list[Any]:
    """The alternatives of a union, with text last, because any value is a text."""
    options = list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]
    return sorted(options, key=lambda option: (option is Path, option is str))


def _reading_order(kind: Any) -> list[Any]:
    """The alternatives in the order in which a text is read: None first, because `none` is also a text."""
    return sorted(options_of(kind), key=lambda option: option is not type(None))


def _choices(kind: Any) -> tuple[str, ...]:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(kind)
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def name_of(kind: Any) -> str:
    """A type in words, such as `a whole number`."""
    if get_origin(kind) is tuple:
        words = str in get_args(kind) or Any in get_args(kind)
        return "words such as a,b" if words else "numbers such as 8,9,11"
    if choices := _choices(kind):
        return ", ".join(choices)
    names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "none", Path: "a path"}
    return names.get(kind, "text")


def _parse_one(text: str, kind: Any) -> Any:
    if kind is type(None):
        if text.lower() != "none":
            raise ValueError
        return None
    if kind is bool:
        if text.lower() not in BOOLS:
            raise ValueError
        return BOOLS[text.lower()]
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError
        return text
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
        return _tuple_of(parts, get_args(kind))
    return text if kind is Any else kind(text)


def _tuple_of(parts: Sequence[str], kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    each = [kinds[0]] * len(parts) if kinds[1:] == (...,) else list(kinds)
    if len(each) != len(parts):
        raise ValueError
    return tuple(_parse_one(part, kind) for part, kind in zip(parts, each, strict=True))
