"""The command as it was typed, for messages that name the command that goes on."""

import shlex
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from avmanifest.secrets import shown_url, without_secrets


@dataclass(frozen=True, slots=True)
class Words:
    """A command as it was typed: its words from `avkit` on, and the names of the options that take no value."""

    words: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()

    def groups(self) -> list[list[str]]:
        """The words, each option together with its value."""
        groups: list[list[str]] = []
        words = list(self.words)
        while words:
            word = words.pop(0)
            takes_next = word.startswith("--") and "=" not in word and word not in self.flags
            groups.append([word, words.pop(0)] if takes_next and words else [word])
        return groups


def shown_command(words: Sequence[str]) -> str:
    """A command for a shell, each word quoted where it has to be. Secrets in it are hidden."""
    return shlex.join(without_secrets(shown_url(word)) for word in words)


TYPED: Final[ContextVar[Words]] = ContextVar("the command that was typed", default=Words())  # noqa: B039 - frozen
