"""The steps that turn one clip's media into a sample. Every clip ends as one row of the manifest."""

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from avdata.images import encode_jpeg
from avdata.melspec import log_mel_pieces
from avdata.prepare.commit import disk_errors, storage_errors
from avdata.prepare.config import SampleConfig
from avdata.prepare.decode import Frames, Media, MediaInfo, open_media
from avdata.prepare.decode.small_video import SmallVideo
from avdata.prepare.frames import draw_frame_times
from avdata.prepare.masks import listed_masks
from avdata.prepare.quality import quality_flags
from avdata.prepare.segments import record_segment
from avdata.prepare.sources import Ref
from avdata.prepare.sources.media import MediaRef, hash_media, open_media_file
from avdata.prepare.sources.remote import FailedRef, RemoteRef
from avdata.prepare.sources.synth.source import SynthRef, draw_media, synth_truth
from avdata.prepare.steps.run import ALL_FRAMES, ClipMedia, StepError, needs_video, run_steps
from avdata.prepare.steps.step import Step
from avdata.prepare.supervise import extend_deadline, report_stage
from avdata.profiles import MelProfile, num_frames, profile
from avdata.samples import Samples, scratch_file
from avdata.shards import ByteFile, Member, member_columns, pack_json, write_npy_columns, write_sample
from avdata.waveform import StoredSamples, rms_dbfs, write_flac
from avmanifest.columns import CLIP_COLUMNS
from avmanifest.errors import DecodeError, DownloadError, MediaError, StorageError
from avmanifest.layout import ShardName
from avmanifest.schema import CLIP_SCHEMA, PLAN_SCHEMA
from avmanifest.secrets import without_secrets

WINDOW_S: Final = 3.0
"""Seconds of one training example. A shorter clip ends as media_short."""

MAX_DAMAGED_SHARE: Final = 0.5
"""If the frames of a larger share of the clip's time are damaged, it ends as media_corrupt."""

MAX_SEARCH_S: Final = 120.0
"""In longer clips no intact frames are searched for, because that decodes the whole clip."""

MAX_CLIP_S: Final = 21_600.0
"""Seconds of a sample, at most: 6 hours. A longer clip ends as media_long."""

REMOVED_REASON: Final = "removed on request with avkit dataset remove"
"""The reason of a clip that was removed."""

