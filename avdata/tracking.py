"""Trackers of runs: Weights & Biases and trackio, which have the same API. One protocol for all that log to them.

The packages are extras (`avkit[wandb]`, `avkit[trackio]`) and are imported when a run logs there. This module imports
only the standard library, as the settings of commands use it.
"""

import importlib
import json
import logging
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, runtime_checkable

from avmanifest.errors import ConfigError, StorageError
from avmanifest.files import read_text, replace_text
from avmanifest.parsing import parse_object

WANDB_RUN: Final = "wandb-run.json"
"""File in a run's folder with the run's id at Weights & Biases and in trackio."""

RESUMES: Final = ("allow", "must", "never")

WandbProject = Annotated[str | None, "Project of Weights & Biases to log to. none: not there."]
TrackioProject = Annotated[str | None, "Project of trackio to log to. none: not there."]
WandbName = Annotated[
    str | None,
    "The run's name at Weights & Biases and in trackio. none: that of its folder; a name in trackio ends in its id.",
]
WandbGroup = Annotated[str | None, "Group of runs there that it belongs to. none: no group."]
WandbTags = Annotated[tuple[str, ...], "Tags of the run there; in trackio a part of its config."]
WandbResume = Annotated[
    str,
    "What a resumed run does there. allow: goes on with its run, or begins one if that is gone. must: goes on, or is "
    "refused. never: begins another one.",
    RESUMES,
]

_LOG: Final = logging.getLogger(__name__)


@runtime_checkable
class Tracked(Protocol):
    """Settings of a command that can log to trackers."""

    @property
    def wandb_project(self) -> str | None: ...
    @property
    def trackio_project(self) -> str | None: ...
    @property
    def wandb_name(self) -> str | None: ...
    @property
    def wandb_group(self) -> str | None: ...
    @property
    def wandb_tags(self) -> tuple[str, ...]: ...
    @property
    def wandb_resume(self) -> str: ...


def check_tracking(config: Tracked) -> None:
    """Raise ConfigError for settings of a tracker's run where no tracker is named."""
    if config.wandb_project is not None or config.trackio_project is not None:
        return
    given = {
        "wandb_name": config.wandb_name,
        "wandb_group": config.wandb_group,
        "wandb_tags": ",".join(config.wandb_tags),
        "wandb_resume": "" if config.wandb_resume == RESUMES[0] else config.wandb_resume,
    }
    for name, value in given.items():
        if value:
            raise ConfigError(
                f"{name}={value}: wandb_project is none and trackio_project is none, so nothing is logged there. Set "
                "one of them, too."
            )


