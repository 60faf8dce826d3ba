"""Child processes that hang, crash, leak memory and die: every task ends, and no process is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from avdata.prepare.config import Supervision
from avdata.prepare.supervise import Crashed, NotReady, Raised, Returned, TimedOut, extend_deadline, supervise


def act(task: str) -> str:
    """The task of a child process, by name."""
    match task.split(":", maxsplit=1)[0]:
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        case "spin":
            while True:
                pass
        case "eat":
            return str(len(bytearray(2**40)))
        case "raise":
            raise ValueError("no such thing")
        case "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(task.split(":", 1)[1]).write_text(str(child.pid))
            time.sleep(600)
        case "slow":  # runs for as many seconds as the task says
            time.sleep(float(task.split(":", 1)[1]))
        case "longer":
            extend_deadline(20.0)
            time.sleep(1.5)
        case "longer-hang":
            extend_deadline(2.0)
            time.sleep(600)
        case "hang-once":
            mark = Path(task.split(":", 1)[1])
            if not mark.exists():
                mark.touch()
                time.sleep(600)
        case "once":  # dies on the first attempt only
            mark = Path(task.split(":", 1)[1])
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return f"{task} done"


def outcomes(tasks, **how):
    return dict(supervise(act, tasks, Supervision(**{"num_workers": 2, "deadline_s": 5.0, **how})))


def gone(pid: int) -> bool:
    """Whether a process ends within a few seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_every_task_has_an_outcome():
    names = [f"plain:{i}" for i in range(50)]
    assert outcomes(names) == {name: Returned(f"{name} done") for name in names}


@pytest.mark.parametrize("bad", ["abort", "kill"])
def test_a_dead_child_fails_only_its_own_task(bad):
    found = outcomes(["a", bad, "b", "c"])
    assert {task for task, outcome in found.items() if isinstance(outcome, Returned)} == {"a", "b", "c"}
    crash = found[bad]
    assert isinstance(crash, Crashed)
    assert crash.attempts == 2
    assert crash.exit_code == -(signal.SIGABRT if bad == "abort" else signal.SIGKILL)


def test_a_task_whose_child_died_once_is_tried_again(tmp_path):
    task = f"once:{tmp_path / 'mark'}"
    assert outcomes([task, "b"])[task] == Returned(f"{task} done")


@pytest.mark.parametrize("bad", ["hang", "spin"])
def test_a_hanging_child_is_killed_at_its_deadline(bad):
    found = outcomes([bad, "a", "b"], deadline_s=1.0, attempts=1)
    assert found == {bad: TimedOut(1.0), "a": Returned("a done"), "b": Returned("b done")}


def test_a_child_past_its_memory_limit_is_a_crash():
    found = outcomes(["eat", "a"], memory_bytes=2**30)
    assert isinstance(found["eat"], Crashed)
    assert found["a"] == Returned("a done")


def test_an_unexpected_error_is_returned_with_its_traceback():
    raised = outcomes(["raise"])["raise"]
    assert isinstance(raised, Raised)
    assert "ValueError: no such thing" in raised.message


def test_children_are_recycled():
    assert len(outcomes([f"plain:{i}" for i in range(9)], recycle_after=2)) == 9


def test_tasks_are_taken_only_when_a_child_is_free():
    taken = []

    def tasks():
        for i in range(100):
            taken.append(i)
            yield f"plain:{i}"

    run = supervise(act, tasks(), Supervision(num_workers=2, deadline_s=5.0))
    next(run)
    assert len(taken) <= 4
    run.close()


def test_a_task_whose_child_hangs_once_is_tried_again(tmp_path):
    task = f"hang-once:{tmp_path / 'mark'}"
    assert outcomes([task], deadline_s=2.0)[task] == Returned(f"{task} done")


def test_a_task_may_extend_its_deadline():
    found = outcomes(["longer", "slow:3", "longer-hang"], deadline_s=1.0, attempts=1)
    assert found == {"longer": Returned("longer done"), "slow:3": TimedOut(1.0), "longer-hang": TimedOut(2.0)}


SUSPENDED = """
import sys
from tests.faults.test_supervise import act
from avdata.prepare.config import Supervision
from avdata.prepare.supervise import supervise
if __name__ == "__main__":
    how = Supervision(num_workers=2, deadline_s=6.0, attempts=1)
    for _, outcome in supervise(act, ["plain:1", "slow:3.0", "slow:3.1", "hang"], how):
        print(outcome, flush=True)
"""


