"""A trace of a few steps of a run: a file for a trace viewer, and a table of the operations that take most time."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from avmanifest.errors import ConfigError
from avmanifest.files import open_file, replacing, unfinished_path
from avmodel.metrics import disk_errors

PROFILE: Final = "profile"  # folder of a run
WARM_UP: Final = 4  # steps that are left out: kernels are chosen and compiled, memory is taken; the tracer starts
RECORDED: Final = 3  # steps
MOST_ROWS: Final = 10


class StepTrace:
    """Records a few steps of a run of this process, once they are as fast as later ones.

    A step lasts until the next one begins: with the loading of the next batch. The profiler itself takes time, which
    shows in what many small operations take.

    Args:
        folder: The run's.
        first: Steps that were done before.
        steps: Steps at the end of the run.
        device: Its device, whose kernels are recorded, too.
        say: Gets a line to show.

    Raises:
        ConfigError: The run has fewer steps left than are left out and recorded.
    """

    def __init__(
        self, folder: Path, *, first: int, steps: int, device: torch.device, say: Callable[[str], object]
    ) -> None:
        self._begin, self._end = first + WARM_UP + 1, first + WARM_UP + RECORDED  # counted from 1
        if steps < self._end:
            raise ConfigError(
                f"--profile records steps {self._begin} to {self._end}, and the run ends after {steps}. Set steps to "
                f"at least {self._end}, or leave --profile out."
            )
        self._path = folder / PROFILE / f"steps-{self._begin}-{self._end}.json.gz"
        self._say, self._on_gpu = say, device.type == "cuda"
        self._last = -1
        self._written = False
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(skip_first=WARM_UP - 1, wait=0, warmup=1, active=RECORDED, repeat=1),
            on_trace_ready=self._write,
            acc_events=True,
        )

    def __enter__(self) -> "StepTrace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last < 0:
            return
        if kind is None and self._last + 1 >= self._end:
            self._profile.stop()  # writes, if the last recorded step was the run's last
            return
        self._profile.on_trace_ready = None
        self._profile.stop()
        if not self._written:
            self._say(f"--profile: stopped before step {self._end}; no trace was written")

    def before_step(self, step: int) -> None:
        """Called before each step, counted from 0; again for a step that is computed again."""
        if step <= self._last:
            return
        if self._last < 0:
            self._profile.start()
        else:
            self._profile.step()
        self._last = step

    def _write(self, recorded: Any) -> None:
        with disk_errors(self._path), replacing(self._path) as compressed:
            plain = unfinished_path(self._path.with_suffix(""))
            recorded.export_chrome_trace(str(plain))
            with open_file(plain) as trace, gzip.open(compressed, "wb", compresslevel=6) as file:
                shutil.copyfileobj(trace, file)
            plain.unlink()
        self._written = True
        for line in most_time(recorded.key_averages(), on_gpu=self._on_gpu):
            self._say(line)
        self._say(f"{self._path}: the trace of steps {self._begin} to {self._end}. Open it in ui.perfetto.dev.")


def most_time(events: Any, *, on_gpu: bool) -> list[str]:
    """A short table of the operations with most time of their own, on the GPU or on the CPU."""

    def own_us(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total)

    kept = [event for event in events if own_us(event) > 0 and not event.key.startswith("ProfilerStep")]
    total = sum(map(own_us, kept))
    kept.sort(key=own_us, reverse=True)
    where = "GPU" if on_gpu else "CPU"
    lines = [
        f"profile of {RECORDED} steps: {total / 1000:,.1f} ms on the {where}; operations with most time of their own:"
    ]
    return lines + [
        f"  {own_us(event) / total:6.1%} {own_us(event) / 1000:10,.1f} ms {event.count:8,} x  {event.key}"
        for event in kept[:MOST_ROWS]
    ]
