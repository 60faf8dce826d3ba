"""`import avkit`: the lines of the README, and what each name does and refuses."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import avkit
from avcli.options import keyword_values, keywords_of
from avdata.melspec import log_mel
from avdata.prepare.config import PrepareConfig, Retry
from avdata.profiles import PROFILES
from tests.drawn import draw_media, sine
from tests.evaluating import change_manifest, save_tiny
from tests.serving import serving
from tests.shards import CLASSES, draw_dataset

ROOT = Path(__file__).parents[2]


def readme_lines() -> list[str]:
    """The statements of the README's section From Python."""
    block = re.search(r"## From Python\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return [line for line in block[1].splitlines() if line]


def test_there_are_five_lines_and_an_import() -> None:
    first, *lines = readme_lines()
    assert first == "import avkit"
    assert len(lines) == 5
    for name in ("prepare", "open_dataset", "loader", "load_model", "embed", "windows"):
        assert sum(f"{name}(" in line for line in lines) == 1, name


@pytest.mark.slow
def test_the_lines_of_the_readme_do_what_their_comments_say(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in a folder with what they name, and with a file that is no video."""
    shutil.copytree(videos / "train", tmp_path / "my_videos")
    (tmp_path / "my_videos" / "a" / "broken.mp4").write_bytes(b"no video")
    shutil.copy(tmp_path / "my_videos" / "a" / "v0.mp4", tmp_path / "clip.mp4")
    save_tiny(tmp_path / "runs" / "first")
    monkeypatch.chdir(tmp_path)
    walked: dict[str, Any] = {}
    for line in readme_lines():
        exec(line, walked)
    report, dataset, batch, vectors = (walked[name] for name in ("report", "dataset", "batch", "vectors"))
    assert (report.requested, report.ok) == (6, 5)
    assert [clip.status for clip in report.failed] == ["media_corrupt"]
    assert repr(report).startswith("PrepareReport(5 of 6 clips are samples in 1 shard of data/mine.")
    assert repr(report).endswith("Failed: media_corrupt 1.)")
    assert len(dataset) == 5
    assert repr(dataset) == "Dataset(mine: split=train, 5 samples, 16 s, 2 labels)"
    assert dataset.labels == ("a", "b")
    assert dataset.manifest.num_rows == 6, "the manifest has failed clips, too"
    assert type(batch).__name__ == "ArrayBatch"
    assert batch.log_mel.shape == (4, 128, 192)
    assert vectors["audio"].shape == vectors["fusion"].shape == (4, 32)
    assert walked["shapes"] == [(128, 196), (128, 196)]


def test_nothing_is_imported_until_it_is_used() -> None:
    """All that `import avkit` adds is itself, and what it takes of the standard library."""
    code = (
        "import sys; before = set(sys.modules); import avkit; dir(avkit); found = lambda: print(sorted(n for n in "
        "set(sys.modules) - before if n.partition('.')[0] not in sys.stdlib_module_names)); found(); "
        "avkit.ConfigError, avkit.__version__; found()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, then = done.stdout.splitlines()
    assert first == "['avkit']"
    assert then == "['avkit', 'avmanifest', 'avmanifest.errors', 'avmanifest.secrets']"


def test_every_name_is_there_for_type_checkers_at_run_time_and_on_the_page() -> None:
    tree = ast.parse((ROOT / "avkit" / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported | {"__version__"} == set(avkit.__all__) <= set(dir(avkit))
    page = (ROOT / "docs" / "python.md").read_text()
    for name in avkit.__all__:
        assert getattr(avkit, name) is not None
        assert re.search(rf"\b{name}\b", page), name
    assert re.match(r"\d+\.\d+", avkit.__version__)
    assert not [name for name in dir(avkit) if name not in avkit.__all__ and not name.startswith("__")]
    with pytest.raises(AttributeError, match=r"has no attribute 'opendataset'; did you mean open_dataset\?"):
        avkit.opendataset  # noqa: B018
    assert not hasattr(avkit, "__wrapped__")


@pytest.fixture(scope="module")
def timed(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn dataset, with durations."""
    root = shutil.copytree(drawn, tmp_path_factory.mktemp("timed") / "set")
    change_manifest(root, "train", duration_s=5.0)
    return root


@pytest.fixture(scope="module")
def dataset(timed: Path) -> "avkit.Dataset":
    return avkit.open_dataset(timed)


def test_a_dataset_is_a_sequence_of_samples(dataset: "avkit.Dataset") -> None:
    assert len(dataset) == 20
    assert dataset[-1].key == dataset[19].key == "clip-00019"
    assert [sample.key for sample in dataset] == [f"clip-{number:05}" for number in range(20)]
    assert repr(dataset) == "Dataset(set: split=train, 20 samples, 100 s, 3 labels)"
    assert dataset.labels == CLASSES
    assert dataset.seconds == 100
    assert dataset.manifest.num_rows == 20
    assert {"key", "status", "duration_s"} <= set(dataset.manifest.column_names)
    with pytest.raises(TypeError, match=r"not sliced.*dataset\.loader"):
        dataset[2:5]
    with pytest.raises(IndexError, match="sample 20 of 20"):
        dataset[20]


def test_a_sample_has_a_window_of_its_log_mel(dataset: "avkit.Dataset") -> None:
    sample = dataset[7]
    assert sample.label == sample.labels[0] == CLASSES[1]
    columns = sample.log_mel.shape[1]
    window = sample.window()
    assert window.shape == (128, 196)
    assert window.dtype == np.float16
    first = (columns - 196) // 2
    assert np.array_equal(window, sample.log_mel[:, first : first + 196])
    assert np.array_equal(sample.window(1.0, 0.0), sample.log_mel[:, : sample.window(1.0).shape[1]])
    with pytest.raises(avkit.ConfigError, match=r"a window of 3 s from 4 s: the last one begins at"):
        sample.window(3.0, 4.0)
    with pytest.raises(avkit.ConfigError, match="begins at none"):
        sample.window(30.0)


def test_batches_are_of_numpy_and_of_torch_when_wanted(dataset: "avkit.Dataset") -> None:
    import torch

    loader = dataset.loader(batch_size=8, seed=3, num_workers=1)
    assert repr(loader) == "Loader(epoch 0: 2 batches of 8 samples left)"
    first, second = [[batch.keys for batch in loader] for _ in range(2)]
    assert len(first) == len(second) == 2, "the rest fills no batch"
    assert first != second, "each epoch has another order"
    batch = next(iter(dataset.loader(batch_size=8, seed=3, num_workers=0)))
    assert isinstance(batch.images, np.ndarray)
    assert (batch.images.shape, batch.log_mel.shape) == ((8, 3, 224, 224), (8, 128, 192))
    assert batch.keys == first[0], "the seed says the order"
    tensors = next(iter(dataset.loader(batch_size=8, seed=3, num_workers=0, tensors=True)))
    assert isinstance(tensors.images, torch.Tensor)
    assert np.array_equal(tensors.images.numpy(), batch.images)


def test_without_shuffle_each_sample_comes_once_in_its_order(dataset: "avkit.Dataset") -> None:
    batches = list(dataset.loader(batch_size=8, shuffle=False, num_workers=1))
    keys = [key for batch in batches for key, valid in zip(batch.keys, batch.valid, strict=True) if valid]
    assert keys == [sample.key for sample in dataset]
    middle = batches[0].log_mel[3]
    assert np.array_equal(middle, dataset[3].window()[:, :192])


def test_a_loader_goes_on_at_the_next_sample(dataset: "avkit.Dataset") -> None:
    loader, again = (dataset.loader(batch_size=5, num_workers=0) for _ in range(2))
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    expected = next(batches).keys
    again.load_state_dict(state)
    assert next(iter(again)).keys == expected


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_worker": 2}, "unknown setting 'num_worker' of a loader; did you mean num_workers"),
        ({"colour": 2}, "unknown setting 'colour' of a loader; known: batch_size, seed"),
        ({"batch_size": 0}, "batch_size=0: must be 1 or more"),
        ({"batch_size": 64}, r"20 samples fill no batch\. Set a smaller batch_size, or shuffle=False"),
    ],
)
def test_settings_of_a_loader_are_checked(dataset: "avkit.Dataset", settings: dict[str, Any], match: str) -> None:
    with pytest.raises(avkit.ConfigError, match=match):
        dataset.loader(**settings)


