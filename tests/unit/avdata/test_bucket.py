"""Requests to an object store: tried again, given up with a clear word, and what a conditional write tells."""

from pathlib import Path

import pytest

from avdata.prepare.bucket import local_folder, place_of
from avdata.retrying import RetryPolicy
from avdata.store import Store, open_writable
from avmanifest.errors import ConfigError, StorageError
from tests.buckets import UnreliableMemory

QUICK = RetryPolicy(attempts=3, wait_s=0.0)


@pytest.fixture
def store() -> UnreliableMemory:
    return UnreliableMemory()


@pytest.fixture
def bucket(store) -> Store:
    return Store("memory://b/set", store, "/b/set", QUICK)


def test_what_is_written_is_listed_and_read(bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    bucket.put(tmp_path / "file", "train/00000.tar")
    bucket.write("dataset.json", b"{}")
    assert bucket.sizes() == {"train/00000.tar": 3, "dataset.json": 2}
    assert bucket.read("train/00000.tar") == b"abc"
    assert bucket.read("train/00001.tar") is None
    assert bucket.fetch("train/00000.tar", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"abc"
    assert bucket.fetch_all([("dataset.json", tmp_path / "d"), ("none", tmp_path / "n")]) == [True, False]
    assert not (tmp_path / "n").exists()


def test_names_that_only_begin_like_the_prefix_are_others(store, bucket):
    store.pipe_file("/b/set2/x", b"1")
    store.pipe_file("/b/set/x", b"1")
    assert bucket.sizes() == {"x": 1}


def test_the_first_to_create_wins_and_the_other_learns_what_is_there(bucket):
    assert bucket.create("choice", b"first") == b"first"
    assert bucket.create("choice", b"second") == b"first"


def test_copies_and_removals_of_what_is_gone_are_no_errors(bucket):
    bucket.write("a", b"1")
    assert bucket.copy("a", "b/c")
    assert not bucket.copy("none", "d")
    bucket.remove(["a", "none"])
    assert bucket.sizes() == {"b/c": 1}


@pytest.mark.parametrize("failures", [1, 2])
def test_a_write_that_fails_is_made_again(failures, store, bucket):
    left = [True] * failures
    store.is_down = lambda path: bool(left) and left.pop()
    bucket.write("a", b"1")
    assert bucket.read("a") == b"1"


def test_a_store_that_stays_down_is_said_so(store, bucket):
    asked = []
    store.is_down = lambda path: asked.append(path) is None
    with pytest.raises(StorageError, match=r"memory://b/set/a: cannot write .*3 attempts.*run the same command again"):
        bucket.write("a", b"1")
    assert len(asked) == 3


def test_a_refusal_is_not_asked_again(store, bucket):
    asked = []

    def refuse(path: str) -> bool:
        asked.append(path)
        raise PermissionError("Access Denied")

    store.is_down = refuse
    with pytest.raises(StorageError, match="Access Denied"):
        bucket.write("a", b"1")
    assert len(asked) == 1


def test_an_upload_that_arrives_cut_is_made_again(store, bucket, tmp_path):
    (tmp_path / "file").write_bytes(b"abcd")

    def cut_once(path: str) -> bool:
        store.is_down = lambda path: False
        (tmp_path / "file").write_bytes(b"ab")
        return False

    store.is_down = cut_once
    with pytest.raises(StorageError, match="2 of 4 bytes"):
        bucket.put(tmp_path / "file", "t")


@pytest.mark.parametrize(
    ("out", "folder"),
    [
        ("data/x", Path("data/x")),
        (Path("a"), Path("a")),
        ("file:///tmp/x", Path("/tmp/x")),
        ("s3://b/x", None),
        ("hf://datasets/a/b", None),
        ("c:relative", Path("c:relative")),
    ],
)
def test_a_folder_is_told_from_a_url(out, folder):
    assert local_folder(out) == folder


@pytest.mark.parametrize("url", ["http://host/x", "ftp://h/x", "simplecache::s3://b/x", "python://x"])
def test_what_cannot_be_written_is_refused(url):
    with pytest.raises(ConfigError, match="cannot be written"):
        open_writable(url)


def test_a_bucket_has_to_be_named():
    with pytest.raises(ConfigError, match="names no bucket"):
        open_writable("memory://")


def test_a_missing_package_is_named():
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"pip install 'avkit\[gs\]'"):
            open_writable("gs://bucket/x")


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("hf:me/my-set", "hf://datasets/me/my-set"),
        ("hf://buckets/me/set", "hf://buckets/me/set"),
        ("data/x", "data/x"),
        ("s3://b/x", "s3://b/x"),
    ],
)
def test_places(word, place):
    assert place_of(word) == place


@pytest.mark.parametrize("word", ["hf:", "hf:name", "hf:../../x", "hf:a/b/c", "hf:-a/b"])
def test_a_word_that_is_no_repository_is_refused(word):
    with pytest.raises(ConfigError, match="USER/NAME"):
        place_of(word)
