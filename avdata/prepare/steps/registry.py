"""Steps by name: the shipped ones, and those of the user's own modules; and what is checked before one runs."""

import importlib
import inspect
import json
import pickle
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from avdata.prepare.steps import SHIPPED
from avmanifest.columns import Column, check_extra
from avmanifest.errors import ConfigError
from avmanifest.names import unknown_name
from avmanifest.secrets import excerpt
from avmanifest.settings import declared, read_settings

if TYPE_CHECKING:  # its modules take time to import, which help and refusals do not need
    from avdata.prepare.steps.step import Step

_NAME: Final = re.compile("[a-z][a-z0-9_]{0,39}")
_CLASS: Final = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)(?::(?P<settings>.*))?")
_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_-]*(?:\.[a-z0-9]+)?")
_MEMBER_CHARACTERS: Final = 19  # a tar's names have 100 bytes, and a key takes up to 81 of them
_OWN_MEMBERS: Final = re.compile(r"(?:json|flac|logmel.*|frame.*|mask.*|stem.*)")  # avkit's
_FORM: Final = "NAME[:setting=value,...] or package.module:Class[:setting=value,...]"


def load_steps(given: Sequence["str | Step"]) -> tuple["Step", ...]:
    """The steps, checked, in their order.

    Args:
        given: Each one as text, such as `black:max_share=0.5` or `my_module:MyStep:threshold=0.2`, or a step. Modules
            are found on Python's path and in the current folder.

    Raises:
        ConfigError: A text names no step or no setting of it, an object is no step, a step declares what it may not,
            two steps have one name or one column or member, or one cannot be sent to a worker process.
    """
    steps = tuple(_load(item) if isinstance(item, str) else item for item in given)
    owners: dict[str, str] = {}
    for step in steps:
        _check(step)
        for what in (f"the name {step.name}", *(f"the column {column.name}" for column in step.columns),
                     *(f"the member {name}" for name in step.members)):  # fmt: skip
            if what in owners:
                raise ConfigError(f"steps {owners[what]} and {step.name} both have {what}. Give each step once.")
            owners[what] = step.name
    return steps


def refuse_clashes(steps: Sequence["Step"], names: Collection[str]) -> None:
    """Raise ConfigError if a step adds a column of one of these names, which the list or the dataset has."""
    for step in steps:
        for column in step.columns:
            if column.name in names:
                raise ConfigError(
                    f"step {step.name} adds the column {column.name}, which the list or another step has, too. Rename "
                    "one of them, or leave it out of the list."
                )


def step_columns(steps: Sequence["Step"]) -> tuple[Column, ...]:
    """The extra columns of a dataset with these steps."""
    return tuple(
        replace(column, source=f"step {step.name}", nullable=True, optional=False)
        for step in steps
        for column in step.columns
    )


def step_record(step: "Step") -> dict[str, Any]:
    """Name, version and settings of a step, as dataset.json records them and a resume compares them."""
    settings: dict[str, Any] = json.loads(json.dumps(asdict(step)))  # type: ignore[call-overload]  # a dataclass
    return {"name": step.name, "version": step.version, "settings": settings}


def _load(text: str) -> "Step":
    name, _, settings = text.partition(":")
    if name in SHIPPED:
        module, _, class_name = SHIPPED[name].partition(":")
    elif match := _CLASS.fullmatch(text):
        module, class_name, settings = match["module"], match["name"], match["settings"] or ""
        _add_current_folder()
    else:
        raise ConfigError(f"{unknown_name('step', excerpt(text, 100), SHIPPED)}. Write {_FORM}.")
    kind = _class_of(module, class_name)
    try:
        return _made(kind, settings)
    except ConfigError as error:
        raise ConfigError(f"--step {excerpt(text, 200)}: {error}") from error


