"""A self-contained HTML page. It loads nothing, runs only its own script and style, and escapes all text."""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from avdata.draw.output import write_drawing

_FILES: Final = Path(__file__).parent
_POLICY: Final = (
    "default-src 'none'; img-src {own}data:; media-src {own}data:; {connect}style-src '{style}'; "
    "script-src '{script}'; base-uri 'none'; form-action 'none'"
)
SCRIPTS: Final = (
    "elements.js", "local.js", "remote.js", "sample.js", "histograms.js", "map.js", "table.js", "clips.js", "main.js",
)  # fmt: skip
"""The parts of the page's script in their order. They share one scope."""


def page(title: str, body: str, data: Mapping[str, Any], *, served: bool = False) -> str:
    """Build the page.

    The Content-Security-Policy allows one style and one script by their hashes. Any other script, style or address
    that text from a dataset might inject is blocked by the browser.

    Args:
        title: Title of the page, not yet escaped.
        body: HTML. The caller has escaped all text in it.
        data: What the page's script reads, as JSON.
        served: Whether the page's script may ask the server that it comes from, and no other.
    """
    style, script, policy = page_style(), page_script(), page_policy(served=served)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="data">{embedded_json(data)}</script>\n'
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def page_policy(*, served: bool = False) -> str:
    """The Content-Security-Policy of a page; `served` as for `page`."""
    return _POLICY.format(
        style=_hash(page_style()),
        script=_hash(page_script()),
        own="'self' " if served else "",
        connect="connect-src 'self'; " if served else "",
    )


def page_style() -> str:
    """The style of every page."""
    return (_FILES / "page.css").read_text()


def page_script() -> str:
    """The script of every page: its parts in one function, so that they leave no global names."""
    parts = "\n".join((_FILES / "js" / name).read_text() for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


def escape(value: object) -> str:
    """Escape text for an HTML element or a quoted attribute."""
    return html.escape(str(value), quote=True)


def embedded_json(data: Any) -> str:
    """JSON without the characters that could close its script element."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def data_uri(content: bytes, media_type: str) -> str:
    """Encode bytes as a data: URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def section(identity: str, title: str, *parts: str) -> str:
    """A section with a heading and an id that links can point to."""
    return f'<section id="{escape(identity)}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def sections_page(
    title: str, lead: str, parts: Sequence[tuple[str, str, str]], *, first: str = "", by: str = "avkit inspect"
) -> str:
    """A page of sections with links to them.

    Args:
        title: Its heading, not yet escaped.
        lead: HTML below the heading.
        parts: The id, heading (not yet escaped) and HTML of each section.
        first: HTML before them, without a link.
        by: The command that makes it.
    """
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in parts)
    body = (
        f"<header><h1>{escape(title)}</h1>{lead}</header><nav><div>{links}</div></nav><main>{first}"
        + "".join(section(*part) for part in parts)
        + f"</main><footer>Made by {by}. This page loads nothing from the network.</footer>"
    )
    return page(f"{title}: {by}", body, {})


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = (), *, label: str = ""
) -> str:
    """A table of text.

    Args:
        header: Names of the columns.
        rows: The cells, not yet escaped.
        numbers: Places of the columns that are aligned to the right.
        label: Name of the table for screen readers; empty: the names of its columns.
    """
    named = label or ", ".join(filter(None, header))

    def line(tag: str, cells: Sequence[object]) -> str:
        drawn = (
            f"<{tag}{' class=n' if place in numbers else ''}>{escape(cell)}</{tag}>" for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(drawn)}</tr>"

    body = "".join(line("td", row) for row in rows)
    aria = f'aria-label="{escape(named)}"'
    return (
        f'<div class="scroll" tabindex="0" role="region" {aria}><table {aria}>'
        f"<thead>{line('th', header)}</thead><tbody>{body}</tbody></table></div>"
    )


def key_numbers(numbers: Sequence[tuple[str, str, str]]) -> str:
    """(number, what it counts, note) in large type, side by side."""
    drawn = (
        f'<div class="figure"><b>{escape(number)}</b><span>{escape(what)}</span><small>{escape(note)}</small></div>'
        for number, what, note in numbers
    )
    return f'<div class="figures">{"".join(drawn)}</div>'


def card(title: str, *parts: str, wide: bool = False) -> str:
    """A box with a title around a chart or a table."""
    return f'<div class="card{" wide" if wide else ""}"><h3>{escape(title)}</h3>{"".join(parts)}</div>'


def write_page(path: Path, content: str, remedy: str = "Give --html another path.") -> Path:
    """Write the page, whole or not at all.

    Raises:
        StorageError: The file cannot be written. The message ends with `remedy`.
    """
    return write_drawing(path, content.encode(), what="page", remedy=remedy)


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
