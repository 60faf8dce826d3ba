"""What to do about failed clips: the remedy of each status, and the command that carries it out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from avcli.typed import Words, shown_command
from avdata.prepare.config import PrepareConfig
from avmanifest.schema import find_status, is_failure, status_meaning

_REPEATED: Final = ("--source", "--set")
_LEFT_OUT: Final = ("--overwrite", "--append", "--json", "--dry-run")  # what a command that goes on does without
_OF_AN_ARRAY: Final = ("--executor", "--task-index", "--num-tasks")  # --retry is of all tasks
_LEAST_CLIP_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do about the clips of one status."""

    status: str
    clips: int
    meaning: str
    remedy: str
    command: str  # shell-quoted, without secrets; empty: no command of avkit helps

    def as_dict(self) -> dict[str, str | int]:
        """As JSON-compatible data."""
        return {"clips": self.clips, "meaning": self.meaning, "remedy": self.remedy, "command": self.command}


def advice_for(statuses: Mapping[str, int], config: PrepareConfig, typed: Words) -> list[Advice]:
    """What to do about each status of failed clips, in the order given.

    Args:
        statuses: Clips by status.
        config: The run that ended.
        typed: Its command; without words no commands are given.
    """
    return [
        Advice(status, clips, status_meaning(status), found.remedy if found else "", _command(status, config, typed))
        for status, clips in statuses.items()
        if is_failure(status)
        for found in (find_status(status),)
    ]


def _command(status: str, config: PrepareConfig, typed: Words) -> str:
    found = find_status(status)
    if found is None or not found.options or not typed.words:
        return ""
    options = found.options
    clip_s = config.sample.clip_seconds
    if "{clip_seconds}" in options and clip_s is not None and clip_s <= _LEAST_CLIP_S:
        return ""
    if config.recipe.name == "folder" and "--source" in options:  # its list is what its sources hold
        place = options.index("--source")
        options = options[:place] + options[place + 2 :]
    values = {
        "out": str(config.out).rstrip("/"),
        "clip_seconds": "1" if clip_s is None or clip_s > 1 else f"{_LEAST_CLIP_S:g}",
        "deadline": f"{2 * config.supervision.deadline_s:g}",
        "download_deadline": f"{2 * config.downloads.deadline_s:g}",
        "memory_bytes": str(2 * config.supervision.memory_bytes),
    }
    return shown_command(changed_words(typed, [option.format(**values) for option in options]))


def changed_words(typed: Words, options: Sequence[str]) -> list[str]:
    """The command with other options: each replaces what was given for it; a source comes before the other sources.

    What a command that goes on with the dataset does without, such as --overwrite, is left out.
    """
    new = list(zip(options[::2], options[1::2], strict=True))
    names = {name for name, _ in new}
    left_out = {*_LEFT_OUT, *(names - set(_REPEATED)), *(_OF_AN_ARRAY if "--retry" in names else ())}
    kept = [group for group in typed.groups() if group[0].partition("=")[0] not in left_out or _is_ray(group)]
    first = next((place for place, group in enumerate(kept) if group[0].partition("=")[0] == "--source"), len(kept))
    before = [list(pair) for pair in new if pair[0] == "--source"]
    after = [list(pair) for pair in new if pair[0] != "--source"]
    return [word for group in (*kept[:first], *before, *kept[first:], *after) for word in group]


def _is_ray(group: Sequence[str]) -> bool:
    return group in (["--executor", "ray"], ["--executor=ray"])
