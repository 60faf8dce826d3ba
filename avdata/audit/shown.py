"""Samples as the script of a page reads them: frames, spectrogram, sound, and thumbnails."""

from typing import Any, Final

from avdata.audit.sample import StoredFrame, StoredSample
from avdata.boxes import boxes_in
from avdata.draw.images import COLORS, color_log_mel, decode_rgb, mask_overlay, to_png
from avdata.draw.mel_axis import TICKS_HZ, band_of, seconds_of, time_ticks
from avdata.draw.page import data_uri
from avdata.draw.thumbnails import WEBP, frame_thumbnail, mel_thumbnail
from avmanifest.secrets import excerpt
from avmanifest.wording import counted

_TYPES: Final = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_LONGEST_FACT: Final = 200  # characters of a value of an extra column


def sample_data(sample: StoredSample, sound: str) -> dict[str, Any]:
    """A sample with all frames and its spectrogram.

    Args:
        sample: The sample.
        sound: Address of its sound; empty: it has none.
    """
    annotations = str(sample.facts.get("annotations", ""))
    frames = [_frame_data(frame, annotations, place, len(sample.frames)) for place, frame in enumerate(sample.frames)]
    return {
        "facts": _facts(sample),
        "frames": [frame for frame in frames if frame is not None],
        "mel": None if sample.log_mel is None else _mel_data(sample),
        "sound": sound,
    }


def _facts(sample: StoredSample) -> str:
    facts = sample.facts
    words = [str(facts["video_id"])] if facts.get("video_id") else []
    for name, form in (("duration_s", "{:.2f} s"), ("rms_dbfs", "{:.1f} dBFS"), ("fps", "{:.4g} frames/s")):
        if isinstance(facts.get(name), int | float):
            words.append(form.format(facts[name]))
    if facts.get("width") and facts.get("height"):
        words.append(f"{facts['width']} × {facts['height']}")
    if isinstance(facts.get("audio_video_offset_s"), float) and abs(facts["audio_video_offset_s"]) >= 0.0005:
        words.append(f"audio {facts['audio_video_offset_s'] * 1000:+.0f} ms")
    words += [f"{name} {excerpt(_plain(value), _LONGEST_FACT)}" for name, value in sample.own_facts.items()]
    return " · ".join([*words, sample.shard])


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _frame_data(frame: StoredFrame, annotations: str, place: int, num_frames: int) -> dict[str, Any] | None:
    picture = decode_rgb(frame.content)
    if picture is None:
        return None
    height, width = picture.shape[:2]
    overlay = None if frame.mask is None else mask_overlay(frame.mask)
    return {
        "image": data_uri(frame.content, _TYPES.get(frame.name.rsplit(".", 1)[-1], "image/jpeg")),
        "caption": frame.name if frame.time_s is None else f"{frame.time_s:.2f} s",
        "width": width,
        "height": height,
        "mask": "" if overlay is None else data_uri(to_png(overlay), "image/png"),
        "boxes": [
            {
                "x0": box.x0,
                "y0": box.y0,
                "x1": box.x1,
                "y1": box.y1,
                "label": box.label,
                "sounding": box.sounding,
                "color": "#{:02x}{:02x}{:02x}".format(*COLORS[box.number % len(COLORS)]),
            }
            for box in boxes_in(annotations, place, num_frames)
        ],
    }


def _mel_data(sample: StoredSample) -> dict[str, Any]:
    assert sample.log_mel is not None
    bands, columns = sample.log_mel.shape
    profile = sample.profile
    seconds = seconds_of(columns, profile) if profile else 0.0
    ticks = [(f, (band_of(f, profile) + 0.5) / bands) for f in TICKS_HZ] if profile else []
    times = [frame.time_s for frame in sample.frames if frame.time_s is not None]
    return {
        "image": data_uri(to_png(color_log_mel(sample.log_mel)), "image/png"),
        "seconds": seconds,
        "bands": [[min(at, 1.0), f"{f // 1000}k" if f >= 1000 else str(f)] for f, at in ticks if 0 <= at <= 1.02],
        "times": [[tick / seconds, f"{tick:g}"] for tick in time_ticks(seconds, 10)] if profile else [],
        "frames": [time / seconds for time in times if time <= seconds] if profile else [],
        "time_axis": f"time (s), {profile.name}" if profile else counted(columns, "column"),
        "band_axis": "mel frequency (Hz)" if profile else f"{bands} bands",
    }


def thumbnails(sample: StoredSample) -> tuple[bytes, bytes]:
    """WebP thumbnails of the middle frame and of the log-mel; empty where the sample has none."""
    frame = sample.frames[len(sample.frames) // 2].content if sample.frames else b""
    return frame_thumbnail(frame), b"" if sample.log_mel is None else mel_thumbnail(sample.log_mel)


def thumbnail_uri(content: bytes) -> str:
    """A thumbnail as a data: URI; empty without one."""
    return data_uri(content, WEBP) if content else ""
