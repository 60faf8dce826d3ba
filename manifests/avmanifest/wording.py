"""Counts in messages."""


def counted(count: int, one: str, several: str | None = None) -> str:
    """A number with its noun: `1 shard`, `1,024 shards`, `0 clips`.

    Args:
        count: The number.
        one: The noun for one, with what follows it: `shard`, `clip is new`.
        several: The same for any other number; None: `one` with an s at its end.
    """
    return f"{count:,} {one if count == 1 else several or one + 's'}"
