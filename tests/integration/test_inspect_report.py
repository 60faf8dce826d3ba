"""The report in a real browser: nothing to complain of, clips are found by every road, sound plays, names stay text."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from avdata.audit.choice import all_rows
from avdata.audit.dataset import open_audit_dataset
from avdata.audit.maps import Maps
from avdata.audit.report import ReportConfig, report
from avdata.audit.rows import ClipRows, parse_query
from avdata.audit.summary import summarize
from avdata.audit.verify import Verification, verify
from avdata.draw import page as page_module
from avdata.draw.page import write_page
from avdata.prepare.job import prepare
from avmanifest.columns import Column
from avmanifest.errors import ConfigError
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import table_from_rows, write_table
from tests.browser import CHROMIUM, Browser
from tests.shards import draw_dataset
from tests.videos import SMALL

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make browser, or apt-get install chromium")

SCRIPTS_FOLDER = Path(page_module.__file__).parent / "js"
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


def page_of(
    root: Path,
    to: Path,
    *,
    verification: Verification | None = None,
    num_samples: int = 4,
    make_maps=None,
) -> Path:
    dataset = open_audit_dataset(str(root))
    config = ReportConfig(num_samples=num_samples)
    write_page(to, report(dataset, summarize(dataset), verification, config, make_maps=make_maps))
    return to


def plain_maps(keys):
    """A map whose points stand in a row, in the order of the clips."""
    rows = np.array([row for row, key in enumerate(keys) if key])
    places = np.stack([np.linspace(0, 1, len(rows)), np.full(len(rows), 0.5)], axis=1)
    return Maps(rows=rows, streams={"fusion": places, "image": places[::-1].copy()}, said="Of a test.")


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


def values_of(number):
    """What the samples of `mixed` have in the columns that are measured."""
    return {
        "silent": number in (3, 8), "duration_s": 1.0 + number / 10, "rms_dbfs": -60.0 + 2 * number,
        "video_id": f"video{number}",
    }  # fmt: skip


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Twenty clips, two of them failed; a map of the samples."""
    folder = tmp_path_factory.mktemp("mixed")
    labels = ("dog barking", "rain", HOSTILE)
    columns = [Column(name="score", dtype=pa.float64(), meaning=HOSTILE, title=HOSTILE, unit=HOSTILE, source="list")]
    draw_dataset(
        folder / "set", 20, 10, num_frames=2, seconds=1.0, failed=[7, 12], columns=columns,
        labels=lambda n: [labels[n % 3]], flags=lambda n: values_of(n) | {"score": float(n % 4)},
    )  # fmt: skip
    return page_of(folder / "set", folder / "report.html", make_maps=plain_maps)


KEYS = "[...document.querySelectorAll('.clips .open')].map((e) => e.textContent)"
COUNT = "document.querySelector('.pager .count').textContent"


def clip(*numbers):
    return [f"clip-{number:05d}" for number in numbers]


def choose_option(tab, label, text):
    """Choose an option of a field by the words that it begins with."""
    tab.evaluate(
        f"""(() => {{ const s = [...document.querySelectorAll('.field')]
        .find((e) => e.firstChild.textContent === {label!r}).querySelector('select');
        s.value = [...s.options].find((o) => o.textContent.startsWith({text!r})).value;
        s.dispatchEvent(new Event('change')); }})()"""
    )


def box_of(tab, selector):
    """Left, top, width and height of an element that is brought into the window."""
    found = f"document.querySelector({selector!r})"
    tab.evaluate(f"{found}.scrollIntoView({{ block: 'center' }})")
    return tab.evaluate(
        f"(() => {{ const b = {found}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; }})()"
    )


def held(tab):
    """What the page's script reads of the clips."""
    return tab.evaluate("JSON.parse(document.getElementById('data').textContent)")["clips"]


def settled(tab):
    """Wait until the page has answered what was asked last."""
    tab.evaluate("new Promise((done) => setTimeout(done, 30))")