DEADLINE_SPAN_S: Final = 600.0
"""Seconds of a clip that must be decoded within the deadline. A longer clip gets proportionally more time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTask:
    """A planned clip with its media, as sent to a worker process."""

    shard: ShardName
    place: int  # index of the clip in its shard
    row: Mapping[str, Any]  # of PLAN_SCHEMA
    ref: Ref  # where its media are
    blocks: Path  # the file to which its tar blocks are written


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The result of a clip: its manifest row. Offsets of members count from the start of the blocks file.

    A `storage_error` means that the output's disk failed; the row is empty and the run stops with that error.
    """

    row: dict[str, Any]
    storage_error: StorageError | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)  # of the processor, for each step that ran


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A sample's members by name, and its measured columns: those of CLIP_SCHEMA and those of the steps.

    A clip that a step dropped has columns and no members.
    """

    members: dict[str, bytes | ByteFile]  # long ones are temporary files
    facts: dict[str, Any]
    status: str = "ok"  # or filtered_STEP
    reason: str = ""


def run_clip(config: SampleConfig, task: ClipTask, steps: Sequence[Step] = ()) -> ClipResult:
    """Make the clip's sample and write its tar blocks. This is the only place where an error becomes a manifest row.

    An error of a disk is never the clip's: it is returned as `storage_error`.
    """
    seconds: dict[str, float] = {}
    try:
        with disk_errors(task.blocks), ExitStack() as scratch:
            sample = make_sample(config, task, scratch, steps, seconds)
            if sample.status != "ok":
                dropped = manifest_row(task.row, sample.status, sample.reason, task.ref, sample.facts, [])
                return ClipResult(dropped, seconds=seconds)
            with storage_errors(task.blocks):
                with task.blocks.open("wb") as blocks:
                    members = write_sample(blocks, task.row["key"], sample.members)
                row = manifest_row(task.row, "ok", "", task.ref, sample.facts, members)
                record_segment(row, task.blocks)
    except MediaError as error:
        return ClipResult(failed_row(task.row, error.status, error.message, task.ref), seconds=seconds)
    except StorageError as error:
        return ClipResult({}, error)
    except MemoryError:
        raise
    except StepError as error:
        return ClipResult(failed_row(task.row, "internal", str(error), task.ref), seconds=seconds)
    except Exception:
        return ClipResult(failed_row(task.row, "internal", traceback.format_exc(), task.ref), seconds=seconds)
    return ClipResult(row, seconds=seconds)


def make_sample(
    config: SampleConfig, task: ClipTask, scratch: ExitStack, steps: Sequence[Step], seconds: dict[str, float]
) -> Sample:
    """Decode the clip, select frames, run the steps, compute log-mel spectrograms and encode all members.

    Memory does not grow with the length of the clip: what is long lies in temporary files beside `task.blocks`.

    Args:
        config: What a sample holds.
        task: The clip.
        scratch: Keeps the temporary files open; the members are read before it is closed.
        steps: The dataset's steps.
        seconds: Receives the processor time of each step, and that of ALL_FRAMES for the steps that need the video.

    Raises:
        MediaError: The clip cannot become a sample; `status` and `message` say why.
        StepError: A step failed.
    """
    row, ref = task.row, task.ref
    if isinstance(ref, FailedRef):
        raise DownloadError(ref.status, ref.reason)
    assert not isinstance(ref, RemoteRef), "remote media are fetched before a clip is decoded"
    with (
        _media_file(ref, task.blocks) as (file, digest, num_bytes),
        open_media(
            file,
            config.decoder,
            deinterlace=config.deinterlace,
            tone_map=config.tone_map,
            fast=config.fast_decode,
        ) as media,
    ):
        start_s, end_s, asked_s = _span(config, row, ref, media.duration_s)
        start_s, end_s = media.clip_span(start_s, end_s, min(WINDOW_S, config.clip_seconds or WINDOW_S))
        _refuse_long(end_s - start_s, media.name)
        extend_deadline(max(1.0, (end_s - start_s) / DEADLINE_SPAN_S))
        # Images first: for a damaged file without sound, the damage is the more useful reason.
        frames = _frames(config, media, row, start_s, end_s)
        media.refuse_frames_outside(frames.times_s, end_s)
        folder = task.blocks.parent
        sound, sound_s = scratch.enter_context(media.waveform_file(start_s, end_s, folder=folder))
        info, damaged_share = media.info, media.damaged_share(start_s, end_s)
        video = _all_frames(media, start_s, end_s, folder, seconds) if needs_video(steps) else None
    times_s = [time_s - start_s for time_s in frames.times_s]
    facts = _facts(info, sound, sound_s, frames, times_s, asked_s, end_s - start_s)
    facts |= {"source_bytes": num_bytes, "source_sha256": digest, "damaged_share": damaged_share}
    facts |= {"start_s": _offset_in_video(row, ref) + start_s, "end_s": _offset_in_video(row, ref) + end_s}

    jpegs = [encode_jpeg(image, config.jpeg_quality) for image in frames.images]
    with video or nullcontext():
        clip = ClipMedia(jpegs, times_s, StoredSamples(sound), video)
        found = run_steps(steps, row, facts, clip, config.seed, begins=_step_begins, seconds=seconds)
    if steps:
        report_stage("")
    facts |= found.values
    if found.status != "ok":
        return Sample(members={}, facts=facts, status=found.status, reason=found.reason)

    if isinstance(ref, SynthRef):
        height, width = frames.images[0].shape[:2]
        truth, facts["annotations"] = synth_truth(ref, start_s, end_s, frames.times_s, height, width)
    else:
        truth, facts["annotations"] = listed_masks(ref, row["annotations"])
    in_json = [column.name for step in steps for column in step.columns if column.in_json]
    own = own_columns(row) | {name: facts[name] for name in in_json}
    members = _members(config, {**row, **facts}, own, sound, jpegs, lambda: scratch.enter_context(scratch_file(folder)))
    return Sample(members=members | truth | found.members, facts=facts)


def _step_begins(name: str) -> None:
    report_stage(f"step {name}")


def _all_frames(media: Media, start_s: float, end_s: float, folder: Path, seconds: dict[str, float]) -> SmallVideo:
    report_stage(ALL_FRAMES)
    begun_s = time.process_time()
    video = SmallVideo(media, start_s, end_s, folder)
    seconds[ALL_FRAMES] = time.process_time() - begun_s
    return video


def _refuse_long(seconds: float, name: str) -> None:
    if seconds > MAX_CLIP_S:
        raise DecodeError(
            "media_long",
            f"{name}: a clip of {seconds:,.0f} s; a sample holds at most {MAX_CLIP_S:,.0f} s. Keep a part of each "
            "video with --clip-seconds, or list several clips of it.",
        )


@contextmanager
def _media_file(ref: MediaRef | SynthRef, blocks: Path) -> Iterator[tuple[Path | BinaryIO, str, int]]:
    """The media for the decoder, with sha256 and size in bytes. Synthetic videos are drawn beside the blocks file."""
    if isinstance(ref, SynthRef):
        with draw_media(ref, blocks.with_suffix(".mp4")) as (path, digest, num_bytes):
            yield path, digest, num_bytes
        return
    digest, num_bytes = hash_media(ref)
    file = open_media_file(ref)
    try:
        yield file, digest, num_bytes
    finally:
        if not isinstance(file, Path):
            file.close()


def _offset_in_video(row: Mapping[str, Any], ref: Ref) -> float:
    """Time in the source video, in seconds, at which the media file begins."""
    if isinstance(ref, MediaRef) and not ref.is_clip:
        return ref.starts_at_s
    return float(row["start_s"])


def _span(config: SampleConfig, row: Mapping[str, Any], ref: Ref, duration_s: float) -> tuple[float, float, float]:
    """Start and end of the span to keep, in seconds of the media file, and the requested length (0: not known)."""
    start_s = float(row["start_s"]) - _offset_in_video(row, ref)
    end_s = duration_s if row["end_s"] is None else float(row["end_s"]) - _offset_in_video(row, ref)
    if config.clip_seconds is None:
        return start_s, end_s, 0.0 if row["end_s"] is None else end_s - start_s
    room_s = min(end_s, duration_s) - start_s - config.clip_seconds
    if room_s > 0 and row["frame_times_s"]:
        middle_s = float(np.mean(row["frame_times_s"]))
        start_s += min(max(middle_s - config.clip_seconds / 2, 0.0), room_s)
    elif room_s > 0:
        (start_s,) = draw_frame_times(config.seed, f"{row['key']}/span", start_s, start_s + room_s, 1)
    return start_s, start_s + config.clip_seconds, config.clip_seconds


def _frames(config: SampleConfig, media: Media, row: Mapping[str, Any], start_s: float, end_s: float) -> Frames:
    """The frames to store, at the times that the list gives, or at random times of the media file.

    Random times at which the frame is damaged are drawn again among the others.
    """
    if row["frame_times_s"]:
        times_s = [min(start_s + float(time_s), end_s) for time_s in row["frame_times_s"]]
        return media.frames(times_s, config.short_side)
    draw = partial(draw_frame_times, config.seed, row["key"], start_s, end_s, config.num_frames)
    try:
        frames = media.frames(draw(), config.short_side)
    except DecodeError:
        if not media.has_damaged_frames or end_s - start_s > MAX_SEARCH_S:
            raise
    else:
        if not media.has_damaged_frames or end_s - start_s > MAX_SEARCH_S:
            return frames
    damaged = media.find_damaged_frames(start_s, end_s)
    share = sum(span[1] - span[0] for span in damaged) / (end_s - start_s)
    if share > MAX_DAMAGED_SHARE:
        raise DecodeError(
            "media_corrupt",
            f"{media.name}: the frames of {share:.0%} of the clip are damaged (accepted: {MAX_DAMAGED_SHARE:.0%}). "
            "Fetch the file again.",
        )
    return media.frames(draw(damaged), config.short_side)


def _facts(
    info: MediaInfo,
    sound: Samples,
    sound_s: float,
    frames: Frames,
    times_s: list[float],
    asked_s: float,
    real_s: float,
) -> dict[str, Any]:
    flags = quality_flags(sound, frames.images, asked_s, min(real_s, sound_s))
    return {
        "duration_s": real_s,
        "frame_times_s": times_s,
        "fps": info.fps or None,  # 0: unknown
        "width": info.width,
        "height": info.height,
        "video_codec": info.video_codec,
        "audio_codec": info.audio_codec,
        "audio_rate": info.audio_rate,
        "audio_channels": info.audio_channels,
        "audio_video_offset_s": info.audio_video_offset_s,
        "num_bad_packets": info.num_bad_packets,
        "audio_gap_s": info.audio_gap_s,
        "deinterlaced": info.deinterlaced,
        "tone_mapped": info.tone_mapped,
        "rms_dbfs": rms_dbfs(sound),
        "silent": flags.silent,
        "still": flags.still,
        "short": flags.short,
    }


def _members(
    config: SampleConfig,
    known: Mapping[str, Any],
    own: Mapping[str, Any],
    sound: Samples,
    jpegs: Sequence[bytes],
    new_file: Callable[[], ByteFile],
) -> dict[str, bytes | ByteFile]:
    """The members that every sample has, in the order in which they are stored.

    Args:
        config: What a sample holds.
        known: The columns of every dataset.
        own: The extra columns that the sample's json has.
        sound: The clip's sound.
        jpegs: The frames.
        new_file: Opens a temporary file.
    """
    fields = {column.name: known[column.name] for column in CLIP_COLUMNS if column.in_json} | dict(own)
    members: dict[str, bytes | ByteFile] = {"json": pack_json(fields, nullable=own.keys())}
    for place, name in enumerate(config.mel):
        member = log_mel_member(name, place)
        members[member] = new_file()
        write_log_mel(members[member], StoredSamples(sound), profile(name))
    for number, jpeg in enumerate(jpegs):
        members[f"frame{number:02d}.jpg"] = jpeg
    if config.keep_audio:
        members["flac"] = new_file()
        write_flac(members["flac"], sound)
    return members


def log_mel_member(mel: str, place: int) -> str:
    """The member of a profile's log-mel. `place` is the profile's among those of the dataset, from 0."""
    return f"logmel-{mel}.npy" if place else "logmel.npy"


def write_log_mel(file: ByteFile, sound: Samples, mel: MelProfile) -> None:
    """Write the log-mel of the clip's stored sound as .npy to an open file that is empty."""
    write_npy_columns(file, log_mel_pieces(sound, mel), mel.n_mels, num_frames(len(sound), mel), np.float16)


