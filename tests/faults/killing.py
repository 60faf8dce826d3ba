"""Kill runs of prepare, each at another point, and run each again to its end. A script, not a test.

    python killing.py MOMENTS STRIDE SCENARIO VIDEOS FOLDER

MOMENTS is `files` (changes of files) or `steps` (events of the listener). Kills at every STRIDE-th of these moments.
Prints JSON: for each killed run, in order, the moment's name and the folder in which the second run ended. A run is a
process forked from this one, which saves its imports; all share one fork server.
"""

import json
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from avdata.prepare.config import PrepareConfig, Retry, Supervision
from avdata.prepare.job import prepare
from avdata.prepare.report import SilentListener
from avdata.prepare.supervise import supervise
from tests.videos import folder_config


class Moments:
    """Counts the moments of a run, and kills the process at the `fatal`-th one, before its effect."""

    def __init__(self, fatal: int, diary: Path) -> None:
        self.passed = 0
        self.fatal = fatal
        self.diary = diary

    def come(self, name: str) -> None:
        self.passed += 1
        if self.passed == self.fatal:
            self.fatal = 0  # writing the diary does not count
            self.diary.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)


class Steps(SilentListener):
    """Counts every event of the listener as a moment."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments

    def planned(self, plan: Any, num_to_do: int) -> None:
        self.moments.come("planned")

    def clip_ended(self, status: str) -> None:
        self.moments.come("clip ended")

    def step(self, name: str) -> None:
        self.moments.come(name)


CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "fcntl.flock"}


def watch_files(moments: Moments, out: Path) -> None:
    """Count every change that the process makes to a file below `out` as a moment."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(path, str) and path.startswith(str(out)) and flags & (os.O_WRONLY | os.O_RDWR)
        elif event in CHANGES:
            path, changes = arguments[0], event == "fcntl.flock" or str(arguments[0]).startswith(str(out))
        else:
            return
        if changes:
            moments.come(f"{event} {path}")

    sys.addaudithook(hook)


def forked(run: Callable[[], None]) -> int:
    """The exit code of a run in a process of its own; negative: the signal."""
    pid = os.fork()
    if pid == 0:
        # The fork server is the parent's child, so this process cannot check whether it is running.
        server = multiprocessing.forkserver
        server._forkserver.ensure_running = server.ensure_running = lambda: None
        try:
            run()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def scenario(name: str, videos: Path, out: Path) -> PrepareConfig:
    """Prepare the starting state of the scenario; the configuration of the run that is killed."""
    calm = folder_config(videos, out)
    if name == "fresh":
        return calm
    if name == "retry":
        first = folder_config(videos, out, supervision=Supervision(deadline_s=1e-6))
        assert forked(lambda: prepare(first) and None) == 0
        return folder_config(videos, out, retry=Retry.TRANSIENT)
    assert forked(lambda: prepare(calm) and None) == 0
    if name == "overwrite":
        return folder_config(videos, out, overwrite=True)
    assert name == "damage", name
    tar = out / "train" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:-1])
    return calm


def kill_everywhere(moments: str, stride: int, name: str, videos: Path, folder: Path) -> list[tuple[str, str]]:
    """Kill a run at its first moment, the next one `stride` moments later, until a run is not killed."""
    start = folder / "start"
    config = scenario(name, videos, start)
    start.mkdir(parents=True, exist_ok=True)
    done = []
    for fatal in range(1, 1000, stride):
        out, diary = folder / str(fatal), folder / f"{fatal}.txt"
        shutil.copytree(start, out)
        here = folder_config(
            videos, out, retry=config.retry, overwrite=config.overwrite, supervision=config.supervision
        )

        def killed(out=out, diary=diary, here=here, fatal=fatal) -> None:
            counted = Moments(fatal, diary)
            if moments == "files":
                watch_files(counted, out)
                prepare(here)
            else:
                prepare(here, Steps(counted))

        code = forked(killed)
        if code == 0:
            shutil.rmtree(out)
            return done
        assert code == -signal.SIGKILL, code
        assert forked(lambda here=here: prepare(here) and None) == 0, diary.read_text()
        done.append((diary.read_text(), str(out)))
    raise AssertionError("the run does not end")


def start_fork_server() -> None:
    """Start what the forked runs share, before the first of them."""
    import pandas  # noqa: F401 - pyarrow imports it for the first table; here once, not in every run

    for _ in supervise(len, [""], Supervision(), preload=["avdata.prepare.job"]):
        pass


if __name__ == "__main__":
    start_fork_server()
    print(json.dumps(kill_everywhere(sys.argv[1], int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))))