def test_it_opens_without_a_complaint_and_fetches_nothing(tab, synth_page):
    tab.open(synth_page)
    assert tab.evaluate("document.querySelectorAll('.clips tbody tr').length") == 6
    assert tab.evaluate("document.querySelectorAll('svg.chart').length") >= 4
    assert "Everything is as it was promised" in tab.evaluate("document.body.innerText")
    assert tab.complaints == []
    assert tab.requests == [synth_page.as_uri()]


def test_frames_spectrogram_and_truth_are_drawn(tab, synth_page):
    tab.open(synth_page)
    row = tab.evaluate("JSON.parse(document.getElementById('data').textContent).clips.samples")
    place = int(next(iter(row)))
    tab.evaluate(f"document.querySelectorAll('.clips .open')[{place}].click()")
    first = "document.querySelector('.sample')"
    tab.wait(f"{first} !== null && {first}.querySelectorAll('.mel text').length > 5")
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
    tab.evaluate("document.querySelector('.filters input[type=checkbox]').click()")
    assert tab.evaluate(box) == "none"


def test_the_sound_plays_to_its_end(tab, synth_page):
    tab.open(synth_page)
    place = tab.evaluate("Object.keys(JSON.parse(document.getElementById('data').textContent).clips.samples)[0]")
    tab.evaluate(f"document.querySelectorAll('.clips .open')[{place}].click()")
    tab.wait("document.querySelector('audio') !== null")
    playing = """new Promise((done, fail) => { const a = document.querySelector('audio');
        a.onended = () => done([a.duration, a.currentTime]); a.onerror = () => fail(a.error.message);
        a.playbackRate = 8; a.play().catch(fail); })"""
    duration, reached = tab.evaluate(playing)
    assert duration == pytest.approx(3.2, abs=0.05)
    assert reached == pytest.approx(duration, abs=0.05)
    assert float(tab.evaluate("document.querySelector('.head').getAttribute('x1')")) > 100
    assert tab.complaints == []


def test_failures_stand_first_with_their_reasons(tab, mixed):
    tab.open(mixed)
    assert tab.evaluate(KEYS)[:3] == clip(7, 12, 0)
    assert tab.evaluate("document.querySelector('.clips tbody .reason').innerText") == "media_corrupt\ndrawn so"
    tab.evaluate("document.querySelector('.clips .open').click()")
    tab.wait("document.querySelector('.opened .sample') !== null")
    assert "the file cannot be decoded" in tab.evaluate("document.querySelector('.opened').innerText")
    assert "All 18 samples; 4, drawn with seed 0" in tab.evaluate("document.querySelector('#clips p').textContent")


def test_clips_are_found_by_status_label_flag_and_words(tab, mixed):
    tab.open(mixed)
    choose_option(tab, "Status", "every status but ok")
    assert tab.evaluate(KEYS) == clip(7, 12)
    choose_option(tab, "Status", "every status")
    choose_option(tab, "Label", HOSTILE)
    assert tab.evaluate(KEYS) == clip(2, 5, 8, 11, 14, 17)
    choose_option(tab, "Flag", "silent")
    assert (tab.evaluate(KEYS), tab.evaluate(COUNT)) == (clip(8), "1–1 of 1 clip")
    tab.evaluate("[...document.querySelectorAll('.filters button')].at(-1).click()")  # Reset
    settled(tab)
    assert tab.evaluate(COUNT) == "1–20 of 20 clips"
    tab.type_into(".filters input[type=search]", "VIDEO1 rain")
    settled(tab)
    assert tab.evaluate(KEYS) == clip(1, 10, 13, 16, 19)
    tab.type_into(".filters input[type=search]", "no such thing")
    settled(tab)
    assert tab.evaluate(COUNT) == "0–0 of 0 clips"


def test_headings_sort(tab, mixed):
    tab.open(mixed)
    button = "[...document.querySelectorAll('.sort')].find((e) => e.textContent === 'Duration (s)')"
    tab.evaluate(f"{button}.focus()")
    tab.press("Enter")
    assert tab.evaluate(KEYS)[:2] == clip(0, 1)
    assert tab.evaluate(f"{button}.parentElement.getAttribute('aria-sort')") == "ascending"
    tab.press("Enter")
    settled(tab)
    assert tab.evaluate(KEYS)[:2] == clip(19, 18)
    assert tab.evaluate("document.querySelectorAll('[aria-sort=ascending], [aria-sort=descending]').length") == 1


