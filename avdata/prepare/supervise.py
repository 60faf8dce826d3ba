"""A pool of child processes that are killed at a deadline, so that every call ends.

Decoders can hang, crash and use any amount of memory; only a separate process bounds that. Each child runs one task at
a time and answers over a pipe. The parent kills a child that exceeds its deadline and starts another. No child outlives
its parent: an idle child exits when its pipe closes, a busy one is killed by the kernel.

The time of a task is counted by the parent in short turns. A turn that took far longer than it should, because the
machine slept or the job was suspended, counts as a short one: the child did not run either.
"""

import contextlib
import fcntl
import math
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, Generic, TypeVar

import psutil

from avdata.prepare.config import Supervision
from avmanifest.secrets import without_secrets

T = TypeVar("T")
R = TypeVar("R")

_UP = "up"  # first message of a child: its imports are done
_START_S = 300.0  # deadline of that message: imports may come over a slow network
_TURN_S = 1.0  # longest wait of the parent between two looks at its children
_SLOW_TURN = 2.0  # a turn counts for at most this many times its length


@dataclass(frozen=True, slots=True)
class Returned(Generic[R]):
    """The call returned a value."""

    value: R


@dataclass(frozen=True, slots=True)
class Raised:
    """The call raised an exception; `message` is its traceback."""

    message: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The child was killed because the task exceeded the deadline, in each of its attempts.

    `stage` is what it had said last with `report_stage`.
    """

    deadline_s: float
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Crashed:
    """The child died in each of `attempts` attempts. `exit_code` is the last one's; negative: the signal.

    `stage` is what it had said last with `report_stage`.
    """

    exit_code: int | None
    attempts: int
    stage: str = ""


Outcome = Returned[R] | Raised | TimedOut | Crashed


@dataclass(frozen=True, slots=True)
class NotReady:
    """Yielded in place of a task: none is ready. The iterable is tried again after `seconds`, or when woken earlier."""

    seconds: float


@dataclass(frozen=True, slots=True)
class _Longer:
    """Message of a child: its task needs `factor` times the deadline."""

    factor: float


@dataclass(frozen=True, slots=True)
class _Stage:
    """Message of a child: what its task does now."""

    name: str


_PIPE: ContextVar[Connection | None] = ContextVar("pipe of this child", default=None)


def extend_deadline(factor: float) -> None:
    """Give the task that calls this, in its child process, `factor` times the deadline. Elsewhere nothing happens."""
    if (pipe := _PIPE.get()) is not None:
        pipe.send(_Longer(factor))


def report_stage(name: str) -> None:
    """Say what the task that calls this, in its child process, does now: see TimedOut and Crashed."""
    if (pipe := _PIPE.get()) is not None:
        pipe.send(_Stage(name))


@dataclass(slots=True)
class _Child:
    process: BaseProcess
    pipe: Connection
    life: Connection  # nothing is written to it; when it closes, the kernel kills the child
    is_up: bool = False
    factor: float = 1.0  # of the deadline, for its task
    stage: str = ""  # of its task
    answer: "Outcome[Any] | None" = None
    answered: int = 0  # tasks
    ran_s: float = 0.0  # seconds that its task has run
    seen_s: float = 0.0  # monotonic time to which they are counted
    work: "_Work[Any] | None" = None


@dataclass(slots=True)
class _Work(Generic[T]):
    task: T
    lost: int = field(default=0)  # children that died with this task or were killed at its deadline


def supervise(
    call: Callable[[T], R],
    tasks: Iterable[T | NotReady],
    how: Supervision,
    preload: Sequence[str] = (),
    wake: Connection | None = None,
) -> Generator[tuple[T, Outcome[R]], None, None]:
    """Run tasks in child processes. Yield each with its outcome, in the order in which they end.

    Closing the iterator kills the children. Closing the other end of `wake` from another thread does, too, and ends the
    iteration.

    Args:
        call: Run on each task, in a child process; must be picklable.
        tasks: The next task is taken only when a child is free. NotReady in place of a task means that there is none
            yet.
        how: Number of children, deadline, memory limit, attempts.
        preload: Modules that the fork server imports once, before it forks children.
        wake: Bytes sent to its other end cause `tasks` to be tried again after NotReady.

    Yields:
        The task and one of Returned, Raised, TimedOut, Crashed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["avdata.prepare.supervise", *preload])
    waiting = iter(tasks)
    retries: deque[_Work[T]] = deque()
    children: list[_Child] = []

    def next_work() -> _Work[T] | NotReady | None:
        if retries:
            return retries.popleft()
        for task in waiting:
            return task if isinstance(task, NotReady) else _Work(task)
        return None

    try:
        exhausted = False
        while True:
            pause: NotReady | None = None
            while not exhausted or retries:
                idle = next((child for child in children if child.work is None), None)
                if idle is None and len(children) >= how.num_workers:
                    break
                work = next_work()
                if work is None:
                    exhausted = True
                    continue
                if isinstance(work, NotReady):
                    pause = work
                    break
                if idle is None:
                    idle = _start(context, call, how)
                    children.append(idle)
                _assign(idle, work)
            busy = [child for child in children if child.work is not None]
            if not busy and pause is None:
                return
            try:
                ready = _ready(busy, how.deadline_s, pause, wake)
            except EOFError:
                return
            for child in ready:
                if _continues(child):
                    continue
                work = child.work
                assert work is not None
                outcome = _outcome(child, work, how)
                if not child.process.is_alive() or child.answered >= how.recycle_after:
                    children.remove(child)
                    _stop(child)
                if outcome is None:
                    retries.append(work)
                else:
                    yield work.task, outcome
    finally:
        for child in children:
            _stop(child)


