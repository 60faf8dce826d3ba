"""Inputs that are unusual and right, as the world makes them: media, names, lists, messages of YouTube, checkpoints.

The rest of the table has faults; here the expected end is that nothing is refused, and that it is read for what it is.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from yt_dlp.utils import DownloadError

from avdata.prepare.decode import open_media
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.youtube.errors import classify, final_status
from avmanifest.errors import AvkitError
from avmanifest.lists import folder_requests, read_requests
from avmanifest.recipe import load_recipe
from avmodel.weights.files import read_weights
from tests.faults.fault import Fault
from tests.odd_media import KINDS, copy_packets, ffmpeg, heard, joined, numbered_clip, overstate, seen

ID = "-_A__b-C_3_"
NAMES = (
    f"{ID}.mp4", f"{ID}_000030.mp4", f"{ID}_30.mp4", f"{ID}-30.mp4", f"{ID}_30-40.mp4", f"{ID}_30000_40000.mp4",
    f"{ID}_30.000_40.000.webm", f"Y{ID}.mp4", f"Y{ID}_30.000_40.000.mp4", f"A title, (live) [{ID}].mkv",
    f"音楽　ライブ [{ID}].mp4", f"{ID}_30.video.mp4", f"a class/{ID}_30.MP4",
)  # fmt: skip
TITLES = ("音楽　ライブ", "no\u00a0break", "👩\u200d🎤 sings", "\u200fשלום\u200e", "soft\u00adhyphen")
CLIPS = (
    ("---g-f_I2yQ", "1", "people marching", "test"),
    ("--9O4XZOge4", "30", "female speech, woman speaking", "train"),
)
LISTS: dict[str, Callable[[list[list[str]]], str]] = {
    "fully quoted": lambda rows: "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows),
    "tabs": lambda rows: "".join("\t".join(row) + "\n" for row in rows),
    "semicolons": lambda rows: "".join(";".join(row) + "\n" for row in rows),
    "row numbers": lambda rows: "".join(f'{n},{row[0]},{row[1]},"{row[2]}",{row[3]}\n' for n, row in enumerate(rows)),
    "30.0": lambda rows: "".join(f'{row[0]},{row[1]}.0,"{row[2]}",{row[3]}\n' for row in rows),
    "a header": lambda rows: "id;start;label;split\n" + "".join(";".join(row) + "\n" for row in rows),
    "columns in another order": lambda rows: (
        "split\tclass\tstart\tytid\n" + "".join("\t".join((row[3], row[2], row[1], row[0])) + "\n" for row in rows)
    ),
    "TRAIN and TEST": lambda rows: "".join(f'{row[0]},{row[1]},"{row[2]}",{row[3].upper()}\n' for row in rows),
    "UTF-16": lambda rows: "\ufeff" + "".join(f'{row[0]},{row[1]},"{row[2]}",{row[3]}\n' for row in rows),
}
SOFT_ANSWERS = {
    "Video unavailable": "unavailable_removed",
    "Video unavailable. This content isn’t available.": "unavailable_removed",
    "Playback on other websites has been disabled by the video owner": "unavailable_removed",
    "The following content is not available on this app": "blocked_token",
    "This content is not available on this device": "blocked_token",
    "We’re processing this video. Check back later.": "blocked_soft",
}
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "module._orig_mod.",
    "_orig_mod.module.model.",
    "model.module._orig_mod.",
)


def kind_rows(folder: Path) -> Iterator[Fault]:
    """A row for each kind."""
    yield from name_rows(folder)
    yield from list_rows(folder)
    yield from weight_rows(folder)
    yield from message_rows()
    yield from media_rows(folder)


def name_rows(folder: Path) -> Iterator[Fault]:
    """Files that belong to one clip under many names, and titles in any script."""
    for number, name in enumerate(NAMES):
        root = folder / f"name{number}"
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
        found = LocalSource(root).locate(ClipRequest(ID, 30.0, 40.0))
        yield Fault(f"name: {name}", "a request for 30 to 40 s", "found", "missing" if found is None else "found")
    for title in TITLES:
        root = folder / "titles" / title.encode("unicode_escape").decode().replace("\\", "_")
        root.mkdir(parents=True)
        (root / f"{title}.mp4").touch()
        (row,) = folder_requests(root).to_pylist()
        yield Fault(f"title: {title!r}", "prepare folder", title, row["video_id"])


def list_rows(folder: Path) -> Iterator[Fault]:
    """VGGSound's list as other programs save it."""
    for name, write in LISTS.items():
        path = folder / "list.csv"
        path.write_text(write([list(row) for row in CLIPS]), encoding="utf-16-le" if name == "UTF-16" else "utf-8")
        yield Fault(f"list: {name}", "read_requests", "2 clips", outcome(lambda path=path: read_clips(path)))


