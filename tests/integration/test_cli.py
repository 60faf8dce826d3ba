"""The commands as a user types them: output, exit codes, and the pages' word for them."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from avcli.main import app, run
from avdata.images import decode_jpeg
from avmanifest.errors import ConfigError
from avmanifest.recipe import recipe_names
from avmodel.evaluate.tasks import task_config
from avmodel.presets import presets
from tests.kinds import KINDS
from tests.videos import draw_folder

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT.parent / "shared" / "data" / "videos"


def avkit(*words, **options):
    command = [sys.executable, "-c", "from avcli.main import run; run()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("videos"), ["dog/a.mp4", "dog/b.mp4", "cat/c.mp4"])


def test_help_answers_without_torch():
    code = "import avcli.main, sys; print([m for m in ('torch', 'av', 'pyarrow', 'rich', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    answer = avkit("--help")
    assert answer.returncode == 0
    assert all(command in answer.stdout for command in ("prepare", "inspect", "pretrain", "bench"))


@pytest.mark.slow
def test_prepare_reports_to_people_and_to_machines(videos, tmp_path):
    options = ("folder", "--source", f"local:{videos}", "--out", tmp_path / "out", "--frames", 2, "--workers", 1)
    told = avkit("prepare", *options)
    assert told.returncode == 0, told.stderr
    assert "3 of 3 clips are samples in 1 shard of" in told.stdout
    assert "plan of 3 clips; 3 to do" in told.stderr
    again = avkit("prepare", *options, "--json")
    report = json.loads(again.stdout)
    assert (report["ok"], report["requested"], report["exit_code"]) == (3, 3, 0)
    assert report["splits"]["train"]["classes"]["dog"] == {"ok": 2, "requested": 2}


def test_a_dry_run_writes_nothing(videos, tmp_path):
    answer = avkit("prepare", "folder", "--source", f"local:{videos}", "--out", tmp_path / "out", "--dry-run", "--json")
    content = json.loads(answer.stdout)
    assert content["splits"] == {"train": 3}
    assert content["estimate"]["sources"] == {f"local:{videos}": {"clips": 3, "videos": 0, "bytes": 0, "hours": 0.0}}
    assert not (tmp_path / "out").exists()


def test_what_a_run_would_fetch_is_told_before_it_is_fetched(tmp_path):
    (tmp_path / "clips.csv").write_text("".join(f"{line}\n" for line in ("id,label", "abcdefghijk,x", "bcdefghijkl,x")))
    table = ("--list", tmp_path / "clips.csv", "--out", tmp_path / "out", "--dry-run", "--rate", "1/h")
    answer = CliRunner().invoke(app, ["prepare", "table", "--source", "youtube", *map(str, table)])
    assert answer.exit_code == 0, answer.output
    assert "youtube: 2 clips of 2 files to fetch, about 30.0 MB, 2.0 h" in answer.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("prepare", "vgsound", "--out", "o"),
            "unknown recipe 'vgsound'; did you mean vggsound or vggsounder?",
        ),
        (("prepare", "folder", "--out", "o"), "needs at least one --source"),
        (("prepare", "folder", "--source", "ftp:x", "--out", "o"), "unknown source"),
        (("prepare", "folder", "--source", "local:nowhere", "--out", "o"), "nowhere"),
        (("prepare", "vggsound", "--source", "http:https://h/all.mp4", "--out", "o"), "neither {id} nor {path}"),
        (("prepare", "vggsound", "--source", "youtube", "--out", "o", "--rate", "many"), "a rate such as 250/h"),
        (("prepare", "vggsound", "--source", "youtube", "--out", "o", "--cookies", "gone.txt"), "--cookies gone.txt"),
        (("prepare", "synth", "--out", "o", "--num-classes", "3"), "--num-classes=3: must be from 8 to 24"),
        (("prepare", "synth", "--out", "o", "--max-silent", "3"), "--max-silent=3: must be from 0 to 2"),
        (("prepare", "synth", "--out", "o", "--width", "161"), "odd side"),
        (("prepare", "synth", "--out", "o", "--short-side", "8"), "--short-side=8: must be 16 or more"),
        (("prepare", "folder", "--source", "local:.", "--out", "o", "--max-objects", "3"), "--max-objects belong"),
        (("prepare", "folder", "--source", "local:.", "--out", "o", "--num-clips", "3"), "belong to recipe synth"),
        (("prepare", "synth", "--out", "o", "--mel", "mfcc"), "--mel='mfcc' is not paper, released, kaldi"),
        (("prepare", "synth", "--out", "o", "--retry", "maybe"), "--retry='maybe' is not none, transient, all"),
        (("prepare", "synth", "--out", "o", "--deadline", "0"), "--deadline=0.0: must be above 0"),
        (("prepare", "synth"), "--out"),
        (("inspect", "nowhere"), "no manifest"),
        (("nonsense",), "nonsense"),
    ],
)
def test_misuse_is_said_in_a_line_with_exit_code_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["avkit", *words])
    with pytest.raises(SystemExit) as ended:
        run()
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert said in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "o").exists()


def test_a_spectrogram_of_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path, said in (
        (tmp_path / "pipe.mp4", "a FIFO"),
        ("/dev/zero", "a device"),
        (tmp_path, "a folder"),
        ("no", "no such"),
    ):
        with pytest.raises(ConfigError, match=rf"{path}: {said}.*Give a video or audio file"):
            CliRunner().invoke(app, ["spectrogram", str(path)], catch_exceptions=False)


@pytest.mark.slow
def test_another_configuration_is_refused_with_the_difference(videos, tmp_path):
    options = ("folder", "--source", f"local:{videos}", "--out", tmp_path / "out", "--frames", 2)
    assert avkit("prepare", *options).returncode == 0
    answer = avkit("prepare", *options, "--seed", 5)
    assert answer.returncode == 2
    assert "seed 0 -> 5" in answer.stderr
    assert avkit("prepare", *options, "--seed", 5, "--overwrite").returncode == 0


@pytest.mark.slow
def test_too_few_samples_are_incomplete(videos, tmp_path):
    source = tmp_path / "videos"
    source.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (source / name).write_bytes(b"<html>not here</html>")
    (source / "c.mp4").write_bytes((videos / "cat/c.mp4").read_bytes())
    answer = avkit("prepare", "folder", "--source", f"local:{source}", "--out", tmp_path / "out")
    assert answer.returncode == 3
    assert "media_corrupt" in answer.stdout
    assert (
        avkit(
            "prepare", "folder", "--source", f"local:{source}", "--out", tmp_path / "out", "--min-success", 0.3
        ).returncode
        == 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_stops_clean_and_goes_on_later(number, tmp_path):
    words = [
        "prepare",
        "synth",
        "--num-clips",
        "12",
        "--out",
        str(tmp_path / "out"),
        "--shard-size",
        "2",
        "--workers",
        "1",
    ]
    command = [sys.executable, "-c", "from avcli.main import run; run()", *words]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("*/*_stats.json")):
        assert run.poll() is None
        time.sleep(0.02)
    family = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, number)
    while run.poll() is None:  # the run ends what it began, however often it is asked
        os.kill(run.pid, number)
        time.sleep(0.01)
    said = run.communicate(timeout=30)[1]
    assert run.returncode == 3
    assert "stopped. Run the same command again to continue." in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert avkit(*words).returncode == 0


def test_clips_are_drawn_and_kept_as_asked_for(tmp_path):
    shape = ("--width", "96", "--height", "64", "--short-side", "32", "--frames", "1", "--seconds", "3")
    things = ("--num-clips", "10", "--num-classes", "8", "--max-objects", "1", "--max-silent", "0")
    assert avkit("prepare", "synth", *shape, *things, "--out", tmp_path / "out").returncode == 0
    rows = pq.read_table(tmp_path / "out" / "manifest" / "train.parquet").to_pylist()
    assert [len(row["labels"]) for row in rows] == [1] * 8
    assert [len(json.loads(row["annotations"])["objects"]) for row in rows] == [1] * 8
    with tarfile.open(tmp_path / "out" / "train" / "00000.tar") as tar:
        frames = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".jpg")]
    assert [decode_jpeg(frame).shape for frame in frames] == [(32, 48, 3)] * 8


def test_a_source_without_videos_leaves_a_plan_and_a_clear_word(tmp_path):
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    listed = tmp_path / "vggsound.csv"
    rows = [
        f"drawn-id-{n:02d},{10 * n},{('playing harp', 'dog barking')[n % 2]},{'test' if n > 3 else 'train'}"
        for n in range(6)
    ]
    listed.write_text("\n".join(rows) + "\n")
    answer = avkit("prepare", "vggsound", "--list", listed, "--source", f"local:{tmp_path / 'empty'}", "--out", out)
    assert answer.returncode == 3
    assert "0 of 6 clips found in local:" in answer.stdout
    assert "run the same command with a --source that holds the videos" in answer.stdout
    assert "no video below the folder" in answer.stderr
    rows = [pq.read_metadata(out / "manifest" / f"{split}.parquet").num_rows for split in ("train", "test")]
    assert rows == [4, 2]
    assert list(out.glob("*/*.tar")) == []


EXPECTED = {
    "av1_10bit_portrait": "ok", "bbb_rotated90_51": "media_short", "edit_list_video_starts_1s": "ok silent still",
    "flower_silent_audio": "ok silent", "flower_silent_fragmented": "ok silent",
    "long_6min_av1_silent": "ok silent still", "music_bbb_intro": "ok", "neg_corrupted": "media_no_audio",
    "neg_noaudio_rot90": "media_short", "neg_noaudio_sar2x1": "media_no_audio", "office_man_av1": "media_short",
    "pcm_audio_1080p50": "media_short", "phone_data_streams_speech": "ok", "phone_sideways_rot90": "media_short",
    "shorter_audio": "media_short", "silent_black_10s": "ok silent still", "smpte_timecode_25fps": "ok",
    "speech_friday_1940_film": "ok", "speech_google_offices": "ok", "speech_nasa_multistream": "ok",
    "street_60fps_320x240": "ok", "toy_elf": "ok", "toy_pig": "ok", "water_stream.mp4": "ok",
    "water_stream.webm": "ok",
}  # fmt: skip
"""Status and flags of the real files: under three seconds nothing can be learned from."""


def test_videos_of_every_kind_end_as_they_are(kinds, tmp_path):
    answer = avkit("prepare", "folder", "--source", f"local:{kinds}", "--out", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    rows = pq.read_table(tmp_path / "out" / "manifest" / "train.parquet").to_pylist()
    found = {
        row["video_id"]: " ".join([row["status"], *(flag for flag in ("silent", "still", "short") if row[flag])])
        for row in rows
    }
    short = {name.partition(".")[0] for name, kind in KINDS.items() if kind.duration_s < 3}
    expected = {name.partition(".")[0]: "ok" for name in KINDS} | dict.fromkeys(short, "media_short")
    assert found == expected | {"silent_still": "ok silent still"}


@pytest.mark.skipif(not VIDEOS.exists(), reason="needs the real videos beside the checkout")
@pytest.mark.slow
def test_the_real_videos_end_as_their_descriptions_say(tmp_path):
    answer = avkit("prepare", "folder", "--source", f"local:{VIDEOS}", "--out", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    rows = pq.read_table(tmp_path / "out" / "manifest" / "train.parquet").to_pylist()
    found = {
        row["video_id"]: " ".join([row["status"], *(flag for flag in ("silent", "still", "short") if row[flag])])
        for row in rows
    }
    assert found == EXPECTED
    short = avkit("prepare", "folder", "--source", f"local:{VIDEOS}", "--out", tmp_path / "one", "--clip-seconds", 1)
    assert short.returncode == 0
    rows = {r["video_id"]: r for r in pq.read_table(tmp_path / "one" / "manifest" / "train.parquet").to_pylist()}
    assert {k for k, row in rows.items() if row["status"] != "ok"} == {
        "neg_corrupted", "neg_noaudio_rot90", "neg_noaudio_sar2x1",
    }  # fmt: skip
    assert (rows["bbb_rotated90_51"]["width"], rows["bbb_rotated90_51"]["height"]) == (1080, 1920)
    assert all(row["duration_s"] == pytest.approx(1.0) for row in rows.values() if row["status"] == "ok")


def commands_in(page: str) -> list[str]:
    """The commands of a page, in its blocks and between backticks; of a file of code, those that begin a line."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if page.endswith(".md") else [text]
    lines = [
        line for block in blocks for line in re.findall(r"^(?:say )?(avkit [a-z-].*?)(?:\s+#.*)?$", block, re.MULTILINE)
    ]
    return [*lines, *re.findall(r"`(avkit [a-z][^`]*)`", text)]


