"""Counts in messages: one shard, two shards."""

import pytest

from avmanifest.wording import counted


@pytest.mark.parametrize(
    ("count", "nouns", "said"),
    [
        (1, ("shard",), "1 shard"),
        (0, ("shard",), "0 shards"),
        (12_345, ("clip",), "12,345 clips"),
        (1, ("entry", "entries"), "1 entry"),
        (2, ("entry", "entries"), "2 entries"),
        (1, ("clip is new", "clips are new"), "1 clip is new"),
    ],
)
def test_the_noun_follows_the_number(count: int, nouns: tuple[str, ...], said: str) -> None:
    assert counted(count, *nouns) == said
