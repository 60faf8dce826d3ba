"""The table of docs/models.md, made from the list of models: `python -m avmodel.registry.page`."""

from pathlib import Path
from typing import Final

from avmanifest.files import read_text, replace_text
from avmanifest.pages import with_parts
from avmodel.registry.entries import LIST, Entry, read_list

PAGE: Final = Path(__file__).parents[2] / "docs" / "models.md"


def main() -> None:
    """Write the page anew."""
    replace_text(PAGE, page_of(read_text(PAGE)))


def page_of(page: str) -> str:
    """The page with its table made from avkit's list."""
    return with_parts(page, {"models": table(list(read_list(LIST).values()))}, PAGE)


def table(found: list[Entry]) -> str:
    """The models as a Markdown table."""
    lines = ["| name | what it is | size | hash that is published | licence | from |", "|---|---|---:|---|---|---|"]
    for entry in found:
        what = f"{entry.kind}: {entry.title}"
        digest = f"sha256 `{entry.sha256[:12]}…`" if entry.sha256 else ""
        digest = digest or (f"MD5 `{entry.md5_prefix}…`" if entry.md5_prefix else "none")
        host = f"[{entry.page.removeprefix('https://').partition('#')[0]}]({entry.page})"
        lines.append(f"| `{entry.name}` | {what} | {entry.short_size} | {digest} | {entry.licence} | {host} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
