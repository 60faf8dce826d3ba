"""Names with a text each, in two columns, as wide as the terminal, up to 120 columns."""

from collections.abc import Sequence

import typer

from avcli.help import two_columns, width


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """Print the rows that have a text. Control characters in them are left out."""
    shown = [(printable(name), printable(text)) for name, text in rows if text]
    for line in two_columns(shown, width(120), 30):
        typer.echo(line)


def printable(text: str) -> str:
    """The text with spaces in place of control characters; line ends stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
