"""A pool of killable children: every call ends, whatever the code inside it does.

Decoders hang, crash and eat memory, and only the death of a process bounds that. Each child answers one task
at a time over a pipe; the parent kills a child that passes its deadline and starts another. No child outlives
its parent: an idle one sees its pipe close, a busy one is killed by the kernel.
"""

import contextlib
import fcntl
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import psutil

from avdata.prepare.config import Supervision

T = TypeVar("T")
R = TypeVar("R")

_UP = "up"  # a child's first word
_START_S = 300.0  # a child may take to say it: imports over a slow network


@dataclass(frozen=True, slots=True)
class Returned(Generic[R]):
    """The call came back."""

    value: R


@dataclass(frozen=True, slots=True)
class Raised:
    """The call raised: an error that the called function did not turn into a value."""

    message: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The child was killed at the deadline."""

    deadline_s: float


@dataclass(frozen=True, slots=True)
class Crashed:
    """The task lost its child as often as it may; the exit code of the last one (negative: the signal)."""

    exit_code: int | None
    attempts: int


Outcome = Returned[R] | Raised | TimedOut | Crashed


@dataclass(frozen=True, slots=True)
class NotReady:
    """In the place of a task: there is none now. Asked again after so many seconds, or when something happens."""

    seconds: float


@dataclass(slots=True)
class _Child:
    process: BaseProcess
    pipe: Connection
    life: Connection  # nothing is ever written here: its closing kills the child
    is_up: bool = False
    answered: int = 0
    started_s: float = 0.0  # with its task
    work: "_Work[Any] | None" = None


@dataclass(slots=True)
class _Work(Generic[T]):
    task: T
    lost: int = field(default=0)  # children this task has lost


def supervise(
    call: Callable[[T], R],
    tasks: Iterable[T | NotReady],
    how: Supervision,
    preload: Sequence[str] = (),
    wake: Connection | None = None,
) -> Generator[tuple[T, Outcome[R]], None, None]:
    """Yield every task with its outcome, in the order in which they end.

    `call` must be picklable. Tasks are taken from the iterable only when a child is free for them; one that has
    none yet says `NotReady`, and whatever is sent into the other end of `wake` has it asked again. `preload` names
    modules that the server which forks the children imports once. Closing the iterator kills them, and so does
    closing the other end of `wake`, from another thread: no more tasks end then.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["avdata.prepare.supervise", *preload])
    waiting = iter(tasks)
    again: deque[_Work[T]] = deque()
    children: list[_Child] = []

    def next_work() -> _Work[T] | NotReady | None:
        if again:
            return again.popleft()
        for task in waiting:
            return task if isinstance(task, NotReady) else _Work(task)
        return None

    try:
        exhausted = False
        while True:
            pause: NotReady | None = None
            while not exhausted or again:
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
                if _came_up(child):
                    continue
                held = child.work
                assert held is not None
                outcome = _outcome(child, held, how)
                if not child.process.is_alive() or child.answered >= how.recycle_after:
                    children.remove(child)
                    _stop(child)
                if outcome is None:
                    again.append(held)
                else:
                    yield held.task, outcome
    finally:
        for child in children:
            _stop(child)


def _start(context: Any, call: Callable[[T], R], how: Supervision) -> _Child:
    ours, theirs = context.Pipe()
    watched, life = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, watched, call, how.memory_bytes), daemon=True)
    process.start()
    theirs.close()
    watched.close()
    return _Child(process, ours, life)


def _assign(child: _Child, work: _Work[Any]) -> None:
    child.work = work
    child.started_s = time.monotonic()
    # A child that died while idle is noticed when its answer fails to come.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        child.pipe.send(work.task)


def _ready(busy: Sequence[_Child], deadline_s: float, pause: NotReady | None, wake: Connection | None) -> list[_Child]:
    """Children that answered, died or passed their deadline; waits for the first, or until tasks are asked again.

    Raises EOFError if the other end of `wake` was closed.
    """
    now = time.monotonic()
    left = [_due_s(child, deadline_s) - now for child in busy] + ([pause.seconds] if pause else [])
    handles: list[Any] = [handle for child in busy for handle in (child.pipe, child.process.sentinel)]
    wait(handles + ([wake] if wake else []), max(min(left), 0.0))
    while wake is not None and wake.poll():
        wake.recv_bytes()
    now = time.monotonic()
    return [
        child for child in busy if child.pipe.poll() or not child.process.is_alive() or now >= _due_s(child, deadline_s)
    ]


def _due_s(child: _Child, deadline_s: float) -> float:
    """When the child is given up. Its start is no part of a task's time."""
    return child.started_s + (deadline_s if child.is_up else max(deadline_s, _START_S))


def _came_up(child: _Child) -> bool:
    """Whether the child has just said its first word; its task's time begins then."""
    if child.is_up or not child.pipe.poll():
        return False
    with contextlib.suppress(EOFError, OSError):
        child.is_up = child.pipe.recv() == _UP
        child.started_s = time.monotonic()
    return child.is_up


def _outcome(child: _Child, work: _Work[Any], how: Supervision) -> Outcome[Any] | None:
    """What became of the child's task; None when it is to be tried again."""
    child.work = None
    with contextlib.suppress(EOFError, OSError):  # OSError: the child died in the middle of its answer
        if child.pipe.poll():
            answer: Outcome[Any] = child.pipe.recv()
            child.answered += 1
            return answer
    if child.process.is_alive() and time.monotonic() >= _due_s(child, how.deadline_s):
        _stop(child)
        return TimedOut(how.deadline_s)
    child.process.join(5.0)
    if child.process.is_alive():  # it closed its end of the pipe and will never answer again
        _stop(child)
    work.lost += 1
    return Crashed(child.process.exitcode, work.lost) if work.lost >= how.attempts else None


def _stop(child: _Child) -> None:
    """Kill the child and everything it started."""
    pid = child.process.pid
    if child.process.is_alive() and pid is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # fails while the child has not made its group yet
        child.process.kill()
    child.process.join()
    child.pipe.close()
    child.life.close()


def _serve(pipe: Connection, life: Connection, call: Callable[[T], R], memory_bytes: int) -> None:
    """The child: answer tasks until the pipe closes."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
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
            os._exit(signal.SIGKILL)  # the heap may be in any state; the parent counts a lost child
        except BaseException:
            outcome = Raised(traceback.format_exc())
        try:
            pipe.send(outcome)
        except (BrokenPipeError, ConnectionResetError):
            return


def _die_with_parent(life: Connection) -> None:
    """Have the kernel kill this process group when the parent's end of the pipe closes.

    PR_SET_PDEATHSIG would watch the fork server instead, which lives as long as one of its children.
    """
    if sys.platform == "linux":
        fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if life.poll():  # it closed before the kernel was asked
        os._exit(1)


def _limit_memory(memory_bytes: int) -> None:
    limit = psutil.Process().memory_info().vms + memory_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
