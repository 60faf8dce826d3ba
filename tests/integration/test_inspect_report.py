"""The report in a real browser: nothing to complain of, tables filter, sound plays, hostile names stay text."""

import json
import re
from pathlib import Path

import pytest

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.report import ReportConfig, choose_samples, report, write_report
from avdata.audit.summary import summarize
from avdata.audit.verify import Verification, verify
from avdata.prepare.job import prepare
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import table_from_rows, write_table
from tests.browser import CHROMIUM, Browser
from tests.shards import draw_dataset
from tests.videos import SMALL

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make browser, or apt-get install chromium")

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\"'\u2028"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def tab(browser):
    browser.complaints.clear()
    browser.requests.clear()
    return browser


def page_of(root: Path, to: Path, *, verification: Verification | None = None, num_samples: int = 6) -> Path:
    dataset = open_audit_dataset(str(root))
    write_report(to, dataset, summarize(dataset), verification, ReportConfig(num_samples=num_samples))
    return to


@pytest.fixture(scope="module")
def synth_page(tmp_path_factory):
    """A drawn dataset with boxes and masks."""
    from avdata.prepare.config import Supervision, SynthConfig
    from avdata.prepare.job import PrepareConfig
    from avmanifest.recipe import load_recipe

    folder = tmp_path_factory.mktemp("synth")
    prepare(
        PrepareConfig(
            recipe=load_recipe("synth"),
            out=folder / "set",
            sample=SMALL,
            synth=SynthConfig(num_clips=6, width=96, height=64, seconds=3.2, fps=10),
            supervision=Supervision(num_workers=1),
        )
    )
    dataset = open_audit_dataset(str(folder / "set"))
    return page_of(folder / "set", folder / "report.html", verification=verify(dataset, deep=True))


def test_it_opens_without_a_complaint_and_fetches_nothing(tab, synth_page):
    tab.open(synth_page)
    assert tab.evaluate("document.querySelectorAll('.sample').length") == 4
    assert tab.evaluate("document.querySelectorAll('svg.chart').length") >= 4
    assert "Everything is as it was promised" in tab.evaluate("document.body.innerText")
    assert tab.complaints == []
    assert tab.requests == [synth_page.as_uri()]


def test_frames_spectrogram_and_truth_are_drawn(tab, synth_page):
    tab.open(synth_page)
    first = "document.querySelector('.sample')"
    assert tab.evaluate(f"{first}.querySelectorAll('.frames figure').length") == SMALL.num_frames
    assert re.fullmatch(r"\d\.\d\d s", tab.evaluate(f"{first}.querySelector('figcaption').textContent"))
    loaded = """Promise.all([...document.querySelectorAll('.sample image')].map((e) => {
        const i = new Image(); i.src = e.getAttribute('href'); return i.decode().then(() => i.naturalWidth); }))"""
    assert min(tab.evaluate(loaded)) > 0
    assert tab.evaluate(f"{first}.querySelectorAll('rect.box').length") >= SMALL.num_frames
    assert tab.evaluate(f"{first}.querySelectorAll('image.truth').length") == SMALL.num_frames
    labels = tab.evaluate(f"[...{first}.querySelectorAll('.mel text')].map((e) => e.textContent)")
    assert {"1k", "8k", "0", "3", "mel frequency (Hz)", "time (s), paper"} <= set(labels)
    box = f"getComputedStyle({first}.querySelector('rect.box')).display"
    assert tab.evaluate(box) != "none"
    tab.evaluate("document.querySelector('#samples input[type=checkbox]').click()")
    assert tab.evaluate(box) == "none"


def test_the_sound_plays_to_its_end(tab, synth_page):
    tab.open(synth_page)
    playing = """new Promise((done, fail) => { const a = document.querySelector('audio');
        a.onended = () => done([a.duration, a.currentTime]); a.onerror = () => fail(a.error.message);
        a.playbackRate = 8; a.play().catch(fail); })"""
    duration, reached = tab.evaluate(playing)
    assert duration == pytest.approx(3.2, abs=0.05)
    assert reached == pytest.approx(duration, abs=0.05)
    assert float(tab.evaluate("document.querySelector('.head').getAttribute('x1')")) > 100
    assert tab.complaints == []


def test_pages_of_samples_turn_and_splits_are_chosen(tab, synth_page):
    tab.open(synth_page)
    keys = "[...document.querySelectorAll('.sample h3')].map((e) => e.textContent)"
    first = tab.evaluate(keys)
    tab.evaluate("[...document.querySelectorAll('#samples button')].at(-1).click()")
    assert not set(first) & set(tab.evaluate(keys))
    tab.evaluate(
        "(() => { const s = document.querySelector('#samples select'); s.value = 'test'; "
        "s.dispatchEvent(new Event('change')); })()"
    )
    chips = tab.evaluate("[...document.querySelectorAll('.sample')].map((e) => e.querySelector('.chip').textContent)")
    assert set(chips) == {"test"}