def _start(context: Any, call: Callable[[T], R], how: Supervision) -> _Child:
    ours, theirs = context.Pipe()
    watched, life = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, watched, call, how.memory_bytes), daemon=True)
    forkserver.ensure_running()
    with _without_script(needed=b"__main__" in pickle.dumps(call)):
        process.start()
    theirs.close()
    watched.close()
    return _Child(process, ours, life)


@contextlib.contextmanager
def _without_script(*, needed: bool) -> Iterator[None]:
    """Have a child that starts in the block not import the user's script, unless it is needed: it has a step's class.

    multiprocessing imports it in every child. A script that prepares without `if __name__ == "__main__"` would do so
    again there.
    """
    main = sys.modules["__main__"]
    if not needed:
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _assign(child: _Child, work: _Work[Any]) -> None:
    child.work = work
    child.factor, child.stage = 1.0, ""
    _restart_clock(child)
    # If the child died while idle, _ready finds that it is not alive.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.pipe.send(work.task)


def _ready(busy: Sequence[_Child], deadline_s: float, pause: NotReady | None, wake: Connection | None) -> list[_Child]:
    """Wait for a child that answered, died or exceeded its deadline, or for the end of the pause; these children.

    Raises EOFError if the other end of `wake` was closed.
    """
    handles: list[Any] = [handle for child in busy for handle in (child.pipe, child.process.sentinel)]
    handles += [wake] if wake else []
    turn_s = min(_TURN_S, deadline_s / (2 * _SLOW_TURN))
    pause_ends_s = time.monotonic() + (pause.seconds if pause else math.inf)
    ready: list[_Child] = []
    woken = False
    while not (ready or woken or time.monotonic() >= pause_ends_s):
        left_s = [_limit_s(child, deadline_s) - child.ran_s for child in busy] + [pause_ends_s - time.monotonic()]
        wait(handles, max(min(*left_s, turn_s) if busy else pause_ends_s - time.monotonic(), 0.0))
        while wake is not None and wake.poll():
            wake.recv_bytes()
            woken = True
        for child in busy:
            now_s = time.monotonic()
            child.ran_s += min(now_s - child.seen_s, _SLOW_TURN * turn_s)
            child.seen_s = now_s
        ready = [
            child
            for child in busy
            if child.pipe.poll() or not child.process.is_alive() or child.ran_s >= _limit_s(child, deadline_s)
        ]
    return ready


def _restart_clock(child: _Child) -> None:
    child.ran_s, child.seen_s = 0.0, time.monotonic()


def _limit_s(child: _Child, deadline_s: float) -> float:
    """Seconds after which the child is killed. The start of the process does not count as task time."""
    return deadline_s * child.factor if child.is_up else max(deadline_s, _START_S)


def _continues(child: _Child) -> bool:
    """Read a message of the child; whether it was one that does not end its task.

    The time of a task starts when the child has started.
    """
    with contextlib.suppress(EOFError, OSError):  # OSError: the child died while it sent its answer
        message = child.pipe.recv() if child.pipe.poll() else None
        if message == _UP:
            child.is_up = True
            _restart_clock(child)
            return True
        if isinstance(message, _Longer):
            child.factor = message.factor
            return True
        if isinstance(message, _Stage):
            child.stage = message.name
            return True
        child.answer = message
    return False


def _outcome(child: _Child, work: _Work[Any], how: Supervision) -> Outcome[Any] | None:
    """The outcome of the child's task; None if it is tried again."""
    child.work = None
    if child.answer is not None:
        answer, child.answer = child.answer, None
        child.answered += 1
        return answer
    work.lost += 1
    if child.process.is_alive() and child.ran_s >= _limit_s(child, how.deadline_s):
        _stop(child)
        return TimedOut(_limit_s(child, how.deadline_s), child.stage) if work.lost >= how.attempts else None
    child.process.join(5.0)
    if child.process.is_alive():  # it closed its end of the pipe, so it cannot answer
        _stop(child)
    return Crashed(child.process.exitcode, work.lost, child.stage) if work.lost >= how.attempts else None


def _stop(child: _Child) -> None:
    """Kill the child and everything it started."""
    pid = child.process.pid
    if child.process.is_alive() and pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # fails if the child has not created its process group yet
        child.process.kill()
    child.process.join()
    child.pipe.close()
    child.life.close()


def _serve(pipe: Connection, life: Connection, call: Callable[[T], R], memory_bytes: int) -> None:
    """The main loop of a child: run tasks until the pipe closes."""
    os.setsid()
    _PIPE.set(pipe)
    os.dup2(2, 1)  # standard output is the parent's results; what a decoder or a step prints is not one of them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _die_with_parent(life)
    _limit_memory(memory_bytes)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        pipe.send(_UP)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        outcome: Outcome[R]
        try:
            outcome = Returned(call(task))
        except MemoryError:
            os._exit(signal.SIGKILL)  # the heap may be damaged; the parent counts a dead child
        except BaseException:
            outcome = Raised(without_secrets(traceback.format_exc()))
        try:
            pipe.send(outcome)
        except (BrokenPipeError, ConnectionResetError):
            return


def _die_with_parent(life: Connection) -> None:
    """Have the kernel kill this process group when the parent's end of the pipe closes.

    PR_SET_PDEATHSIG would watch the fork server instead, which lives until its last child ends.
    """
    if sys.platform == "linux":
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if life.poll():  # it closed before the kernel watched it
        os._exit(1)


def _limit_memory(memory_bytes: int) -> None:
    """Limit the address space to what the process uses now plus `memory_bytes`."""
    limit = psutil.Process().memory_info().vms + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
