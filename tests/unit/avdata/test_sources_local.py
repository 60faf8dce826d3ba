"""A folder of videos: the listing, and that files outside cannot be reached."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from avdata.prepare.sources import SourceChain, open_source
from avdata.prepare.sources.local import LocalSource
from avdata.prepare.sources.media import MediaRef, hash_media, open_media_file
from avdata.prepare.sources.names import ClipRequest
from avmanifest.errors import ConfigError, MediaError

ID = "__a-b_c-D_9"


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_clip_below_a_class_folder_is_a_path(tmp_path):
    file = touch(tmp_path / "playing drums" / f"{ID}_000030.mp4", b"media")
    source = LocalSource(tmp_path)
    ref = source.locate(ClipRequest(ID, 30.0, 40.0))
    assert ref == MediaRef(
        path=str(file), is_clip=True, source=f"local:{tmp_path}", name=f"playing drums/{ID}_000030.mp4"
    )
    assert not ref.compressed
    assert open_media_file(ref) == file
    assert hash_media(ref) == (hashlib.sha256(b"media").hexdigest(), 5)
    assert source.locate(ClipRequest(ID, 31.0, 41.0)) is None


def test_only_finished_visible_videos_are_listed(tmp_path):
    touch(tmp_path / "a.MP4")
    for name in (
        ".hidden.mp4", "b.mp4.part", "c.part.mp4", "d.temp.mp4", "e.wav", "f.txt", "g", "~h.mp4",
        ".git/i.mp4", "__MACOSX/j.mp4", "._k.mp4",
    ):  # fmt: skip
        touch(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    source = LocalSource(tmp_path)
    assert len(source) == 1
    assert source.locate(ClipRequest("a")).name == "a.MP4"
    # Lists of the folder may name them: the clip's row then says why it has none.
    for path, why in {"c.part.mp4": "unfinished", "~h.mp4": "unfinished", "__MACOSX/j.mp4": "__MACOSX"}.items():
        ref = source.locate(ClipRequest(path, path=path))
        assert (ref.status, why in ref.reason) == ("unavailable_missing", True)
    for path in ("e.wav", ".hidden.mp4", "none.mp4"):
        assert source.locate(ClipRequest(path, path=path)) is None


def test_links_out_of_the_folder_are_refused_and_counted(tmp_path):
    secret = touch(tmp_path / "outside" / "secret.mp4")
    root = tmp_path / "root"
    touch(root / "a.mp4")
    (root / "secret.mp4").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "README").symlink_to(tmp_path / "nothing")
    source = LocalSource(root)
    assert len(source) == 1
    assert list(source.refused.values()) == [2]
    for path in ("secret.mp4", "folder/secret.mp4"):
        ref = source.locate(ClipRequest("secret", path=path))
        assert (ref.status, ref.reason.startswith("a symbolic link")) == ("unavailable_missing", True)
    for request in (
        ClipRequest("secret"),
        ClipRequest("secret", path="../outside/secret.mp4"),
        ClipRequest("secret", path=str(secret)),
        ClipRequest(str(secret)),
    ):
        assert source.locate(request) is None


def test_a_root_that_shares_a_prefix_with_another_folder(tmp_path):
    touch(tmp_path / "data2" / "b.mp4")
    touch(tmp_path / "data" / "a.mp4")
    (tmp_path / "data" / "b.mp4").symlink_to(tmp_path / "data2" / "b.mp4")
    assert len(LocalSource(tmp_path / "data")) == 1


def test_loops_end_and_links_inside_work(tmp_path):
    touch(tmp_path / "blobs" / "0123", b"content")
    touch(tmp_path / "all" / "x.mp4")
    touch(tmp_path / ".store" / "y.mp4")
    (tmp_path / "all" / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "z.mp4").symlink_to(Path("blobs") / "0123")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    (tmp_path / "train").symlink_to("all")
    (tmp_path / "stored").symlink_to(".store")
    source = LocalSource(tmp_path)
    assert len(source) == 3
    assert source.locate(ClipRequest("x")).name == "all/x.mp4"
    assert source.locate(ClipRequest("x", path="train/x.mp4")).name == "all/x.mp4"
    assert source.locate(ClipRequest("y", path="stored/y.mp4")).name == "stored/y.mp4"
    assert hash_media(source.locate(ClipRequest("z")))[1] == len(b"content")


def test_a_linked_root_is_followed(tmp_path):
    touch(tmp_path / "real" / "a.mp4")
    (tmp_path / "link").symlink_to("real")
    ref = LocalSource(tmp_path / "link").locate(ClipRequest("a"))
    assert ref.path == str(tmp_path / "real" / "a.mp4")
    assert ref.source == f"local:{tmp_path / 'link'}"


def test_names_that_are_not_utf8_are_found_and_can_be_displayed(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.mp4"
    Path(os.fsdecode(path)).write_bytes(b"x")
    touch(tmp_path / "é.mp4")
    source = LocalSource(tmp_path)
    ref = source.locate(ClipRequest(os.fsdecode(b"caf\xe9")))
    assert ref.name == "caf\\xe9.mp4"
    assert hash_media(ref)[1] == 1
    assert source.locate(ClipRequest("é")).name == "é.mp4"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_is_reported(tmp_path):
    touch(tmp_path / "a.mp4")
    touch(tmp_path / "closed" / "b.mp4")
    (tmp_path / "closed").chmod(0)
    try:
        source = LocalSource(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert len(source) == 1
    assert "closed" in source.problems[0]


def test_a_missing_or_unreadable_folder_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        LocalSource(tmp_path / "missing")
    with pytest.raises(ConfigError, match="Not a directory"):
        LocalSource(touch(tmp_path / "a.mp4"))


def test_a_folder_without_videos_is_reported(tmp_path):
    source = LocalSource(tmp_path)
    assert len(source) == 0
    assert source.locate(ClipRequest("a")) is None
    assert "no video below" in source.problems[0]


def test_a_file_that_was_deleted_fails_the_clip(tmp_path):
    file = touch(tmp_path / "a.mp4")
    ref = LocalSource(tmp_path).locate(ClipRequest("a"))
    file.unlink()
    with pytest.raises(MediaError) as error:
        hash_media(ref)
    assert error.value.status == "unavailable_missing"


def test_a_ref_is_small_and_picklable(tmp_path):
    touch(tmp_path / f"{ID}_30.mp4")
    ref = LocalSource(tmp_path).locate(ClipRequest(ID, 30.0))
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert len(pickle.dumps(ref)) < 600


def test_the_first_source_that_has_a_video_gives_it(tmp_path):
    touch(tmp_path / "one" / "a.mp4")
    touch(tmp_path / "two" / "a.mp4")
    touch(tmp_path / "two" / "b.mp4")
    first, second = open_source(f"local:{tmp_path / 'one'}"), open_source(f"local:{tmp_path / 'two'}")
    chain = SourceChain([first, second])
    located = [chain.locate(ClipRequest(video_id)) for video_id in ("a", "b", "c", "b")]
    assert [ref and ref.source for ref in located] == [first.name, second.name, None, second.name]
    assert chain.coverage == {first.name: 1, second.name: 2}
    assert chain.missing == 1
    assert chain.problems == []


def test_a_source_given_twice_is_a_config_error(tmp_path):
    touch(tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match="twice"):
        SourceChain([LocalSource(tmp_path), LocalSource(tmp_path)])


@pytest.mark.parametrize(
    "spec", ["ftp:there", "local:", "wds:", "", "/some/folder", "a.rar", "ftp:x.tar", "pipe:cat x.tar"]
)
def test_an_unknown_source_lists_the_known(spec):
    with pytest.raises(ConfigError, match="known: local:, wds:"):
        open_source(spec)


def test_a_name_that_cannot_be_printed_is_a_failure_and_the_other_files_are_used(tmp_path):
    touch(tmp_path / "音楽　ライブ.mp4")
    touch(tmp_path / "bad\nname.mp4")
    source = LocalSource(tmp_path)
    assert source.locate(ClipRequest("音楽　ライブ", path="音楽　ライブ.mp4")).name == "音楽　ライブ.mp4"
    failed = source.locate(ClipRequest("bad%0Aname", path="bad%0Aname.mp4"))
    assert (failed.status, failed.name) == ("unavailable_missing", "bad%0Aname.mp4")
    assert "rename the file" in failed.reason
    assert source.locate(ClipRequest("bad%0Bname", path="bad%0Bname.mp4")) is None


def test_a_refused_file_is_looked_for_in_the_next_source(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    touch(tmp_path / "one" / "a\tb.mp4")
    chain = SourceChain([LocalSource(tmp_path / folder) for folder in ("one", "two")])
    assert chain.locate(ClipRequest("a%09b", path="a%09b.mp4")).status == "unavailable_missing"
    touch(tmp_path / "two" / "a%09b.mp4")
    chain = SourceChain([LocalSource(tmp_path / folder) for folder in ("one", "two")])
    assert chain.locate(ClipRequest("a%09b", path="a%09b.mp4")).source == f"local:{tmp_path}/two"
    assert list(chain.coverage.values()) == [0, 1]


def test_a_folder_without_its_scheme_is_answered_with_the_spelling(tmp_path):
    with pytest.raises(ConfigError, match=rf"A folder is written local:{tmp_path}\.$"):
        open_source(str(tmp_path))
    for spec in (str(tmp_path / "gone"), "x" * 5000, "a\0b"):
        with pytest.raises(ConfigError, match=r"A folder is written local:FOLDER\.$"):
            open_source(spec)