def _add_current_folder() -> None:
    """Let modules of the current folder be found, here and in worker processes, after all others."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def _class_of(module: str, name: str) -> Any:
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(
                f"step {module}:{name}: no module {error.name} on Python's path or in {Path.cwd()}. Go to its folder, "
                "or add the folder to PYTHONPATH."
            ) from error
        raise ConfigError(f"step {module}:{name}: its module needs {error.name}, which is not installed") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"step {module}:{name}: its module cannot be imported ({type(error).__name__}: {error})"
        ) from error
    kind = getattr(found, name, None)
    if not isinstance(kind, type):
        classes = [
            other for other, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module
        ]
        raise ConfigError(f"step {module}:{name}: no class {name} in {module}; known: {', '.join(classes) or 'none'}")
    return kind


def _made(kind: type, text: str) -> "Step":
    """A step of a class with the settings of a text: `name=value,name=value`; a value may have commas."""
    if not hasattr(kind, "__dataclass_fields__"):
        raise ConfigError(f"{kind.__name__} is no dataclass. Write @dataclass(frozen=True) above it.")
    settings = re.split(r",(?=\s*\w+\s*=)", text) if text else []
    for setting in settings:
        if "=" not in setting:
            raise ConfigError(f"{excerpt(setting, 100)!r} is no setting. Write {_FORM}.")
    try:
        values: dict[str, Any] = read_settings(kind, settings)
        made: Any = kind(**values)
    except (TypeError, ValueError) as error:
        known = ", ".join(f"{setting.path} ({setting.form})" for setting in declared(kind))
        raise ConfigError(f"{error}; settings: {known or 'none'}") from error
    step: Step = made
    return step


def _check(step: Any) -> None:
    """Raise ConfigError, with what to change, unless an object is a step that a dataset may have."""
    kind = type(step)
    where = f"step {kind.__module__}:{kind.__qualname__}"
    if isinstance(step, type) or not is_dataclass(kind):
        made = f"{step.__name__}()" if isinstance(step, type) else "an object of a frozen dataclass"
        raise ConfigError(f"{where}: {excerpt(repr(step), 80)} is no step. Give {made}.")
    lacking = [name for name in ("name", "version", "columns", "members", "needs", "run") if not hasattr(step, name)]
    if lacking:
        raise ConfigError(f"{where}: has no {', '.join(lacking)}. docs/adding-a-step.md shows what a step has.")
    if not isinstance(step.name, str) or not _NAME.fullmatch(step.name):
        raise ConfigError(f"{where}: its name {excerpt(repr(step.name), 80)} must match {_NAME.pattern}")
    where = f"step {step.name}"
    if type(step.version) is not int:
        raise ConfigError(f"{where}: its version {step.version!r} is not a whole number")
    if not _are(step.columns, Column):
        raise ConfigError(f"{where}: its columns are not a tuple of avmanifest.columns.Column")
    for column in step.columns:
        try:
            check_extra(column)
        except ValueError as error:
            raise ConfigError(f"{where}: the column {column.name!r}: {error}") from error
    if not _are(step.members, str):
        raise ConfigError(f"{where}: its members are not a tuple of names")
    for name in step.members:
        if not _MEMBER.fullmatch(name) or len(name) > _MEMBER_CHARACTERS or _OWN_MEMBERS.fullmatch(name):
            raise ConfigError(
                f"{where}: the member {excerpt(name, 80)!r}: a name is lower case letters, digits, - and _, with at "
                f"most one suffix such as .npy and at most {_MEMBER_CHARACTERS} characters, and does not begin as "
                "avkit's own do: json, flac, logmel, frame, mask, stem"
            )
    _check_needs(step, where)
    _check_sendable(step, where)


def _check_needs(step: Any, where: str) -> None:
    from avdata.prepare.steps.step import Need  # noqa: PLC0415 - takes time to import

    known = get_args(Need)
    if not _are(step.needs, str) or not set(step.needs) <= set(known):
        raise ConfigError(f"{where}: its needs {excerpt(repr(step.needs), 80)} are not of {', '.join(known)}")


def _check_sendable(step: Any, where: str) -> None:
    """Raise ConfigError for a step that cannot be recorded or sent to a worker process."""
    try:
        step_record(step)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: its settings cannot be recorded ({error}). Use numbers, texts, bools and tuples of them."
        ) from error
    main = sys.modules.get("__main__")
    if type(step).__module__ == "__main__" and getattr(main, "__file__", None) is None:
        raise ConfigError(f"{where}: worker processes cannot import an interactive session. Put its class in a module.")
    try:
        pickle.loads(pickle.dumps(step))  # noqa: S301 - our own bytes
    except Exception as error:
        raise ConfigError(
            f"{where}: it cannot be sent to worker processes ({type(error).__name__}: {error}). Define its class in a "
            "module, and keep to settings that pickle."
        ) from error


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, tuple | list) and all(isinstance(value, kind) for value in values)
