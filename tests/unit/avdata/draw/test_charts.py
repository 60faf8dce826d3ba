"""Charts: every tick has a label of its own that is whole, and curves share their axes."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avdata.draw.charts import WIDTH, Line, histogram, line_chart, lines_chart, tick_labels, value_ticks


@given(st.floats(1e-6, 1e12), st.floats(-1e8, 1e8))
def test_ticks_have_labels_of_their_own(span, spans):
    ticks = value_ticks(span * spans, span * (spans + 1))  # as near to each other as a chart's ends may be
    assert len(set(tick_labels(ticks))) == len(set(ticks))


@pytest.mark.parametrize(
    ("ticks", "names"),
    [
        ([0, 10_000, 20_000], ["0", "10k", "20k"]),
        ([0.001, 0.002], ["0.001", "0.002"]),
        ([12_345_690_000, 12_345_700_000], ["12.34569G", "12.3457G"]),
        ([0, 500, 1000], ["0", "500", "1000"]),
        ([-2e6, 0, 2e6], ["-2M", "0", "2M"]),
        ([], []),
    ],
)
def test_labels_are_short_where_they_can_be(ticks, names):
    assert tick_labels(ticks) == names


def texts(svg):
    """(left end, right end, text) of each text, at the width that a letter has at most."""
    found = []
    for one in ElementTree.fromstring(svg).iter("text"):
        wide, x = 6.6 * len(one.text), float(one.get("x"))
        start = {"end": x - wide, "middle": x - wide / 2}.get(one.get("text-anchor"), x)
        found.append((start, start + wide, one.text))
    return found


@pytest.mark.parametrize("high", [40_000, 1e9, 123, 0.0007])
@pytest.mark.parametrize("value", [0.00012345, 1.0, 12_345_678_901.0])
def test_labels_are_whole(high, value):
    drawn = line_chart([0, high], [value, value * 1.000001], "loss over steps")
    assert all(start >= 0 and end <= WIDTH for start, end, _ in texts(drawn)), texts(drawn)
    assert texts(drawn)[-1][2] == "step"
    drawn = histogram([0, high / 2, high], [3, 4], "s", "seconds")
    assert all(start >= 0 and end <= WIDTH for start, end, _ in texts(drawn)), texts(drawn)


def test_a_histogram_of_one_value_says_it_alone():
    drawn = histogram([0.0, 0.0], [12], "dB", "a level")
    assert [text for _, _, text in texts(drawn)][-1] == "0"
    assert "<title>0 dB: 12</title>" in drawn
    assert "-0.5" not in drawn


def test_curves_of_several_runs_share_axes_and_keep_their_colors():
    drawn = lines_chart([Line("<a>", (0, 10), (1, 2)), Line("b", (), ()), Line("c", (0, 20), (2, math.nan))], "loss")
    lines = re.findall(r'<polyline class="([^"]+)" points="([^"]*)"><title>([^<]*)</title>', drawn)
    assert [(color, len(points.split()), name) for color, points, name in lines] == [
        ("line l0", 2, "&lt;a&gt;"),
        ("line l1", 0, "b"),
        ("line l2", 1, "c"),
    ]
    assert lines[0][1].split()[1].split(",")[1] == lines[2][1].split(",")[1]  # both are 2


def test_a_chart_without_a_finite_value_says_so():
    assert "no finite value" in lines_chart([Line("a", (1,), (math.nan,))], "loss")
