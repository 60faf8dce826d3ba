"""Names that do not exist: the messages, with the nearest names that do."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from avmanifest.secrets import shown_url

_CUTOFF: Final = 0.6  # likeness, from 0 to 1, under which a name is not offered
_SPREAD: Final = 0.15
_MOST_LISTED: Final = 20  # names that a message lists where a command can
_ENTRIES: Final = 10_000  # of a folder, that are looked at


def near(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The names most like this one, the likeliest first; case does not count."""
    folded: dict[str, str] = {}
    for one in known:
        if 2 * len(one) > len(name):  # short names are like too many
            folded.setdefault(one.casefold(), one)
    found = difflib.get_close_matches(name.casefold(), folded, n=most, cutoff=_CUTOFF)
    if found:  # not those that are much less alike than the first
        best = difflib.SequenceMatcher(None, found[0], name.casefold()).ratio()
        found = difflib.get_close_matches(name.casefold(), found, n=most, cutoff=max(_CUTOFF, best - _SPREAD))
    return [folded[one] for one in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean vggsound?`, for the end of a message; empty if no name is near."""
    found = near(name, known)
    return f"; did you mean {either(found)}?" if found else ""


def either(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def unknown_name(kind: str, name: str, known: Iterable[str], *, owner: str = "", listed_by: str = "") -> str:
    """`unknown recipe 'vgsound'; did you mean vggsound? known: audioset, ...`.

    Args:
        kind: What the name is of: recipe, run, task, preset.
        name: The unknown name.
        known: The names that there are, in the order in which they are listed.
        owner: What has them, such as ` of knn`; put after the name.
        listed_by: The command that lists them, which stands in the place of more than a few.
    """
    names = list(known)
    if listed_by and len(names) > _MOST_LISTED:
        return f"unknown {kind} {name!r}{owner}{did_you_mean(name, names) or ';'} {listed_by} lists all {len(names)}"
    hint = did_you_mean(name, names) or ";"
    return f"unknown {kind} {name!r}{owner}{hint} known: {', '.join(names)}"


def no_such(kind: str, path: Path | str) -> str:
    """`clip.mp4: no such video. Did you mean clip2.mp4?`, of a path that is not there."""
    return f"{path}: no such {kind}.{near_paths(path)}"


def near_paths(path: Path | str) -> str:
    """` Did you mean data/mine?` with the paths beside a missing one that are like it; empty if there are none."""
    path = Path(path)
    try:
        names = [entry.name for entry, _ in zip(path.parent.iterdir(), range(_ENTRIES), strict=False)]
    except (OSError, ValueError):
        return ""
    found = near(path.name, (name for name in names if name.isprintable()))
    return f" Did you mean {either([shown_url(str(path.parent / name)) for name in found])}?" if found else ""
