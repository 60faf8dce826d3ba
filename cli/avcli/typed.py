"""The command as it was typed, for messages that name the command that goes on."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Words:
    """A command as it was typed: its words from `avkit` on, and the names of the options that take no value."""

    words: tuple[str, ...] = ()
    flags: frozenset[str] = frozenset()


TYPED: Final[ContextVar[Words]] = ContextVar("the command that was typed", default=Words())  # noqa: B039 - frozen
