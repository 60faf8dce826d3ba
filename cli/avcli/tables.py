"""Tables on a terminal."""

from rich.table import Table

from avmanifest.secrets import excerpt


def shown_value(value: object, most: int) -> str:
    """A value from outside for a terminal: without secrets, cut after `most` characters, control characters escaped."""
    text = excerpt(value if isinstance(value, str) else repr(value), most)
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def plain_table(*columns: tuple[str, str]) -> Table:
    """A table without lines. Each column is its heading and its alignment: "<" left, ">" right."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name, side in columns:
        table.add_column(name, justify="right" if side == ">" else "left", no_wrap=side == ">")
    return table
