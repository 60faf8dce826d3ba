"""Reads the object boxes from a sample's annotations, in each of the forms that recipes write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from avmanifest.parsing import metadata_of

_MAX_BOXES: Final = 100


@dataclass(frozen=True, slots=True)
class Box:
    """A box around an object in a frame. Edges are shares of the width and height, from 0 to 1."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    number: int  # of the object in the sample, from 0; it sets the color in all frames
    sounding: bool


def boxes_in(annotations: str, frame: int, num_frames: int) -> list[Box]:
    """The boxes in one frame of a sample; empty if the annotations have none or are malformed.

    Synthetic datasets have a box of each object in each frame. VGG-SS and MUSIC's duets have boxes of the first frame.

    Args:
        annotations: JSON text of the manifest's column `annotations`.
        frame: Number of the frame, from 0.
        num_frames: Stored frames of the sample.
    """
    content = metadata_of(annotations)
    boxes: list[Box | None] = []
    objects = content.get("objects")
    if isinstance(objects, list):
        for place, item in enumerate(objects):
            fields: dict[str, Any] = item if isinstance(item, dict) else {}
            by_frame = fields.get("boxes")
            if isinstance(by_frame, list) and len(by_frame) == num_frames:
                label, sounding = str(fields.get("label", "")), bool(fields.get("sounding"))
                boxes.append(_box(by_frame[frame], label, place, sounding=sounding))
    elif isinstance(content.get("boxes"), list) and frame == 0:
        labels = content.get("box_labels")
        for place, edges in enumerate(content["boxes"]):
            label = str(labels[place]) if isinstance(labels, list) and place < len(labels) else ""
            boxes.append(_box(edges, label, place, sounding=True))
    return [box for box in boxes if box is not None][:_MAX_BOXES]


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
