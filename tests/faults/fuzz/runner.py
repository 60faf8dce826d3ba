"""Reads mutants in a child process, and says of each what came: refused, harmless, other content, or a finding.

A mutant is named by target and seed, so that a finding can be repeated:
python -m tests.faults.fuzz --target T --seed N --count 1
"""

import importlib
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from tests.faults.fault import Fault
from tests.faults.fuzz.targets import TARGETS, Target

ALL = "tests.faults.fuzz.targets:TARGETS"

DEADLINE_S = 20.0  # of CPU time for one mutant; those here are read in less than one second
WAIT_S = 300.0  # of wall time, for a reader that waits without using the CPU
MEMORY_BYTES = 2 << 30  # that one mutant may add to the process
LONGEST_MESSAGE = 2500  # characters


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one mutant."""

    target: str
    seed: int
    change: str
    kind: str  # refused, harmless or other; or a finding: traceback, silent, hang, memory, crash
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        """Whether it must not be."""
        return self.kind not in ("refused", "harmless", "other", "contained")


@dataclass(slots=True)
class Tally:
    """Counts of one target, and its findings."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        self.counts[outcome.kind] += 1
        if outcome.is_finding:
            self.findings.append(outcome)

    def row(self, target: str) -> Fault:
        """The target's row of the fault table."""
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.most_common())
        seen = ", ".join(f"{kind} (seed {seed})" for kind, seed in {(o.kind, o.seed) for o in self.findings})
        return Fault(
            f"mutants of {target}", f"{self.counts.total()}: {counts}", "typed or harmless", seen or "typed or harmless"
        )


class Fuzzer:
    """A child process that reads mutants, started again after one that ended it. Use it in a with block."""

    def __init__(self, targets: str = ALL, *, deadline_s: float = DEADLINE_S) -> None:
        """`targets`: module and name of a dict of targets, which the child imports."""
        self._targets, self._deadline_s = targets, deadline_s
        self._folder = tempfile.TemporaryDirectory(prefix="avkit-fuzz-")
        self._context = multiprocessing.get_context("spawn")
        self._made: set[str] = set()  # targets whose intact files the child has
        self._child: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> "Fuzzer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def run(self, target: str, seed: int) -> Outcome:
        """Make and read one mutant."""
        if self._child is None:
            self._start()
        assert self._pipe is not None and self._child is not None and self._child.pid is not None
        if target not in self._made:
            self._pipe.send((target, None))
            self._pipe.recv()
            self._made.add(target)
        process = psutil.Process(self._child.pid)
        began_s, used_s = time.monotonic(), _cpu_s(process)
        self._pipe.send((target, seed))
        problem = ""
        while not self._pipe.poll(0.05):
            if not self._child.is_alive():
                break
            if _cpu_s(process) - used_s > self._deadline_s or time.monotonic() - began_s > WAIT_S:
                problem = f"no answer after {time.monotonic() - began_s:.0f} s"
                break
        try:
            if not problem:
                return Outcome(target, seed, *self._pipe.recv())
        except (EOFError, OSError):
            self._child.join()
            problem = f"the process ended with {self._child.exitcode}"
        kind = "hang" if problem.startswith("no answer") else "crash"
        self._stop()
        return Outcome(target, seed, "", "contained" if _targets(self._targets)[target].contained else kind, problem)

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        given = (self._targets, theirs, Path(self._folder.name))
        self._child = self._context.Process(target=_serve, args=given, daemon=True)
        self._child.start()
        self._made.clear()
        theirs.close()

    def _stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _targets(place: str) -> dict[str, Target]:
    module, _, name = place.partition(":")
    found: dict[str, Target] = getattr(importlib.import_module(module), name)
    return found


def _serve(place: str, pipe: Connection, folder: Path) -> None:
    """Read mutants until the pipe is closed."""
    import torch

    torch.set_num_threads(1)
    targets = _targets(place)
    intact: dict[str, tuple[Path, str]] = {}
    while True:
        try:
            target, seed = pipe.recv()
        except EOFError:
            return
        if seed is None:
            intact[target] = _make(targets[target], folder / f"intact-{len(intact)}")
            pipe.send(None)
            continue
        pipe.send(_read_mutant(f"{target} {seed}", targets[target], *intact[target], folder / "mutant"))


def _make(target: Target, folder: Path) -> tuple[Path, str]:
    """The folder with the intact files of a target, and what is read of them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    target.make(folder)
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    return folder, _plain(target.read(copy), copy)


def _plain(value: object, folder: Path) -> str:
    return repr(value).replace(str(folder), "")


def _read_mutant(seed: str, target: Target, made: Path, expected: str, folder: Path) -> tuple[str, str, str]:
    """(change, kind, detail) of one mutant."""
    from avmanifest.errors import AvkitError

    chance = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    path = chance.choice(sorted(path for path in folder.glob(target.files) if path.is_file()))
    before = path.read_bytes()
    change, after = target.mutate(path.name, before, chance)
    path.write_bytes(after)
    change = f"{path.relative_to(folder)}: {change}"
    try:
        with _bounded_memory():
            found = _plain(target.read(folder), folder)
    except AvkitError as error:
        if _asked_for_memory(error):
            return change, "memory", _where(error)
        if len(str(error)) > LONGEST_MESSAGE:
            return change, "unreadable", f"a message of {len(str(error))} characters: {str(error)[:300]}"
        return change, "refused", f"{type(error).__name__}: {str(error)[:500]}"
    except MemoryError as error:
        return change, "memory", _where(error)
    except Exception as error:
        return change, "memory" if _asked_for_memory(error) else "traceback", _where(error)
    if found == expected:
        return change, "harmless", ""
    return change, "silent" if target.notices and after != before else "other", ""


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let no request for memory succeed that takes the process beyond MEMORY_BYTES more than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _asked_for_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or "memory" in type(error).__name__.lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def _where(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)[-12:])[-3000:]


def fuzz(targets: list[str], seed: int, *, count: int | None = None, hours: float = 0.0) -> Iterator[Outcome]:
    """Mutants of the targets in turn: `count` of each, or for so many hours."""
    end_s = time.monotonic() + 3600 * hours
    with Fuzzer() as fuzzer:
        number = seed
        while (count is not None and number < seed + count) or (count is None and time.monotonic() < end_s):
            for target in targets:
                yield fuzzer.run(target, number)
            number += 1


def mutant_faults(folder: Path) -> Iterator[Fault]:
    """The rows of the fault table: a short turn over all targets."""
    del folder
    tallies = {target: Tally() for target in TARGETS}
    for outcome in fuzz(list(TARGETS), seed=0, count=10):
        tallies[outcome.target].add(outcome)
    yield from (tally.row(target) for target, tally in tallies.items())


def main(targets: list[str], seed: int, count: int | None, hours: float) -> int:
    """Print findings as they come, then a table. Returns 1 if there is a finding."""
    tallies = {target: Tally() for target in targets}
    for outcome in fuzz(targets, seed, count=count, hours=hours):
        tallies[outcome.target].add(outcome)
        if outcome.is_finding or count == 1:
            print(
                f"{outcome.target}, seed {outcome.seed}: {outcome.change}: {outcome.kind}\n{outcome.detail}\n",
                flush=True,
            )
    print("| fault | tried | expected | seen |\n|---|---|---|---|")
    for target, tally in tallies.items():
        print(f"| {' | '.join(tally.row(target))} |")
    sys.stdout.flush()
    return int(any(tally.findings for tally in tallies.values()))
