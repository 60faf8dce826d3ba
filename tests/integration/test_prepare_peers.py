"""The comparison of whole runs of prepare with other tools: its figures, and its rows for tools that have none."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avdata.cores import usable_cores
from benchmarks.prepare_peers import OURS, TOOLS, Cost, Turn, successes, table
from tests.videos import draw_folder

ROOT = Path(__file__).parents[2]
SCRIPTS = "CAV-MAE's scripts"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def turn(start_s: float, clip_s: float, memory_mb: float = 100.0, made: int = 10) -> Turn:
    """Runs over 2 and 10 clips; by the clock half of the processor time."""
    few, whole = (start_s + number * clip_s for number in (2, 10))
    return Turn(Cost(few / 2, few, 80.0, 2), Cost(whole / 2, whole, memory_mb, made), 2, 10)


def test_figures_are_medians_and_ratios_are_within_rounds() -> None:
    ours = [turn(1.0, 0.5), turn(2.0, 1.0, 120.0), turn(1.5, 0.25, 90.0)]
    other = [turn(20.0, 2.0, 50.0, 9), turn(30.0, 2.0, 60.0), turn(10.0, 2.0, 70.0)]
    lines = table({OURS: ours, SCRIPTS: other}, {"video2dataset": "ended with 1: a | b"}, TOOLS).splitlines()
    rows = {row[0]: row[2:] for row in map(cells, lines[2:])}
    assert rows[OURS] == ["10 of 10", "1.5", "0.500", "4.00", "1.00", "1.00", "100"]
    assert rows[SCRIPTS] == ["9 of 10", "20.0", "2.000", "1.00", "4.00", "4.00", "60"]
    assert rows["video2dataset"] == ["ended with 1: a / b", "", "", "", "", "", ""]
    assert all(len(cells(line)) == 9 for line in lines)


def test_without_avkit_there_are_no_ratios() -> None:
    row = cells(table({SCRIPTS: [turn(1.0, 2.0)]}, {}, TOOLS).splitlines()[-1])
    assert row[6:8] == ["", ""]


def test_clips_that_video2dataset_made_are_counted_over_its_shards(tmp_path: Path) -> None:
    for number, made in enumerate((3, 4)):
        (tmp_path / f"{number:05d}_stats.json").write_text(f'{{"count": 5, "successes": {made}}}')
    assert successes(tmp_path) == 7
    assert successes(tmp_path / "none") == 0


@pytest.mark.slow
def test_tools_are_measured_side_by_side(tmp_path: Path) -> None:
    """video2dataset is asked of an installer that may use no network: a row says so."""
    names = [f"label/{number}.mp4" for number in range(usable_cores() + 1)]
    videos = draw_folder(tmp_path / "videos", names)
    (videos / "broken.mp4").write_bytes(b"no video")
    command = [sys.executable, "-m", "benchmarks.prepare_peers", str(videos), "--rounds", "1"]
    environment = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "uv"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command += ["--out", str(tmp_path / "peers.md")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "peers.md").read_text().splitlines()
    assert done.stdout.splitlines() == lines
    rows = {row[0]: row[2:] for row in map(cells, lines[2:])}
    assert list(rows) == list(TOOLS)
    for name in (OURS, SCRIPTS):
        assert rows[name][0] == f"{len(names)} of {len(names)}"
        assert all(math.isfinite(float(figure.replace(",", ""))) for figure in rows[name][1:])
    assert rows["video2dataset"][0].startswith("not installed: ")


# A process of its own: the comparison waits for all children of the process that it runs in.
MADE_UP_TOOLS = """
import json, sys
from pathlib import Path
from benchmarks.prepare_peers import Clips, Run, Tool, compare

few, clips = (Clips(Path(name), Path("bin"), 1) for name in ("few", "all"))
for folder, number in ((few.folder, 0), (clips.folder, 0), (clips.folder, 1)):
    folder.mkdir(exist_ok=True)
    (folder / f"{number}.mp4").touch()
works = "import time" + chr(10) + "while time.process_time() < 0.3: pass"
leaves = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {works!r}])"
fails = "raise SystemExit('no | more')"
made_up = {"leaves": (leaves, 1), "fails": (fails, 1), "makes none": ("", 0)}
tools = {
    name: Tool(lambda *_, code=code, made=made: Run([[sys.executable, "-c", code]], lambda: made), "")
    for name, (code, made) in made_up.items()
}
turns, failed = compare(tools, few, clips, 1, Path())
used = {name: [own[0].few.processor_s, own[0].all.processor_s] for name, own in turns.items()}
print(json.dumps([used, failed]))
"""


def test_processes_that_a_run_leaves_are_counted_and_failures_have_reasons(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MADE_UP_TOOLS],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 0, done.stderr
    used, failed = json.loads(done.stdout)
    assert failed == {"fails": "ended with 1: no | more", "makes none": "made none of the clips"}
    assert min(used.pop("leaves")) >= 0.3
    assert not used