def test_samples_are_chosen_and_what_is_not_there_is_named(timed: Path, drawn: Path) -> None:
    chosen = avkit.open_dataset(str(timed), where=f"'{CLASSES[0]}' in labels")
    assert len(chosen) == 7
    assert chosen.seconds == 35
    assert avkit.open_dataset(drawn).seconds is None
    for call, error, match in [
        (lambda: avkit.open_dataset(timed.parent / "sett"), avkit.ConfigError, f"no such folder.*mean {timed}\\?"),
        (lambda: avkit.open_dataset(timed, "tran"), avkit.MissingSplit, "no split 'tran'; did you mean train"),
        (lambda: avkit.open_dataset(timed, where="loudness > 1"), avkit.ConfigError, "loudness"),
        (lambda: avkit.open_dataset(timed, where="true; drop table x"), avkit.ConfigError, "where"),
        (lambda: avkit.open_dataset(timed.parent), avkit.ConfigError, "no dataset.json"),
    ]:
        with pytest.raises(error, match=match):
            call()


def test_a_dataset_of_a_server_and_shards_without_a_manifest(timed: Path, tmp_path: Path) -> None:
    from avdata.load import CacheConfig

    cache = CacheConfig(root=tmp_path / "cache")
    with serving(timed) as server:
        far = avkit.open_dataset(server.url, cache=cache)
        assert repr(far).endswith("split=train, 20 samples, 3 labels)"), "a repr asks no server"
        assert far.seconds == 100
        assert "20 samples, 100 s" in repr(far)
        assert next(iter(far.loader(batch_size=4, num_workers=1))).images.shape == (4, 3, 224, 224)
    shard = next((timed / "train").glob("*.tar"))
    near = avkit.open_dataset(shard)
    assert near.manifest.num_rows == len(near)
    shutil.copy(shard, tmp_path / "bare.tar")
    bare = avkit.open_dataset(tmp_path / "bare.tar", cache=cache)
    assert repr(bare) == f"Dataset(bare.tar: {len(near)} samples, {len(bare.labels)} labels)"
    with pytest.raises(avkit.ConfigError, match="have no manifest"):
        bare.manifest  # noqa: B018


