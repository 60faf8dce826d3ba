"""The named runs: a function each, whose docstring has the command, the hours and the source of the numbers."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmanifest.settings import text_of
from avmodel.configs.run import RunConfig
from avmodel.models import FAMILIES, part


def presets() -> dict[str, Callable[[], RunConfig]]:
    """The runs of all families, by name. A family without named runs has one with its defaults, under its own name."""
    found: dict[str, Callable[[], RunConfig]] = {}
    for name, family in FAMILIES.items():
        found |= {name: partial(defaults, name)} if family.presets is None else part(family.presets)
    return found


def defaults(family: str) -> RunConfig:
    """A run of a family's default model."""
    return RunConfig(name=family, model=FAMILIES[family].config_type())


def run_config(name: str) -> RunConfig:
    """The run of that name. Raises ConfigError for an unknown name."""
    known = presets()
    if name not in known:
        raise ConfigError(unknown_name("run", name, sorted(known), listed_by="avkit runs"))
    return known[name]()


def summary(name: str) -> str:
    """The first line of the run's docstring, with the values that distinguish runs of one function."""
    return first_line(presets()[name])


def first_line(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring; of a partial one also the values that it is given: `(count=3)`."""
    inner = function.func if isinstance(function, partial) else function
    first = (inspect.getdoc(inner) or "").partition("\n")[0]
    if not isinstance(function, partial):
        return first
    given = inspect.signature(inner).bind_partial(*function.args, **function.keywords).arguments
    values = [f"{key}={text_of(value)}" for key, value in given.items() if isinstance(value, str | int | float | tuple)]
    return f"{first.rstrip('.')} ({', '.join(values)})." if values and inner is not defaults else first


def describe(name: str) -> str:
    """The docstring of the run."""
    function = presets()[name]
    return inspect.getdoc(function.func if isinstance(function, partial) else function) or ""
