"""Terminal output of `avkit inspect`, `verify`, `diff` and `spectrogram`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from rich.columns import Columns
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from avcli.tables import plain_table, shown_value
from avdata.audit.dataset import AuditDataset
from avdata.audit.sample import StoredSample
from avdata.audit.secrets import ADVICE
from avdata.audit.summary import QUANTILES
from avdata.audit.verify import Verification
from avdata.draw.images import color_log_mel, decode_rgb
from avdata.draw.mel_axis import TICKS_HZ, band_of, seconds_of, time_ticks
from avdata.profiles import MelProfile
from avmanifest.records import shown_operation, shown_step
from avmanifest.schema import is_failure, status_meaning
from avmanifest.wording import counted, time_in_words

_MOST_FAULTS: Final = 40
_LONGEST_FACT: Final = 500  # characters of a value of an extra column
_MEL_LINES: Final = 12
_MEL_WIDTH: Final = 100
_FRAME_WIDTH: Final = 24
_MOST_FRAMES: Final = 10
_SHADES: Final = " .:-=+*#%@"
_QUANTILE_NAMES: Final = {0.0: "min", 0.5: "median", 1.0: "max"}


def print_summary(found: Mapping[str, Any]) -> None:
    """Print counts, coverage, measurements, duplicates and sizes."""
    console = Console(highlight=False)
    _title(console, found)
    console.print(_splits(found))
    others = [status for status in found["statuses"] if status != "ok"]
    for heading, are_failures in (("failures", True), ("left out as asked", False)):
        if statuses := [status for status in others if is_failure(status) == are_failures]:
            _heading(console, heading)
            table = plain_table(("status", "<"), ("clips", ">"), ("meaning", "<"))
            for status in statuses:
                table.add_row(Text(status, style="yellow"), f"{found['statuses'][status]:,}", status_meaning(status))
            console.print(table)
    _heading(console, "measured")
    console.print(_measured(found))
    if found["classes"]["counts"]:
        _heading(console, f"classes: {_class_line(found['classes'])}")
        console.print(_classes(found["classes"]["counts"]))
    _heading(console, "flags")
    _print_found(console, _flag_rows(found), list(found["splits"]), "yellow")
    _heading(console, "repeats")
    _print_found(console, _repeat_rows(found), ("groups", "clips"), "red")
    if found["overlaps"]:
        _heading(console, "overlaps with known test sets")
        console.print(_overlaps(found["overlaps"]))
    if own := [column for column in found["columns"] if column["source"]]:
        _heading(console, "extra columns")
        table = plain_table(("column", "<"), ("type", "<"), ("from", "<"), ("meaning", "<"))
        for column in own:
            cells = (column["name"], _type_words(column["type"]), column["source"], column["meaning"])
            table.add_row(*(Text(shown_value(cell, _LONGEST_FACT)) for cell in cells))
        console.print(table)
    _heading(console, "on disk")
    console.print(_disk(found["member_bytes"]))
    for tar, problem in found["damaged"].items():
        console.print(Text(f"{tar}: {problem}", style="red"), soft_wrap=True)
    if found["pending"]:
        console.print(Text(f"\n{found['pending']}", style="red"), soft_wrap=True)
    if note := found["recipe"].get("note"):
        _heading(console, "to know")
        console.print(Text(" ".join(note.split())))
    if found["config"]:
        _heading(console, "made with")
        console.print(_versions(found))


def _type_words(dtype: Any) -> str:
    """A type of dataset.json in words, such as `list of float64`."""
    if isinstance(dtype, str):
        return dtype
    return f"list of {_type_words(dtype['list'])}" if "list" in dtype else f"struct of {', '.join(dtype['struct'])}"


def _title(console: Console, found: Mapping[str, Any]) -> None:
    title = Text(found["root"], style="bold")
    if name := found["recipe"].get("title"):
        title.append(f"  {name}", style="not bold")
    console.print(title, soft_wrap=True)
    samples, clips = counted(found["samples"], "sample"), counted(found["requested"], "clip")
    console.print(
        Text.assemble(
            f"{samples} of {clips}, {time_in_words(3600 * found['hours'])}   subset id ",
            (found["subset_id"], "bold"),
        )
    )
    _where(console, found)
    console.print()


def _where(console: Console, found: Mapping[str, Any]) -> None:
    if found["where"] is not None:
        console.print(Text(f"where {found['where']}"), soft_wrap=True)


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", style="bold"))


def _splits(found: Mapping[str, Any]) -> Table:
    official = any(content["official"] for content in found["splits"].values())
    columns = [
        ("split", "<"),
        ("requested", ">"),
        ("samples", ">"),
        ("coverage", ">"),
        ("length", ">"),
        ("shards", ">"),
    ]
    if official:
        columns.insert(1, ("official list", ">"))
    table = plain_table(*columns)
    for split, content in found["splits"].items():
        cells = [
            split,
            f"{content['requested']:,}",
            f"{content['samples']:,}",
            f"{content['samples'] / max(content['requested'], 1):.1%}",
            time_in_words(3600 * content["hours"]),
            f"{content['shards']:,}",
        ]
        if official:
            cells.insert(1, f"{content['official']:,}" if content["official"] else "")
        table.add_row(*cells)
    return table


def _count(number: int, style: str) -> Text:
    return Text(f"{number:,}", style=style if number else "dim")


def _measured(found: Mapping[str, Any]) -> Table:
    table = plain_table(
        ("", "<"), ("split", "<"), *((_QUANTILE_NAMES.get(share, f"{share:.0%}"), ">") for share in QUANTILES)
    )
    names = dict.fromkeys(name for content in found["splits"].values() for name in content["measured"])
    for name in names:
        for place, (split, content) in enumerate(found["splits"].items()):
            if values := content["measured"].get(name):
                table.add_row("" if place else name, split, *(f"{value:,.2f}" for value in values))
    return table


def _class_line(classes: Mapping[str, Any]) -> str:
    counts = classes["counts"]
    covered = sum(1 for count in counts.values() if count["samples"])
    listed = classes["listed"] or len(counts)
    return f"{covered:,} of {listed:,} have samples"


def _classes(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """The classes with the least coverage, and the rarest."""
    ordered = sorted(
        counts.items(), key=lambda item: (item[1]["samples"] / max(item[1]["requested"], 1), item[1]["samples"])
    )
    table = plain_table(("least covered", "<"), ("samples", ">"), ("of", ">"), ("", "<"))
    for label, count in ordered[:6]:
        share = count["samples"] / max(count["requested"], 1)
        bar = Text("█" * round(20 * share), style="green") + Text("░" * (20 - round(20 * share)), style="dim")
        table.add_row(Text(label), f"{count['samples']:,}", f"{count['requested']:,}", bar)
    return table


class _Found(NamedTuple):
    """What was looked for, by name: how often it is in groups or splits, and examples."""

    name: str
    counts: tuple[int, ...]
    examples: Sequence[Mapping[str, str]]


def _flag_rows(found: Mapping[str, Any]) -> list[_Found]:
    """The flags, each with its samples in every split."""
    meanings = {column["name"]: column["meaning"] for column in found["columns"]}
    splits = found["splits"].values()
    return [
        _Found(f"{name}: {meanings[name]}", tuple(one["flags"].get(name, 0) for one in splits), entry["examples"])
        for name, entry in found["flagged"].items()
    ]


def _repeat_rows(found: Mapping[str, Any]) -> list[_Found]:
    """Keys, videos and contents that are there more than once, each with its groups and clips."""
    duplicates, leaks = found["duplicates"], found["leaks"]
    entries = [
        ("duplicate keys", duplicates["keys"]),
        ("samples of the same source bytes", duplicates["contents"]),
        ("keys in several splits", leaks["keys"]),
        ("videos in several splits", leaks["videos"]),
        ("source bytes in several splits", leaks["contents"]),
        *(
            (name, counts["near"])
            for name, counts in (("near duplicates", duplicates), ("near duplicates in several splits", leaks))
            if "near" in counts
        ),
    ]
    return [
        _Found(name, (entry["groups"], entry["clips"]), entry["examples"][0]["clips"] if entry["examples"] else ())
        for name, entry in entries
    ]


def _print_found(console: Console, rows: Sequence[_Found], heads: Sequence[str], style: str) -> None:
    """Print what there is as a table, and what there is none of in one line."""
    table = plain_table(("", "<"), *((head, ">") for head in heads), ("such as", "<"))
    for row in (row for row in rows if any(row.counts)):
        shown = ", ".join(f"{clip['split']}/{clip['key']}" for clip in row.examples[:2])
        table.add_row(Text(row.name), *(_count(count, style) for count in row.counts), Text(shown))
    if table.row_count:
        console.print(table)
    if none := [row.name.partition(":")[0] for row in rows if not any(row.counts)]:
        console.print(Text(f"none: {', '.join(none)}", style="dim"), soft_wrap=True)


def _overlaps(overlaps: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table(
        ("test set", "<"),
        ("split", "<"),
        ("its videos", ">"),
        ("here in", "<"),
        ("videos", ">"),
        ("samples", ">"),
        ("same clips", ">"),
    )
    for entry in overlaps:
        if "problem" in entry:
            table.add_row(entry["test_set"], Text(entry["problem"], style="yellow"))
            continue
        table.add_row(
            entry["test_set"],
            entry["test_split"],
            f"{entry['test_videos']:,}",
            entry["split"],
            _count(entry["videos"], "red"),
            _count(entry["sampled_clips"], "red"),
            _count(entry["same_clips"], "red"),
        )
    return table


def _disk(member_bytes: Mapping[str, Mapping[str, int]]) -> Table:
    table = plain_table(("member", "<"), ("files", ">"), ("MB", ">"), ("share", ">"), ("", "<"))
    total = sum(entry["bytes"] for entry in member_bytes.values())
    for kind, entry in member_bytes.items():
        share = entry["bytes"] / max(total, 1)
        table.add_row(
            Text(kind), f"{entry['files']:,}", f"{entry['bytes'] / 1e6:,.1f}", f"{share:.1%}", "█" * round(20 * share)
        )
    table.add_row("all", "", f"{total / 1e6:,.1f}", "", "", style="dim")
    return table


def _versions(found: Mapping[str, Any]) -> Text:
    settings = {
        name: value
        for name, value in found["config"].items()
        if value is not None and name != "steps" and not isinstance(value, dict)
    }
    config = "  ".join(
        f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in settings.items()
    )
    tools = "  ".join(f"{name} {version}" for name, version in found["tools"].items())
    first = f"format {found['format_version']}  plan {found['plan_hash'][:16]}"
    steps = [f"step {shown_step(step)}" for step in found["steps"]]
    operations = [f"operation {shown_operation(entry)}" for entry in found["operations"]]
    return Text("\n".join(line for line in (first, config, *steps, tools, *operations) if line), style="dim")


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr, on a terminal; yields what updates it."""
    console = Console(stderr=True)
    columns = (TextColumn(f"[bold]{what}"), BarColumn(bar_width=None), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield partial(progress.update, progress.add_task(what, total=total))


@contextmanager
def verifying(dataset: AuditDataset) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr while shards are read."""
    shards = len(dataset.tars) or sum(
        len(content.table.column("shard").unique().drop_null()) for content in dataset.splits.values()
    )
    with _bar("shards", shards) as update:
        yield lambda _: update(advance=1)


@contextmanager
def drawing() -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr while samples are read for a page."""
    with _bar("samples", None) as update:
        yield lambda done, total: update(completed=done, total=total)


def print_verification(verification: Verification) -> None:
    """Print what was read, and each fault with shard, key and offset."""
    console = Console(highlight=False)
    how = "read and decoded" if verification.deep else "read"
    size = f"{verification.num_bytes / 1e6:,.1f} MB"
    shards, samples = counted(verification.shards, "shard"), counted(verification.samples, "sample")
    console.print(f"{shards} with {samples}, {size} {how}")
    for name, count in verification.secrets.items():
        entries = counted(count, "entry holds", "entries hold")
        console.print(Text(f"{name}: {entries} a password or token of a URL", style="yellow"))
    if verification.secrets:
        console.print(Text(f"Others must not get the dataset so. {ADVICE}"), soft_wrap=True)
    if not verification.faults:
        console.print(Text("whole: no damage found", style="green"))
        return
    table = plain_table(("shard", "<"), ("key", "<"), ("offset", ">"), ("problem", "<"))
    for fault in verification.faults[:_MOST_FAULTS]:
        table.add_row(
            Text(fault.shard), Text(fault.key), f"{fault.offset:,}" if fault.offset >= 0 else "", Text(fault.problem)
        )
    console.print(table)
    more = len(verification.faults) - _MOST_FAULTS
    tail = f", {more:,} more with --json" if more > 0 else ""
    faults, shards = counted(len(verification.faults), "fault"), counted(len(verification.bad_shards), "shard")
    console.print(Text(f"{faults} in {shards}{tail}", style="red"))


def print_repair(folders: Sequence[Path], cleaned: Sequence[str]) -> None:
    """What was cleaned and put away, and what to do next."""
    console = Console(highlight=False)
    for name in cleaned:
        console.print(Text(f"secrets removed: {name}"), soft_wrap=True)
    for folder in folders:
        console.print(Text(f"moved to {folder}"), soft_wrap=True)
    if folders:
        console.print("Run the same `avkit prepare` again: it makes what is missing.")


def print_sample(sample: StoredSample) -> None:
    """Print the metadata of a sample, and its frames and log-mel drawn with half blocks."""
    console = Console(highlight=False)
    console.print(Text.assemble((sample.key, "bold"), f"  {sample.split}  {', '.join(sample.labels)}"), soft_wrap=True)
    facts = sample.facts
    table = plain_table(("", "<"), ("", "<"))
    table.show_header = False
    for name in ("video_id", "source", "start_s", "duration_s", "fps", "rms_dbfs", "audio_video_offset_s"):
        if (value := facts.get(name)) is not None:
            table.add_row(Text(name, style="dim"), Text(f"{value:.3f}" if isinstance(value, float) else str(value)))
    for name, value in sample.own_facts.items():
        table.add_row(Text(name, style="dim"), Text(shown_value(value, _LONGEST_FACT)))
    if sample.flags:
        table.add_row(Text("flags", style="dim"), Text(" ".join(sample.flags), style="yellow"))
    console.print(table)
    if console.color_system is not None and sample.frames:
        console.print(Columns([_thumbnail(frame.content, frame.time_s) for frame in sample.frames[:_MOST_FRAMES]]))
    elif sample.frames:
        times = ", ".join("?" if frame.time_s is None else f"{frame.time_s:.2f}" for frame in sample.frames)
        console.print(f"{counted(len(sample.frames), 'frame')} at {times} s")
    if sample.log_mel is not None:
        console.print(_mel_picture(sample.log_mel, sample.profile, console))


def print_spectrogram(path: Path, found: Any) -> None:
    """Print a file's log-mel, drawn with half blocks."""
    console = Console(highlight=False)
    shape = " x ".join(map(str, found.log_mel.shape))
    console.print(
        Text.assemble(
            (path.name, "bold"), f"  {found.profile.name}  {shape}  {found.seconds:.2f} s  {found.rms_dbfs:.1f} dBFS"
        ),
        soft_wrap=True,
    )
    console.print(_mel_picture(found.log_mel, found.profile, console))


def _thumbnail(jpeg: bytes, time_s: float | None) -> Group:
    caption = Text("" if time_s is None else f"{time_s:.2f} s", style="dim")
    picture = decode_rgb(jpeg)
    if picture is None:
        return Group(Text("damaged", style="red"), caption)
    lines = max(1, round(_FRAME_WIDTH * picture.shape[0] / picture.shape[1] / 2))
    small = cv2.resize(picture, (_FRAME_WIDTH, 2 * lines), interpolation=cv2.INTER_AREA)
    return Group(*_half_blocks(np.asarray(small)), caption)


def _half_blocks(rgb: np.ndarray) -> list[Text]:
    """Two rows of pixels in each line of text."""
    lines = []
    for upper, lower in zip(rgb[::2], rgb[1::2], strict=True):
        line = Text()
        for (r, g, b), (x, y, z) in zip(upper.tolist(), lower.tolist(), strict=True):
            line.append("▀", style=f"#{r:02x}{g:02x}{b:02x} on #{x:02x}{y:02x}{z:02x}")
        lines.append(line)
    return lines


def _mel_picture(log_mel: np.ndarray, profile: MelProfile | None, console: Console) -> Group:
    """A log-mel with frequencies in Hz and times in s; letters of gray where there are no colors."""
    bands, columns = log_mel.shape
    width = max(10, min(columns, _MEL_WIDTH, console.width - 8))
    small = cv2.resize(np.ascontiguousarray(log_mel, np.float32), (width, 2 * _MEL_LINES), interpolation=cv2.INTER_AREA)
    if console.color_system is not None:
        drawn = _half_blocks(color_log_mel(np.asarray(small)))
    else:
        pairs = np.asarray(small)[::-1].reshape(_MEL_LINES, 2, width).mean(axis=1)
        low, high = float(pairs.min()), float(pairs.max())
        levels = ((pairs - low) / max(high - low, 1e-6) * (len(_SHADES) - 1)).round().astype(int)
        drawn = [Text("".join(_SHADES[level] for level in line)) for line in levels.tolist()]
    margin = [""] * _MEL_LINES
    if profile is not None:
        for frequency in TICKS_HZ[::-1]:
            line = _MEL_LINES - 1 - int(band_of(frequency, profile) / bands * _MEL_LINES)
            if 0 <= line < _MEL_LINES and not margin[line]:
                margin[line] = f"{frequency} Hz"
    rows = [Text(f"{text:>7} ", style="dim") + line for text, line in zip(margin, drawn, strict=True)]
    return Group(*rows, Text(" " * 8 + _time_line(columns, width, profile), style="dim"))


def _time_line(columns: int, width: int, profile: MelProfile | None) -> str:
    if profile is None:
        return counted(columns, "column")
    seconds = seconds_of(columns, profile)
    line = [" "] * (width + 8)
    for tick in time_ticks(seconds):
        word = f"{tick:g} s" if tick == 0 else f"{tick:g}"
        place = int(tick / seconds * (width - 1))
        line[place : place + len(word)] = word
    return "".join(line).rstrip()


def print_diff(found: Mapping[str, Any]) -> None:
    """Print what two datasets share, and where they differ."""
    console = Console(highlight=False)
    table = plain_table(("", "<"), ("requested", ">"), ("samples", ">"), ("subset id", "<"), ("", "<"))
    for name in ("a", "b"):
        side = found[name]
        table.add_row(
            name.upper(), f"{side['requested']:,}", f"{side['samples']:,}", side["subset_id"], Text(side["root"])
        )
    console.print(table)
    _where(console, found)
    if found["same"]:
        console.print(Text("\nthe same samples, splits, labels and config", style="green"))
    _heading(console, "shared")
    table = plain_table(("", "<"), ("both", ">"), ("only A", ">"), ("only B", ">"), ("such as", "<"))
    for name in ("clips", "samples"):
        entry = found[name]
        such = "  ".join([f"- {key}" for key in found["only_a"][:2]] + [f"+ {key}" for key in found["only_b"][:2]])
        table.add_row(
            name,
            f"{entry['both']:,}",
            f"{entry['only_a']:,}",
            f"{entry['only_b']:,}",
            Text(such if name == "clips" else ""),
        )
    console.print(table)
    for name, change in found["changed"].items():
        if not change["clips"]:
            continue
        _heading(console, f"{name} differs for {counted(change['clips'], 'clip')}")
        table = plain_table(("A", "<"), ("B", "<"), ("clips", ">"), ("such as", "<"))
        for kind in change["kinds"][:8]:
            table.add_row(Text(kind["a"]), Text(kind["b"]), f"{kind['clips']:,}", Text(kind["such_as"]))
        console.print(table)
    for side, names in (("A", found["columns"]["only_a"]), ("B", found["columns"]["only_b"])):
        if names:
            _heading(console, f"columns of {side} alone")
            console.print(Text(", ".join(names)))
    if found["config"]:
        _heading(console, "config")
        table = plain_table(("setting", "<"), ("A", "<"), ("B", "<"))
        for name, (one, other) in found["config"].items():
            table.add_row(name, Text(_short(one)), Text(_short(other)))
        console.print(table)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
