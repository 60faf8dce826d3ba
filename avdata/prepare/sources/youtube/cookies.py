"""A cookies.txt for yt-dlp, without the lines that yt-dlp cannot read: it would print them, cookies and all."""

import re
from typing import Final

from avmanifest.wording import counted, first_of

_HTTP_ONLY: Final = "#HttpOnly_"
_FIELDS: Final = 7  # domain, subdomains, path, secure, expires, name, value
_EXPIRES: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?)?")


def readable_cookies(text: str) -> tuple[str, list[int]]:
    """The lines that are comments or cookies in Netscape's format, and the numbers of the others."""
    kept, wrong = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.removeprefix(_HTTP_ONLY).split("\t")
        is_comment = not line.strip() or (line.startswith("#") and not line.startswith(_HTTP_ONLY))
        if is_comment or (len(fields) == _FIELDS and _EXPIRES.fullmatch(fields[4])):
            kept.append(line)
        else:
            wrong.append(number)
    return "\n".join(kept), wrong


def cookies_problems(text: str) -> list[str]:
    """What is wrong with a cookies.txt, without its content; empty if nothing is."""
    kept, wrong = readable_cookies(text)
    if not wrong:
        return []
    none = "" if any("\t" in line for line in kept.splitlines()) else "; no cookie is left"
    return [
        f"youtube: {counted(len(wrong), 'line')} of the cookies left out, as not in Netscape's format "
        f"({first_of(wrong, 5)}){none}. "
        "Export the cookies as cookies.txt, with tabs; JSON is another format."
    ]
