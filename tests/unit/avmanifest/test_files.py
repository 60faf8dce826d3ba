"""Atomic writing of files, hashes, and the cache folder."""

import hashlib
import io
import os
import stat
from pathlib import Path

import pytest

from avmanifest.files import (
    NotAFile,
    cache_folder,
    is_unfinished,
    open_file,
    open_text,
    read_file,
    read_text,
    remove_unfinished,
    replace_bytes,
    replace_text,
    replacing,
    require_file,
    sha256_of,
    sha256_of_file,
    sha256_of_stream,
    unfinished_path,
)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_atomically(tmp_path: Path, durable: bool, shared: bool) -> None:
    path = tmp_path / "new" / "file.json"
    replace_text(path, "é", durable=durable, shared=shared)
    replace_bytes(path, b"second", durable=durable, shared=shared)
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "step"
    for name in ("old", "new"):
        with replacing(path, durable=True) as unfinished:
            (unfinished / "deep").mkdir(parents=True)
            (unfinished / "deep" / name).write_text(name)
    assert [str(entry.relative_to(path)) for entry in path.rglob("*")] == ["deep", "deep/new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["step"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_old_content_stays_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as unfinished:
        unfinished.write_text("half")
        assert path.read_text() == "old"
        raise error
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"file": "old"}


def test_a_folder_in_the_place_of_a_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError):
        replace_text(tmp_path / "file", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file" / "inside").is_dir()


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    replace_text(tmp_path / "replaced", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "replaced")}
    assert len(modes) == 1


def test_temporary_files_are_hidden_from_readers_of_the_folder(tmp_path: Path) -> None:
    with replacing(tmp_path / "train.parquet") as unfinished:
        unfinished.write_bytes(b"half")
        assert list(tmp_path.glob("*.parquet")) == []
        assert unfinished.name.startswith(".")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("left", [".a.json.tmp", ".a.json.0123abcd.tmp", ".unfinished-a.json", "a.json.tmp", "a.part"])
def test_temporary_names_of_any_version_are_recognized(tmp_path: Path, left: str, own: bool) -> None:
    (tmp_path / left).write_text("half")
    (tmp_path / "kept.json").write_text("whole")
    remove_unfinished(tmp_path, own=own)
    kept = {"kept.json"} if own or left.startswith(".") else {"kept.json", left}  # it may be another program's
    assert {entry.name for entry in tmp_path.iterdir()} == kept
    assert is_unfinished(left) == left.startswith(".")


@pytest.mark.parametrize("left", [".a.json.tmp", ".unfinished-a.json"])
def test_a_later_write_removes_temporary_files_of_a_killed_one(tmp_path: Path, left: str) -> None:
    (tmp_path / left).mkdir()
    replace_text(tmp_path / "a.json", "whole")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_shared_names_differ(tmp_path: Path) -> None:
    assert unfinished_path(tmp_path / "a") == unfinished_path(tmp_path / "a")
    assert unfinished_path(tmp_path / "a", shared=True) != unfinished_path(tmp_path / "a", shared=True)


def test_text_bytes_file_and_stream_have_the_same_hash(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    meant = hashlib.sha256(content).hexdigest()
    assert sha256_of(content) == sha256_of_file(tmp_path / "file") == meant
    assert sha256_of_stream(io.BytesIO(content)) == (meant, len(content))
    assert sha256_of("é") == sha256_of("é".encode())


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("shards") == tmp_path / "avkit" / "shards"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("shards") == tmp_path / ".cache" / "avkit" / "shards"


@pytest.mark.parametrize("kind", ["a folder", "a FIFO", "a device", "a path with a NUL character"])
def test_only_regular_files_are_opened_and_none_is_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    match kind:
        case "a folder":
            path.mkdir()
        case "a FIFO":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case _:
            path = tmp_path / "a\0b"
    for read in (require_file, open_file, open_text, read_file, read_text, sha256_of_file):
        with pytest.raises(NotAFile, match=kind):
            read(path)


def test_links_to_files_are_opened_and_texts_lose_their_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "link") == b"\xef\xbb\xbfa\r\nb"
    assert read_text(tmp_path / "link") == "a\r\nb"
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "none")
