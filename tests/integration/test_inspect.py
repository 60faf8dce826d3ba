"""`avkit inspect` as a user types it: planted faults found one by one, samples drawn, damage told by exit code 4."""

import io
import json
import re
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest
import soundfile

from avcli.main import run
from avdata.draw.mel_axis import TICKS_HZ, band_of
from avdata.melspec import mel_filters
from avdata.prepare.job import prepare
from avdata.profiles import PROFILES, num_frames
from avdata.shards import walk_samples
from tests.drawn import sine
from tests.planted import FAULTS, HOSTILE_LABEL, draw_planted
from tests.runfolder import write_run
from tests.videos import DRAWN, folder_config


@dataclass(frozen=True)
class Answer:
    returncode: int
    stdout: str
    stderr: str


def inspect(*words) -> Answer:
    return avkit("inspect", *words)


def avkit(*words) -> Answer:
    """The command, in this process: what it imports is imported once."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["avkit", *map(str, words)])
        patched.setenv("COLUMNS", "160")
        patched.setenv("NO_COLOR", "1")
        try:
            run()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Answer(code, out.getvalue(), err.getvalue())


def as_json(*words, command="inspect"):
    answer = avkit(command, *words, "--json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    videos = draw_planted(tmp_path_factory.mktemp("planted"), DRAWN)
    return prepare(folder_config(videos, tmp_path_factory.mktemp("planted") / "out", shard_size=4)).out


@pytest.fixture(scope="module")
def found(planted):
    return as_json(planted)


def videos_of(clips):
    return sorted(clip["video_id"] for clip in clips)


def test_each_planted_fault_is_found(planted, found):
    keys = {row["key"]: row["video_id"] for row in rows_of(planted)}
    assert [keys[clip["key"]] for clip in found["flagged"]["silent"]["examples"]] == [FAULTS["silent"]]
    assert [keys[clip["key"]] for clip in found["flagged"]["still"]["examples"]] == [FAULTS["still"]]
    same = [videos_of(group["clips"]) for group in found["duplicates"]["contents"]["examples"]]
    assert sorted(same) == sorted(
        [sorted([FAULTS["original"], FAULTS["copy"]]), sorted([FAULTS["leak"], FAULTS["leaked"]])]
    )
    assert found["leaks"]["contents"]["groups"] == 1
    assert videos_of(found["leaks"]["contents"]["examples"][0]["clips"]) == sorted([FAULTS["leak"], FAULTS["leaked"]])
    assert found["splits"]["train"]["statuses"] == {"ok": 8, "media_corrupt": 1}
    assert HOSTILE_LABEL.replace("/", "∕") in found["classes"]["counts"]


def rows_of(out):
    import pyarrow.parquet as pq

    return [row for path in (out / "manifest").glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def test_people_read_what_machines_read(planted, found):
    answer = inspect(planted)
    assert answer.returncode == 0, answer.stderr
    assert f"subset id {found['subset_id']}" in answer.stdout
    assert "10 samples of 11 clips" in answer.stdout
    for said in (
        "media_corrupt",
        "the file cannot be decoded",
        "silent: nothing to hear",
        "source bytes in several splits",
    ):
        assert said in answer.stdout
    flags = answer.stdout.partition("\nflags\n")[2].partition("\nclasses")[0]
    assert [line.split()[0] for line in flags.splitlines() if line.startswith(("silent", "still"))] == [
        "silent:",
        "still:",
    ]
    assert answer.stdout.count("silent: ") == 1
    repeats = answer.stdout.partition("\nrepeats\n")[2]
    assert re.search(r"^none: duplicate keys, keys in several splits", repeats, re.MULTILINE)
    assert not re.search(r"^duplicate keys ", repeats, re.MULTILINE)
    assert HOSTILE_LABEL.replace("/", "∕") in answer.stdout  # shown as it is, not taken for markup


def test_damage_ends_with_4_and_repair_puts_the_shard_away(planted, tmp_path):
    out = Path(shutil.copytree(planted, tmp_path / "out"))
    assert inspect(out, "--verify").returncode == 0
    assert avkit("verify", out).returncode == 0
    assert avkit("verify", out, "--deep").returncode == 0
    tar = out / "train" / "00001.tar"
    key, _, members = next(walk_samples(tar))
    picture = next(member for member in members if member.name.endswith(".jpg"))
    with tar.open("r+b") as file:
        file.seek(picture.offset)
        file.write(b"\0\0\0\0")
    answer = avkit("verify", out, "--deep", "--json")
    assert answer.returncode == 4
    faults = json.loads(answer.stdout)["verification"]["faults"]
    assert {"shard": "train/00001", "key": key, "offset": picture.offset} in [
        {name: fault[name] for name in ("shard", "key", "offset")} for fault in faults
    ]
    assert inspect(out, "--verify").returncode == 4
    answer = avkit("verify", out, "--repair")
    assert answer.returncode == 4
    assert key in answer.stdout
    assert "Run the same `avkit prepare` again" in answer.stdout
    assert not tar.exists()
    assert len(list((out / "_quarantine").iterdir())) == 1


def test_a_sample_is_drawn_on_the_terminal_and_into_a_picture(planted, tmp_path):
    row = next(row for row in rows_of(planted) if row["status"] == "ok")
    shown = inspect(planted, "--key", row["key"])
    assert shown.returncode == 0, shown.stderr
    assert row["video_id"] in shown.stdout
    assert "4000 Hz" in shown.stdout
    known = as_json(planted, "--key", row["key"], "--png", tmp_path / "sample.png")
    assert known["log_mel"] == [128, num_frames(round(row["duration_s"] * 16_000), PROFILES["paper"])]
    assert [frame["time_s"] for frame in known["frames"]] == row["frame_times_s"]
    picture = cv2.imread(str(tmp_path / "sample.png"))
    assert picture is not None
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 20
    failed = next(row for row in rows_of(planted) if row["status"] != "ok")
    answer = inspect(planted, "--key", failed["key"])
    assert answer.returncode == 2
    assert "media_corrupt" in answer.stderr


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_the_spectrogram_of_a_file_is_what_prepare_makes(suffix, tmp_path):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, sine(3.0, 16_000, frequency=1000.0), 16_000)
    known = as_json(path, "--png", tmp_path / "mel.png", command="spectrogram")
    assert known["profile"] == "paper"
    assert known["shape"][0] == 128
    assert known["shape"][1] >= 196
    assert cv2.imread(str(tmp_path / "mel.png")) is not None


def test_the_spectrogram_of_a_video_takes_the_profile_asked_for(tmp_path):
    from tests.drawn import draw_media

    video = draw_media(tmp_path / "v.mp4", num_frames=75, sound=sine(3.0, 44_100)[None])
    assert as_json(video, "--mel", "released", command="spectrogram")["shape"] == [128, 192]
    answer = avkit("spectrogram", video)
    assert answer.returncode == 0, answer.stderr
    assert "v.mp4  paper  128 x 196  3.00 s" in answer.stdout


def test_hertz_stand_at_the_band_whose_filter_peaks_there():
    for profile in (PROFILES["paper"], PROFILES["kaldi"]):
        filters = mel_filters(profile)
        for frequency in TICKS_HZ[2:-1]:
            column = round(frequency * profile.n_fft / profile.sample_rate)
            assert abs(int(filters[:, column].argmax()) - band_of(frequency, profile)) <= 1


def test_two_datasets_are_compared(planted, drawn):
    known = as_json(planted, drawn, command="diff")
    assert known["clips"] == {"both": 0, "only_a": 11, "only_b": 20}
    answer = avkit("diff", planted, planted / "manifest")
    assert "the same samples, splits, labels and config" in answer.stdout


def test_a_condition_is_shown_with_what_it_chooses(drawn, tmp_path):
    where = "key < 'clip-00005' and '<b>' not in labels"
    assert (as_json(drawn, "--where", where)["samples"], as_json(drawn, "--where", where)["where"]) == (5, where)
    answer = inspect(drawn, "--where", where, "--html", tmp_path / "page.html")
    assert "5 samples of 5 clips" in answer.stdout
    assert f"where {where}" in answer.stdout
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;&#x27; not in labels</code>" in page
    compared = as_json(drawn, drawn / "manifest", "--where", where, command="diff")
    assert (compared["where"], compared["clips"]["both"], compared["same"]) == (where, 5, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("inspect", "nowhere", "--where", "true", "--verify"), "leave --where out"),
        (("inspect", "nowhere", "--where", "true", "--key", "a"), "leave --where out"),
        (("inspect", "nowhere", "--where", "a;b"), "where='a;b'"),
        (("inspect", "nowhere"), "no manifest in it, and no shards"),
        (("inspect", "a", "b"), "avkit diff A B"),
        (("diff", "a"), "B"),
        (("diff", "nowhere", "nowhere"), "no manifest in it, and no shards"),
        (("spectrogram", "nowhere.mp4"), "no such file"),
        (("spectrogram", "a.mp4", "--verify"), "--verify"),
        (("verify", "nowhere"), "no manifest in it, and no shards"),
        (("inspect", "nowhere", "--mel", "paper"), "--mel"),
        (("inspect", "nowhere", "--repair"), "--repair"),
        (("inspect", "nowhere", "--png", "x.png"), "give --key KEY"),
        (("inspect", "nowhere", "--samples", "3"), "--samples is the number of samples"),
        (("inspect", "nowhere", "--samples", "0"), "--samples is the number of samples"),
        (("inspect", "nowhere", "--thumbnails", "3"), "--thumbnails is the number of thumbnails"),
        (("inspect", "nowhere", "--seed", "0"), "--seed is the seed of the draw"),
        (("inspect", "nowhere", "--embedding", "x"), "--embedding is the map of features"),
        (("inspect", "nowhere", "--port", "8000"), "--port is the port of --serve"),
        (("inspect", "nowhere", "--serve", "--html", "x.html", "--json"), "leave --html, --json out"),
        (("inspect", "nowhere", "--serve", "--key", "a"), "leave --serve out"),
        (("inspect", "nowhere", "--serve"), "no manifest in it, and no shards"),
        (("inspect", "ftp://host/x"), "unknown protocol"),
    ],
)
def test_misuse_is_an_error_of_one_line(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = avkit(*words)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_training_run_is_shown(tmp_path):
    run = write_run(tmp_path / "run")
    known = as_json(run, "--html", tmp_path / "run.html", "--png", tmp_path / "run.png")
    assert known["step"] == 40
    assert known["curves"]["loss"] == {"first": 2.0, "best": 0.05, "last": 0.05, "points": 40}
    assert known["probe"]["all"]["best"] == 50.0
    assert len(known["pictures"]) == 2
    assert cv2.imread(str(tmp_path / "run.png")) is not None
    page = (tmp_path / "run.html").read_text()
    assert page.count("data:image/png") == 2
    assert "<i>demo" not in page
    shown = inspect(run)
    assert "step 40 of 50" in shown.stdout
    assert "█▄" in shown.stdout or "█▃" in shown.stdout or "█▂" in shown.stdout


def test_two_training_runs_are_compared(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("one", "two")]
    (runs[1] / "config.json").write_text(json.dumps({"name": "[red]x\x1b[31m", "steps": 50, "optim.lr": 5e-4}))
    known = as_json(*runs, "--html", tmp_path / "runs.html")
    assert known["differ"]["optim.lr"] == [1e-3, 5e-4]
    assert [run["name"] for run in known["runs"]] == ["one", "two"]
    assert (tmp_path / "runs.html").exists()
    shown = inspect(*runs)
    assert shown.returncode == 0, shown.stderr
    assert "0.05 at 40" in shown.stdout
    assert "[red]x\\x1b[31m" in shown.stdout  # neither markup nor a control character
    for words, said in (
        ((*runs, "--png", tmp_path / "x.png"), "one training run"),
        ((*runs, tmp_path), "not a training run"),
    ):
        answer = inspect(*words)
        assert (answer.returncode, said in answer.stderr) == (2, True)


def test_the_page_says_its_selection_and_takes_an_embedding(drawn, tmp_path):
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = [row["key"] for row in rows_of(drawn)]
    places = pa.array(np.arange(2 * len(keys), dtype=np.float32))
    pq.write_table(
        pa.table({"key": keys, "image": pa.FixedSizeListArray.from_arrays(places, 2)}), tmp_path / "x.parquet"
    )
    page = tmp_path / "page.html"
    words = ("--samples", 2, "--thumbnails", 9, "--seed", 3, "--embedding", tmp_path / "x.parquet")
    answer = inspect(drawn, "--html", page, *words)
    assert answer.returncode == 0, answer.stderr
    text = page.read_text()
    assert "9 of 20 samples, drawn with seed 3" in text
    assert "9 of the 9 samples that are shown, from x.parquet; as given." in text
    assert text.count("data:audio/flac") == 2
    assert text.count("data:image/webp") == 18
    answer = inspect(drawn, "--html", page, "--embedding", tmp_path / "nowhere")
    assert (answer.returncode, "no embedding" in answer.stderr) == (2, True)