def test_a_brush_is_moved_by_keys_and_drawn_by_the_pointer(tab, mixed):
    tab.open(mixed)
    tab.evaluate("document.querySelector('input[type=range]').focus()")
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Duration, from"
    tab.press("ArrowRight", 21)
    settled(tab)
    longer = [number for number in range(20) if number / 19 * 40 >= 21]
    assert set(tab.evaluate(KEYS)) == set(clip(*longer))
    assert tab.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "from 1.998 s"
    bars = (
        "[...document.querySelectorAll('.histogram')].map((h) => "
        "[...h.querySelectorAll('.bar')].filter((b) => b.getAttribute('height') > 0).length)"
    )
    assert tab.evaluate(bars)[0] == 20  # its own histogram keeps all, the others show what is left
    assert tab.evaluate(bars)[1] == len(longer)
    tab.evaluate("document.querySelector('.said button').click()")
    settled(tab)
    assert tab.evaluate(COUNT) == "1–20 of 20 clips"
    left, top, width, height = box_of(tab, ".histogram svg")
    tab.drag((left + 1, top + height / 2), (left + width / 4, top + height / 2))
    settled(tab)
    shortest = [number for number in range(20) if number / 19 * 40 < 11]
    assert set(tab.evaluate(KEYS)) == set(clip(*shortest))
    assert tab.complaints == []


def test_the_map_shows_opens_and_chooses_samples(tab, mixed):
    tab.open(mixed)
    left, top, width, height = box_of(tab, ".map canvas")
    tab.point(left + 15, top + height / 2)
    tab.wait("!document.querySelector('.tip').hidden")
    assert tab.evaluate("document.querySelector('.tip p').textContent") == "clip-00000: dog barking"
    sizes = (
        "Promise.all([...document.querySelectorAll('.tip img')]"
        ".map((i) => i.decode().then(() => [i.alt, i.naturalWidth > 0])))"
    )
    assert tab.evaluate(sizes) == [["frame", True], ["log-mel", True]]
    tab.evaluate("document.querySelector('.map canvas').focus()")
    tab.press("ArrowRight", 2)
    assert tab.evaluate("document.querySelector('[aria-live=polite].unseen').textContent") == f"clip-00002: {HOSTILE}"
    tab.press("Enter")
    tab.wait("document.querySelector('.samples .sample') !== null")
    assert tab.evaluate("document.querySelector('.samples h3').textContent") == "clip-00002"
    tab.press(" ")
    settled(tab)
    assert tab.evaluate(KEYS) == clip(1, 2, 3)  # a tenth of the map at each side
    tab.press("Escape")
    assert tab.evaluate("document.querySelector('.tip').hidden")
    settled(tab)
    assert tab.evaluate(COUNT) == "1–20 of 20 clips"
    tab.drag((left + width / 2, top + 5), (left + width + 20, top + height - 5))  # it ends beside the map
    settled(tab)
    assert tab.evaluate(KEYS) == clip(10, 11, 13, 14, 15, 16, 17, 18, 19)
    choose_option(tab, "Stream", "image")
    settled(tab)
    assert tab.evaluate(COUNT) == "1–20 of 20 clips"
    assert tab.complaints == []


def test_a_click_on_the_map_plays_what_the_page_holds(tab, mixed):
    tab.open(mixed)
    maps, place = held(tab)["maps"], int(next(iter(held(tab)["samples"])))
    x, y = maps["streams"][0][1][maps["rows"].index(place)]
    left, top, width, height = box_of(tab, ".map canvas")
    for kind in ("mousePressed", "mouseReleased"):
        tab.point(left + 14 + x * (width - 28), top + 14 + y * (height - 28), kind)
    tab.wait("document.querySelector('.samples audio') !== null")
    tab.wait("document.querySelector('.samples audio').played.length > 0")
    assert tab.complaints == []


