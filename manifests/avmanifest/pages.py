"""Pages of the documentation whose parts are made from tables of the code.

A part stands between the lines `<!-- NAME -->` and `<!-- end of NAME -->` of its page; what is around it is written by
hand.
"""

from collections.abc import Mapping

from avmanifest.errors import ConfigError


def with_parts(page: str, parts: Mapping[str, str], where: object) -> str:
    """The page with these parts, by name, in place of those it has.

    Raises ConfigError, which names `where`, for a page that lacks a part's lines.
    """
    for name, part in parts.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, has_first, rest = page.partition(first)
        _, has_last, after = rest.partition(last)
        if not (has_first and has_last):
            raise ConfigError(f"{where}: lacks the lines {first.strip()} and {last}, between which {name} are written")
        page = f"{before}{first}\n{part}\n{last}{after}"
    return page
