"""Reading of lists in which several rows or nested values describe a clip: JSON, pairs, rows per label or frame."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa

from avmanifest.clipnames import YOUTUBE_ID, ClipName, parse_clip_name
from avmanifest.errors import ManifestError
from avmanifest.keys import clip_keys
from avmanifest.lists.lines import csv_cells, span_table
from avmanifest.lists.requests import ListFile, Where, list_column, request_table
from avmanifest.parsing import read_json
from avmanifest.wording import counted

_YOUTUBE_ID: Final = re.compile(YOUTUBE_ID)
_FRAME_NAME: Final = re.compile(rf"({YOUTUBE_ID})(?:_(\d{{1,6}}))?_(\d{{1,3}})")
_MUSIC_BOX_NAME: Final = re.compile(rf"({YOUTUBE_ID})_\d{{3}}_(\d{{5}})")
_AVSBENCH_FRAME_S: Final = 15 / 16  # AVSBench takes the last of 16 frames of each second
_AVSBENCH_SECONDS: Final = {"v1s": 5, "v1m": 5, "v2": 10}
_AVSBENCH_UNSEEN: Final = "off-the-screen"
_MODALITIES: Final = ("A", "V", "AV")


def read_pairs(list_file: ListFile) -> pa.Table:
    """Read a list of pairs of clips that are mixed. A pair is stored as an annotation of its first clip.

    The annotation `mixtures` is a list of {index: number of the pair in the list, with: [key of the other clip], kind:
    Easy or Hard}.
    """
    columns = ("source_1", "source_2", "class_1", "class_2", "sep_type")
    labels: dict[ClipName, str] = {}
    lines: list[int] = []
    pairs: list[tuple[list[ClipName], str]] = []
    for line, row in _csv_rows(list_file.path, columns):
        here = f"{list_file.path}: line {line}"
        clips = [_clip(row[name], here) for name in columns[:2]]
        for clip, label in zip(clips, (row["class_1"], row["class_2"]), strict=True):
            if clip not in labels:
                lines.append(line)
            if labels.setdefault(clip, label) != label:
                raise ManifestError(
                    f"{here}: {clip.video_id} has the label {label!r} here and {labels[clip]!r} above. Correct one."
                )
        pairs.append((clips, row["sep_type"]))
    return _mixture_table(list_file, labels, lines, pairs)


def read_music_mixtures(list_file: ListFile) -> pa.Table:
    """Read a list of mixtures; a line has the audio paths of the mixed sources.

    A mixture is stored as an annotation of its first video, as in `read_pairs`, with the keys of all others.
    """
    labels: dict[ClipName, str] = {}
    lines: list[int] = []
    mixtures: list[tuple[list[ClipName], str]] = []
    for line, cells in csv_cells(list_file.path):
        here = f"{list_file.path}: line {line}"
        if len(cells) < 2:
            raise ManifestError(f"{here}: {cells} is not a mixture; expected /LABEL/YOUTUBE_ID.wav twice or more")
        sources = []
        for cell in cells:
            path = PurePosixPath(cell.strip())
            clip = ClipName(_youtube_id(path.stem, here), 0.0, None)
            if clip not in labels:
                lines.append(line)
            if labels.setdefault(clip, path.parent.name) != path.parent.name:
                raise ManifestError(f"{here}: {cell.strip()!r} has the label {labels[clip]!r} above. Correct one.")
            sources.append(clip)
        mixtures.append((sources, ""))
    return _mixture_table(list_file, labels, lines, mixtures)


def _mixture_table(
    list_file: ListFile,
    labels: Mapping[ClipName, str],
    lines: Sequence[int],
    mixtures: Sequence[tuple[Sequence[ClipName], str]],
) -> pa.Table:
    """The clips in `labels`, with their line numbers; mixtures (clips, kind) become annotations of the first clip."""
    keys = dict(zip(labels, clip_keys(list_file.recipe, span_table(list(labels))).to_pylist(), strict=True))
    of_clip: dict[ClipName, list[dict[str, Any]]] = {clip: [] for clip in labels}
    for index, ((first, *others), kind) in enumerate(mixtures):
        of_clip[first].append({"index": index, "with": [keys[clip] for clip in others], "kind": kind})
    return request_table(
        list_file,
        lambda row: f"{list_file.path}: line {lines[row]}",
        **_spans(list(labels)),
        labels=list_column([[label] for label in labels.values()], pa.string()),
        annotations=[{"mixtures": entries} if entries else {} for entries in of_clip.values()],
    )


def read_vggsounder(list_file: ListFile) -> pa.Table:
    """Read VGGSounder: a list with one row per label becomes a table with one row per clip.

    Annotations: `modality` (label -> A audible, V visible, AV both), `background_music`, `static_image`, `voice_over`.
    """
    flags = ("background_music", "static_image", "voice_over")
    clips: dict[ClipName, dict[str, Any]] = {}
    lines: list[int] = []
    for line, row in _csv_rows(list_file.path, ("video_id", "label", "modality", *flags)):
        here = f"{list_file.path}: line {line}"
        clip = _clip(row["video_id"], here)
        if clip not in clips:
            clips[clip] = {"modality": {}, **dict.fromkeys(flags, False)}
            lines.append(line)
        if row["modality"] not in _MODALITIES:
            raise ManifestError(f"{here}: unknown modality {row['modality']!r}; known: {', '.join(_MODALITIES)}")
        clips[clip]["modality"][row["label"]] = row["modality"]
        for flag in flags:
            if row[flag] not in ("True", "False"):
                raise ManifestError(f"{here}: {flag} is {row[flag]!r}, must be True or False. Correct the line.")
            clips[clip][flag] |= row[flag] == "True"
    return request_table(
        list_file,
        lambda row: f"{list_file.path}: line {lines[row]}",
        **_spans(list(clips)),
        labels=list_column([list(clip["modality"]) for clip in clips.values()], pa.string()),
        annotations=list(clips.values()),
    )


def read_vggss(list_file: ListFile) -> pa.Table:
    """Read VGG-SS: clips with a label and the boxes of the sounding objects.

    Annotations: `boxes`, [x0, y0, x1, y1] relative to the frame's width and height, clipped to the frame;
    `num_boxes_clipped`, the number that exceeded the frame; `num_boxes_dropped`, the number without area.
    """
    clips, labels, annotations = [], [], []
    for index, entry in enumerate(_json_list(list_file.path)):
        here = f"{list_file.path}: entry {index}"
        clips.append(_clip(_text(entry, "file", here), here))
        labels.append([_text(entry, "class", here)])
        annotations.append(_boxes(entry.get("bbox"), here))
    return request_table(
        list_file,
        _entries(list_file.path),
        **_spans(clips),
        labels=list_column(labels, pa.string()),
        annotations=annotations,
    )


def read_music_boxes(list_file: ListFile) -> pa.Table:
    """Read MUSIC-Duet: two instruments and a box for each, in the frame at the clip's start.

    A box in the list is x, y, width, height; the annotations are `boxes` as [x0, y0, x1, y1] and `box_labels`. Names
    are ID_SEGMENT_SECOND.
    """
    clips, labels, annotations = [], [], []
    for index, entry in enumerate(_json_list(list_file.path)):
        here = f"{list_file.path}: entry {index}"
        name = _text(entry, "file", here)
        match = _MUSIC_BOX_NAME.fullmatch(name)
        if match is None:
            raise ManifestError(f"{here}: file {name!r} is not YOUTUBE_ID_SSS_SSSSS. Correct the name.")
        clips.append(ClipName(match[1], float(match[2]), None))
        labels.append([_text(entry, f"class_src{source}", here) for source in (1, 2)])
        corners = []
        for source in (1, 2):
            x, y, width, height = _numbers(entry.get(f"bbox_src{source}"), here)
            corners.append([x, y, x + width, y + height])
        annotations.append({"box_labels": labels[-1], **_boxes(corners, here)})
    return request_table(
        list_file,
        _entries(list_file.path),
        **_spans(clips),
        labels=list_column(labels, pa.string()),
        frame_times_s=list_column([[0.0]] * len(clips), pa.float64()),
        annotations=annotations,
    )


def read_music(list_file: ListFile) -> pa.Table:
    """Read MUSIC: the videos of each instrument or pair of instruments."""
    document = read_json(list_file.path)
    videos = document.get("videos") if isinstance(document, dict) else None
    if not isinstance(videos, dict):
        raise ManifestError(f'{list_file.path}: expected {{"videos": {{"flute violin": [YOUTUBE_ID, ...]}}}}')
    ids, labels = [], []
    for instruments, video_ids in videos.items():
        here = f"{list_file.path}: videos of {instruments!r}"
        if not isinstance(video_ids, list):
            raise ManifestError(f"{here}: expected a list of YouTube ids, not {video_ids!r}")
        ids += [_youtube_id(video_id, here) for video_id in video_ids]
        labels += [instruments.split()] * len(video_ids)
    return request_table(
        list_file,
        lambda row: f"{list_file.path}: video {ids[row]}",
        video_id=pa.array(ids, pa.string()),
        labels=list_column(labels, pa.string()),
    )


def read_avsbench_frames(list_file: ListFile) -> pa.Table:
    """Read AVSBench videos from a list with one row per frame: NAME_N,LABEL or NAME_N,"LABEL, LABEL".

    NAME is an id, or an id and the second at which the clip begins; N is the number of the second, from 1. Frame times
    are those of AVSBench's frames. Annotations: `masks`, the paths by the recipe's template, in the order of the
    frames; `mask_frames`, the numbers of their frames, from 0.
    """
    frames: dict[tuple[str, str | None], list[int]] = {}
    spelled: dict[tuple[str, str | None], str] = {}
    lines: list[int] = []
    for line, cells in csv_cells(list_file.path):
        here = f"{list_file.path}: line {line}"
        match = _FRAME_NAME.fullmatch(cells[0])
        if match is None or len(cells) != 2 or not cells[1]:
            raise ManifestError(f"{here}: {','.join(cells)!r} is not NAME_N,LABEL. Correct the line.")
        video, frame = (match[1], match[2]), int(match[3])
        if video not in frames:
            lines.append(line)
        numbers = frames.setdefault(video, [])
        if spelled.setdefault(video, cells[1]) != cells[1]:
            raise ManifestError(f"{here}: {cells[1]!r}, but frames of the same video above are {spelled[video]!r}")
        if frame < 1 or frame in numbers:
            raise ManifestError(f"{here}: frame {frame} is listed twice, or is less than 1. Correct the line.")
        numbers.append(frame)
    labels = [[label.strip() for label in label_list.split(",")] for label_list in spelled.values()]
    starts = [float(second or 0) for _, second in frames]
    annotations, times = [], []
    for (video_id, second), numbers, label in zip(frames, frames.values(), spelled.values(), strict=True):
        name = video_id if second is None else f"{video_id}_{second}"
        order = sorted(numbers)
        annotations.append(_masks(list_file, order, 1, {"video_id": video_id, "uid": name, "label": label}))
        times.append([frame - 1 + _AVSBENCH_FRAME_S for frame in order])
    return request_table(
        list_file,
        lambda row: f"{list_file.path}: line {lines[row]}",
        video_id=pa.array([video_id for video_id, _ in frames], pa.string()),
        start_s=pa.array(starts, pa.float64()),
        labels=list_column(labels, pa.string()),
        frame_times_s=list_column(times, pa.float64()),
        annotations=annotations,
    )


def read_avsbench(list_file: ListFile) -> pa.Table:
    """Read AVSBench's metadata.csv: the videos of the recipe's subset (v1s, v1m, v2; empty: all).

    The start is s_min minutes plus s_sec seconds. v1 videos last 5 s and v2 videos 10 s, with one frame per second.
    Annotations: `uid`, `subset`, `masks` and `mask_frames`. The object `off-the-screen` is not a label.
    """
    spec = list_file.spec
    rows: list[dict[str, str]] = []
    lines: list[int] = []
    for line, row in _csv_rows(list_file.path, ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")):
        if row["label"] not in _AVSBENCH_SECONDS:
            raise ManifestError(
                f"{list_file.path}: line {line}: unknown subset {row['label']!r}; known: {', '.join(_AVSBENCH_SECONDS)}"
            )
        if spec.subset in ("", row["label"]):
            rows.append(row)
            lines.append(line)

    def where(row: int) -> str:
        return f"{list_file.path}: line {lines[row]}"

    starts, ends, times, labels, annotations = [], [], [], [], []
    for index, row in enumerate(rows):
        seconds = _AVSBENCH_SECONDS[row["label"]]
        start = 60 * _number(row["s_min"], where(index)) + _number(row["s_sec"], where(index))
        starts.append(start)
        ends.append(start + seconds)
        times.append([second + _AVSBENCH_FRAME_S for second in range(seconds)])
        labels.append([name for name in row["a_obj"].split("_") if name and name != _AVSBENCH_UNSEEN])
        fields = {"video_id": row["vid"], "uid": row["uid"], "label": row["a_obj"], "subset": row["label"]}
        masked = 1 if (row["label"], row["split"]) == ("v1s", "train") else seconds
        masks = _masks(list_file, range(masked), 0, {**fields, "split": row["split"]})
        annotations.append({"uid": row["uid"], "subset": row["label"], **masks})
    return request_table(
        list_file,
        where,
        video_id=pa.array([_youtube_id(row["vid"], where(i)) for i, row in enumerate(rows)], pa.string()),
        start_s=pa.array(starts, pa.float64()),
        end_s=pa.array(ends, pa.float64()),
        labels=list_column(labels, pa.string()),
        split=pa.array([row["split"] for row in rows], pa.string()),
        frame_times_s=list_column(times, pa.float64()),
        annotations=annotations,
    )


def read_gallery(path: Path) -> pa.Table:
    """Read a retrieval gallery, JSON {"data": [{"video_id": name, ...}]}, as columns video_id, start_s and end_s."""
    document = read_json(path)
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise ManifestError(f'{path}: expected {{"data": [{{"video_id": NAME}}, ...]}}')
    where = _entries(path)
    names = [_text(entry, "video_id", where(index)) for index, entry in enumerate(data)]
    return span_table([_clip(name, where(index), start=False) for index, name in enumerate(names)])


def _masks(list_file: ListFile, frames: Sequence[int], first: int, names: dict[str, str]) -> dict[str, list[Any]]:
    """The paths and frame numbers of the masks. In the list, frames are numbered from `first`."""
    spec = list_file.spec
    if not spec.masks:
        return {}
    masked = list(frames)[: spec.masked_frames or None]
    fields = {"split": spec.splits[0] if spec.splits else "", "subset": spec.subset, **names}
    paths = [spec.masks.format(**fields, frame=frame) for frame in masked]
    for path in paths:
        if ".." in PurePosixPath(path).parts or path.startswith("/"):
            raise ManifestError(f"{list_file.path}: mask path {path!r} must lie below the source's folder")
    return {"masks": paths, "mask_frames": [frame - first for frame in masked]}


def _boxes(entries: Any, here: str) -> dict[str, Any]:
    """Boxes clipped to the frame, with the numbers of clipped boxes and of boxes without area."""
    if not isinstance(entries, list):
        raise ManifestError(f"{here}: expected a list of boxes, not {entries!r}")
    boxes, num_clipped = [], 0
    for box in entries:
        corners = _numbers(box, here)
        clipped_box = [min(max(value, 0.0), 1.0) for value in corners]
        num_clipped += clipped_box != corners
        if clipped_box[2] > clipped_box[0] and clipped_box[3] > clipped_box[1]:
            boxes.append(clipped_box)
    return {
        "boxes": boxes,
        "num_boxes_clipped": num_clipped,
        "num_boxes_dropped": len(entries) - len(boxes),
    }


def _numbers(box: Any, here: str) -> list[float]:
    numbers = isinstance(box, list) and all(isinstance(value, int | float) for value in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)):
        raise ManifestError(f"{here}: a box must be four numbers, not {box!r}. Correct the entry.")
    return [float(value) for value in box]


def _number(text: str, here: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ManifestError(f"{here}: {text!r} is not a number of minutes or seconds. Correct the line.") from error


def _spans(clips: Sequence[ClipName]) -> dict[str, pa.Array]:
    table = span_table(clips)
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def _clip(name: str, here: str, *, start: bool = True) -> ClipName:
    clip = parse_clip_name(name)
    if clip is None or (start and clip.start_s is None):
        raise ManifestError(f"{here}: {name!r} is not the name of a clip, such as YOUTUBE_ID_000030. Correct it.")
    return clip


def _youtube_id(value: Any, here: str) -> str:
    if not isinstance(value, str) or not _YOUTUBE_ID.fullmatch(value):
        raise ManifestError(f"{here}: {value!r} is not a YouTube id: eleven letters, digits, - and _. Correct it.")
    return value


def _text(entry: Any, key: str, here: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value:
        raise ManifestError(f"{here}: expected an object with the text {key!r}, not {entry!r}")
    return value


def _entries(path: Path) -> Where:
    return lambda row: f"{path}: entry {row}"


def _json_list(path: Path) -> list[dict[str, Any]]:
    document = read_json(path)
    if not isinstance(document, list) or not document:
        raise ManifestError(f"{path}: expected a JSON list of objects")
    for index, entry in enumerate(document):
        if not isinstance(entry, dict):
            raise ManifestError(f"{path}: entry {index} is {entry!r}, not an object")
    return document


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file, as dicts with their line numbers. The header must be these columns."""
    header: list[str] | None = None
    for line, cells in csv_cells(path):
        if header is None:
            header = cells
            if header != list(columns):
                raise ManifestError(
                    f"{path}: line {line}: the header is {','.join(header)}, expected {','.join(columns)}"
                )
        elif len(cells) != len(header):
            raise ManifestError(f"{path}: line {line}: {counted(len(cells), 'value')}, expected {','.join(columns)}")
        else:
            yield line, dict(zip(header, cells, strict=True))
