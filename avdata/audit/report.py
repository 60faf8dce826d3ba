"""The HTML report of a dataset: summary, verification, failed clips, and samples with images and audio."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.sample import StoredFrame, StoredSample, read_samples
from avdata.audit.secrets import ADVICE
from avdata.audit.summary import QUANTILES
from avdata.audit.verify import Verification
from avdata.boxes import boxes_in
from avdata.draw.charts import class_chart, histogram, stacked_bar
from avdata.draw.images import COLORS, color_log_mel, decode_rgb, mask_overlay, to_png
from avdata.draw.mel_axis import TICKS_HZ, band_of, seconds_of, time_ticks
from avdata.draw.page import card, data_uri, escape, key_numbers, page, section, table, write_page
from avmanifest.columns import Column, flags, joined, measured
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.records import shown_operation, shown_step
from avmanifest.schema import status_meaning
from avmanifest.secrets import excerpt
from avmanifest.wording import counted

_TYPES: Final = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_MOST_FAULTS: Final = 500
_LONGEST_FACT: Final = 200  # characters of a value of an extra column
_MOST_CLASSES: Final = 12
_NAMED_CLASSES: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """How much a report shows."""

    num_samples: int = 24  # samples with images and audio, about half a megabyte each
    most_failures: int = 20_000  # rows of failed clips; more would slow the browser's search

    def __post_init__(self) -> None:
        if not 0 <= self.num_samples <= 1000:
            raise ConfigError(
                f"num_samples={self.num_samples} is not between 0 and 1000: each is about half a megabyte"
            )


def write_report(
    path: Path, dataset: AuditDataset, found: Mapping[str, Any], verification: Verification | None, config: ReportConfig
) -> None:
    """Write the report.

    Args:
        path: The HTML file.
        dataset: The dataset.
        found: Its summary, from `summarize`.
        verification: From `verify`; None: the report has no such section.
        config: How much to show.

    Raises:
        StorageError: The file cannot be written.
    """
    write_page(path, report(dataset, found, verification, config))


def report(
    dataset: AuditDataset, found: Mapping[str, Any], verification: Verification | None, config: ReportConfig
) -> str:
    """The report as HTML. The arguments are those of `write_report`."""
    failed = _failures(dataset, config.most_failures)
    shown = list(_shown(dataset, config.num_samples)) if dataset.kind is not DatasetKind.MANIFEST else []
    parts = [
        ("overview", "Overview", _overview(found)),
        ("verification", "Verification", _verification(verification)),
        ("distributions", "What was measured", _distributions(found, dataset.columns)),
        ("classes", "Classes", _classes(found["classes"])),
        ("noticed", "Flagged and repeated", _noticed(found, dataset.columns)),
        ("overlaps", "Known test sets", _overlaps(found["overlaps"])),
        ("failures", "Failures", _failure_table(found, failed)),
        ("samples", "Samples", _sample_pages(shown)),
        ("made", "How it was made", _made(found)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in parts)
    body = (
        f"<header>{_head(found)}</header><nav><div>{links}</div></nav><main>"
        + "".join(section(name, title, content) for name, title, content in parts)
        + "</main><footer>Made by avkit inspect. This page loads nothing from the network.</footer>"
    )
    return page(f"{found['root']}: avkit inspect", body, {"failures": failed, "samples": shown})


def _head(found: Mapping[str, Any]) -> str:
    title = found["recipe"].get("title") or {"manifest": "A manifest", "shards": "Shards"}.get(
        found["kind"], "A dataset"
    )
    return (
        f'<h1>{escape(title)}</h1><p class="lead">{escape(found["root"])} · subset id '
        f"<code>{escape(found['subset_id'])}</code>"
        + (f" · where <code>{escape(found['where'])}</code>" if found["where"] is not None else "")
        + "</p>"
    )


def _overview(found: Mapping[str, Any]) -> str:
    classes, leaks = found["classes"], found["leaks"]
    covered = sum(1 for count in classes["counts"].values() if count["samples"])
    flags = {name: entry["clips"] for name, entry in found["flagged"].items()}
    size = sum(entry["bytes"] for entry in found["member_bytes"].values())
    numbers = [
        (f"{found['samples']:,}", "samples", f"of {found['requested']:,} clips requested"),
        (f"{found['samples'] / max(found['requested'], 1):.1%}", "coverage", f"{len(found['splits'])} splits"),
        (_hours(found["hours"]), "of sound and pictures", ""),
        (f"{covered:,}", "classes with samples", f"of {classes['listed'] or len(classes['counts']):,}"),
        (_bytes(size), "of samples", ""),
        (f"{sum(flags.values()):,}", "flags", " · ".join(f"{name} {count:,}" for name, count in flags.items())),
        (
            f"{leaks['videos']['groups']:,}",
            "videos in several splits",
            f"{leaks['contents']['groups']:,} by their bytes",
        ),
    ]
    note = found["recipe"].get("note")
    return (
        key_numbers(numbers)
        + (f'<p class="note">{escape(" ".join(note.split()))}</p>' if note else "")
        + '<div class="cards">'
        + card("Clips by split and status", *_statuses(found), wide=True)
        + card("Bytes by member", *_disk(found["member_bytes"]), wide=True)
        + "</div>"
    )


def _statuses(found: Mapping[str, Any]) -> Iterator[str]:
    names = ["ok", *(name for name in found["statuses"] if name != "ok")]
    classes = {name: f"s{place % 8}" for place, name in enumerate(names)}
    for split, content in found["splits"].items():
        counts = {name: content["statuses"][name] for name in names if name in content["statuses"]}
        items = "".join(
            f'<li title="{escape(status_meaning(name))}">'
            f'<i class="{classes[name]}"></i>{escape(name)} <span>{count:,}</span></li>'
            for name, count in counts.items()
        )
        official = content["official"]
        if official and official != content["requested"]:
            items += f"<li><span>{official:,} in the official list</span></li>"
        yield f'<div class="split"><b>{escape(split)}</b>{stacked_bar(counts, f"clips of {split} by status", classes)}'
        yield f'<ul class="legend">{items}</ul></div>'


def _disk(member_bytes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    sizes = {name: entry["bytes"] for name, entry in member_bytes.items()}
    yield stacked_bar(sizes, "bytes by member")
    items = "".join(
        f'<li><i class="s{place % 8}"></i>{escape(name)} '
        f"<span>{_bytes(entry['bytes'])} in {entry['files']:,}</span></li>"
        for place, (name, entry) in enumerate(member_bytes.items())
    )
    yield f'<ul class="legend">{items}</ul>'


def _verification(verification: Verification | None) -> str:
    if verification is None:
        return ""
    how = "read and decoded" if verification.deep else "read"
    size = _bytes(verification.num_bytes)
    line = f"{counted(verification.shards, 'shard')} with {counted(verification.samples, 'sample')}, {size}, {how}."
    if verification.secrets:
        where = ", ".join(verification.secrets)
        held = counted(sum(verification.secrets.values()), "entry holds", "entries hold")
        line += f" {held} a password or token of a URL: {where}. {ADVICE}"
    if not verification.faults:
        return f'<p>{escape(line)} <b class="ok">Everything is as it was promised.</b></p>'
    rows = [
        (fault.shard, fault.key, f"{fault.offset:,}" if fault.offset >= 0 else "", fault.problem)
        for fault in verification.faults[:_MOST_FAULTS]
    ]
    count = f"{counted(len(verification.faults), 'fault')} in {counted(len(verification.bad_shards), 'shard')}."
    return (
        f'<p>{escape(line)} <b class="bad">{escape(count)}</b></p>'
        f'<div class="card wide">{table(("shard", "key", "byte", "problem"), rows, (2,))}</div>'
    )


def _distributions(found: Mapping[str, Any], columns: Sequence[Column]) -> str:
    cards = [
        card(column.heading, histogram(entry["edges"], entry["counts"], column.unit, column.heading))
        for column in measured(columns)
        if (entry := found["histograms"].get(column.name))
    ]
    header = ("", "split", *({0.0: "min", 0.5: "median", 1.0: "max"}.get(share, f"{share:.0%}") for share in QUANTILES))
    rows = []
    for column in measured(columns):
        by_split = [(split, content["measured"].get(column.name)) for split, content in found["splits"].items()]
        for place, (split, values) in enumerate(entry for entry in by_split if entry[1]):
            rows.append(("" if place else column.heading, split, *(f"{value:,.2f}" for value in values or [])))
    if not rows:
        return ""
    cards.append(card("Quantiles", table(header, rows, range(2, 7)), wide=True))
    return f'<div class="cards pairs">{"".join(cards)}</div>'


def _classes(classes: Mapping[str, Any]) -> str:
    counts = classes["counts"]
    if not counts:
        return ""
    entries = [(label, count["samples"], count["requested"]) for label, count in counts.items()]
    entries += [(label, 0, 0) for label in classes["absent"]]
    if len(entries) <= _NAMED_CLASSES:
        return f'<div class="card wide"><div class="classes">{"".join(_class_bars(entries))}</div></div>'
    cells = [
        (label, f"{samples:,}", f"{requested:,}", f"{samples / max(requested, 1):.1%}")
        for label, samples, requested in sorted(entries, key=lambda e: (e[1] / max(e[2], 1), e[1], e[0]))[
            :_MOST_CLASSES
        ]
    ]
    rare = [
        (label, f"{samples:,}", f"{requested:,}")
        for label, samples, requested in sorted(entries, key=lambda e: (e[1], e[0]))[:_MOST_CLASSES]
    ]
    return (
        '<div class="cards pairs">'
        + card(
            "Samples of requested clips", class_chart(entries, "samples and requested clips of each class"), wide=True
        )
        + card("Least covered", table(("class", "samples", "of", ""), cells, (1, 2, 3)))
        + card("Rarest", table(("class", "samples", "of"), rare, (1, 2)))
        + "</div>"
    )


def _class_bars(entries: Sequence[tuple[str, int, int]]) -> Iterator[str]:
    """One bar per class: its samples, and in a pale color the clips that failed."""
    most = max(requested for _, _, requested in entries)
    for label, samples, requested in sorted(entries, key=lambda entry: (-entry[2], -entry[1], entry[0])):
        parts = {"samples": samples, "lost": requested - samples, "": most - requested}
        bar = stacked_bar(parts, f"{samples:,} of {requested:,}", {"samples": "bar", "lost": "lost", "": "nothing"})
        yield f"<div><p>{escape(label)}<span>{samples:,} of {requested:,}</span></p>{bar}</div>"


def _noticed(found: Mapping[str, Any], columns: Sequence[Column]) -> str:
    duplicates, leaks = found["duplicates"], found["leaks"]
    kinds = (
        ("Keys that stand twice", duplicates["keys"]),
        ("Samples of the same source bytes", duplicates["contents"]),
        ("Keys in several splits", leaks["keys"]),
        ("Videos in several splits", leaks["videos"]),
        ("Source bytes in several splits", leaks["contents"]),
        *(
            (name, counts["near"])
            for name, counts in (("Near duplicates", duplicates), ("Near duplicates in several splits", leaks))
            if "near" in counts
        ),
    )
    rows = [
        (
            f"{flag.name[0].upper()}{flag.name[1:]}: {flag.meaning}",
            "",
            f"{found['flagged'][flag.name]['clips']:,}",
            "; ".join(f"{clip['split']}/{clip['key']}" for clip in found["flagged"][flag.name]["examples"][:3]),
        )
        for flag in flags(columns)
    ]
    rows += [
        (
            name,
            f"{entry['groups']:,}",
            f"{entry['clips']:,}",
            "; ".join(
                " = ".join(f"{clip['split']}/{clip['key']}" for clip in example["clips"][:3])
                for example in entry["examples"][:3]
            ),
        )
        for name, entry in kinds
    ]
    return f'<div class="card wide">{table(("", "groups", "clips", "such as"), rows, (1, 2))}</div>'


def _overlaps(overlaps: Sequence[Mapping[str, Any]]) -> str:
    if not overlaps:
        return ""
    rows = [
        (entry["test_set"], entry.get("list", ""), "", "", "", "", entry["problem"])
        if "problem" in entry
        else (
            entry["test_set"],
            entry["test_split"],
            f"{entry['test_videos']:,}",
            entry["split"],
            f"{entry['videos']:,}",
            f"{entry['sampled_clips']:,}",
            f"{entry['same_clips']:,}",
        )
        for entry in overlaps
    ]
    header = ("test set", "split", "its videos", "here in", "videos", "samples of them", "the same clips")
    return f'<div class="card wide">{table(header, rows, (2, 4, 5, 6))}</div>'


def _failures(dataset: AuditDataset, most: int) -> list[list[str]]:
    """key, split, status, reason, video and source of up to `most` failed clips."""
    columns = ["key", "split", "status", "reason", "video_id", "source"]
    tables = []
    for content in dataset.splits.values():
        rows = content.table.select(columns)
        tables.append(rows.filter(pc.not_equal(rows.column("status"), "ok")))
    failed = pa.concat_tables(tables).slice(0, most)
    return [[str(row[name] or "") for name in columns] for row in failed.to_pylist()]


def _failure_table(found: Mapping[str, Any], failed: Sequence[Sequence[str]]) -> str:
    total = found["requested"] - found["samples"]
    if not total:
        return '<p class="soft">No clip failed.</p>' if found["has_failures"] else ""
    less = (
        f'<p class="soft">The first {len(failed):,} of {total:,}; the manifest has them all.</p>'
        if len(failed) < total
        else ""
    )
    return (
        f'{less}<div class="controls"><input type="search" placeholder="Filter by key, video, reason" '
        f'aria-label="Filter failures"><select aria-label="Status"><option value="">every status</option>'
        f"{_options(row[2] for row in failed)}</select>"
        f'<select aria-label="Split"><option value="">every split</option>{_options(row[1] for row in failed)}</select>'
        '</div><div class="card wide scroll"><table><thead><tr><th>key</th><th>split</th><th>status</th><th>reason</th>'
        "<th>video</th></tr></thead><tbody></tbody></table></div>"
    )


def _options(values: Iterator[str]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in sorted(set(values)))


def _shown(dataset: AuditDataset, count: int) -> Iterator[dict[str, Any]]:
    """The data of up to `count` samples for the page's script."""
    for split, key in choose_samples(dataset, count):
        try:
            for sample in read_samples(dataset, [(split, key)]):
                yield _sample_data(sample)
        except AvkitError as error:
            yield {"key": key, "split": split, "labels": [], "flags": [], "facts": "", "problem": str(error)}


