"""Each task on drawn windows: what it finds, what it writes, and what it refuses."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import soxr
import torch

from avdata.melspec import log_mel
from avdata.prepare.decode import open_media
from avdata.profiles import PROFILES
from avdata.windows import SAMPLE_RATE, Window
from avmanifest.errors import ConfigError, DecodeError, StorageError
from avmodel.apply import TASKS, apply, load, task_config
from avmodel.apply.inputs import window_inputs
from avmodel.apply.separate import crop_of
from avmodel.configs.dense import DenseConfig
from avmodel.evaluate.decoder import DecoderConfig, segmentation_decoder
from avmodel.evaluate.embed.config import EmbedConfig
from avmodel.evaluate.embed.task import embed
from avmodel.evaluate.finetune.classifier import Classifier, save_classifier
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.predictor import Predictor, save_predictor
from avmodel.evaluate.separation.masks import make_masks
from avmodel.evaluate.separation.overlap_add import overlap_add
from avmodel.evaluate.separation.separator import Separator, save_separator
from tests.drawn_windows import drawn_windows
from tests.evaluating import DATA, TEST, draw_splits, evaluation_of, save_tiny, tiny_model

STREAMS = {"image", "audio", "fusion"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained run."""
    return save_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def gallery(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of a test split by that run."""
    root = tmp_path_factory.mktemp("gallery")
    found = evaluation_of(run, draw_splits(root / "set"), root / "out")
    embed(EmbedConfig(data=DATA, picture="none", device="cpu"), found)
    return found.out


def tune(folder: Path, *, mode: str = "audio-visual", multi_label: bool = False, streams: Any = None) -> Path:
    classifier = Classifier(tiny_model(), 3, mode, multi_label=multi_label, head_streams=streams)
    save_classifier(folder, classifier, ["a, b", "=c", "d"], 1, {}, {"profile": "paper", "window_s": "1.0"})
    return folder


def loaded(task: str, checkpoint: Path, **settings: Any) -> Any:
    return load(task, checkpoint, task_config(task, device="cpu", **settings))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_embeddings_are_the_models_mean_tokens(run: Path, tmp_path: Path) -> None:
    model = loaded("embed", run)
    assert (model.window_config.window_s, model.window_config.fps) == (1.0, None)
    said = apply(model, drawn_windows(model.window_config), tmp_path)
    rows = pq.read_table(tmp_path / "embeddings.parquet")
    assert said["windows"] == len(rows) == 3
    assert set(rows.column_names) == {"start_s", "end_s", *STREAMS}
    assert rows.column("end_s").to_pylist() == [1.0, 2.0, 2.5]
    window = list(drawn_windows(model.window_config))[1]
    with torch.no_grad():
        streams = tiny_model().eval().streams(model.inputs.images(window), model.inputs.log_mel(window))
    for name in STREAMS:
        assert rows.column(name)[1].as_py() == pytest.approx(streams[name][0].mean(dim=0).tolist(), abs=1e-6)
    note = json.loads(pq.read_schema(tmp_path / "embeddings.parquet").metadata[b"avkit"])
    assert note["of"]["checkpoint"] == model.loaded.origin["sha256"]


def test_frames_of_a_window_are_averaged(run: Path) -> None:
    model = loaded("embed", run, fps=4.0)
    window = next(drawn_windows(model.window_config))
    assert window.frames is not None
    _, together = next(model([window]))
    each = [
        next(model([replace(window, frames=frame[None], times_s=(time_s,))]))[1]
        for frame, time_s in zip(window.frames, window.times_s, strict=True)
    ]
    assert len(each) == 4
    for name, vector in together.items():
        np.testing.assert_allclose(vector, np.mean([one[name] for one in each], axis=0), atol=1e-5)


@pytest.mark.parametrize("missing", ["sound", "pictures"])
def test_a_video_without_a_sense_is_embedded_by_the_other(run: Path, tmp_path: Path, missing: str) -> None:
    model = loaded("embed", run)
    apply(model, drawn_windows(model.window_config, **{missing: False}), tmp_path)
    names = pq.read_schema(tmp_path / "embeddings.parquet").names
    assert ("audio" in names, "image" in names) == (missing == "pictures", missing == "sound")


def test_labels_of_windows_and_of_the_whole(tmp_path: Path) -> None:
    tune(tmp_path / "run" / "evaluations" / "finetune" / "seed-0")
    model = loaded("classify", tmp_path / "run", top=2)
    windows = list(drawn_windows(model.window_config))
    said = apply(model, windows, tmp_path / "out")
    rows = table(tmp_path / "out" / "labels.csv")
    assert [(row["start_s"], row["rank"]) for row in rows[:3]] == [("0.000", "1"), ("0.000", "2"), ("1.000", "1")]
    assert len(rows) == 6
    logits = torch.stack([found for _, found in model(windows)])
    best = logits.softmax(dim=1).max(dim=1)
    for row, label, probability in zip(rows[::2], best.indices.tolist(), best.values.tolist(), strict=True):
        assert row["label"] == ["a, b", "=c", "d"][label]
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-6)
    whole = json.loads((tmp_path / "out" / "labels.json").read_text())
    expected = logits.mean(dim=0).softmax(dim=0)
    assert sum(entry["probability"] for entry in whole["labels"]) == pytest.approx(1, abs=1e-5)
    assert whole["labels"][0]["probability"] == pytest.approx(float(expected.max()), abs=1e-6)
    assert said["label"] == whole["labels"][0]["label"]


def test_several_labels_have_probabilities_of_their_own(tmp_path: Path) -> None:
    model = loaded("classify", tune(tmp_path / "seed-0", multi_label=True))
    _, logits = next(model(drawn_windows(model.window_config)))
    assert sorted(p for _, p in model.likeliest(logits)) == pytest.approx(sorted(logits.sigmoid().tolist()))


def test_heads_that_were_left_out_have_no_say(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = loaded("classify", tune(tmp_path / "seed-0", streams=("audio",)))
    assert list(model.classifier.heads.heads) == ["audio"]
    window = next(drawn_windows(model.window_config))
    _, logits = next(model([window]))
    with torch.no_grad():
        given = model.inputs.images(window), model.inputs.log_mel(window)
        expected = model.classifier(*given)["audio"].mean(dim=0)
    torch.testing.assert_close(logits, expected)
    with pytest.raises(
        DecodeError, match=r"the video has image alone, for which this classifier \(audio\) has no head"
    ):
        next(model(drawn_windows(model.window_config, sound=False)))


def test_a_pretrained_model_has_no_labels_and_says_how_to_get_them(run: Path) -> None:
    with pytest.raises(ConfigError, match=rf"avkit evaluate finetune {run} --data"):
        loaded("classify", run)


def test_a_classifier_of_sound_needs_sound(tmp_path: Path) -> None:
    model = loaded("classify", tune(tmp_path / "seed-0", mode="audio"))
    assert next(model(drawn_windows(model.window_config, pictures=False)))
    with pytest.raises(DecodeError, match="no sound"):
        next(model(drawn_windows(model.window_config, sound=False)))


def test_neighbors_are_the_nearest_of_the_gallery(run: Path, gallery: Path, tmp_path: Path) -> None:
    model = loaded("retrieve", run, gallery=gallery, top=4)
    windows = list(drawn_windows(model.window_config))
    apply(model, windows, tmp_path)
    rows = table(tmp_path / "neighbors.csv")
    assert len(rows) == 3 * len(STREAMS) * 4
    assert all(row["query"] == row["target"] for row in rows)
    embedder = loaded("embed", run)
    for window, vectors in embedder(windows):
        clips = torch.nn.functional.normalize(model.gallery.values["audio"].double(), dim=1)
        cosines = clips @ torch.nn.functional.normalize(torch.from_numpy(vectors["audio"]).double(), dim=0)
        found = [row for row in rows if row["query"] == "audio" and float(row["start_s"]) == window.start_s]
        best = cosines.argsort(descending=True)[:4].tolist()
        assert [row["key"] for row in found] == [model.gallery.keys[place] for place in best]
        assert [float(row["cosine"]) for row in found] == pytest.approx(cosines[best].tolist(), abs=1e-5)
    crossing = loaded("retrieve", run, gallery=gallery, query="audio", target="image", top=TEST + 5)
    assert crossing.pairs == (("audio", "image"),)
    assert len(next(crossing(windows))[3]) == TEST


def test_a_gallery_of_pictures_is_asked_by_sound_alone(run: Path, tmp_path: Path) -> None:
    of = evaluation_of(run, draw_splits(tmp_path / "set"), tmp_path / "out")
    embed(EmbedConfig(data=replace(DATA, mode="image"), picture="none", device="cpu"), of)
    model = loaded("retrieve", run, gallery=of.out, query="audio", target="image", top=1)
    window = next(drawn_windows(model.window_config))
    with torch.no_grad():
        alone = tiny_model().eval().streams(None, model.inputs.log_mel(window))["audio"][0].mean(dim=0)
    assert next(model([window]))[3] == model.nearest(alone, "image")
    with pytest.raises(DecodeError, match="no sound"):
        next(model(drawn_windows(model.window_config, sound=False)))


def test_a_clip_of_the_gallery_finds_itself(run: Path, gallery: Path) -> None:
    model = loaded("retrieve", run, gallery=gallery / "embeddings", query="fusion", top=1)
    vector = model.gallery.values["fusion"][3] * 7
    assert model.nearest(vector, "fusion")[0] == (model.gallery.keys[3], pytest.approx(1, abs=1e-5))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "gallery is missing"),
        ({"gallery": "EMPTY"}, "avkit evaluate embed .* writes them"),
        ({"gallery": "GALLERY", "query": "smell"}, "has the streams"),
        ({"gallery": "GALLERY", "target": "image"}, "name the video's stream too"),
        ({"gallery": "GALLERY", "window_s": 30.0}, "the model takes 48 at once"),
        (
            {"gallery": "GALLERY", "fit": "squash"},
            "of frames with fit='crop', the video's have 'squash'. Give --fit crop",
        ),
    ],
)
def test_galleries_that_cannot_be_searched(
    run: Path, gallery: Path, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    places = {"EMPTY": tmp_path, "GALLERY": gallery}
    with pytest.raises(ConfigError, match=said):
        loaded("retrieve", run, **{name: places.get(value, value) for name, value in settings.items()})


def test_a_gallery_of_another_checkpoint_is_refused(gallery: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be compared"):
        loaded("retrieve", save_tiny(tmp_path, seed=1), gallery=gallery)


def test_a_frame_is_cut_as_asked(run: Path) -> None:
    """The drawn frames are wider than high: the whole of one differs from its middle."""
    views = {fit: loaded("embed", run, fit=fit).inputs for fit in (None, "crop", "short-side-crop", "squash")}
    window = next(drawn_windows(loaded("embed", run).window_config))
    images = {fit: inputs.images(window) for fit, inputs in views.items()}
    assert torch.equal(images[None], images["crop"])
    assert window.frames is not None
    height, width = window.frames.shape[1:3]
    assert views["squash"].view.choose_crop(height, width, ())[:4] == (0, 0, height, width)
    assert not torch.equal(images["squash"], images["short-side-crop"])
    with pytest.raises(ConfigError, match="unknown fit 'pad'; known: crop, short-side-crop, squash"):
        task_config("embed", fit="pad")


def test_maps_and_their_film(run: Path, tmp_path: Path) -> None:
    model = loaded("localize", run, fps=4.0, batch_size=3)
    windows = list(drawn_windows(model.window_config))
    seen: list[tuple[str, int, int]] = []
    said = apply(model, windows, tmp_path, progress=lambda *done: seen.append(done))
    assert seen[-10:] == [("frames of the film", number, 10) for number in range(1, 11)]
    rows = pq.read_table(tmp_path / "maps.parquet")
    assert said["frames"] == len(rows) == 10
    assert rows.column("time_s").to_pylist() == pytest.approx([number / 4 for number in range(10)])
    note = json.loads(pq.read_schema(tmp_path / "maps.parquet").metadata[b"avkit"])
    assert note["grid"] == said["grid"] == [2, 2]
    cells = np.stack(rows.column("map").to_pylist())
    assert said["scale"] == pytest.approx([cells.min(), cells.max()], abs=1e-3)
    streams = tiny_model().eval().streams(model.inputs.images(windows[2]), model.inputs.log_mel(windows[2]))
    sound = streams["audio"].mean(dim=1)[:1]
    cosines = torch.cosine_similarity(streams["image"], sound[:, None], dim=2)
    assert rows.column("map")[8].as_py() == pytest.approx(cosines[0].tolist(), abs=1e-5)
    with open_media(tmp_path / "overlay.mp4") as media:
        assert media.duration_s == pytest.approx(2.5, abs=0.1)
        heard = media.waveform(0.0, 2.4).samples
        found = media.frames([(number + 0.5) / 4 for number in range(10)], short_side=None)
    assert found.times_s == pytest.approx([number / 4 for number in range(10)])
    expected = np.concatenate([window.waveform[: window.num_samples] for window in windows])[: len(heard)]
    inside = slice(2000, -2000)
    assert np.corrcoef(heard[inside], expected[inside])[0, 1] > 0.9


def test_dense_maps_are_of_the_sound_around_each_frame(run: Path, tmp_path: Path) -> None:
    dense = DenseConfig(heads=2)
    model = loaded("localize", run, fps=4.0, batch_size=3, encoding="alone", maps="dense", dense=dense, moment_s=0.1)
    windows = list(drawn_windows(model.window_config))
    apply(model, windows, tmp_path)
    rows = pq.read_table(tmp_path / "maps.parquet")
    assert json.loads(pq.read_schema(tmp_path / "maps.parquet").metadata[b"avkit"])["maps"] == "dense"
    tiny = tiny_model().eval()
    with torch.no_grad():
        seen = tiny.streams(model.inputs.images(windows[1]), None)["image"]
        heard = tiny.streams(None, model.inputs.log_mel(windows[1]))["audio"].reshape(8, 3, 32)
    assert windows[1].times_s[1] - windows[1].start_s == pytest.approx(0.25)
    # Tokens are of 16 columns of 15 ms: the second one has the time 0.25 s.
    products = (heard[:, 1, None].unflatten(2, (2, 16)) * seen[1].unflatten(1, (2, 16))).sum(dim=3)
    expected = products.amax(dim=2).mean(dim=0)
    assert rows.column("map")[5].as_py() == pytest.approx(expected.tolist(), abs=1e-4)
    pooled = list(loaded("localize", run, fps=4.0, encoding="alone", maps="dense", dense=dense)(windows[1:2]))
    assert not np.allclose(pooled[0][1][1].reshape(-1), expected.numpy(), atol=1e-4)


def test_what_needs_both_senses_refuses_one(run: Path, tmp_path: Path) -> None:
    model = loaded("localize", run)
    with pytest.raises(DecodeError, match="no sound"):
        apply(model, drawn_windows(model.window_config, sound=False), tmp_path / "new" / "out")
    assert list(tmp_path.iterdir()) == []


def test_results_are_not_overwritten_unasked_and_failures_leave_them(run: Path, tmp_path: Path) -> None:
    model = loaded("embed", run)
    apply(model, drawn_windows(model.window_config), tmp_path)
    before = (tmp_path / "embeddings.parquet").read_bytes()
    with pytest.raises(ConfigError, match=r"holds embeddings\.parquet already"):
        apply(model, drawn_windows(model.window_config), tmp_path)

    def broken() -> Any:
        yield from list(drawn_windows(model.window_config))[:2]
        raise DecodeError("media_corrupt", "damaged in the middle")

    with pytest.raises(DecodeError):
        apply(model, broken(), tmp_path, overwrite=True)
    assert (tmp_path / "embeddings.parquet").read_bytes() == before
    apply(model, drawn_windows(model.window_config, 1.0), tmp_path, overwrite=True)
    assert len(pq.read_table(tmp_path / "embeddings.parquet")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.parquet"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not written"):
        apply(model, drawn_windows(model.window_config), tmp_path / "file" / "out")


def test_a_film_that_breaks_off_leaves_nothing(run: Path, tmp_path: Path) -> None:
    model = loaded("localize", run, fps=4.0)

    def broken() -> Any:
        yield from list(drawn_windows(model.window_config))[:2]
        raise DecodeError("media_corrupt", "damaged in the middle")

    with pytest.raises(DecodeError, match="damaged in the middle"):
        apply(model, broken(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_windows_are_taken_one_by_one(run: Path, tmp_path: Path) -> None:
    model = loaded("embed", run)
    seen: list[tuple[int, int]] = []

    def windows() -> Any:
        for window in drawn_windows(model.window_config, 4.0):
            assert len(seen) == window.number
            yield window

    apply(model, windows(), tmp_path, progress=lambda what, done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_without_windows_there_is_nothing_to_write(run: Path, tmp_path: Path) -> None:
    for task in ("embed", "localize"):
        with pytest.raises(ConfigError, match="no window is given"):
            apply(loaded(task, run), iter(()), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("window_s", [0.0, -1.0, float("inf"), float("nan")])
def test_windows_of_no_length_are_refused(run: Path, window_s: float) -> None:
    with pytest.raises(ConfigError, match="window_s"):
        loaded("embed", run, window_s=window_s)


def test_unknown_tasks_and_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=f"unknown task 'guess'; known: {', '.join(TASKS)}"):
        task_config("guess")
    with pytest.raises(ConfigError, match="gallery: not a setting of embed, which has short_side"):
        task_config("embed", gallery=Path())


@pytest.mark.parametrize(("profile", "window_s"), [("paper", 1.0), ("released", 0.9), ("kaldi", 0.5)])
def test_a_short_last_window_is_heard_as_stored_clips_are(run: Path, profile: str, window_s: float) -> None:
    """Kaldi's columns beyond the sound are 0.0, as prepare stores them; elsewhere what fills up is silence."""
    loaded = replace(load_pretrained(run, CPU), profile=profile)
    inputs = window_inputs(loaded, window_s)
    heard = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    waveform = np.zeros(round(inputs.window_s * SAMPLE_RATE), np.float32)
    waveform[:4000] = heard
    window = Window(number=0, start_s=0.0, end_s=0.25, duration_s=0.25, waveform=waveform, frames=None, times_s=())
    kaldi = PROFILES[profile].kaldi
    expected = torch.from_numpy(log_mel(heard if kaldi else waveform, PROFILES[profile])).half().float()
    assert torch.equal(inputs.log_mel(window)[0, 0], expected[:, :48])
    assert float(expected[0, 47]) == (0 if kaldi else -7)


def separator_of(folder: Path, target: str = "irm") -> Path:
    """A trained separator's folder, below that of a run."""
    torch.manual_seed(1)
    mel = PROFILES["paper"]
    size = None if target == "irm" else make_masks(target, mel, 48, SAMPLE_RATE).size
    separator = Separator(Predictor(tiny_model(), "audio", DecoderConfig(size=size)), target, mel, SAMPLE_RATE)
    save_separator(folder / "evaluations" / "separation" / "seed-0", separator, 1, {})
    return folder


@pytest.mark.parametrize("target", ["irm", "sop"])
def test_what_is_separated_and_the_rest_are_the_whole_sound(tmp_path: Path, target: str) -> None:
    model = loaded("separate", separator_of(tmp_path, target))
    assert (model.window_config.window_s, model.window_config.hop_s) == (1.0, 0.5)
    windows = list(drawn_windows(model.window_config, 2.7))
    said = apply(model, windows, tmp_path / "out")
    assert said["files"] == ["separated.wav", "rest.wav"]
    parts = [soundfile.read(tmp_path / "out" / name, dtype="float32") for name in said["files"]]
    assert {rate for _, rate in parts} == {said["sample_rate"]} == {16_000 if target == "irm" else 11_025}
    (wanted, _), (rest, rate) = parts
    assert len(wanted) == len(rest) == pytest.approx(2.7 * rate, abs=2)
    pieces = ((round(w.start_s * SAMPLE_RATE), w.waveform[None, : w.num_samples]) for w in windows)
    (whole,) = np.concatenate(list(overlap_add(pieces, SAMPLE_RATE)), axis=1)
    if target == "sop":
        whole = soxr.resample(whole, SAMPLE_RATE, rate)
    length = min(len(whole), len(wanted)) - 50
    # Where windows overlap, sop's 11,025 Hz has them half a sample off.
    np.testing.assert_allclose((wanted + rest)[50:length], whole[50:length], atol=1e-5 if target == "irm" else 0.06)
    if target == "irm":  # sop's masks are all or nothing, and of an untrained model nothing
        assert 0.05 < np.abs(wanted).mean() / np.abs(whole).mean() < 0.95


def test_each_region_has_its_own_files_and_its_own_picture(tmp_path: Path) -> None:
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    model = loaded("separate", separator_of(tmp_path), regions=(left, right))
    assert model.files == ("separated-1.wav", "rest-1.wav", "separated-2.wav", "rest-2.wav")
    window = next(drawn_windows(model.window_config))
    _, both = next(model([window]))
    _, alone = next(loaded("separate", tmp_path, regions=(right,))([window]))
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)
    assert np.abs(both[0] - both[1]).max() > 1e-5
    assert crop_of(right, 48, 64) == (0, 32, 48, 32, False)
    assert crop_of((0.999, 0.999, 1.0, 1.0), 48, 64) == (47, 63, 1, 1, False)