def own_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a planned clip's extra columns, which come from the list."""
    return {name: value for name, value in row.items() if name not in PLAN_SCHEMA.names}


def failed_row(row: Mapping[str, Any], status: str, reason: str, ref: Ref | None = None) -> dict[str, Any]:
    """The manifest row of a clip that did not become a sample."""
    return manifest_row(row, status, reason, ref, {}, [])


def removed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest row of a clip that was removed: its key, id, times and labels, and nothing of its media.

    The list's own columns, such as captions, are null.
    """
    return failed_row({**row, **dict.fromkeys(own_columns(row))}, "removed", REMOVED_REASON)


def manifest_row(
    row: Mapping[str, Any],
    status: str,
    reason: str,
    ref: Ref | None,
    facts: Mapping[str, Any],
    members: list[Member],
) -> dict[str, Any]:
    """A row of CLIP_SCHEMA, with the list's own columns, from a planned clip and its result."""
    empty: dict[str, Any] = dict.fromkeys(CLIP_SCHEMA.names)
    planned = {name: row[name] for name in CLIP_SCHEMA.names if name in row} | {"frame_times_s": []} | own_columns(row)
    end = {
        "status": status,
        "reason": without_secrets(reason),
        "source": f"{ref.source}/{ref.name}" if ref else "",
        **member_columns(members),
    }
    return empty | planned | dict(facts) | end
