"""Kill operations on a dataset at random moments. A script, and what tests/faults/test_operation_kills.py calls.

    python -m tests.faults.operation_kills [KILLS] [SEED] [--clips N] [--only NAME]

A moment is just before a change of a file. After each kill another command comes, in turn: the same operation;
`settle`, then the operation; `prepare`, then the operation. The dataset must end as after one that was not killed.
"""

import argparse
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from avdata.audit.dataset import open_audit_dataset
from avdata.audit.verify import verify
from avdata.prepare.config import PrepareConfig
from avdata.prepare.job import prepare
from avdata.prepare.operations.add_step import AddStep
from avdata.prepare.operations.derive import Derivation, derive_dataset
from avdata.prepare.operations.mel import AddMel
from avdata.prepare.operations.merge import Merge
from avdata.prepare.operations.migrate import Migrate
from avdata.prepare.operations.remove import Remove
from avdata.prepare.operations.reshard import Reshard
from avdata.prepare.operations.run import Operation, run_operation, settle_dataset
from avdata.prepare.operations.subset import Subset
from avdata.prepare.steps.registry import load_steps
from avmanifest.errors import ConfigError, ManifestError
from tests.faults.killing import Moments, forked, start_fork_server, watch_files
from tests.older import as_version_1
from tests.videos import synth_config, tree

OPERATIONS: dict[str, Operation] = {
    "add-mel": AddMel("released"),
    "add-step": AddStep(*load_steps(("levels",))),
    "migrate": Migrate(),
    "remove": Remove(("synth-000001", "synth-000004")),
    "reshard": Reshard(3),
}


def _resume(out: Path, config: PrepareConfig) -> None:
    """The prepare that made the dataset. It is refused once the operation is finished, and for an older version."""
    here = synth_config(out, num_clips=config.synth.num_clips)
    try:
        prepare(here)
    except (ConfigError, ManifestError) as error:
        assert "another configuration" in str(error) or "dataset migrate" in str(error), error


NEXT: tuple[tuple[str, Callable[[Path, PrepareConfig], None]], ...] = (
    ("the same operation", lambda _out, _config: None),
    ("settle", lambda out, _config: settle_dataset(out, lambda _: None)),
    ("prepare", _resume),
)
"""Commands that may come after the kill, before the same operation."""


def killed_runs(name: str, kills: int, seed: int, folder: Path, num_clips: int = 7) -> Iterator[tuple[str, str, str]]:
    """Kill an operation at random moments, another one each time.

    Args:
        name: Of OPERATIONS.
        kills: Number of kills.
        seed: Seed of the moments.
        folder: An empty folder.
        num_clips: Clips of the dataset, two a shard.

    Yields:
        The moment of the kill, the command that came next, and what is wrong with the dataset in the end, if anything.
    """
    operation = OPERATIONS[name]
    config = synth_config(folder / "start", num_clips=num_clips)
    assert forked(lambda: prepare(config) and None) == 0
    start = folder / "start"
    if name == "migrate":
        start = as_version_1(start, folder / "older")
    shutil.copytree(start, folder / "calm")
    counted = folder / "counted.txt"
    assert forked(lambda: _operate(operation, folder / "calm", 0, counted)) == 0
    meant, before = tree(folder / "calm"), tree(start)
    draw = random.Random(f"{seed}/{name}")
    for number, fatal in enumerate(sorted(draw.sample(range(1, int(counted.read_text()) + 1), kills))):
        out, diary = folder / str(fatal), folder / f"{fatal}.txt"
        shutil.copytree(start, out)
        code = forked(lambda out=out, diary=diary, fatal=fatal: _operate(operation, out, fatal, diary))
        assert code == -signal.SIGKILL, code
        after, command = NEXT[number % len(NEXT)]
        problem = ""
        if forked(lambda out=out, command=command: command(out, config)) != 0:
            problem = "the next command failed"
        elif after != "the same operation" and tree(out) not in (before, meant):
            problem = "neither finished nor undone"
        elif forked(lambda out=out: run_operation(out, operation) and None) != 0:
            problem = "the operation failed"
        elif tree(out) != meant:
            problem = f"other files: {sorted(set(tree(out).items()) ^ set(meant.items()))[:3]}"
        elif faults := verify(open_audit_dataset(str(out))).faults:
            problem = str(faults[0])
        yield diary.read_text().replace(str(out), "OUT"), after, problem
        shutil.rmtree(out)