@pytest.mark.parametrize(
    "region", [(0.5, 0.0, 0.5, 1.0), (0.0, 0.0, 1.1, 1.0), (0.0, 1.0, 1.0, 0.0), (float("nan"), 0.0, 1.0, 1.0)]
)
def test_regions_outside_the_picture_are_refused(region: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match="left,top,right,bottom"):
        task_config("separate", regions=(region,))


def test_separating_takes_a_separator(run: Path) -> None:
    with pytest.raises(ConfigError, match=rf"without a decoder.*avkit evaluate separation {run} --data"):
        loaded("separate", run)


def segmenter_of(folder: Path, classes: tuple[str, ...]) -> Path:
    """A trained segmenter's folder, below that of a run."""
    torch.manual_seed(1)
    predictor = Predictor(tiny_model(), "image", segmentation_decoder(1 + len(classes))).eval()
    with torch.no_grad():  # half of what it sees sounds
        *_, bias = predictor.decoder.predict.parameters()
        bias -= predictor(torch.randn(1, 3, 32, 32), torch.randn(1, 1, 128, 48)).median()
    notes = {"kind": "segmenter", "loss": "ce" if classes else "bce", "classes": json.dumps(classes)}
    notes |= {"profile": "paper", "window_s": "1.0"}
    save_predictor(folder / "evaluations" / "segmentation" / "seed-0", predictor, 1, {}, notes)
    return folder


