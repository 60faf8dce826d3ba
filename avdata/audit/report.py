"""The HTML report of a dataset: summary, verification, and its clips, to search, filter, look at and listen to."""

import shlex
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avdata.audit.choice import all_rows, choose
from avdata.audit.dataset import AuditDataset, DatasetKind
from avdata.audit.maps import Maps
from avdata.audit.rows import ClipRows
from avdata.audit.sample import SampleReader
from avdata.audit.secrets import ADVICE
from avdata.audit.shown import sample_data, thumbnail_uri, thumbnails
from avdata.audit.summary import QUANTILES
from avdata.audit.verify import Verification
from avdata.draw.charts import class_chart, histogram, stacked_bar
from avdata.draw.page import card, data_uri, escape, key_numbers, page, section, table
from avmanifest.columns import Column, flags, measured
from avmanifest.errors import AvkitError, ConfigError
from avmanifest.records import shown_operation, shown_step
from avmanifest.schema import status_meaning
from avmanifest.wording import counted, time_in_words

MOST_WHOLE: Final = 1000
MOST_THUMBNAILS: Final = 5000
_READERS: Final = 8  # threads: over a network, reading is mostly waiting
_MOST_FAULTS: Final = 500
_MOST_CLASSES: Final = 12
_NAMED_CLASSES: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportConfig:
    """How much a report shows."""

    num_samples: int = 24  # samples with all frames and sound, about half a megabyte each
    num_thumbnails: int = 1000  # samples of which at least thumbnails are shown, 3 MB for a thousand
    most_failures: int = 20_000  # rows of failed clips; more would slow the browser's search
    seed: int = 0  # of the draw of samples

    def __post_init__(self) -> None:
        if not 0 <= self.num_samples <= MOST_WHOLE:
            raise ConfigError(
                f"--samples {self.num_samples} is not from 0 to {MOST_WHOLE}: each is about half a megabyte. "
                "--serve shows all samples."
            )
        if not 0 <= self.num_thumbnails <= MOST_THUMBNAILS:
            raise ConfigError(
                f"--thumbnails {self.num_thumbnails} is not from 0 to {MOST_THUMBNAILS}. --serve shows all."
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is negative. Give 0 or more.")


MapMaker = Callable[[Sequence[str]], Maps | None]
"""Makes the maps of features, from the keys of the rows that may be on them; those without a sample are empty."""


def report(
    dataset: AuditDataset,
    found: Mapping[str, Any],
    verification: Verification | None,
    config: ReportConfig,
    *,
    make_maps: MapMaker | None = None,
    on_sample: Callable[[int, int], None] | None = None,
) -> str:
    """The report as HTML.

    Args:
        dataset: The dataset.
        found: Its summary, from `summarize`.
        verification: From `verify`; None: the report has no such section.
        config: How much to show.
        make_maps: Makes maps of the samples that are shown.
        on_sample: Called with the number of samples read, and how many there are to read.
    """
    everything = all_rows(dataset)
    choice = choose(
        everything,
        dataset,
        num_samples=max(config.num_thumbnails, config.num_samples),
        num_whole=0 if dataset.kind is DatasetKind.MANIFEST else config.num_samples,
        most_failures=config.most_failures,
        seed=config.seed,
    )
    places = choice.rows
    rows = ClipRows(table=everything.take(pa.array(places, pa.int64())), columns=dataset.columns)
    if make_maps is not None:
        rows = rows.with_maps(make_maps(keys_of_samples(rows.table)))
    whole = {int(row) for row in np.searchsorted(places, choice.whole)}
    media: tuple[dict[int, list[str]], dict[int, dict[str, Any]]] = ({}, {})
    if dataset.kind is not DatasetKind.MANIFEST:
        media = _media(dataset, rows.table, whole, on_sample)
    clips = {
        **rows.choices(),
        "rows": list(rows.row_data(np.arange(len(rows)))),
        "thumbnails": media[0],
        "samples": media[1],
        "media": dataset.kind is not DatasetKind.MANIFEST,
        "truth": any(frame["mask"] or frame["boxes"] for one in media[1].values() for frame in one.get("frames", ())),
        "missing": f"This page holds thumbnails of it alone. avkit inspect {shlex.quote(dataset.root)} --serve "
        f"shows all of it, and so does a page made with --samples {MOST_WHOLE}.",
    }
    return report_page(dataset, found, verification, clips, choice.said())


def report_page(
    dataset: AuditDataset,
    found: Mapping[str, Any],
    verification: Verification | None,
    clips: Mapping[str, Any],
    said: str,
    *,
    served: bool = False,
) -> str:
    """The report as HTML.

    Args:
        dataset: The dataset.
        found: Its summary.
        verification: As for `report`.
        clips: What the page's script reads of the clips.
        said: Which clips these are.
        served: Whether the page asks its server for clips.
    """
    parts = [
        ("overview", "Overview", _overview(found)),
        ("clips", "Clips", _clips(clips, said)),
        ("verification", "Verification", _verification(verification)),
        ("distributions", "What was measured", _distributions(found, dataset.columns)),
        ("classes", "Classes", _classes(found["classes"])),
        ("noticed", "Flagged and repeated", _noticed(found, dataset.columns)),
        ("overlaps", "Known test sets", _overlaps(found["overlaps"])),
        ("made", "How it was made", _made(found)),
    ]
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in parts)
    network = "This page asks nothing but its own server." if served else "This page loads nothing from the network."
    body = (
        f'<header>{_head(found)}</header><nav aria-label="Sections"><div>{links}</div></nav><main>'
        + "".join(section(name, title, content) for name, title, content in parts)
        + f"</main><footer>Made by avkit inspect. {network}</footer>"
    )
    return page(f"{found['root']}: avkit inspect", body, {"clips": clips}, served=served)


