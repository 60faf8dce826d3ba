"""Run a step on the samples of a dataset, from their members."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from avdata.prepare.commit import Observer
from avdata.prepare.operations.build import NewShard, Prepared
from avdata.prepare.operations.clip import StoredClip
from avdata.prepare.operations.run import Changes
from avdata.prepare.segments import Segment
from avdata.prepare.steps.registry import refuse_clashes, step_columns, step_record
from avdata.prepare.steps.run import ClipMedia, StepError, StepsResult, needs_video, run_steps
from avdata.prepare.steps.step import Step
from avdata.shards import ByteFile, member_columns, pack_json
from avdata.waveform import stored_samples
from avmanifest.columns import CLIP_COLUMNS
from avmanifest.errors import ConfigError
from avmanifest.parsing import parse_object
from avmanifest.records import columns_of_description, shown_step
from avmanifest.schema import FORMAT_VERSION, PLAN_SCHEMA

_NOT_MEASURED: Final = frozenset(
    ("key", "video_id", "source", "labels", "split", "status", "reason", "shard", "position", "members", "member_xxh3",
     "mel_block_xxh3", "annotations", "licence")
)  # fmt: skip
"""Columns of every dataset that a step does not get as measured ones."""

_SILENCE: Final = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class AddStep:
    """Add a step's columns and members, and drop the clips that it drops, as preparing with it as the last step would.

    The step sees the JPEGs and the FLAC, as it does in prepare.
    """

    step: Step
    name = "add-step"
    versions = (FORMAT_VERSION,)

    def settings(self) -> dict[str, Any]:
        """The step with its version and its settings."""
        return {"step": shown_step(step_record(self.step))}

    def changes(self, dataset: Prepared, note: Observer) -> Changes | None:
        """All shards. Raises ConfigError for a step that needs the video, or clashes with what the dataset has."""
        root, description = dataset.layout.root, dataset.description
        config = description["config"]
        steps = config.get("steps", [])
        if step_record(self.step) in steps:
            note(f"{root}: the samples have been through {shown_step(step_record(self.step))} already")
            return None
        if any(step["name"] == self.step.name for step in steps):
            raise ConfigError(
                f"{root}: was prepared with the step {self.step.name} of another version or with other settings. Give "
                "the step another name, or prepare again."
            )
        if needs_video((self.step,)):
            raise ConfigError(
                f"step {self.step.name} looks at every frame of the video, and a dataset holds "
                f"{config['num_frames']} of a clip. Prepare again with --step {self.step.name}."
            )
        if "waveform" in self.step.needs and not config["keep_audio"]:
            raise ConfigError(f"{root}: was prepared with --no-audio, so step {self.step.name} has no sound to look at")
        own = columns_of_description(description, dataset.layout.dataset_json)
        refuse_clashes((self.step,), [*PLAN_SCHEMA.names, *(column.name for column in own)])
        columns = (*own, *step_columns((self.step,)))
        edit = _WithStep(
            step=self.step,
            seed=config["seed"],
            measured=tuple(
                column.name
                for column in (*CLIP_COLUMNS, *own)
                if column.name not in _NOT_MEASURED and column.source != "list"
            ),
            nullable=frozenset(column.name for column in columns),
        )
        return Changes(
            description={
                **description,
                "config": {**config, "steps": [*steps, step_record(self.step)]},
                "columns": [column.as_dict() for column in columns],
            },
            shards=tuple(NewShard(planned.shard, planned=planned.rows) for planned in dataset.shards),
            edit=edit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _WithStep:
    """Runs the step on a clip."""

    step: Step
    seed: int
    measured: tuple[str, ...]  # columns that the step gets as measured ones
    nullable: frozenset[str]  # columns that may be null in the sample's json

    def __call__(self, clip: StoredClip) -> Segment:
        if not clip.is_sample:
            return clip.kept()
        files = {member.name: clip.member(member.name) for member in clip.members}
        found = self._run(clip, files)
        if found.status != "ok":
            dropped = {"status": found.status, "reason": found.reason, "annotations": clip.planned["annotations"]}
            return Segment({**clip.row, **found.values, **dropped, **member_columns([])}, None)
        in_json = {column.name: found.values[column.name] for column in self.step.columns if column.in_json}
        members: dict[str, bytes | ByteFile] = dict(files)
        if taken := sorted(files.keys() & found.members.keys()):
            raise ConfigError(
                f"{clip.where(taken[0])}: the sample has this member, and step {self.step.name} writes one of the same "
                "name. Rename the step's. The dataset was not changed."
            )
        if in_json:
            fields = parse_object(files["json"].read(), clip.where("json"))
            members["json"] = pack_json(fields | in_json, nullable=self.nullable)
        return clip.with_members(members | found.members, **found.values)

    def _run(self, clip: StoredClip, files: Mapping[str, ByteFile]) -> StepsResult:
        jpegs = [files[name].read() for name in sorted(files) if name.startswith("frame")]
        facts = {name: clip.row[name] for name in self.measured}
        has_sound = "waveform" in self.step.needs
        opened = stored_samples(files["flac"], clip.folder, clip.where("flac")) if has_sound else nullcontext(_SILENCE)
        with opened as sound:
            media = ClipMedia(jpegs, clip.row["frame_times_s"], sound)
            try:
                return run_steps((self.step,), clip.planned, facts, media, self.seed)
            except StepError as error:
                raise ConfigError(f"{clip.where('json')}: {error}. The dataset was not changed.") from error