@pytest.mark.parametrize("classes", [(), ("dog", "cat")])
def test_masks_and_their_film(tmp_path: Path, classes: tuple[str, ...]) -> None:
    model = loaded("segment", segmenter_of(tmp_path, classes), fps=4.0, batch_size=3)
    windows = list(drawn_windows(model.window_config))
    said = apply(model, windows, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert told["classes"] == (list(classes) or ["sounding"])
    assert told["times_s"] == pytest.approx([number / 4 for number in range(10)])
    files = sorted((tmp_path / "out" / "masks").iterdir())
    assert [path.name for path in files] == [f"{number:06d}.png" for number in range(said["frames"])]
    masks = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files])
    assert masks.shape == (10, 48, 64)
    images, log_mel = model.inputs.images(windows[1]), model.inputs.log_mel(windows[1])
    with torch.no_grad():
        logits = model.segmenter.predictor(images, log_mel)
    expected = (logits.argmax(dim=1) if classes else logits[:, 0] > 0).byte().numpy()
    assert len(np.unique(expected)) > 1
    for mask, found in zip(masks[4:8], expected, strict=True):
        assert np.array_equal(mask, cv2.resize(found, (64, 48), interpolation=cv2.INTER_NEAREST))
    with open_media(tmp_path / "out" / "overlay.mp4") as media:
        assert media.info.audio_codec == "aac"
        assert media.duration_s == pytest.approx(2.5, abs=0.1)


def test_segmenting_takes_a_segmenter(run: Path) -> None:
    with pytest.raises(ConfigError, match=rf"avkit evaluate segmentation {run} --data"):
        loaded("segment", run)
