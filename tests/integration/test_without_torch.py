"""The base install prepares, inspects, exports and reads datasets where no library of training can be imported."""

import json
import subprocess
import sys
from os import environ, pathsep
from pathlib import Path

import numpy as np
import pytest

from avmanifest.extras import EXTRA_OF
from tests.videos import draw_folder

pytestmark = pytest.mark.slow

# Every Python process of a command imports this first, the fork server and its children too.
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
"""


class Base:
    """Runs Python where the libraries of the extras cannot be imported."""

    def __init__(self, folder: Path) -> None:
        blocked = (*EXTRA_OF, "pandas", "torchmetrics")
        (folder / "sitecustomize.py").write_text(BLOCKER.format(blocked=blocked))
        self.path = pathsep.join(part for part in (str(folder), environ.get("PYTHONPATH", "")) if part)

    def python(self, code: str, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, words)],
            env={**environ, "PYTHONPATH": self.path},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def avkit(self, *words: object) -> subprocess.CompletedProcess[str]:
        return self.python("from avcli.main import run; run()", *words)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(("step", "library"), [("cuts", "scenedetect"), ("speech", "onnxruntime")])
def test_a_step_says_which_extra_it_needs(base: Base, tmp_path: Path, step: str, library: str) -> None:
    result = base.avkit("prepare", "synth", "--num-clips", 2, "--out", tmp_path / "out", "--step", step)
    assert result.returncode == 2
    assert f"needs {library}, which is not installed" in result.stderr
    assert "avkit[steps]" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def dataset(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, prepared without torch, in both kinds of log-mel."""
    folder = tmp_path_factory.mktemp("without")
    videos = draw_folder(folder / "videos", ["dog/a.mp4", "dog/b.mp4", "cat/c.mp4"])
    words = ("folder", "--source", f"local:{videos}", "--out", folder / "out", "--frames", 2, "--workers", 1)
    done = base.avkit("prepare", *words, "--mel", "paper", "--mel", "kaldi")
    assert done.returncode == 0, done.stderr
    assert "3 of 3 clips are samples" in done.stdout
    return folder / "out"


def test_the_libraries_are_out_of_reach(base: Base) -> None:
    for library in ("torch", "timm", "torchaudio", "torchvision"):
        assert "ModuleNotFoundError" in base.python(f"import {library}").stderr


