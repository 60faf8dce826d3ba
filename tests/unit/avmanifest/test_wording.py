"""Counts in messages: one shard, two shards. Lengths of time: 5 s, 2.0 h."""

import pytest

from avmanifest.wording import counted, first_of, time_in_words


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


def test_a_long_list_ends_with_how_many_more() -> None:
    assert [first_of("abcd", most) for most in (5, 4, 3)] == ["a, b, c, d", "a, b, c, d", "a, b, c and 1 more"]
    assert first_of(range(3000), 1) == "0 and 2,999 more"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "less than a second"),
        (5, "5 s"),
        (119, "119 s"),
        (1800, "30 min"),
        (7200, "2.0 h"),
        (4 * 86400, "4.0 days"),
    ],
)
def test_short_times_are_in_seconds(seconds: float, said: str) -> None:
    assert time_in_words(seconds) == said