@runtime_checkable
class Tracker(Protocol):
    """Receives the numbers and pictures of one run."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Numbers by name, such as `train/loss`, after a step."""
        ...

    def picture(self, name: str, path: Path, step: int) -> None:
        """A PNG file, after a step."""
        ...

    def finish(self, *, failed: bool) -> None:
        """End the run. `failed`: it ended with an error."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """How a run is listed by trackers."""

    wandb_project: str | None = None
    trackio_project: str | None = None
    name: str | None = None  # None: the folder's
    group: str | None = None
    tags: tuple[str, ...] = ()
    resume: str = RESUMES[0]

    @classmethod
    def of(cls, config: Tracked) -> "TrackedRun | None":
        """As the settings say; None: nothing is logged to a tracker."""
        if config.wandb_project is None and config.trackio_project is None:
            return None
        return cls(
            wandb_project=config.wandb_project,
            trackio_project=config.trackio_project,
            name=config.wandb_name,
            group=config.wandb_group,
            tags=config.wandb_tags,
            resume=config.wandb_resume,
        )


def start_trackers(
    run: TrackedRun | None,
    name: str,
    config: Mapping[str, Any],
    *,
    folder: Path | None = None,
    resumed: bool = False,
    say: Callable[[str], object] = _LOG.warning,
) -> list[Tracker]:
    """Begin, or go on with, the run at each tracker that is asked for.

    Args:
        run: How it is listed; None: no tracker.
        name: The run's name where `run` gives none.
        config: Its settings, without secrets.
        folder: The run's folder, which keeps its id; None: each start is a run of its own.
        resumed: The run goes on.
        say: Receives a message if a tracker fails later; the run goes on without it.

    Raises:
        ConfigError: A package is missing, the tracker refuses, or the stored id is damaged.
        StorageError: The folder cannot be written.
    """
    if run is None:
        return []
    packages = require_trackers(run)
    goes_on = resumed and run.resume != "never"
    run_id = run_id_of(folder, resumed=goes_on) if folder is not None else _drawn_id()
    resume = run.resume if goes_on else RESUMES[0]
    shown = run.name or name
    trackers: list[Tracker] = []
    for setting, package in packages.items():
        if setting == "wandb_project":
            given: dict[str, Any] = {"project": run.wandb_project, "name": shown, "tags": list(run.tags)}
            given |= {"id": run_id, "config": dict(config)}
            given |= {} if folder is None else {"dir": str(folder)}
        else:  # it has no ids and no tags: a run is found by its name
            given = {"project": run.trackio_project, "name": f"{shown}-{run_id}"}
            given |= {"config": {**config, "tags": list(run.tags)} if run.tags else dict(config)}
        try:
            with redirect_stdout(sys.stderr):  # standard output is for the command's results
                started = package.init(**given, group=run.group, resume=resume)
        # Each package has errors of its own: no network, no login, no such run.
        except Exception as error:
            raise ConfigError(
                f"{setting}={given['project']!r}: {package.__name__} does not begin the run "
                f"({type(error).__name__}: {error}). Log in, or leave {setting} out."
            ) from error
        trackers.append(_PackageTracker(package, started, say))
    return trackers


def require_trackers(run: TrackedRun | None) -> dict[str, Any]:
    """The package of each tracker that is asked for, by setting. Raises ConfigError if one is not installed."""
    asked = {} if run is None else {"wandb_project": run.wandb_project, "trackio_project": run.trackio_project}
    return {
        setting: _package(setting.removesuffix("_project"), setting, project)
        for setting, project in asked.items()
        if project is not None
    }


def _package(library: str, setting: str, project: str) -> Any:
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise ConfigError(
            f"{setting}={project!r}: the package {library} is not installed. Run pip install 'avkit[{library}]', or "
            f"leave {setting} out."
        ) from error


class _PackageTracker:
    """A run of wandb or trackio. If logging fails, that is said once, and the run goes on without this tracker."""

    def __init__(self, package: Any, run: Any, say: Callable[[str], object]) -> None:
        self._package, self._run, self._say = package, run, say
        self._failed = False

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """See Tracker."""
        self._try(lambda: self._run.log(dict(values), step=step))

    def picture(self, name: str, path: Path, step: int) -> None:
        """See Tracker."""
        self._try(lambda: self._run.log({name: self._package.Image(str(path))}, step=step))

    def finish(self, *, failed: bool) -> None:
        """See Tracker."""
        if self._package.__name__ == "wandb":
            self._try(lambda: self._run.finish(exit_code=int(failed)))
        else:  # of the package: it then knows of no run that is left to finish at the end of Python
            self._try(self._package.finish)

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            with redirect_stdout(sys.stderr):
                action()
        # Whatever a tracker raises, hours of work must not end with it.
        except Exception as error:
            self._failed = True
            self._say(f"{self._package.__name__}: logging failed ({type(error).__name__}: {error}); no more is logged")


def run_id_of(folder: Path, *, resumed: bool) -> str:
    """The id of a folder's run: drawn when it begins, and kept in the folder.

    Folders of one name, and a folder that was deleted and begun again, have ids of their own. A run that an earlier
    version began has the folder's name as its id.

    Raises ConfigError if the stored id is damaged, StorageError if the folder cannot be written.
    """
    path = folder / WANDB_RUN
    if resumed and path.exists():
        advice = "Remove it to log to a new run."
        try:
            content = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}). {advice}") from error
        found = parse_object(content, path, ConfigError, advice).get("id")
        if not isinstance(found, str) or not found:
            raise ConfigError(f"{path}: no id. {advice}")
        return found
    if resumed and (folder / "wandb").is_dir():
        return folder.name
    drawn = _drawn_id()
    try:
        replace_text(path, json.dumps({"id": drawn}) + "\n")
    except OSError as error:
        raise StorageError(
            f"{path}: not written ({error.strerror}). The last checkpoint is good; free space, then resume."
        ) from error
    return drawn


def _drawn_id() -> str:
    return uuid.uuid4().hex[:12]