PAGES = [
    *("README.md", "demo.sh", "cli/avcli/prepare.py", "cli/avcli/apply.py", "cli/avcli/evaluate.py"),
    *("cli/avcli/convert.py", "cli/avcli/export.py"),
    *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs").rglob("*.md"))),
]


@pytest.mark.parametrize("page", [*filter(commands_in, PAGES)])
def test_every_command_in_the_pages_is_one_that_exists(page):
    commands = commands_in(page)
    group = typer.main.get_command(app)
    for command in commands:
        words = shlex.split(command)[1:]
        at = group
        while hasattr(at, "commands") and words and not words[0].startswith("-") and words[0] != "...":
            assert words[0] in at.commands, command
            at = at.commands[words.pop(0)]
        known = {name for parameter in at.params for name in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("page", [page for page in PAGES if "/adding-" not in page and commands_in(page)])
def test_every_recipe_run_task_and_preset_in_the_pages_is_one_that_exists(page):
    for command in commands_in(page):
        _, *words = shlex.split(command)
        names = [word for word in words if not (word.startswith("-") or word.isupper() or "." in word)]
        presets_there = [after for word, after in pairwise(words) if word == "--preset"]
        match names:
            case ["prepare", recipe, *_] if words[1] == recipe:
                assert recipe in recipe_names(), command
            case ["pretrain", run, *_] if words[1] == run:
                assert run in presets(), command
            case ["evaluate", task, *_] if words[1] == task:
                for preset in presets_there or [None]:
                    task_config(task, preset)


def explained(*words):
    answer = CliRunner().invoke(app, ["prepare", "folder", *map(str, words), "--explain", "--toml"])
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def test_an_option_a_set_and_a_file_say_the_same(tmp_path):
    flat = (
        "--source",
        "local:a,b",
        "--frames",
        "4",
        "--mel",
        "kaldi",
        "--mel",
        "paper",
        "--no-audio",
        "--retry",
        "all",
    )
    as_set = ("sample.num_frames=4", "sample.mel=kaldi,paper", "sample.keep_audio=false", "retry=all")
    wanted = explained(*flat, "--rate", "2/min", "--seed", "3", "--proxy", "http://p")
    for line in ("num_frames = 4", 'mel = ["kaldi", "paper"]', "keep_audio = false", 'retry = "all"', "seed = 3"):
        assert f"\n{line} " in wanted
    assert (wanted.count('proxy = "http://p"'), "rate_per_hour = 120.0" in wanted) == (2, True)
    words = [word for setting in as_set for word in ("--set", setting)]
    more = ("--set", "downloads.rate_per_hour=2/min", "--seed", "3", "--proxy", "http://p", "--source", "local:a,b")
    assert explained(*words, *more) == wanted
    (tmp_path / "run.toml").write_text(wanted)
    assert explained("--config", tmp_path / "run.toml") == wanted
    assert "num_frames = 5 " in explained("--config", tmp_path / "run.toml", "--frames", "5")
    assert "num_frames = 6 " in explained(
        "--config", tmp_path / "run.toml", "--frames", "5", "--set", "sample.num_frames=6"
    )


def test_the_old_word_for_an_array_is_still_read():
    assert 'executor = "array"' in explained("--executor", "array")
    assert explained("--executor", "slice") == explained("--executor", "array")


def test_each_option_of_prepare_shows_its_default_and_choices():
    said = " ".join(CliRunner().invoke(app, ["prepare", "--help"]).output.split())
    assert "--retry [none|transient|all] Which failed clips to try again. [default: none]" in said
    assert "--frames FRAMES Frames of a clip. [default: 10]" in said
    assert "Recipe synth: --num-clips CLIPS Clips to draw. [default: 512]" in said


def test_the_version_is_said():
    assert CliRunner().invoke(app, ["--version"]).output == f"avkit {version('avkit')}\n"


def test_bash_completes_commands_and_options():
    words = {**os.environ, "_AVKIT_COMPLETE": "complete_bash", "COMP_WORDS": "avkit prepare --cl", "COMP_CWORD": "2"}
    code = "import sys; sys.argv[0] = 'avkit'; from avcli.main import run; run()"
    answer = subprocess.run([sys.executable, "-c", code], env=words, capture_output=True, text=True)
    assert answer.stdout.split() == ["--clip-seconds"], answer.stderr


@pytest.mark.parametrize("command", [("pretrain", "demo"), ("evaluate", "knn", "runs/x")])
def test_where_is_a_setting(command):
    where = "fps > 24 and 'rain' in labels"
    answer = CliRunner().invoke(app, [*command, "--where", where, "--explain", "--toml"])
    assert answer.exit_code == 0, answer.output
    assert f'\nwhere = "{where}"' in answer.stdout
    plain = CliRunner().invoke(app, [*command, "--explain", "--toml"])
    assert '\nwhere = "none"' in plain.stdout
