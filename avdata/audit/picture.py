"""Draws a sample as a figure."""

from typing import Final

from matplotlib.figure import Figure

from avdata.audit.sample import StoredSample
from avdata.boxes import boxes_in
from avdata.draw.figures import FrameDrawing, draw_frames

MAX_FRAMES: Final = 20


def draw_sample(sample: StoredSample) -> Figure:
    """Draw the first MAX_FRAMES frames with their times, boxes and masks; below them the log-mel."""
    annotations = str(sample.facts.get("annotations", ""))
    frames = [
        FrameDrawing(
            content=frame.content,
            name=frame.name,
            time_s=frame.time_s,
            mask=frame.mask,
            boxes=boxes_in(annotations, place, len(sample.frames)),
        )
        for place, frame in enumerate(sample.frames[:MAX_FRAMES])
    ]
    return draw_frames(_title(sample), frames, sample.log_mel, sample.profile)


def _title(sample: StoredSample) -> str:
    parts = [f"{sample.key}   {sample.split}"]
    if sample.labels:
        parts.append(", ".join(sample.labels)[:120])
    if isinstance(loudness := sample.facts.get("rms_dbfs"), float):
        parts.append(f"{loudness:.1f} dBFS")
    return "   ".join([*parts, *sample.flags])
