"""Counts, lists and lengths of time in messages."""

from collections.abc import Sequence


def counted(count: int, one: str, several: str | None = None) -> str:
    """A number with its noun: `1 shard`, `1,024 shards`, `0 clips`.

    Args:
        count: The number.
        one: The noun for one, with what follows it: `shard`, `clip is new`.
        several: The same for any other number; None: `one` with an s at its end.
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def first_of(items: Sequence[object], most: int) -> str:
    """The first items, and how many there are besides: `a, b and 3 more`."""
    more = f" and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def time_in_words(seconds: float) -> str:
    """A length of time in the unit that suits it: `less than a second`, `59 s`, `3 min`, `1.5 h`, `2.0 days`."""
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:,.1f} days"
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds:,.0f} s" if seconds >= 1 else "less than a second"