def test_samples_of_which_the_page_has_thumbnails_say_how_to_see_more(tab, mixed):
    tab.open(mixed)
    whole = [int(place) for place in held(tab)["samples"]]
    assert len(whole) == 4
    other = next(number for number in range(20) if number not in (*whole, 7, 12))
    tab.evaluate(f"[...document.querySelectorAll('.open')].find((e) => e.textContent === '{clip(other)[0]}').click()")
    tab.wait("document.querySelector('.opened .sample') !== null")
    assert "--serve shows all of it" in tab.evaluate("document.querySelector('.opened').innerText")
    assert tab.evaluate("document.querySelectorAll('.opened img').length") == 2


def test_the_keyboard_goes_through_the_page_in_order(tab, mixed):
    tab.open(mixed)
    tab.evaluate("document.querySelector('.filters input').focus()")
    name = (
        "(() => { const e = document.activeElement; "
        "return e.getAttribute('aria-label') || (e.closest('label') || e).innerText.split('\\n')[0]; })()"
    )
    said = []
    for _ in range(60):
        said.append(tab.evaluate(name))
        tab.press("Tab")
    assert said[:7] == ["Search", "Status", "Label", "Flag", "Reset", "Measured columns", "Duration, from"]
    order = [said.index(one) for one in ("Duration, to", "Loudness, from", "Stream", "Map of features", "Clip")]
    assert order == sorted(order)
    assert said.index("Map of features") < said.index("clip-00007") < said.index("clip-00012")


def test_everything_that_is_used_has_a_name(tab, mixed):
    """Of each control the name that screen readers say, by the browser's own reckoning."""
    tab.open(mixed)
    nodes = tab.ask("Accessibility.getFullAXTree")["nodes"]
    used = {"button", "combobox", "searchbox", "slider", "checkbox", "image", "img", "table", "group", "application"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in used
    ]
    assert {"button", "combobox", "searchbox", "slider", "table", "application"} <= {role for role, _ in named}
    assert [role for role, name in named if not name.strip()] == []
    ids = tab.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


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


def test_thousands_of_failures_are_searched_and_hostile_names_stay_text(tab, tmp_path):
    tab.open(page_of(hostile_manifest(tmp_path / "m.parquet", 4000), tmp_path / "report.html"))
    # What is looked at, not what there is:
    assert tab.evaluate("document.querySelectorAll('.clips tbody tr').length") == 50
    assert tab.evaluate(COUNT) == "1–50 of 4,000 clips"
    tab.type_into(".filters input[type=search]", "number 7 media_corrupt")
    settled(tab)
    wanted = [n for n in range(4000) if "7" in str(n) and n % 3 == 0]
    assert tab.evaluate(COUNT) == f"1–{min(50, len(wanted))} of {len(wanted)} clips"
    first = next(n for n in wanted if n % 2 == 0)  # train comes first
    reason = "document.querySelector('.clips tbody .reason .soft').textContent"
    assert tab.evaluate(reason) == f"{HOSTILE} number {first} of them"
    choose_option(tab, "Split", "test")
    splits = "[...document.querySelectorAll('.clips tbody tr')].map((e) => e.cells[3].textContent)"
    assert set(tab.evaluate(splits)) == {"test"}
    tab.evaluate("[...document.querySelectorAll('.pager button')].at(-1).click()")
    settled(tab)
    assert tab.evaluate(COUNT).startswith("51–")
    assert tab.evaluate("document.querySelectorAll('img, iframe, object').length") == 0
    assert tab.evaluate("document.scripts.length") == 2
    assert tab.complaints == []
    assert len(tab.requests) == 1


def test_the_page_of_a_manifest_has_its_clips_without_media(tab, mixed, tmp_path):
    tab.open(page_of(mixed.parent / "set" / "manifest", tmp_path / "report.html"))
    assert tab.evaluate(KEYS)[:3] == clip(7, 12, 0)
    assert tab.evaluate("document.querySelectorAll('.thumbs, img').length") == 0
    tab.evaluate("document.querySelectorAll('.open')[2].click()")
    tab.wait("document.querySelector('.opened .sample') !== null")
    shown = tab.evaluate("document.querySelector('.opened').innerText")
    assert "video0 · drawn" in shown
    assert "a manifest, which has no frames and no sound" in shown
    assert tab.complaints == []