@pytest.mark.slow
def test_a_suspended_job_costs_no_task_and_a_hanging_one_still_ends(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(SUSPENDED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    assert "plain:1 done" in parent.stdout.readline()
    family = [psutil.Process(parent.pid), *psutil.Process(parent.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    time.sleep(8.0)  # longer than the deadline
    for process in family:
        process.resume()
    said = parent.communicate(timeout=60)[0]
    assert sorted(said.splitlines()) == [
        "Returned(value='slow:3.0 done')", "Returned(value='slow:3.1 done')", "TimedOut(deadline_s=6.0, stage='')"
    ]  # fmt: skip


GUARDLESS = """
import pathlib, sys
from avdata.prepare.config import Supervision
from avdata.prepare.supervise import supervise

class Own:
    def __call__(self, text):
        return text.upper() + " here"

print("ran", flush=True)
if sys.argv[1] == "library":
    for _, outcome in supervise(str.upper, ["a"], Supervision()):
        print(outcome, flush=True)
elif __name__ == "__main__":
    for _, outcome in supervise(Own(), ["a"], Supervision()):
        print(outcome, flush=True)
"""


@pytest.mark.parametrize(
    ("call", "lines"),
    [("library", ["ran", "Returned(value='A')"]), ("own", ["ran", "ran", "Returned(value='A here')"])],
)
def test_a_script_is_imported_by_children_only_if_they_need_it(tmp_path, call, lines):
    """A script without `if __name__ == "__main__"` runs once; one whose own class is sent to children is imported."""
    script = tmp_path / "script.py"
    script.write_text(GUARDLESS)
    done = subprocess.run([sys.executable, str(script), call], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == lines, done.stderr


def test_grandchildren_die_with_a_child_that_hangs(tmp_path):
    note = tmp_path / "pid"
    task = f"grandchild:{note}"
    assert outcomes([task], deadline_s=2.0, attempts=1)[task] == TimedOut(2.0)
    assert gone(int(note.read_text()))


def test_closing_the_iterator_leaves_no_child():
    before = set(psutil.Process().children(recursive=True))
    run = supervise(act, ["a", "hang", "hang"], Supervision(num_workers=2, deadline_s=600.0))
    assert next(run)[0] == "a"
    run.close()
    left = [
        p
        for p in set(psutil.Process().children(recursive=True)) - before
        if "forkserver" not in " ".join(p.cmdline()) and "resource_tracker" not in " ".join(p.cmdline())
    ]
    assert left == []


PARENT = """
import sys
import threading
from pathlib import Path
from tests.faults.test_supervise import act
from avdata.prepare.config import Supervision
from avdata.prepare.supervise import supervise
if __name__ == "__main__":
    for _ in supervise(act, ["a", "grandchild:" + sys.argv[1]], Supervision(num_workers=1, deadline_s=600.0)):
        pass
"""


def test_no_child_outlives_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    note = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(script), str(note)], env=environment)
    while not (note.exists() and note.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    children = psutil.Process(parent.pid).children(recursive=True)
    assert int(note.read_text()) in {process.pid for process in children}
    parent.kill()
    parent.wait()
    assert [process.pid for process in children if not gone(process.pid)] == []


def test_after_not_ready_the_tasks_are_tried_again_when_the_wake_pipe_is_readable():
    wake, sender = multiprocessing.Pipe(duplex=False)
    waiting = ["plain:1", None, "plain:2"]

    def tasks():
        for task in waiting:
            if task is not None:
                yield task
                continue
            threading.Timer(0.05, sender.send_bytes, [b"."]).start()
            yield NotReady(600.0)  # longer than the test may take

    found = dict(supervise(act, tasks(), Supervision(deadline_s=30.0), wake=wake))
    assert found == {name: Returned(f"{name} done") for name in ("plain:1", "plain:2")}
    for end in (wake, sender):
        end.close()


def test_closing_the_wake_pipe_ends_the_iteration_and_kills_busy_children():
    wake, sender = multiprocessing.Pipe(duplex=False)
    threading.Timer(0.5, sender.close).start()
    assert list(supervise(act, ["hang"], Supervision(deadline_s=600.0), wake=wake)) == []
    wake.close()
