"""The page itself: its parts are scripts, it allows nothing but its own, and text stays text."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from avdata.draw import page as page_module
from avdata.draw.page import SCRIPTS, embedded_json, page, page_policy, page_script, table

FOLDER = Path(page_module.__file__).parent / "js"


def test_every_part_of_the_script_is_in_the_page():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(SCRIPTS)
    assert all((FOLDER / name).read_text() in page_script() for name in SCRIPTS)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_the_script_is_valid(tmp_path):
    path = tmp_path / "page.js"
    path.write_text(page_script())
    checked = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_script_makes_no_markup_and_asks_no_other_place():
    """Text of a dataset may only become text. Only remote.js asks, at addresses below the page's own."""
    for name in SCRIPTS:
        text = (FOLDER / name).read_text()
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert forbidden not in text, name
        if name != "remote.js":
            assert "fetch(" not in text, name
        assert re.findall(r"https?://[^\"]+", text) in ([], ["http://www.w3.org/2000/svg"]), name


def test_only_a_served_page_may_ask_its_server():
    assert "connect-src" not in page_policy()
    assert "'self'" not in page_policy()
    assert "connect-src 'self'" in page_policy(served=True)
    assert page_policy() in page("title", "", {})
    for one in (page_policy(), page_policy(served=True)):
        assert "unsafe" not in one
        assert "default-src 'none'" in one


def test_text_cannot_leave_its_place():
    hostile = "</script><script>alert(1)</script>\"'&\u2028"
    assert "<" not in embedded_json({hostile: hostile})
    assert "<script" not in table([hostile], [[hostile]], label=hostile)
    assert "</title><" not in page("</title><b>", "", {})
