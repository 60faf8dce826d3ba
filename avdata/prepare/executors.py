"""The executor protocol (shard tasks in, shard results out, in any order) and the executor for one machine.

`LocalExecutor` distributes the clips of the open shards over supervised child processes, so a single shard uses every
core. It commits each shard when its last clip has ended. The bytes of a shard do not depend on where its clips ran.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable

from avdata.prepare.commit import EndedShard, Observer, Workspace, storage_errors
from avdata.prepare.config import PrepareConfig, Supervision
from avdata.prepare.description import read_description, removed_keys
from avdata.prepare.download import PRELOAD, DownloadStage
from avdata.prepare.media_resolver import MediaResolver
from avdata.prepare.output import DatasetOutput
from avdata.prepare.pipeline import ClipResult, ClipTask, failed_row, removed_row, run_clip
from avdata.prepare.report import PrepareListener, StepCosts
from avdata.prepare.segments import Segment
from avdata.prepare.sources import Ref
from avdata.prepare.steps.registry import load_steps
from avdata.prepare.supervise import Crashed, Outcome, Raised, Returned, TimedOut, supervise
from avmanifest.columns import Column
from avmanifest.layout import ShardName
from avmanifest.wording import counted

MISSING_REASON: Final = "no source has it"


@dataclass(frozen=True, slots=True)
class ShardTask:
    """The rows of one shard (PLAN_SCHEMA and the list's own columns), in plan order."""

    shard: ShardName
    rows: tuple[Mapping[str, Any], ...]
    columns: tuple[Column, ...] = ()  # the dataset's extra columns


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard that ended. `stats` is its marker; None if no source has any of its clips: it remains to be prepared."""

    shard: ShardName
    stats: Mapping[str, Any] | None


@runtime_checkable
class Executor(Protocol):
    """Runs shard tasks."""

    def run(self, tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        """Run every task; yield each result when its shard ends."""
        ...


@dataclass(slots=True)
class _OpenShard:
    task: ShardTask
    ended: dict[int, Segment] = field(default_factory=dict)  # by place in task.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalExecutor:
    """Runs shard tasks in supervised child processes on this machine."""

    output: DatasetOutput
    workspace: Workspace
    clip: Callable[[ClipTask], ClipResult]  # run_clip with its configuration; picklable
    locate: Callable[[Mapping[str, Any]], Ref | None]  # finds the media of a plan row; None: no source has them
    removed: frozenset[str] = frozenset()  # keys of clips that are not made
    downloads: DownloadStage | None = None  # fetches remote media; None: all media are local
    supervision: Supervision
    plan_hash: str
    on_clip: Callable[[str], None] = lambda _: None  # receives every clip's status
    on_steps: Callable[[Mapping[str, float]], None] = lambda _: None  # receives a clip's processor seconds by step
    observe: Observer = lambda _: None  # receives every step of a commit

    def run(self, tasks: Iterable[ShardTask]) -> Iterator[ShardResult]:
        """Yield each shard when it is published. Raises StorageError if the output cannot be written."""
        opened: dict[ShardName, _OpenShard] = {}
        ended: list[Future[ShardResult]] = []
        with ThreadPoolExecutor(1, "commit") as committer:

            def commit_if_complete(shard: _OpenShard) -> None:
                if len(shard.ended) == len(shard.task.rows):
                    del opened[shard.task.shard]
                    ended.append(committer.submit(self._commit, shard))

            waiting = self._clips(tasks, opened, ended, commit_if_complete)
            clips = supervise(
                self.clip,
                self.downloads.follow(waiting) if self.downloads else waiting,
                self.supervision,
                preload=PRELOAD,
                wake=self.downloads.wake if self.downloads else None,
            )
            try:
                for task, outcome in clips:
                    shard, segment = opened[task.shard], self._segment(task, outcome)
                    self._record(shard, task.place, segment)
                    if self.downloads:
                        self.downloads.clip_ended(task, segment.row["status"])
                    commit_if_complete(shard)
                    yield from self._published(ended, wait=False)
                yield from self._published(ended, wait=True)
            finally:
                clips.close()

    def _clips(
        self,
        tasks: Iterable[ShardTask],
        opened: dict[ShardName, _OpenShard],
        ended: list[Future[ShardResult]],
        commit_if_complete: Callable[[_OpenShard], None],
    ) -> Iterator[ClipTask]:
        """Yield the clips that a source has and no earlier run has finished. The others are recorded.

        Without a source they end as `unavailable_missing`.
        """
        for task in tasks:
            wanted = [row["key"] not in self.removed for row in task.rows]
            refs = [self.locate(row) if is_wanted else None for row, is_wanted in zip(task.rows, wanted, strict=True)]
            finished = self.workspace.adopt(task.shard, task.rows, task.columns)
            if not finished and not any(refs) and any(wanted):
                for _ in refs:
                    self.on_clip("unavailable_missing")
                ended.append(_resolved(ShardResult(task.shard, None)))
                continue
            if finished:
                self.observe(f"{task.shard}: {counted(len(finished), 'clip')} of an earlier run used")
            shard = opened[task.shard] = _OpenShard(task)
            to_do = []
            for place, (row, ref) in enumerate(zip(task.rows, refs, strict=True)):
                if not wanted[place]:
                    self._record(shard, place, Segment(removed_row(row), None))
                elif row["key"] in finished:
                    self._record(shard, place, finished[row["key"]])
                elif ref is None:
                    missing = failed_row(row, "unavailable_missing", MISSING_REASON)
                    self._record(shard, place, Segment(missing, None))
                else:
                    to_do.append((place, row, ref))
            commit_if_complete(shard)
            for place, row, ref in to_do:
                blocks = self.workspace.file(task.shard, "clip")
                yield ClipTask(shard=task.shard, place=place, row=row, ref=ref, blocks=blocks)

    def _segment(self, task: ClipTask, outcome: Outcome[ClipResult]) -> Segment:
        match outcome:
            case Returned(end):
                with storage_errors(task.blocks):
                    if end.storage_error is not None:
                        raise end.storage_error
                self.on_steps(end.seconds)
                return Segment(end.row, task.blocks if end.row["status"] == "ok" else None)
            case Raised(message):
                status, reason = "internal", message
            case TimedOut(deadline_s, stage):
                longer_s = 2 * self.supervision.deadline_s
                where = f" in {stage}" if stage else ""
                status, reason = "decode_timeout", f"killed after {deadline_s:g} s{where}. Try --deadline {longer_s:g}"
            case Crashed(exit_code, attempts, stage):
                where = f" in {stage}" if stage else ""
                reason = f"the decoding process died{where} {attempts} times (exit code {exit_code})"
                status = "decode_crash"
        return Segment(failed_row(task.row, status, reason, task.ref), None)

    def _record(self, shard: _OpenShard, place: int, segment: Segment) -> None:
        shard.ended[place] = segment
        self.on_clip(segment.row["status"])

    def _commit(self, shard: _OpenShard) -> ShardResult:
        name = shard.task.shard
        segments = [shard.ended[place] for place in range(len(shard.ended))]
        ended = EndedShard(name, segments, self.plan_hash, shard.task.columns)
        stats = self.output.commit(ended, self.workspace, self.observe)
        self.workspace.drop(name)
        return ShardResult(name, stats)

    def _published(self, commits: list[Future[ShardResult]], *, wait: bool) -> Iterator[ShardResult]:
        while commits and (wait or commits[0].done()):
            result = commits.pop(0).result()
            if self.downloads:
                self.downloads.shard_ended(result.shard)
            yield result


def local_executor(
    config: PrepareConfig,
    output: DatasetOutput,
    workspace: Workspace,
    media: MediaResolver,
    plan_hash: str,
    listener: PrepareListener,
    costs: StepCosts,
) -> LocalExecutor:
    """The executor for this machine, which the nodes of a Ray cluster use, too. `costs` receives those of the steps."""
    return LocalExecutor(
        output=output,
        workspace=workspace,
        clip=partial(run_clip, config.sample, steps=load_steps(config.steps)),
        locate=media.locate,
        removed=removed_keys(read_description(output.layout)),
        downloads=media.downloads,
        supervision=config.supervision,
        plan_hash=plan_hash,
        on_clip=listener.clip_ended,
        on_steps=costs.add,
        observe=listener.step,
    )


def _resolved(result: ShardResult) -> Future[ShardResult]:
    future: Future[ShardResult] = Future()
    future.set_result(result)
    return future
