"""Boxes of every recipe's kind, brought to one form; what is no box is left out."""

import json

import pytest

from avdata.boxes import boxes_in


def test_a_drawn_dataset_has_a_box_of_each_object_in_each_frame():
    objects = [
        {"label": "moon", "sounding": True, "boxes": [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]},
        {"label": "ball", "sounding": False, "boxes": [[0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 1.4, 0.9]]},
    ]
    text = json.dumps({"objects": objects, "sounding": [0]})
    assert [(box.label, box.number, box.sounding) for box in boxes_in(text, 1, 2)] == [
        ("moon", 0, True),
        ("ball", 1, False),
    ]
    assert [box.label for box in boxes_in(text, 0, 2)] == ["moon"]  # the other has left the picture
    assert boxes_in(text, 1, 2)[1].x1 == 1.0
    assert boxes_in(text, 0, 3) == []  # of another number of frames


def test_listed_boxes_are_of_the_first_frame():
    text = json.dumps({"boxes": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], "box_labels": ["flute"]})
    assert [(box.x0, box.label) for box in boxes_in(text, 0, 2)] == [(0.0, "flute"), (0.5, "")]
    assert boxes_in(text, 1, 2) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "not json",
        "[1]",
        '{"boxes": 3}',
        '{"boxes": ["abcd", [1, 2], [0, 0, null, 1]]}',
        '{"objects": [3, {"boxes": [1]}]}',
    ],
)
def test_annotations_without_boxes_give_none(text):
    assert boxes_in(text, 0, 1) == []