def choose_samples(dataset: AuditDataset, count: int) -> list[tuple[str, str]]:
    """(split, key) of `count` samples, evenly spaced over the dataset. Up to a quarter of them have a flag."""
    table = joined(content.table for content in dataset.splits.values())
    table = table.filter(pc.equal(table.column("status"), "ok"))
    flagged = np.zeros(len(table), bool)
    for flag in flags(dataset.columns):
        flagged |= pc.fill_null(table.column(flag.name), False).to_numpy()
    marked = np.flatnonzero(flagged)
    chosen = set(_spread(marked, count // 4).tolist())
    rest = np.setdiff1d(np.arange(len(table)), np.fromiter(chosen, np.int64, len(chosen)))
    chosen |= set(_spread(rest, count - len(chosen)).tolist())
    rows = table.take(pa.array(sorted(chosen), pa.int64())).to_pylist()
    return [(row["split"], row["key"]) for row in rows]


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    if count <= 0 or not len(places):
        return places[:0]
    return np.asarray(
        places[np.unique(np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(np.int64))]
    )


def _sample_data(sample: StoredSample) -> dict[str, Any]:
    annotations = str(sample.facts.get("annotations", ""))
    frames = [_frame_data(frame, annotations, place, len(sample.frames)) for place, frame in enumerate(sample.frames)]
    return {
        "key": sample.key,
        "split": sample.split,
        "labels": sample.labels,
        "flags": sample.flags,
        "facts": _facts(sample),
        "frames": [frame for frame in frames if frame is not None],
        "mel": None if sample.log_mel is None else _mel_data(sample),
        "sound": data_uri(sample.sound, sample.sound_type) if sample.sound else "",
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
    words += [f"{name} {excerpt(str(value), _LONGEST_FACT)}" for name, value in sample.own_facts.items()]
    return " · ".join([*words, sample.shard])


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
        "time_axis": f"time (s), {profile.name}" if profile else f"{columns} columns",
        "band_axis": "mel frequency (Hz)" if profile else f"{bands} bands",
    }


def _sample_pages(shown: Sequence[Mapping[str, Any]]) -> str:
    if not shown:
        return ""
    splits = list(dict.fromkeys(sample["split"] for sample in shown))
    flags = list(dict.fromkeys(flag for sample in shown for flag in sample["flags"]))
    options = "".join(f'<option value="{escape(name)}">{escape(name)}</option>' for name in [*splits, *flags])
    has_truth = any(frame["mask"] or frame["boxes"] for sample in shown for frame in sample.get("frames", ()))
    return (
        '<div class="controls"><select aria-label="Which samples"><option value="">every sample</option>'
        f'{options}</select><label{"" if has_truth else " hidden"}><input type="checkbox" checked> boxes and masks'
        "</label></div>"
        '<div class="samples"></div>'
    )


def _made(found: Mapping[str, Any]) -> str:
    if not found["config"]:
        return ""
    rows = [(name, _plain(value)) for name, value in found["config"].items() if value is not None and name != "steps"]
    rows += [("step", shown_step(step)) for step in found["steps"]]
    rows += [("operation", shown_operation(entry)) for entry in found["operations"]]
    tools = [(name, version) for name, version in found["tools"].items()]
    licence = [("licence", found["recipe"].get("licence") or "not stated"), ("plan", found["plan_hash"])]
    return (
        '<div class="cards pairs">'
        + card("Config", table(("setting", "value"), [*rows, *licence]))
        + card("Versions", table(("tool", "version"), tools))
        + "</div>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _bytes(size: float | int) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError("TB is the last")
