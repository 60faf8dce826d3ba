"""An HTML page with the best and the worst samples of an evaluation: images, audio and metrics."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from avdata.draw.page import data_uri, escape, sections_page, table, write_page

EXAMPLES_FILE = "examples.html"
MAX_IN_ONE_LIST = 16  # more examples than this are shown as two lists, the best and the worst
MAX_NARROW_PIXELS = 512  # wider images take a whole row of the page


class Example(NamedTuple):
    """One sample with its predictions and scores."""

    key: str
    title: str
    score: float  # higher is better
    metrics: dict[str, float]
    pictures: dict[str, bytes]  # caption -> PNG
    sounds: dict[str, bytes]  # caption -> WAV


def best_and_worst(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the `count` highest and the `count` lowest finite scores, the highest first."""
    order = sorted(
        (index for index, score in enumerate(scores) if math.isfinite(score)), key=lambda index: -scores[index]
    )
    return order if len(order) <= 2 * count else [*order[:count], *order[len(order) - count :]]


def write_examples(examples: Sequence[Example], folder: Path, *, title: str, line: str, of: int | None = None) -> Path:
    """Write the page of examples to `folder`. The page needs no other file and no network.

    Args:
        examples: In any order: the page sorts them by score, the highest first. More than MAX_IN_ONE_LIST are shown as
            two lists, the best and the worst.
        folder: Where EXAMPLES_FILE is written.
        title: Heading of the page.
        line: The result in one line, shown below the heading.
        of: Number of all that have a score, of which these are the best and the worst. None: these are all.

    Raises:
        StorageError: The page cannot be written.
    """
    page_text = examples_page(examples, title=title, line=line, of=of)
    return write_page(folder / EXAMPLES_FILE, page_text, "Free space, or give another --out.")


def examples_page(examples: Sequence[Example], *, title: str, line: str, of: int | None = None) -> str:
    """The page as HTML. Examples without a finite score come last. `of`: see `write_examples`."""
    ordered = sorted(examples, key=lambda example: (not math.isfinite(example.score), -example.score, example.key))
    count = len(ordered)
    some = of is not None and of > count
    among = f" of {of:,}" if some else ""
    which = f"The best and the worst, {count}{among}" if some else f"All {count}"
    parts = [("examples", f"{which}, the best first", ordered)]
    if count > MAX_IN_ONE_LIST:
        middle = count // 2
        parts = [
            ("best", f"The {middle} best{among}", ordered[:middle]),
            ("worst", f"The {count - middle} worst{among}, the worst first", ordered[middle:][::-1]),
        ]
    drawn = [(name, heading, "".join(map(example_html, shown))) for name, heading, shown in parts]
    return sections_page(title, f'<p class="lead">{escape(line)}</p>', drawn, by="avkit evaluate")


def example_html(example: Example) -> str:
    """One example as HTML."""
    pictures = "".join(
        f'<figure class="{"wide" if png_width(content) > MAX_NARROW_PIXELS else "narrow"}">'
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
    """Width of a PNG image in pixels; 0 if the content is not a PNG."""
    return int.from_bytes(content[16:20], "big") if content.startswith(b"\x89PNG") else 0


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