def test_the_script_answers_as_the_server_would(tab, mixed):
    """The same queries to the script of the page and to ClipRows, over the same clips."""
    dataset = open_audit_dataset(str(mixed.parent / "set"))
    rows = ClipRows(table=all_rows(dataset), columns=dataset.columns)
    rows = rows.with_maps(
        plain_maps(
            [
                key if status == "ok" else ""
                for key, status in zip(
                    rows.table.column("key").to_pylist(), rows.table.column("status").to_pylist(), strict=True
                )
            ]
        )
    )
    scripts = "\n".join((SCRIPTS_FOLDER / name).read_text() for name in ("elements.js", "local.js"))
    tab.open(mixed)
    queries = [
        {},
        {"text": "CLIP-0001 dog"},
        {"text": HOSTILE[:9], "sort": "labels", "descending": True},
        {"status": -1},
        {"flag": 0, "sort": 1},
        {"label": 1, "sort": 0, "descending": True, "limit": 3, "offset": 2},
        {"bins": [[0, 3, 30], [1, 10, 39]], "sort": 2},
        {"bins": [[2, 0, 20]], "area": [1, 0.2, 0, 0.9, 1], "sort": "flags", "descending": True},
        {"sort": "split"},
        {"sort": 2, "descending": True},
    ]
    for query in queries:
        whole = {
            "text": "", "status": None, "split": None, "flag": None, "label": None, "bins": [], "area": None,
            "sort": "status", "descending": False, "offset": 0, "limit": 50,
        } | query  # fmt: skip
        ours = rows.answer(parse_query(json.dumps(whole)))
        theirs = tab.evaluate(
            f"(() => {{ {scripts}; const d = JSON.parse(document.getElementById('data').textContent).clips;"
            f"return localSource(d).query({json.dumps(whole)}); }})()"
        )
        assert theirs["total"] == ours["total"], query
        assert [row["id"] for row in theirs["rows"]] == [row[0] for row in ours["rows"]], query
        assert theirs["counts"] == ours["counts"], query
        assert theirs["mapped"] == ours["mapped"], query


def test_a_sample_with_hostile_labels_is_text(tab, tmp_path):
    draw_dataset(tmp_path / "set", 3, 3, num_frames=1, seconds=1.0, labels=lambda n: [HOSTILE])
    description = json.loads((tmp_path / "set" / "dataset.json").read_text())
    hostile = {"recipe": {"name": HOSTILE, "title": HOSTILE}, "config": {"mel": ["paper"], HOSTILE: HOSTILE}}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(description | hostile))
    tab.open(page_of(tmp_path / "set", tmp_path / "report.html", make_maps=plain_maps))
    assert tab.evaluate("document.querySelector('h1').textContent") == HOSTILE
    tab.evaluate("document.querySelector('.open').click()")
    tab.wait("document.querySelector('.sample') !== null")
    assert tab.evaluate("document.querySelectorAll('.sample .chip')[1].textContent") == HOSTILE
    assert tab.evaluate("document.querySelector('.map + .legend').textContent") == HOSTILE
    assert tab.evaluate("[...document.querySelectorAll('img')].every((e) => e.src.startsWith('data:image/webp'))")
    assert tab.evaluate("document.querySelectorAll('iframe, object').length") == 0
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


def test_labels_of_the_list_without_a_clip_are_counted_not_listed(tmp_path):
    draw_dataset(tmp_path / "set", 4, 2, num_frames=1, seconds=1.0, labels=lambda n: ["rain"], flac=False)
    dataset = open_audit_dataset(str(tmp_path / "set"))
    page = report(dataset, summarize(dataset), None, ReportConfig(num_samples=0))
    assert "0 of 0" not in page
    assert "2 classes of the list without a clip here." in page


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_samples": 1001}, "--samples 1001 is not from 0 to 1000"),
        ({"num_samples": -1}, "--samples -1 is not from 0 to 1000"),
        ({"num_thumbnails": 5001}, r"--thumbnails 5001 is not from 0 to \d+"),
        ({"seed": -1}, "--seed -1 is negative"),
    ],
)
def test_pages_of_other_sizes_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        ReportConfig(**wrong)
