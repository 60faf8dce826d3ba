"""Mapping of spellings of a label to its canonical name."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from avmanifest.errors import ConfigError

_LISTED_WHOLE: Final = 40
_SEPARATORS: Final = re.compile(r"[\W_]+")


def fold_label(spelling: str) -> str:
    """The letters and digits of a spelling in lower case, with one space between words.

    Lists and folder names differ in commas, underscores, parentheses and spaces. Without these,
    `police car (siren)`, `police_car__siren_` and `police car siren` are equal.
    """
    return _SEPARATORS.sub(" ", spelling.casefold()).strip()


def spelling_table(
    labels: Iterable[str], aliases: Mapping[str, str], optional_prefixes: Iterable[str] = ()
) -> dict[str, str]:
    """Folded spelling -> canonical name, for the labels, their aliases, and the labels without an optional prefix.

    Raises ConfigError for an alias of an unknown label, and for a spelling of two labels.
    """
    known = list(labels)
    table: dict[str, str] = {}
    for label in known:
        _add_spelling(table, label, label)
    for alias, label in aliases.items():
        if label not in known:
            raise ConfigError(f"alias {alias!r} is for {label!r}, {unknown_label(label, known)}")
        _add_spelling(table, alias, label)
    for prefix in optional_prefixes:
        for label in known:
            if label.startswith(prefix) and label != prefix:
                _add_spelling(table, label.removeprefix(prefix), label)
    return table


def unknown_label(spelling: str, known: Collection[str]) -> str:
    """The end of an error message about an unknown label: the known labels, or the most similar ones of many."""
    if len(known) <= _LISTED_WHOLE:
        return f"which is not a label of this dataset; known: {', '.join(known)}"
    close = difflib.get_close_matches(fold_label(spelling), known, n=5, cutoff=0.5)
    hint = f"; closest: {', '.join(map(repr, close))}" if close else f"; for example {next(iter(known))!r}"
    return f"which is not one of the {len(known)} known labels{hint}"


def _add_spelling(table: dict[str, str], spelling: str, label: str) -> None:
    folded = fold_label(spelling)
    if not folded:
        raise ConfigError(f"label {spelling!r} has no letter or digit. Give it a name.")
    other = table.setdefault(folded, label)
    if other != label:
        raise ConfigError(
            f"{spelling!r} is a spelling of both {other!r} and {label!r}: case, spaces and punctuation "
            "do not distinguish labels. Rename one, or remove the alias."
        )
