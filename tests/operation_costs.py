"""What operations cost, beside preparing the dataset anew. A script.

    python -m tests.operation_costs FOLDER [--clips 2000]

Prepares a drawn dataset in FOLDER, and anew with what each operation changes; a second call finds both. Prints a table:
time, bytes of tars read and written, and whether all files but dataset.json equal those of preparing anew.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.prepare.config import Supervision
from avdata.prepare.job import prepare
from avdata.prepare.operations.add_step import AddStep
from avdata.prepare.operations.mel import AddMel
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.reshard import Reshard
from avdata.prepare.operations.run import Operation, run_operation
from avdata.prepare.steps.registry import load_steps
from tests.videos import SMALL, synth_config, tree

CASES: dict[str, tuple[Operation, dict[str, Any]]] = {
    "add-mel released": (AddMel("released"), {"sample": replace(SMALL, mel=("paper", "released"))}),
    "add-step levels": (AddStep(*load_steps(("levels",))), {"steps": ("levels",)}),
    "reshard 100": (Reshard(100), {"shard_size": 100}),
    "remove 5 clips": (Remove(tuple(f"{number:06d}" for number in range(5))), {}),
}
"""By name: the operation, and the settings of the same dataset prepared anew."""


def measured(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of some work, its seconds, and its seconds of processor time, in child processes too."""
    begun, used = time.perf_counter(), _used_s()
    result = work()
    return result, time.perf_counter() - begun, _used_s() - used


def _used_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _same(out: Path) -> dict[str, str]:
    return {name: sha256 for name, sha256 in tree(out).items() if name != "dataset.json"}


def _prepared(out: Path, clips: int, changes: dict[str, Any]) -> float:
    """Prepare a dataset unless it is there; the seconds that it took, of a later call 0."""
    if (out / "croissant.json").exists():
        return 0.0
    usual = {"shard_size": 250, "supervision": Supervision(num_workers=2)}
    return measured(lambda: prepare(synth_config(out, clips, **usual | changes)))[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=2000)
    given = parser.parse_args()
    start = given.folder / "start"
    print(f"prepared {given.clips} clips in {_prepared(start, given.clips, {}):.0f} s", flush=True)
    print("| operation | s | CPU s | read | written | equal to preparing anew | verify |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for number, (name, (operation, changes)) in enumerate(CASES.items()):
        out = given.folder / f"changed-{number}"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(start, out, copy_function=os.link)  # operations replace files, and write into none
        done, seconds, cpu_s = measured(lambda out=out, operation=operation: run_operation(out, operation))
        equal = "rows removed on purpose"
        if changes:
            anew = given.folder / f"anew-{number}"
            print(f"anew: {_prepared(anew, given.clips, changes):.0f} s", flush=True)
            equal = "yes" if _same(out) == _same(anew) else "no"
        faults = verify(open_audit_dataset(str(out))).faults
        sizes = " | ".join(f"{size / 1e6:,.1f} MB" for size in (done.bytes_read, done.bytes_written))
        whole = "whole" if not faults else str(faults[0])
        print(f"| `{name}` | {seconds:.1f} | {cpu_s:.1f} | {sizes} | {equal} | {whole} |", flush=True)


if __name__ == "__main__":
    main()
