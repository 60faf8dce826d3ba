"""What the site's builder does not look at: links, headings and pictures of all pages, and the entries of the menu.

`make docs` runs `python -m tests.site_pages`, which prints what is wrong; `tests/unit/test_docs.py` tests the same.
"""

import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"])

_FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$", re.MULTILINE)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCED.sub("", page.read_text())


def slug(heading: str) -> str:
    """A heading as the end of a URL, by the rule of Python-Markdown's table of contents."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    ascii_only = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(page: Path) -> set[str]:
    """The names of a page's headings in URLs, as the site makes them."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(page)):
        name = base = slug(heading)
        number = 0
        while name in found:
            number += 1
            name = f"{base}_{number}"
        found.add(name)
    return found


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there; on the site, also those to files outside of docs/."""
    broken = []
    for link in _LINK.findall(_CODE.sub("", prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        outside = DOCS in page.parents and DOCS not in target.parents
        if not target.exists() or outside or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def entries(nav: Any) -> Iterator[str]:
    """The pages of a menu, in its order."""
    for entry in nav:
        found = next(iter(entry.values())) if isinstance(entry, dict) else entry
        yield from [found] if isinstance(found, str) else entries(found)


def menu_problems(menu: list[str], pages: list[str]) -> list[str]:
    """Pages that the menu lacks, names, though they are not there, or has twice."""
    lacking = [f"mkdocs.yml: nav lacks {page}" for page in pages if page not in menu]
    gone = [f"mkdocs.yml: nav has {page}, which is not there" for page in menu if page not in pages]
    twice = [f"mkdocs.yml: nav has {page} twice" for page in sorted({page for page in menu if menu.count(page) > 1})]
    return [*lacking, *gone, *twice]


def problems() -> list[str]:
    """All that is wrong, a line each."""
    links = [f"{page.relative_to(ROOT)}: {link} leads nowhere" for page in PAGES for link in broken_links(page)]
    menu = list(entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    return [*links, *menu_problems(menu, sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")))]


if __name__ == "__main__":
    found = problems()
    print("\n".join(found) or "links, headings, pictures and the menu: no problem found")
    sys.exit(bool(found))
