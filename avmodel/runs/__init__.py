"""The named runs: one function each, whose text says with which command, how long, and where its numbers are from."""

import inspect
from collections.abc import Callable
from functools import partial

from avmanifest.errors import ConfigError
from avmodel.run_config import RunConfig
from avmodel.runs import avsiam, cavmae, crossmae, deepavfusion

RUNS: dict[str, Callable[[], RunConfig]] = {**deepavfusion.RUNS, **avsiam.RUNS, **cavmae.RUNS, **crossmae.RUNS}


def run_config(name: str) -> RunConfig:
    """The run of that name. Raises ConfigError, which lists the known, for another."""
    if name not in RUNS:
        raise ConfigError(f"unknown run {name!r}; known: {', '.join(sorted(RUNS))}")
    return RUNS[name]()


def describe(name: str) -> str:
    """What the run's docstring says."""
    function = RUNS[name]
    return inspect.getdoc(function.func if isinstance(function, partial) else function) or ""