def read_clips(path: Path) -> str:
    """`2 clips` if the list has the clips that it should have."""
    rows = read_requests(load_recipe("vggsound"), path).to_pylist()
    clips = [(row["video_id"], f"{row['start_s']:g}", row["labels"][0], row["split"]) for row in rows]
    return f"{len(clips)} clips" if tuple(clips) == CLIPS else str(clips)


def message_rows() -> Iterator[Fault]:
    """Answers of YouTube that are given for dead videos and to refused clients alike."""
    for text, ends in SOFT_ANSWERS.items():
        error = DownloadError(f"ERROR: {text}")
        yield Fault(f"YouTube: {text}", "one client", "blocked_soft", classify(error))
        yield Fault(f"YouTube: {text}", "two clients", ends, final_status(error))


def weight_rows(folder: Path) -> Iterator[Fault]:
    """Checkpoints of wrapped models, and numpy's numbers beside the weights."""
    for prefix in PREFIXES:
        path = folder / "weights.pth"
        torch.save({"model": {f"{prefix}norm.bias": torch.ones(2)}, "best": np.float64(0.5)}, path)
        names = outcome(lambda path=path: ", ".join(read_weights(path)))
        yield Fault(f"checkpoint: {prefix}norm.bias", "read_weights", "norm.bias", names)


def media_rows(folder: Path) -> Iterator[Fault]:
    """Intact media: pictures by their numbers, seconds by their tones."""
    clip = numbered_clip(folder / "source.mp4")
    for suffix in (".mp4", ".mkv", ".flv", ".mov"):
        path = copy_packets(clip, folder / f"video{suffix}", video_s=3)
        numbers = outcome(lambda path=path: str(seen(path, [1.02, 5.5])))
        yield Fault(f"media: {suffix}, video of 3 s, sound of 6 s", "frames", "[25, 74]", numbers)
        path = copy_packets(clip, folder / f"sound{suffix}", audio_s=4)
        yield Fault(
            f"media: {suffix}, sound of 4 s, video of 6 s",
            "waveform",
            "0 1 2 3 - -",
            outcome(lambda path=path: tones(path)),
        )
        path = copy_packets(clip, folder / f"gap{suffix}", gap=(1.9, 4.2))
        yield Fault(
            f"media: {suffix}, no sound from 1.9 to 4.2 s",
            "waveform",
            "0 1 - - 4 5",
            outcome(lambda path=path: tones(path)),
        )
    for suffix in (".mkv", ".flv"):
        path = copy_packets(clip, folder / f"long{suffix}")
        overstate(path, 1.0)
        yield Fault(
            f"media: {suffix}, a duration a second too long",
            "waveform",
            "0 1 2 3 4 5",
            outcome(lambda path=path: tones(path)),
        )
    for jump_s in (0.0, 100.0, -2.0):
        (place := folder / f"jump{jump_s:g}").mkdir()
        path = joined(place, jump_s)
        yield Fault(
            f"media: .ts joined by cat, clock off by {jump_s:g} s",
            "waveform",
            "0 1 2 3 4 5",
            outcome(lambda path=path: tones(path)),
        )
    for name, (video, audio) in KINDS.items():
        path = folder / name
        ffmpeg(
            "-i", clip, "-t", "4", "-c:v", video, "-bf", "0" if "wmv" in name else "2", "-g", "10", "-c:a", audio, path
        )
        yield Fault(
            f"media: {name} ({video}, {audio})",
            "any times in any order",
            "as a full read",
            outcome(lambda path=path: compare(path)),
        )


def tones(path: Path) -> str:
    """The number of the tone of each second; - for none."""
    with open_media(path) as media:
        found = heard(media.waveform(0.0, min(6.0, media.duration_s)).samples)
    return " ".join("-" if number is None else str(number) for number in [*found, None][:6])


def compare(path: Path) -> str:
    """`as a full read` if single times give the pictures of a read of all."""
    times_s = [number / 50 for number in range(190)]
    every = seen(path, times_s)
    chosen = np.random.default_rng(0).permutation(len(times_s))[:5].tolist()
    wrong = [n for n in chosen if seen(path, [times_s[n]]) != [every[n]]]
    return f"other pictures at {wrong}" if wrong else "as a full read"


def outcome(run: Callable[[], str]) -> str:
    """What comes, or the type of the error."""
    try:
        return run()
    except AvkitError as error:
        return f"{type(error).__name__}: {error}"