def test_a_dataset_of_whole_clip_spectrograms_has_whole_clips(tmp_path: Path) -> None:
    root = draw_dataset(tmp_path / "kaldi", 4, 4, mel=("kaldi",), flac=False)
    opened = avkit.open_dataset(root)
    assert next(iter(opened.loader(batch_size=2, num_workers=0))).log_mel.shape == (2, 128, 1024)
    assert opened[0].window().shape == (128, 1024)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of 2.5 s: with both, without sound, without pictures, and a text."""
    folder = tmp_path_factory.mktemp("clips")
    sound = sine(2.5, 44_100)
    draw_media(folder / "both.mp4", num_frames=25, fps=10, sound=sound)
    draw_media(folder / "mute.mp4", num_frames=25, fps=10, sound=None)
    draw_media(folder / "sound.mp4", num_frames=0, fps=10, sound=sound)
    (folder / "text.mp4").write_text("a text")
    return folder


def test_windows_are_what_prepare_stores_of_them(clips: Path) -> None:
    found = list(avkit.windows(clips / "both.mp4", window_s=1.0, frames=2))
    assert [window.start_s for window in found] == [0, 1, 2]
    first = found[0]
    assert first.log_mel.dtype == np.float16
    assert first.frames.shape == (2, 256, 341, 3)
    assert np.array_equal(first.frame, first.frames[1])
    assert np.array_equal(first.log_mel, log_mel(first.waveform, PROFILES["paper"]).astype(np.float16))
    assert repr(first) == "ClipWindow(0 to 1 s, log-mel 128 x 63, 2 frames 256 x 341)"
    (whole,) = avkit.windows(str(clips / "both.mp4"))
    assert whole.log_mel.shape == (128, 196)
    assert next(avkit.windows(clips / "both.mp4", mel="kaldi")).log_mel.shape == (128, 1024)


def test_a_clip_may_lack_sound_or_pictures(clips: Path) -> None:
    (mute,) = avkit.windows(clips / "mute.mp4")
    assert mute.log_mel is mute.waveform is None
    assert repr(mute).startswith("ClipWindow(0 to 2.5 s, no sound, frame 256 x")
    (sound,) = avkit.windows(clips / "sound.mp4")
    assert sound.frame is sound.frames is None
    assert "no pictures" in repr(sound)


@pytest.mark.parametrize(
    ("name", "settings", "error", "match"),
    [
        ("bot.mp4", {}, avkit.ConfigError, r"bot\.mp4: no such video\. Did you mean \S*both\.mp4"),
        ("both.mp4", {"mel": "papr"}, avkit.ConfigError, "unknown spectrogram profile 'papr'; did you mean paper"),
        ("both.mp4", {"window_s": 0.01}, avkit.ConfigError, "needs at least"),
        ("both.mp4", {"hop_s": 9.0}, avkit.ConfigError, "the hop at most a window"),
        ("text.mp4", {}, avkit.DecodeError, "text.mp4"),
        (".", {}, avkit.AvkitError, "."),
    ],
)
def test_windows_say_what_is_wrong(
    clips: Path, name: str, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        list(avkit.windows(clips / name, **settings))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> "avkit.Model":
    return avkit.load_model(save_tiny(tmp_path_factory.mktemp("runs") / "first"), device="cpu")


def test_a_model_says_what_it_is(model: "avkit.Model") -> None:
    count = sum(parameter.numel() for parameter in model.module.parameters())
    assert (model.family, model.device, model.num_parameters) == ("deepavfusion", "cpu", count)
    assert re.fullmatch(r"Model\(deepavfusion, [\d.]+ k parameters, cpu, from \S+/first\)", repr(model))
    assert model.to("cpu") is model
    assert not model.module.training


def test_clips_lists_and_arrays_have_the_same_vectors(model: "avkit.Model", clips: Path) -> None:
    both = model.embed(clips / "both.mp4")
    assert isinstance(both, avkit.Embeddings)
    assert sorted(both) == ["audio", "fusion", "image"]
    assert {vectors.shape for vectors in both.values()} == {(3, 32)}
    assert both["audio"].dtype == np.float32
    assert both.start_s.tolist() == [0, 1, 2]
    assert repr(both) == "Embeddings(image 3 x 32, audio 3 x 32, fusion 3 x 32, 0 to 2.5 s)"
    mute, sound = model.embed([clips / "mute.mp4", str(clips / "sound.mp4")])
    assert "audio" not in mute
    assert "image" not in sound
    np.testing.assert_array_equal(sound.end_s, both.end_s)
    heard = [window.log_mel for window in avkit.windows(clips / "sound.mp4", window_s=1.0)]
    columns = model.view.num_columns
    by_array = model.embed(log_mel=np.stack(heard)[:, :, :columns])
    np.testing.assert_allclose(by_array["audio"], sound["audio"], atol=1e-5)
    assert by_array.start_s is None
    assert repr(by_array).startswith("Embeddings(audio 3 x 32")


def test_batches_have_a_row_a_sample(model: "avkit.Model", dataset: "avkit.Dataset") -> None:
    for tensors in (False, True):
        loader = dataset.loader(batch_size=5, shuffle=False, view=model.view, tensors=tensors, num_workers=0)
        batch = next(iter(loader))
        found = model.embed(batch)
        assert found["fusion"].shape == (5, 32)
        again = model.embed(images=np.asarray(batch.images), log_mel=np.asarray(batch.log_mel))
        np.testing.assert_allclose(again["fusion"], found["fusion"], atol=1e-6)


def test_embed_says_what_does_not_fit(model: "avkit.Model", dataset: "avkit.Dataset", clips: Path) -> None:
    height, width = model.config.image_size
    images = np.zeros((2, 3, height, width), np.uint8)
    mels = np.zeros((2, 128, model.view.num_columns), np.float16)
    several: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({}, avkit.ConfigError, "Given: nothing"),
        ({"what": clips / "both.mp4", "images": images}, avkit.ConfigError, "a clip or batch, images"),
        ({"what": clips / "bot.mp4"}, avkit.ConfigError, "Did you mean"),
        ({"what": [clips / "both.mp4", clips / "bot.mp4"]}, avkit.ConfigError, "no such video"),
        ({"what": [3]}, avkit.ConfigError, "a list with a int"),
        ({"what": clips / "text.mp4"}, avkit.DecodeError, "text.mp4"),
        ({"what": dataset}, avkit.ConfigError, "embed the batches of its loader"),
        ({"what": 3}, avkit.ConfigError, "embed of a int"),
        ({"images": images, "window_s": 1.0}, avkit.ConfigError, "is for files"),
        ({"images": images / 255}, avkit.ConfigError, "images are float64: expected uint8"),
        ({"images": images[:, :, 1:]}, avkit.ConfigError, f"this model takes \\[b, 3, {height}, {width}\\]"),
        ({"images": images[0]}, avkit.ConfigError, r"expected \[b, 3, h, w\]"),
        ({"images": images[:0]}, avkit.ConfigError, "an empty batch"),
        ({"log_mel": mels[:, 1:]}, avkit.ConfigError, "this model takes"),
        ({"log_mel": mels[:, :, 1:]}, avkit.ConfigError, "further columns"),
        ({"log_mel": mels + np.float16(np.nan)}, avkit.ConfigError, "not finite"),
        ({"images": images, "log_mel": mels[:1]}, avkit.ConfigError, "2 images and 1 log-mel:"),
        ({"what": clips / "both.mp4", "window_s": 30.0}, avkit.ConfigError, "Take a shorter window"),
    ]
    for arguments, error, match in several:
        with pytest.raises(error, match=match):
            model.embed(**arguments)


def test_a_model_that_is_not_there_is_named(model: "avkit.Model", tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "w.safetensors").write_bytes(b"pickle")
    for place, settings, match in [
        (tmp_path / "frst", {}, r"no such model\. .* Did you mean \S*first"),
        (tmp_path / "first", {}, "no checkpoint here"),
        (tmp_path / "w.safetensors", {}, "not a .safetensors file"),
        (model.place, {"device": "tpu"}, "device"),
        (model.place, {"weights": "emma"}, "known: model, ema"),
        (model.place, {"weights": "ema"}, "no moving average"),
        ("hf:../x", {}, "hf:USER/NAME"),
        ("mae-vit-bb", {}, "did you mean mae-vit-b"),
        ("hf:me/x", {"weights": "ema"}, "Leave it out"),
    ]:
        with pytest.raises(avkit.ConfigError, match=match):
            avkit.load_model(place, **settings)


def test_a_published_model_is_loaded_from_a_folder_and_from_the_hub(
    model: "avkit.Model", clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avmodel.hub import write_published
    from tests.hub import serving_hub

    write_published(tmp_path / "me" / "tiny", model.loaded)
    expected = model.embed(clips / "both.mp4")["fusion"]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with serving_hub(tmp_path) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for place in (tmp_path / "me" / "tiny", "hf:me/tiny"):
            found = avkit.load_model(place, device="cpu")
            np.testing.assert_array_equal(found.embed(clips / "both.mp4")["fusion"], expected)
    assert repr(found).endswith("cpu, from hf:me/tiny)")


def test_options_are_those_of_the_command() -> None:
    shown = inspect.signature(avkit.prepare).parameters
    assert set(keywords_of(PrepareConfig)) <= set(shown)
    assert {"source", "list", "clip_seconds", "frames", "no_audio", "step", "workers"} <= set(shown)
    given = {
        "source": "local:a",
        "split": ["train", "val"],
        "clip_seconds": 3,
        "frames": "4",
        "no_audio": True,
        "append": False,
        "retry": "all",
        "workers": None,
        "seed": 5,
        "list": Path("clips.csv"),
    }
    assert keyword_values(PrepareConfig, given) == {
        "sources": ("local:a",),
        "splits": ("train", "val"),
        "sample.clip_seconds": 3.0,
        "sample.num_frames": 4,
        "sample.keep_audio": False,
        "retry": Retry.ALL,
        "sample.seed": 5,
        "synth.seed": 5,
        "list_path": Path("clips.csv"),
    }


@pytest.mark.parametrize(
    ("recipe", "options", "match"),
    [
        ("folder", {"sorce": "local:a"}, "unknown option 'sorce'; did you mean source"),
        ("folder", {"zzz": 1}, "unknown option 'zzz'; known: "),
        ("folder", {"source": "local:a", "frames": "many"}, "frames='many' is not a whole number"),
        ("folder", {"source": "local:a", "frames": 0}, "frames=0: must be from 1 to 100"),
        ("folder", {"source": "local:a", "append": "yes"}, "append='yes' is not true or false"),
        ("folder", {"source": "local:a", "settings": {"sample.num_frame": 2}}, "did you mean sample.num_frames"),
        ("folder", {"source": "local:a", "settings": {"sample.num_frames": "x"}}, "sample.num_frames='x'"),
        ("folder", {"source": "local:a", "num_clips": 3}, "belong to recipe synth"),
        ("folder", {}, "needs at least one"),
        ("fodler", {"source": "local:a"}, "fodler"),
    ],
)
def test_prepare_says_what_is_wrong_and_never_exits(
    tmp_path: Path, recipe: str, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(avkit.AvkitError, match=match):
        avkit.prepare(recipe, out=tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


def test_every_form_of_a_run_is_loaded(model: "avkit.Model", clips: Path) -> None:
    run = Path(model.place)
    (checkpoint,) = (run / "checkpoints").glob("step-*")
    expected = model.embed(clips / "both.mp4")["fusion"]
    for place in (str(run), run / "checkpoints", checkpoint, checkpoint / "model.safetensors"):
        found = avkit.load_model(place, device="cpu")
        np.testing.assert_array_equal(found.embed(clips / "both.mp4")["fusion"], expected)


def test_paths_begin_in_the_home(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(clips))
    assert next(avkit.windows("~/both.mp4")).start_s == 0
    for open_it in (avkit.load_model, avkit.open_dataset, avkit.windows):
        with pytest.raises(avkit.ConfigError, match=rf"^{clips}/none"):
            open_it("~/none")


def test_a_model_of_one_modality_says_what_a_clip_lacks(clips: Path, tmp_path: Path) -> None:
    from avmodel.checkpoint import save_checkpoint
    from avmodel.configs.mae import MAEConfig
    from avmodel.models import build_model
    from avmodel.rundir import CHECKPOINTS
    from tests.families import SIZES

    config = MAEConfig(**SIZES | {"audio_size": (128, 56)}, modalities="audio")
    notes = {"profile": "paper", "window_s": "1.0"}
    save_checkpoint(tmp_path / CHECKPOINTS, 1, build_model(config), config, {"step": 1}, notes=notes)
    deaf = avkit.load_model(tmp_path, device="cpu")
    assert list(deaf.embed(clips / "both.mp4")) == ["audio"]
    with pytest.raises(avkit.DecodeError, match=r"mute\.mp4: the video has no sound, and this model has"):
        deaf.embed(clips / "mute.mp4")
    with pytest.raises(avkit.ConfigError, match=r"learned from audio alone\. Give log_mel"):
        deaf.embed(images=np.zeros((1, 3, 32, 32), np.uint8))
