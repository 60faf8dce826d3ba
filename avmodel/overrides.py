"""`key.name=value` into frozen configs: types checked, unknown keys answered with the known ones."""

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from avmanifest.errors import ConfigError

Config = TypeVar("Config")  # a dataclass

BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def override(config: Config, settings: Sequence[str]) -> Config:
    """The config with settings such as `optim.lr=3e-4` applied; the last of two for one key counts.

    Nothing is `none`; a tuple is `128,192`. Raises ConfigError for an unknown key, a value of another type, or a
    value that the config refuses.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: expected key=value, such as optim.lr=3e-4")
        *outer, last = key.strip().split(".")
        inner = values
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise unknown(config, key)
        inner[last] = text.strip()
    return _replaced(config, config, values, "")


def flatten(config: object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted key, in the order of the fields."""
    assert is_dataclass(config)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def unknown(config: object, key: str) -> ConfigError:
    """The error for a key that the config doesn't have."""
    return ConfigError(f"unknown setting {key!r}; known: {', '.join(name for name, _ in flatten(config))}")


def _replaced(whole: object, config: Config, values: Mapping[str, Any], prefix: str) -> Config:
    assert is_dataclass(config)
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for name, value in values.items():
        key = prefix + name
        if name not in {field.name for field in fields(config)}:
            raise unknown(whole, key)
        current = getattr(config, name)
        if is_dataclass(current) != isinstance(value, dict):
            raise unknown(whole, ".".join([key, *value]) if isinstance(value, dict) else key)
        changes[name] = (
            _replaced(whole, current, value, f"{key}.") if isinstance(value, dict) else parse(value, hints[name], key)
        )
    try:
        return replace(config, **changes)  # type: ignore[type-var]  # a dataclass, as asserted
    except ValueError as error:
        raise ConfigError(str(error)) from error


def parse(text: str, kind: Any, key: str) -> Any:
    """The value of that type which the text writes. Raises ConfigError, naming the key, if there is none."""
    for option in options_of(kind):
        try:
            return _parse_one(text, option)
        except ValueError:
            continue
    raise ConfigError(f"{key}={text!r} is not {' or '.join(name_of(option) for option in options_of(kind))}")


def options_of(kind: Any) -> list[Any]:
    """The alternatives of a union, text last: it takes everything."""
    options = list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]
    return sorted(options, key=lambda option: option is str)


def name_of(kind: Any) -> str:
    """A type, for people."""
    if get_origin(kind) is tuple:
        return "numbers such as 8,9,11"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    return {int: "a whole number", float: "a number", bool: "true or false", type(None): "none"}.get(kind, "text")


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
        return _parse_tuple(text, get_args(kind))
    return kind(text)


def _parse_tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
    each = [kinds[0]] * len(parts) if kinds[1:] == (...,) else list(kinds)
    if len(each) != len(parts):
        raise ValueError
    return tuple(_parse_one(part, kind) for part, kind in zip(parts, each, strict=True))
