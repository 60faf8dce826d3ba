"""Boxes and masks of a sample, whatever recipe they come from: what is drawn over its frames."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from jaxtyping import UInt8

COLORS: Final = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip
"""RGB of the first, second, ... object: told apart by people who see few colors, too (Okabe and Ito)."""

FILLED: Final = 96  # of 255: how much of a frame a mask hides
_MOST_BOXES: Final = 100


@dataclass(frozen=True, slots=True)
class Box:
    """A box in a frame, edges from 0 to 1, and what it is of."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    color: int  # row of COLORS
    sounding: bool


def boxes_in(annotations: str, frame: int, num_frames: int) -> list[Box]:
    """The boxes of one of a sample's frames; none where annotations tell of none, or are not what a recipe writes.

    A drawn dataset has a box of each object in each frame; VGG-SS has boxes of its one frame; MUSIC's duets of the
    first.
    """
    try:
        content = json.loads(annotations or "{}")
    except ValueError:
        return []
    if not isinstance(content, dict):
        return []
    found: list[Box | None] = []
    objects = content.get("objects")
    if isinstance(objects, list):
        for place, item in enumerate(objects):
            told: dict[str, Any] = item if isinstance(item, dict) else {}
            boxes = told.get("boxes")
            if isinstance(boxes, list) and len(boxes) == num_frames:
                found.append(_box(boxes[frame], str(told.get("label", "")), place, sounding=bool(told.get("sounding"))))
    elif isinstance(content.get("boxes"), list) and frame == 0:
        labels = content.get("box_labels")
        for place, edges in enumerate(content["boxes"]):
            label = str(labels[place]) if isinstance(labels, list) and place < len(labels) else ""
            found.append(_box(edges, label, place, sounding=True))
    return [box for box in found if box is not None][:_MOST_BOXES]


def _box(edges: Any, label: str, place: int, *, sounding: bool) -> Box | None:
    if not isinstance(edges, Sequence) or isinstance(edges, str) or len(edges) != 4:
        return None
    try:
        x0, y0, x1, y1 = (min(max(float(edge), 0.0), 1.0) for edge in edges)
    except (TypeError, ValueError):
        return None
    if not (x1 > x0 and y1 > y0):
        return None
    return Box(x0, y0, x1, y1, label, place % len(COLORS), sounding)


def mask_overlay(png: bytes) -> UInt8[np.ndarray, "h w 4"] | None:
    """A mask as a picture to lay over its frame: objects in COLORS, filled thinly, with an edge. None for no picture.

    Gray values are objects (0 none, k the k-th; 255 is the first); a colored mask keeps its colors, black is none.
    """
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if mask is None:
        return None
    if mask.ndim == 3:
        colors = mask[..., 2::-1]
        inside = colors.any(axis=-1)
        shape = inside.astype(np.uint8)
    else:
        values = np.where(mask == 255, 1, mask)
        colors = np.array(COLORS, np.uint8)[(values.astype(np.int64) - 1) % len(COLORS)]
        inside, shape = values > 0, values.astype(np.uint8)
    edge = (cv2.morphologyEx(np.asarray(shape), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0) & inside
    alpha = np.where(edge, 255, np.where(inside, FILLED, 0)).astype(np.uint8)
    return np.dstack([colors, alpha])
