"""The boxes in a sample's annotations, whatever recipe wrote them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

_MOST_BOXES: Final = 100


@dataclass(frozen=True, slots=True)
class Box:
    """A box in a frame, edges from 0 to 1, and what it is of."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    number: int  # of the object in the sample, from 0: it has the same color in each frame
    sounding: bool


def boxes_in(annotations: str, frame: int, num_frames: int) -> list[Box]:
    """The boxes of frame number `frame` of a sample; none where annotations have none, or are not what a recipe writes.

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
    return Box(x0, y0, x1, y1, label, place, sounding)
