"""Boxes and masks of every recipe's kind, brought to one form; what is no truth is left out."""

import json

import cv2
import numpy as np
import pytest

from avdata.audit.truth import COLORS, boxes_in, mask_overlay


def test_a_drawn_dataset_has_a_box_of_each_object_in_each_frame():
    objects = [
        {"label": "moon", "sounding": True, "boxes": [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]},
        {"label": "ball", "sounding": False, "boxes": [[0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 1.4, 0.9]]},
    ]
    text = json.dumps({"objects": objects, "sounding": [0]})
    assert [(box.label, box.color, box.sounding) for box in boxes_in(text, 1, 2)] == [
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


def png(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask)[1].tobytes()


def test_objects_of_a_mask_have_the_colors_of_their_boxes_and_an_edge():
    mask = np.zeros((20, 30), np.uint8)
    mask[2:10, 2:10], mask[12:18, 12:28] = 1, 2
    overlay = mask_overlay(png(mask))
    assert overlay.shape == (20, 30, 4)
    assert tuple(overlay[6, 6, :3]) == COLORS[0]
    assert tuple(overlay[15, 20, :3]) == COLORS[1]
    assert overlay[0, 0, 3] == 0
    assert 0 < overlay[6, 6, 3] < overlay[2, 6, 3] == 255


def test_white_masks_and_colored_masks_are_masks_too():
    white = np.zeros((8, 8), np.uint8)
    white[2:6, 2:6] = 255
    assert tuple(mask_overlay(png(white))[3, 3, :3]) == COLORS[0]
    colored = np.zeros((8, 8, 3), np.uint8)
    colored[2:6, 2:6] = (10, 20, 200)  # BGR
    overlay = mask_overlay(png(colored))
    assert tuple(overlay[3, 3, :3]) == (200, 20, 10)
    assert overlay[0, 0, 3] == 0
    assert mask_overlay(b"no picture") is None
