"""docs/start.md and the pages of docs/tutorials, carried out as they stand, over drawn videos.

Those on adding a step, a dataset and a model have tests of their own: `test_adding_a_step.py` and so on.
"""

import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.buckets import s3_server, use_s3
from tests.pages import DOCS, blocks_of, follow
from tests.videos import draw_folder

pytestmark = pytest.mark.slow

BEFORE = {
    "audit": ["own-folder"],
    "bucket": ["own-folder"],
    "pretrain": ["own-folder"],
    "evaluate": ["pretrain"],
    "apply": ["evaluate"],
}
"""The pages whose results a page uses."""


class Reader:
    """Somebody who follows the tutorials in one folder, each page once, and those before it first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: dict[str, str] = {}
        classes = [(split, label) for split in ("train", "test") for label in ("dog", "rain")]
        names = [f"{s}/{c}/{s}-{c}-{n}.mp4" for s, c in classes for n in range({"train": 4, "test": 2}[s])]
        draw_folder(folder / "my_videos", names)
        shutil.copy(folder / "my_videos" / names[0], folder / "my_video.mp4")

    def follow(self, page: str) -> str:
        """What the page's commands print."""
        for before in BEFORE.get(page, []):
            self.follow(before)
        if page not in self.said:
            for said in follow(f"tutorials/{page}.md"):
                self.said[page] = said
        return self.said[page]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The reader that the tests of this module share."""
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.fixture(autouse=True)
def in_the_folder(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reader.folder)


def test_start(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(reader.folder / "my_video.mp4", tmp_path)
    said = list(follow("start.md"))
    assert len(said) == 5
    assert (tmp_path / "report.html").exists()
    assert pq.read_table(tmp_path / "features" / "embeddings.parquet").num_rows > 0


def test_own_folder(reader: Reader) -> None:
    said = reader.follow("own-folder")
    assert "Nothing was done." in said
    assert (reader.folder / "report.html").exists()


def test_vggsound(reader: Reader) -> None:
    ids = [f"drawn-{number:05d}" for number in range(6)]
    mirror = reader.folder / "mirror"
    mirror.mkdir()
    videos = sorted((reader.folder / "my_videos").rglob("*.mp4"))
    for number, archive in enumerate(("00", "01", "02")):
        with tarfile.open(mirror / f"{archive}.tar.gz", "w:gz") as tar:
            for place in (2 * number, 2 * number + 1):
                tar.add(videos[place], f"{ids[place]}_{place:06d}.mp4")
    splits = ["train", "train", "test", "train", "train", "test"]
    lines = [f'{video},{place},"dog barking",{splits[place]}' for place, video in enumerate(ids)]
    (reader.folder / "vggsound.csv").write_text("\n".join(lines) + "\n")
    said = reader.follow("vggsound")
    assert "6 of 6" in said
    rows = pq.read_table("data/vggsound/manifest/train.parquet", columns=["status"]).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4


def test_cluster(reader: Reader) -> None:
    said = reader.follow("cluster")
    assert "equal" in said
    assert "different" not in said
    commands = [command for block in blocks_of(DOCS / "tutorials" / "cluster.md") for command in block.commands]
    tasks = [command.split() for command in commands if "--executor array" in command]
    assert len(tasks) == 3
    assert len({tuple(words[: words.index("--executor")]) for words in tasks}) == 1, (
        "script and commands make one dataset"
    )


@pytest.mark.network
def test_bucket(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as port:
        use_s3(monkeypatch, f"http://127.0.0.1:{port}", tmp_path / "cache")
        import s3fs

        s3fs.S3FileSystem().mkdir("my-bucket")
        reader.follow("bucket")
        names = {name.partition("my-bucket/")[2] for name in s3fs.S3FileSystem().find("my-bucket")}
    assert {"mine/train/00000.tar", "copy/train/00000.tar", "copy/manifest/test.parquet"} <= names


def test_audit(reader: Reader) -> None:
    said = reader.follow("audit")
    assert "whole: no damage found" in said
    assert "train/00000.tar" in said


def test_pretrain(reader: Reader) -> None:
    said = reader.follow("pretrain")
    assert said.count("step 10/10") == 2
    assert said.count("step 1/10") == 1


def test_evaluate(reader: Reader) -> None:
    said = reader.follow("evaluate")
    assert "random weights" in said
    assert any((reader.folder / "features" / "mine").rglob("*.parquet"))


def test_apply(reader: Reader) -> None:
    reader.follow("apply")
    assert (reader.folder / "out" / "localize" / "overlay.mp4").stat().st_size > 1000


def test_every_tutorial_is_carried_out() -> None:
    carried_out = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {page.stem for page in (DOCS / "tutorials").glob("*.md")} - {"README"} <= carried_out