def killed_derivations(
    name: str, kills: int, seed: int, folder: Path, num_clips: int = 7
) -> Iterator[tuple[str, str, str]]:
    """Kill the making of a new dataset at random moments. Then the same command comes, or another one before it.

    Args and yields as killed_runs; `name` is of DERIVATIONS.
    """
    start, made = folder / "start", DERIVATIONS[name]
    config = synth_config(start, num_clips=num_clips)
    assert forked(lambda: prepare(config) and None) == 0
    sources = [start]
    if name == "merge":
        sources.append(folder / "other")
        assert forked(lambda: derive_dataset([start], sources[1], DERIVATIONS["subset"]) and None) == 0
    counted = folder / "counted.txt"
    assert forked(lambda: _derive(made, sources, folder / "calm" / "out", 0, counted)) == 0
    meant = tree(folder / "calm" / "out")
    draw = random.Random(f"{seed}/{name}")
    for number, fatal in enumerate(sorted(draw.sample(range(1, int(counted.read_text()) + 1), kills))):
        out, diary = folder / str(fatal) / "out", folder / f"{fatal}.txt"
        code = forked(lambda out=out, diary=diary, fatal=fatal: _derive(made, sources, out, fatal, diary))
        assert code == -signal.SIGKILL, code
        after, problem = "the same command", ""
        if out.exists():
            after = "nothing, it was whole"
        elif number % 2:
            after = "another condition"
            other = Subset(where="key = 'synth-000000'")
            if forked(lambda out=out, other=other: derive_dataset([start], out, other) and None) != 0:
                problem = "another condition failed"
            shutil.rmtree(out, ignore_errors=True)
        if not out.exists() and forked(lambda out=out: derive_dataset(sources, out, made) and None) != 0:
            problem = "the same command failed"
        elif tree(out) != meant:
            problem = f"other files: {sorted(set(tree(out).items()) ^ set(meant.items()))[:3]}"
        elif left := [path.name for path in out.parent.iterdir() if path != out]:
            problem = f"left: {left}"
        elif faults := verify(open_audit_dataset(str(out))).faults:
            problem = str(faults[0])
        yield diary.read_text().replace(str(out.parent), "FOLDER"), after, problem
        shutil.rmtree(out.parent)


DERIVATIONS: dict[str, Derivation] = {
    "subset": Subset(where="key != 'synth-000001'", shard_size=3),
    "merge": Merge(prefixes=("a-", "b-")),
}


def _derive(made: Derivation, sources: list[Path], out: Path, fatal: int, diary: Path) -> None:
    """Make a dataset, to be killed at the `fatal`-th moment; 0: count the moments."""
    moments = Moments(fatal, diary)
    watch_files(moments, out.parent)
    derive_dataset(sources, out, made)
    if not fatal:
        diary.write_text(str(moments.passed))


def _operate(operation: Operation, out: Path, fatal: int, diary: Path) -> None:
    """Run the operation, to be killed at the `fatal`-th moment; 0: count the moments."""
    moments = Moments(fatal, diary)
    watch_files(moments, out)
    run_operation(out, operation)
    if not fatal:
        diary.write_text(str(moments.passed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--clips", type=int, default=7)
    parser.add_argument("--only", choices=(*OPERATIONS, *DERIVATIONS))
    given = parser.parse_args()
    start_fork_server()
    num_wrong = 0
    for name in (given.only,) if given.only else (*OPERATIONS, *DERIVATIONS):
        with tempfile.TemporaryDirectory() as folder:
            how = (given.kills, given.seed, Path(folder), given.clips)
            ends = list((killed_runs if name in OPERATIONS else killed_derivations)(name, *how))
        wrong = [end for end in ends if end[2]]
        num_wrong += len(wrong)
        print(f"{name}: {len(ends)} kills, {len(ends) - len(wrong)} as without a kill; {Counter(e[1] for e in ends)}")
        for moment, after, problem in wrong:
            print(f"  before {moment}, then {after}: {problem}")
    raise SystemExit(num_wrong > 0)
