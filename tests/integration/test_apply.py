"""`avkit apply` as a user types it, on a drawn video; and its windows beside prepared samples."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from avcli.main import app
from avdata.images import decode_jpeg, encode_jpeg
from avdata.prepare.config import SampleConfig
from avdata.prepare.decode import open_media
from avdata.prepare.job import prepare
from avdata.video_windows import iter_windows
from avdata.waveform import StoredSamples
from avdata.windows import Window
from avmanifest.errors import ConfigError, DecodeError
from avmanifest.layout import Layout
from avmanifest.schema import CLIP_SCHEMA
from avmanifest.table import read_table
from avmodel.apply import apply, load
from avmodel.apply.inputs import vectors_of, window_inputs
from avmodel.evaluate.config import EvalConfig
from avmodel.evaluate.data import one_view, open_split, ordered_loader
from tests.evaluating import DATA, evaluation_of, save_tiny
from tests.videos import draw_folder, folder_config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run beside a folder with a drawn video of 3.2 s, 10 frames a second."""
    root = tmp_path_factory.mktemp("apply")
    save_tiny(root / "run")
    draw_folder(root / "videos", ["clip.mp4"])
    return root


def words(place: Path, task: str, out: Path, *more: str) -> list[str]:
    given = ["--task", task, "--out", str(out), "--device", "cpu"]
    return ["apply", str(place / "run"), str(place / "videos" / "clip.mp4"), *given, *more]


def test_vectors_and_then_a_refusal_and_then_others(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = CliRunner().invoke(app, words(place, "embed", out, "--hop", "0.5"), catch_exceptions=False)
    assert f"{out}: embeddings.parquet" in said.stdout
    assert re.search(r"^windows 6, streams image \d+, audio \d+, fusion \d+$", said.stdout, re.MULTILINE)
    assert "seconds of video" in said.stderr
    rows = pq.read_table(out / "embeddings.parquet")
    assert rows.column("start_s").to_pylist() == [number / 2 for number in range(len(rows))]
    assert rows.column("end_s")[-1].as_py() == pytest.approx(3.2, abs=0.1)
    with pytest.raises(ConfigError, match=rf"{out}: holds embeddings\.parquet already.*--overwrite"):
        CliRunner().invoke(app, words(place, "embed", out), catch_exceptions=False)
    CliRunner().invoke(app, words(place, "embed", out, "--overwrite"), catch_exceptions=False)
    assert len(pq.read_table(out / "embeddings.parquet")) == 4


def test_a_film_of_maps_as_json_tells(place: Path, tmp_path: Path) -> None:
    given = words(place, "localize", tmp_path, "--fps", "5", "--json")
    said = json.loads(CliRunner().invoke(app, given, catch_exceptions=False).stdout)
    assert said["files"] == ["overlay.mp4", "maps.parquet"]
    assert said["frames"] == pq.read_metadata(tmp_path / "maps.parquet").num_rows
    with open_media(place / "videos" / "clip.mp4") as source, open_media(tmp_path / "overlay.mp4") as film:
        assert film.duration_s == pytest.approx(source.duration_s, abs=0.25)
        here, there = (media.waveform(0.2, 2.8).samples for media in (source, film))
        frame, drawn = (media.frames([1.05], short_side=None).images[0] for media in (source, film))
    assert np.corrcoef(here, there)[0, 1] > 0.9
    assert drawn.shape[0] > 360  # a legend below
    assert drawn.shape[1] > 360 * frame.shape[1] / frame.shape[0]  # a spectrogram beside
    assert said["scale"][0] < said["colored_above"] < said["scale"][1]
    assert {path.name for path in tmp_path.iterdir()} == set(said["files"])


@pytest.mark.parametrize(
    ("task", "more", "error", "said"),
    [
        ("guess", (), ConfigError, "unknown task 'guess'; known: embed, classify, retrieve, localize, segment, separ"),
        ("embed", ("--top", "3"), ConfigError, "--top is not an option of task embed, which has"),
        ("classify", (), ConfigError, "avkit evaluate finetune"),
        ("retrieve", (), ConfigError, "gallery is missing"),
        ("separate", ("--region", "left"), ConfigError, "expected left,top,right,bottom"),
        ("embed", ("--hop", "9"), ConfigError, "hop_s=9"),
        ("NO VIDEO", (), DecodeError, "not a media file"),
        ("NOWHERE", (), ConfigError, "no such video"),
    ],
)
def test_misuse_is_one_line(
    place: Path, tmp_path: Path, task: str, more: tuple[str, ...], error: type[Exception], said: str
) -> None:
    given = words(place, "embed" if task.startswith("NO") else task, tmp_path / "out", *more)
    if task.startswith("NO"):
        (tmp_path / "NO VIDEO").write_text("#EXTM3U")
        given[2] = str(tmp_path / task)
    found = CliRunner().invoke(app, given).exception
    assert type(found) is error
    assert said in str(found)
    assert not any((tmp_path / "out").glob("*"))


def test_three_lines_of_python(place: Path, tmp_path: Path) -> None:
    model = load("embed", place / "run")
    said = apply(model, iter_windows(place / "videos" / "clip.mp4", model.window_config), tmp_path)
    assert said["windows"] == 4


def test_a_window_is_what_preparing_its_span_makes_of_it(place: Path, tmp_path: Path) -> None:
    """Log-mels exactly, and vectors of the frame as it is stored."""
    sample = SampleConfig(num_frames=1, short_side=64, jpeg_quality=100, clip_seconds=1.0)
    prepare(folder_config(place / "videos", tmp_path / "set", sample=sample))
    (row,) = read_table(Layout(tmp_path / "set").manifest("train"), CLIP_SCHEMA).to_pylist()
    run = evaluation_of(place / "run", tmp_path / "set", tmp_path / "out")
    view, split = one_view(DATA, run.loaded), open_split(DATA, run.test, "train", labeled=False)
    stored = next(iter(ordered_loader(DATA, split, view, run.world, batch_size=1, seed=0)))
    expected = run.features(EvalConfig(data=DATA, device="cpu"), split, view).values

    start_s, end_s, (time_s,) = row["start_s"], row["end_s"], row["frame_times_s"]
    with open_media(place / "videos" / "clip.mp4") as media:
        (frame,) = media.frames([start_s + time_s], 64).images
        window = Window(
            number=0,
            start_s=start_s,
            end_s=end_s,
            duration_s=media.duration_s,
            waveform=StoredSamples(media.waveform(start_s, end_s).samples)[:],
            frames=decode_jpeg(encode_jpeg(frame, 100))[None],
            times_s=(start_s + time_s,),
        )
    inputs = window_inputs(run.loaded, None)
    assert torch.equal(inputs.log_mel(window)[0], stored.log_mel.float())
    found = vectors_of(run.loaded, inputs, window, "audio-visual")
    for name, vector in found.items():
        torch.testing.assert_close(torch.from_numpy(vector), expected[name][0], atol=1e-5, rtol=1e-5)
