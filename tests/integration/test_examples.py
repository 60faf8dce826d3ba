"""The page of examples, as text and in a browser."""

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile as sf

from avdata.draw.examples import Example, best_and_worst, examples_page, write_examples
from avmanifest.errors import StorageError
from tests.browser import CHROMIUM, Browser

HOSTILE = """"><script>window.owned = 1</script><img src=x onerror="window.owned = 2">'&"""


def picture(number: int) -> bytes:
    pixels = np.full((64, 64, 3), number * 9 % 256, np.uint8)
    cv2.circle(pixels, (32, 32), 20, (40, 200, 250), 3)
    return cv2.imencode(".png", pixels)[1].tobytes()


def wav() -> bytes:
    file = io.BytesIO()
    sf.write(file, 0.2 * np.sin(np.arange(8000) / 9), 16_000, format="WAV")
    return file.getvalue()


def example(number: int, title: str = "a dog", score: float | None = None) -> Example:
    score = float(number) if score is None else score
    metrics = {"cIoU, median rule": score, "cIoU, fixed rule": float("nan")}
    pictures = {f"{what} {number}": picture(number) for what in ("frame", "map", "truth")}
    return Example(f"key-{number}", title, score, metrics, pictures, {"sound": wav()})


def test_the_best_and_the_worst_are_shown_in_order() -> None:
    text = examples_page([example(number) for number in range(20)], title="t", line="l")
    places = [text.index(f">key-{number}<") for number in (*range(19, 9, -1), *range(10))]
    assert places == sorted(places)
    assert text.index("<h2>The 10 best") < places[0] < text.index("<h2>The 10 worst, the worst first") < places[10]
    some = examples_page([example(number) for number in range(20)], title="t", line="l", of=1024)
    assert "The 10 best of 1,024" in some and "The 10 worst of 1,024, the worst first" in some
    some = examples_page([example(number) for number in range(12)], title="t", line="l", of=24)
    assert "The best and the worst, 12 of 24, the best first" in some and "All 12" not in some
    whole = examples_page([example(number) for number in range(12)], title="t", line="l", of=12)
    assert "All 12, the best first" in whole
    few = examples_page([example(1), example(0, score=float("nan")), example(2)], title="t", line="l")
    assert few.index(">key-2<") < few.index(">key-1<") < few.index(">key-0<")
    assert "–" in few


def test_a_wide_picture_has_a_row_of_its_own() -> None:
    log_mels = cv2.imencode(".png", np.zeros((400, 1400, 3), np.uint8))[1].tobytes()
    shown = examples_page(
        [Example("clip", "rain", 1.0, {}, {"frame": picture(1), "log-mels": log_mels}, {})], title="", line=""
    )
    assert (
        shown.index('"narrow"') < shown.index("frame</figcaption>") < shown.index('"wide"') < shown.index("log-mels</")
    )


def test_the_best_and_the_worst_are_chosen() -> None:
    scores = [3.0, float("nan"), 5.0, 1.0, 4.0, 2.0]
    assert best_and_worst(scores, 2) == [2, 4, 5, 3]
    assert best_and_worst(scores, 3) == [2, 4, 0, 5, 3]
    assert best_and_worst(scores, 0) == []


def test_no_page_where_none_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--out"):
        write_examples([example(0)], tmp_path / "file", title="t", line="l")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium here")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.slow
def test_hostile_texts_stay_texts_and_nothing_is_fetched(browser: Browser, tmp_path: Path) -> None:
    shown = Example(HOSTILE, HOSTILE, 1.0, {HOSTILE: 1.0}, {HOSTILE: picture(3)}, {HOSTILE: wav()})
    path = write_examples([shown], tmp_path, title=HOSTILE, line=HOSTILE)
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(path)
    assert browser.complaints == []
    assert browser.requests == [path.as_uri()]
    assert browser.evaluate("window.owned") is None
    assert browser.evaluate("document.querySelector('h3').textContent") == HOSTILE
    assert browser.evaluate("document.querySelector('img').naturalWidth") == 64
    assert browser.evaluate(
        "new Promise((done) => { const a = document.querySelector('audio');"
        " a.onloadedmetadata = () => done(a.duration); a.onerror = () => done(-1); a.load(); a.preload = 'auto'; })"
    ) == pytest.approx(0.5)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_sticks_out_of_a_window(browser: Browser, tmp_path: Path, width: int) -> None:
    path = write_examples(
        [example(number, "x" * 200) for number in range(3)], tmp_path, title="y" * 200, line="z" * 400
    )
    browser.open(path)
    browser.screenshot(tmp_path / "page.png", width=width, dark=width < 1000)
    assert browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