def keys_of_samples(rows: pa.Table) -> list[str]:
    """The key of each row that has a sample, and empty text for the others."""
    is_ok = pc.equal(rows.column("status"), "ok")
    return [str(key) for key in pc.if_else(is_ok, rows.column("key"), "").to_pylist()]


def _media(
    dataset: AuditDataset, clips: pa.Table, whole: Container[int], on_sample: Callable[[int, int], None] | None
) -> tuple[dict[int, list[str]], dict[int, dict[str, Any]]]:
    """Thumbnails and samples by the place of their row. What is wrong with one that cannot be read stands in it."""
    reader = SampleReader(dataset)
    rows = clips.select(["split", "key", "shard", "status"]).to_pylist()
    wanted = [(place, row) for place, row in enumerate(rows) if row["status"] == "ok"]

    def shown(entry: tuple[int, dict[str, Any]]) -> tuple[list[str], dict[str, Any] | None]:
        place, row = entry
        try:
            sample = reader.read(row["split"], row["key"], row["shard"])
            small = [thumbnail_uri(content) for content in thumbnails(sample)]
            if place not in whole:
                return small, None
            return small, sample_data(sample, data_uri(sample.sound, sample.sound_type) if sample.sound else "")
        except AvkitError as error:
            return ["", ""], {"problem": str(error)}

    thumbs: dict[int, list[str]] = {}
    samples: dict[int, dict[str, Any]] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        for number, ((place, _), (small, sample)) in enumerate(zip(wanted, readers.map(shown, wanted), strict=True)):
            thumbs[place] = small
            if sample is not None:
                samples[place] = sample
            if on_sample is not None:
                on_sample(number + 1, len(wanted))
    return thumbs, samples


def _clips(clips: Mapping[str, Any], said: str) -> str:
    if not clips["total"]:
        return ""
    return (
        f'<p class="soft">{escape(said)}</p><div class="explorer"></div>'
        "<noscript><p>Clips are shown by the page's own script, which this browser does not run.</p></noscript>"
    )


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
        (f"{found['samples'] / max(found['requested'], 1):.1%}", "coverage", counted(len(found["splits"]), "split")),
        (time_in_words(3600 * found["hours"]), "of sound and pictures", ""),
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
        f'<div class="card wide">{table(("shard", "key", "byte", "problem"), rows, (2,), label="Faults")}</div>'
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
    cards.append(card("Quantiles", table(header, rows, range(2, 7), label="Quantiles"), wide=True))
    return f'<div class="cards pairs">{"".join(cards)}</div>'


def _classes(classes: Mapping[str, Any]) -> str:
    counts = classes["counts"]
    if not counts:
        return ""
    entries = [(label, count["samples"], count["requested"]) for label, count in counts.items()]
    absent = len(classes["absent"])
    less = (
        f'<p class="soft">{counted(absent, "class", "classes")} of the list without a clip here.</p>' if absent else ""
    )
    if len(entries) <= _NAMED_CLASSES:
        return f'{less}<div class="card wide"><div class="classes">{"".join(_class_bars(entries))}</div></div>'
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
        f'{less}<div class="cards pairs">'
        + card(
            "Samples of requested clips", class_chart(entries, "samples and requested clips of each class"), wide=True
        )
        + card("Least covered", table(("class", "samples", "of", ""), cells, (1, 2, 3), label="Least covered classes"))
        + card("Rarest", table(("class", "samples", "of"), rare, (1, 2), label="Rarest classes"))
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
    drawn = table(("", "groups", "clips", "such as"), rows, (1, 2), label="Flagged and repeated clips")
    return f'<div class="card wide">{drawn}</div>'


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
    return f'<div class="card wide">{table(header, rows, (2, 4, 5, 6), label="Clips of known test sets")}</div>'


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
        + card("Config", table(("setting", "value"), [*rows, *licence], label="Config"))
        + card("Versions", table(("tool", "version"), tools, label="Versions of the tools"))
        + "</div>"
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _bytes(size: float | int) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError("TB is the last")