def hostile_manifest(path: Path, count: int) -> Path:
    rows = []
    for number in range(count):
        bad = dict.fromkeys(CLIP_SCHEMA.names) | {
            "key": f"k{number}", "video_id": f"{HOSTILE}{number}", "source": HOSTILE, "start_s": 0.0,
            "labels": [HOSTILE], "split": ("train", "test")[number % 2], "reason": f"{HOSTILE} number {number} of them",
            "status": ("media_corrupt", "net_dns", "media_short")[number % 3], "position": number, "members": [],
            "frame_times_s": [], "annotations": HOSTILE, "licence": HOSTILE,
        }  # fmt: skip
        rows.append(bad)
    write_table(table_from_rows(rows, CLIP_SCHEMA), path)
    return path


def test_ten_thousand_failures_are_filtered_and_hostile_names_stay_text(tab, tmp_path):
    tab.open(page_of(hostile_manifest(tmp_path / "m.parquet", 10_000), tmp_path / "report.html"))
    rows, count = (
        "document.querySelectorAll('#failures tbody tr').length",
        "document.querySelector('#failures .count').textContent",
    )
    assert tab.evaluate(rows) == 100  # what is looked at, not what there is
    assert tab.evaluate(count) == "1–100 of 10,000 failures"
    tab.type_into("#failures input", "number 77 media_corrupt")
    wanted = [n for n in range(10_000) if "77" in str(n) and n % 3 == 0]
    assert tab.evaluate(count) == f"1–{len(wanted)} of {len(wanted)} failures"
    cells = tab.evaluate("[...document.querySelector('#failures tbody tr').cells].map((e) => e.textContent)")
    assert cells[3] == f"{HOSTILE} number {next(n for n in wanted if n % 2 == 0)} of them"  # train first
    tab.evaluate(
        "(() => { const s = document.querySelectorAll('#failures select')[1]; s.value = 'test'; "
        "s.dispatchEvent(new Event('change')); })()"
    )
    assert set(
        tab.evaluate("[...document.querySelectorAll('#failures tbody tr')].map((e) => e.cells[1].textContent)")
    ) == {"test"}
    tab.type_into("#failures input", "no such thing")
    assert tab.evaluate(count) == "0–0 of 0 failures"
    assert tab.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    assert tab.evaluate("document.scripts.length") == 2
    assert tab.complaints == []
    assert len(tab.requests) == 1


def test_a_sample_with_hostile_labels_is_text(tab, tmp_path):
    draw_dataset(tmp_path / "set", 3, 3, num_frames=1, seconds=1.0, labels=lambda n: [HOSTILE])
    description = json.loads((tmp_path / "set" / "dataset.json").read_text())
    hostile = {"recipe": {"name": HOSTILE, "title": HOSTILE}, "config": {"mel": ["paper"], HOSTILE: HOSTILE}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(description | hostile))
    tab.open(page_of(tmp_path / "set", tmp_path / "report.html"))
    assert tab.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert tab.evaluate("document.querySelectorAll('.sample .chip')[1].textContent") == HOSTILE
    assert tab.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    assert tab.complaints == []


def test_the_policy_stops_what_gets_in_all_the_same(tab, tmp_path, synth_page):
    """Markup put into the finished page by hand: nothing of it runs or is fetched."""
    page = tmp_path / "report.html"
    evil = (
        '<img src="http://127.0.0.1:9/x" onerror="window.got = 1"><script>window.got = 1</script>'
        '<b style="color:red" id="b"></b>'
    )
    page.write_text(synth_page.read_text().replace("<main>", f"<main>{evil}"))
    tab.open(page)
    assert tab.evaluate("window.got") is None
    assert tab.evaluate("document.getElementById('b').style.color") == ""
    assert any("Content Security Policy" in said for said in tab.complaints)


def test_a_run_opens_too(tab, tmp_path):
    from avmodel.inspect_run import read_run, write_run_report
    from tests.runfolder import write_run

    write_run_report(tmp_path / "run.html", read_run(write_run(tmp_path / "run")))
    tab.open(tmp_path / "run.html")
    assert tab.evaluate("[...document.querySelectorAll('.picture')].every((e) => e.complete && e.naturalWidth === 200)")
    assert tab.evaluate("document.querySelectorAll('polyline').length") == 4
    assert tab.complaints == []


def test_narrow_windows_do_not_scroll_sideways(tab, synth_page, tmp_path):
    tab.open(synth_page)
    for width in (1280, 390):
        tab.screenshot(tmp_path / "shot.png", width=width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_a_damaged_sample_does_not_stop_the_report(tmp_path):
    draw_dataset(tmp_path / "set", 4, 2, num_frames=1, seconds=1.0)
    (tmp_path / "set" / "train" / "00001.tar").unlink()
    dataset = open_audit_dataset(str(tmp_path / "set"))
    page = report(dataset, summarize(dataset), verify(dataset), ReportConfig())
    assert "cannot be read" in page
    assert "00001.tar is missing" in page


def test_samples_are_spread_and_flagged_ones_are_among_them(tmp_path):
    draw_dataset(
        tmp_path / "set", 20, 10, num_frames=1, seconds=1.0, flags=lambda n: {"silent": n in (3, 4)}, failed=[0]
    )
    dataset = open_audit_dataset(str(tmp_path / "set"))
    chosen = [key for _, key in choose_samples(dataset, 8)]
    assert {"clip-00003", "clip-00004"} <= set(chosen)
    assert len(chosen) == 8
    assert "clip-00000" not in chosen
    assert chosen[-1] == "clip-00019"
    assert len(choose_samples(dataset, 100)) == 19
