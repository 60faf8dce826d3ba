"""Single samples of an evaluation to look at and to listen to: the best and the worst, on one page."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from avdata.draw.page import data_uri, escape, page, section, table, write_page

EXAMPLES_FILE = "examples.html"
ONE_LIST = 16  # up to as many examples stand in one list, the best first
NARROW = 512  # pixels of a picture, at most, that stands beside others


class Example(NamedTuple):
    """A sample, what came of it, and how well."""

    key: str
    title: str
    score: float  # higher is better
    metrics: dict[str, float]
    pictures: dict[str, bytes]  # caption -> PNG
    sounds: dict[str, bytes]  # caption -> WAV


def best_and_worst(scores: Sequence[float], count: int) -> list[int]:
    """Places of the `count` highest and the `count` lowest scores, the highest first; those that aren't finite have
    none."""
    order = sorted((place for place, score in enumerate(scores) if math.isfinite(score)), key=lambda one: -scores[one])
    return order if len(order) <= 2 * count else [*order[:count], *order[len(order) - count :]]


def write_examples(examples: Sequence[Example], folder: Path, *, title: str, line: str) -> Path:
    """A page of the examples, the best first; of many in two lists, the second from the worst on. `line` is the result
    as a paper quotes it.

    The page needs no other file and no network. Raises StorageError if it can't be written.
    """
    page_text = examples_page(examples, title=title, line=line)
    return write_page(folder / EXAMPLES_FILE, page_text, "Free space, or give another --out.")


def examples_page(examples: Sequence[Example], *, title: str, line: str) -> str:
    """The page as text; an example without a finite score stands last."""
    ordered = sorted(examples, key=lambda one: (not math.isfinite(one.score), -one.score, one.key))
    parts = [("examples", f"All {len(ordered)}, the best first", ordered)]
    if len(ordered) > ONE_LIST:
        middle = len(ordered) // 2
        parts = [
            ("best", f"The {middle} best", ordered[:middle]),
            ("worst", f"The {len(ordered) - middle} worst, the worst first", ordered[middle:][::-1]),
        ]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in parts)
    body = (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(line)}</p></header>'
        f"<nav><div>{links}</div></nav><main>"
        + "".join(section(name, heading, *map(drawn, shown)) for name, heading, shown in parts)
        + "</main><footer>Made by avkit evaluate. This page fetches nothing.</footer>"
    )
    return page(f"{title}: avkit evaluate", body, {})


def drawn(example: Example) -> str:
    """One example as HTML."""
    pictures = "".join(
        f'<figure class="{"wide" if png_width(content) > NARROW else "narrow"}">'
        f'<img src="{data_uri(content, "image/png")}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, content in example.pictures.items()
    )
    sounds = "".join(
        f'<figure><figcaption>{escape(caption)}</figcaption><audio controls preload="metadata" '
        f'src="{data_uri(content, "audio/wav")}"></audio></figure>'
        for caption, content in example.sounds.items()
    )
    numbers = [[_number(value) for value in example.metrics.values()]]
    return (
        f'<article class="sample"><h3>{escape(example.title)}</h3><p class="facts mono">{escape(example.key)}</p>'
        + (f'<div class="frames">{pictures}</div>' if pictures else "")
        + (f'<div class="frames sounds">{sounds}</div>' if sounds else "")
        + (table(list(example.metrics), numbers) if example.metrics else "")
        + "</article>"
    )


def png_width(content: bytes) -> int:
    """Pixels of a row of a PNG picture; 0 for what is none."""
    return int.from_bytes(content[16:20], "big") if content.startswith(b"\x89PNG") else 0


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