def test_a_dataset_is_inspected(base: Base, dataset: Path, tmp_path: Path) -> None:
    told = base.avkit("inspect", dataset, "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["samples"] == 3
    page = base.avkit("inspect", dataset, "--verify", "--html", tmp_path / "page.html")
    assert page.returncode == 0, page.stdout + page.stderr
    deep = base.avkit("verify", dataset, "--deep")
    assert deep.returncode == 0, deep.stdout + deep.stderr
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_a_file_is_looked_at(base: Base, dataset: Path) -> None:
    video = dataset.parent / "videos" / "cat" / "c.mp4"
    told = base.avkit("spectrogram", video, "--mel", "kaldi", "--json")
    assert json.loads(told.stdout)["shape"] == [128, 1024], told.stderr


def test_a_dataset_is_exported(base: Base, dataset: Path, tmp_path: Path) -> None:
    done = base.avkit("export", dataset, "--to", tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy" / "train" / "00000.tar").read_bytes() == (dataset / "train" / "00000.tar").read_bytes()


READ = """
import sys
import numpy as np
from avdata.load import Loader, LoaderConfig, TrainView, open_dataset

dataset = open_dataset(sys.argv[1], "train")
view = TrainView(image_size=32, max_gain_db=6.0, waveform=True)
loader = Loader(dataset, view, LoaderConfig(batch_size=3, num_workers=1))
(batch,) = loader
assert type(batch).__name__ == "ArrayBatch", type(batch)
assert isinstance(batch.images, np.ndarray) and batch.images.shape == (3, 3, 32, 32)
assert batch.gained_log_mel().shape == (3, 128, 192) and batch.gained_waveform().shape == (3, 48_000)
np.savez(
    sys.argv[2], images=batch.images, log_mel=batch.log_mel, gained=batch.gained_log_mel(), ids=batch.label_ids(),
    keys=batch.keys, names=batch.label_names(), louder=batch.gained_waveform(),
)
"""


def test_batches_are_arrays_and_those_of_torch(base: Base, dataset: Path, tmp_path: Path) -> None:
    done = base.python(READ, dataset, tmp_path / "batch.npz")
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "batch.npz")

    from avdata.load import Batch, Loader, LoaderConfig, TrainView, open_dataset

    view = TrainView(image_size=32, max_gain_db=6.0, waveform=True)
    (batch,) = Loader(open_dataset(dataset, "train"), view, LoaderConfig(batch_size=3, num_workers=1))
    assert isinstance(batch, Batch)
    assert np.array_equal(found["images"], batch.images)
    assert np.array_equal(found["log_mel"], batch.log_mel)
    assert found["keys"].tolist() == list(batch.keys)
    assert found["names"].tolist() == batch.label_names()
    assert found["ids"].tolist() == batch.label_ids().tolist()
    np.testing.assert_allclose(found["gained"], batch.gained_log_mel(), atol=1e-5)
    np.testing.assert_allclose(found["louder"], batch.gained_waveform(), rtol=1e-6)


def test_arrays_are_there_for_the_asking_where_torch_is_too(dataset: Path) -> None:
    from avdata.load import EvalView, Loader, LoaderConfig, open_dataset

    loader = Loader(open_dataset(dataset, "train"), EvalView(image_size=16), LoaderConfig(batch_size=2, tail="pad"))
    assert all(isinstance(batch.images, np.ndarray) for batch in loader.arrays())


def test_a_command_that_needs_torch_says_what_to_install_in_one_line(base: Base, dataset: Path, tmp_path: Path) -> None:
    """Exit code 2."""
    done = base.avkit("pretrain", "demo", "--data", dataset, "--out", tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "avkit[train]" in done.stderr


FRONT_DOOR = """
import sys
import avkit

dataset = avkit.open_dataset(sys.argv[1])
print(dataset, dataset[0].window().shape)
batch = next(iter(dataset.loader(batch_size=2)))
print(type(batch).__name__, [window.log_mel.shape for window in avkit.windows(sys.argv[2])])
for call in (lambda: avkit.load_model("hf:me/model"), lambda: next(iter(dataset.loader(batch_size=2, tensors=True)))):
    try:
        call()
    except avkit.ConfigError as error:
        print(error)
"""


def test_python_reads_datasets_and_clips_and_says_what_models_need(base: Base, dataset: Path) -> None:
    done = base.python(FRONT_DOOR, dataset, dataset.parent / "videos" / "cat" / "c.mp4")
    assert done.returncode == 0, done.stderr
    told = "this needs torch, which is not installed. Install it with pip install 'avkit[train]'."
    assert done.stdout.splitlines() == [
        "Dataset(out: split=train, 3 samples, 10 s, 2 labels) (128, 196)",
        "ArrayBatch [(128, 196), (128, 196)]",
        told,
        told,
    ]


def test_drawing_without_ffmpeg_says_what_to_install(base: Base, tmp_path: Path) -> None:
    code = (
        "import os, sys; os.environ['PATH'] = ''; sys.modules['imageio_ffmpeg'] = None; "
        "from avcli.main import run; run()"
    )
    done = base.python(code, "prepare", "synth", "--num-clips", 3, "--out", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "avkit[ffmpeg]" in done.stderr


def test_pinned_memory_without_torch_names_the_extra(base: Base, dataset: Path) -> None:
    code = (
        "import sys; from avdata.load import EvalView, Loader, LoaderConfig, open_dataset; "
        "Loader(open_dataset(sys.argv[1], 'train'), EvalView(), LoaderConfig(pin_memory=True))"
    )
    assert (
        "avmanifest.errors.ConfigError: this needs torch, which is not installed" in base.python(code, dataset).stderr
    )
