"""Videos in zips and in tar.zst archives: found and read as in a plain tar, refused if they are damaged or hostile."""

import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from avdata.prepare.sources import open_source
from avdata.prepare.sources.archives import ArchiveSource, list_archive
from avdata.prepare.sources.media import MediaRef, hash_media, open_media_file
from avdata.prepare.sources.names import ClipRequest
from avdata.prepare.sources.unpacked import unpacked_copy
from avmanifest.errors import ConfigError, DecodeError, MediaError, ShardError
from tests.serving import serving

RNG = np.random.default_rng(0)
VIDEOS = {f"train/{number:011d}_000030.mp4": RNG.bytes(3000) for number in range(6)}
TEXT = b"the same again " * 4000  # what deflate makes small


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def zst_of(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(tar_of(members)))
    return path


def ref_of(source: ArchiveSource, name: str) -> MediaRef:
    ref = source.locate(ClipRequest(Path(name).name[:11], 30.0, 40.0))
    assert isinstance(ref, MediaRef)
    return ref


def content_of(ref: MediaRef) -> bytes:
    opened = open_media_file(ref)
    assert not isinstance(opened, Path)
    with opened as file:
        return file.read()


ARCHIVES: dict[str, Callable[[Path], Path]] = {
    "deflated": lambda folder: zip_of(folder / "a.zip", VIDEOS),
    "stored": lambda folder: zip_of(folder / "a.zip", VIDEOS, zipfile.ZIP_STORED),
    "zstd": lambda folder: zst_of(folder / "a.tar.zst", VIDEOS),
    "tzst": lambda folder: zst_of(folder / "a.tzst", VIDEOS),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_videos_are_read_as_they_were_packed(kind: str, tmp_path: Path) -> None:
    archive = ARCHIVES[kind](tmp_path)
    source = open_source(str(archive), cache_dir=tmp_path / "cache")
    assert isinstance(source, ArchiveSource)
    assert len(source) == len(VIDEOS)
    assert not source.problems
    assert not source.refused
    for name, content in VIDEOS.items():
        ref = ref_of(source, name)
        assert content_of(ref) == content
        assert hash_media(ref)[1] == 3000
        assert ref.name.startswith(f"{archive.name}/train/")
        with open_media_file(ref) as file:  # type: ignore[union-attr]  # a decoder seeks
            assert file.seek(-100, os.SEEK_END) == 2900
            assert file.read() == content[-100:]
            assert file.seek(10) == 10
            assert file.read(20) == content[10:30]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_zip_of_a_server_is_read_in_part(method: int, tmp_path: Path) -> None:
    texts = {**VIDEOS, "train/texttexttex_000030.mp4": TEXT}
    archive = zip_of(tmp_path / "a.zip", texts, method)
    with serving(tmp_path) as server:
        source = open_source(f"{server.url}/a.zip?token=secret", cache_dir=tmp_path / "cache")
        assert isinstance(source, ArchiveSource)
        assert (len(source), source.problems, source.refused) == (7, [], {})
        for name, content in texts.items():
            assert content_of(ref_of(source, name)) == content
        ref = ref_of(source, "train/texttexttex_000030.mp4")
        damaged = bytearray(archive.read_bytes())
        damaged[ref.offset + 10] ^= 255
        status = archive.stat()
        archive.write_bytes(damaged)
        os.utime(archive, ns=(status.st_atime_ns, status.st_mtime_ns))
        if method == zipfile.ZIP_DEFLATED:
            with pytest.raises(DecodeError, match=r"the archive cannot be read at a\.zip.*/train/texttexttex"):
                content_of(ref)


def test_a_compressed_tar_of_a_server_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "a.tar.zst?token=secret"):
        with pytest.raises(ConfigError, match=r"read from their beginning\. Download it and give its path") as refused:
            open_source(f"https://host/{name}", cache_dir=tmp_path)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("kind", ["zip", "zst"])
def test_metadata_names_the_clip(kind: str, tmp_path: Path) -> None:
    members = {"0.mp4": b"video", "0.json": b'{"videoid": "-_A__b-C_3_", "clip_start": 30, "clip_end": 40}'}
    make = zip_of if kind == "zip" else zst_of
    source = ArchiveSource(
        [str(make(tmp_path / ("a.zip" if kind == "zip" else "a.tar.zst"), members))], cache_dir=tmp_path
    )
    listed = list_archive(str(tmp_path / ("a.zip" if kind == "zip" else "a.tar.zst")), tmp_path)
    if listed.descriptor is not None:
        os.close(listed.descriptor)
    assert [member.name for member in listed.members] == ["0.mp4"]
    assert len(source) == 1


def test_a_large_member_is_inflated_into_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = RNG.bytes(1000) * 70_000  # 70 MB
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    source = ArchiveSource([str(zip_of(tmp_path / "a.zip", {"a0000000000_000030.mp4": content}))], cache_dir=tmp_path)
    assert hash_media(ref_of(source, "a0000000000"))[1] == len(content)
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_a_zip_of_more_than_65535_files_is_read(tmp_path: Path) -> None:
    notes = [f"{number}" for number in range(66_000)]
    zip_of(tmp_path / "a.zip", {**dict.fromkeys(notes, b""), **VIDEOS}, zipfile.ZIP_STORED)
    assert b"PK\x06\x06" in (tmp_path / "a.zip").read_bytes()  # zip64
    source = ArchiveSource([str(tmp_path / "a.zip")], cache_dir=tmp_path)
    assert len(source) == len(VIDEOS)
    assert all(content_of(ref_of(source, name)) == content for name, content in VIDEOS.items())


def test_what_may_not_be_read_is_counted_by_its_reason(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.mp4", b"video")
        archive.writestr("../../escape.mp4", b"video")
        archive.writestr("/root.mp4", b"video")
        link = zipfile.ZipInfo("link.mp4")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("lzma.mp4", b"video", zipfile.ZIP_LZMA)
        archive.writestr("bomb.mp4", bytes(90_000_000))
        archive.writestr("notes.txt", b"no video")
        archive.writestr("folder.mp4/", b"")
    listed = list_archive(str(tmp_path / "a.zip"), tmp_path)
    assert [member.name for member in listed.members] == ["good.mp4"]
    assert dict(listed.refused) == {
        "the member's name is an absolute path or contains '..' or a NUL": 2,
        "the member is a link, a device or a sparse file": 1,
        "the member is compressed in another way than by deflate": 1,
        "the member is far larger than what the archive has of it": 1,
    }


def changed(path: Path, old: bytes, new: bytes, *, last: bool = False) -> None:
    content = path.read_bytes()
    place = content.rfind(old) if last else content.find(old)
    assert place >= 0
    path.write_bytes(content[:place] + new + content[place + len(old) :])


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.mp4": b"video", "b.mp4": b"video"})
    place = path.read_bytes().find(b"PK\x01\x02")
    content = bytearray(path.read_bytes())
    content[place + 8] |= 1
    path.write_bytes(content)
    listed = list_archive(str(path), tmp_path)
    assert [member.name for member in listed.members] == ["b.mp4"]
    assert dict(listed.refused) == {"the member is encrypted": 1}


def test_damaged_zips_are_told(tmp_path: Path) -> None:
    whole = zip_of(tmp_path / "a.zip", VIDEOS).read_bytes()
    for number, content in enumerate(
        [
            whole[: len(whole) // 2],
            b"",
            b"<html>404</html>" * 9,
            whole[:-10],
            whole.replace(b"PK\x01\x02", b"PK\x01\x09"),
        ]
    ):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(content)
        listed = list_archive(str(path), tmp_path)
        assert listed.problem
        assert not listed.members
        with pytest.raises(ConfigError, match=rf"no video in 1 archive.*{number}\.zip: damaged"):
            ArchiveSource([str(path)], cache_dir=tmp_path)


def test_a_member_whose_own_header_is_gone_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.mp4": b"video", "b.mp4": b"video"})
    changed(path, b"PK\x03\x04", b"XX\x03\x04")
    listed = list_archive(str(path), tmp_path)
    assert [member.name for member in listed.members] == ["b.mp4"]
    assert dict(listed.refused) == {"the member's header is damaged": 1}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content, at: content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :],
        lambda content, at: content[: at + 5],
    ],
    ids=["flipped", "cut"],
)
def test_damage_after_the_listing_ends_the_clip(spoil: Callable[[bytes, int], bytes], tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a0000000000_000030.mp4": TEXT})
    ref = ref_of(ArchiveSource([str(path)], cache_dir=tmp_path), "a0000000000")
    assert content_of(ref) == TEXT
    path.write_bytes(spoil(path.read_bytes(), ref.offset + 20))
    with pytest.raises(DecodeError, match=r"cannot be read at a\.zip/a0000000000") as failure:
        content_of(ref)
    assert failure.value.status == "media_corrupt"
    path.unlink()
    with pytest.raises(MediaError, match="no longer exists"):
        content_of(ref)


def test_a_member_that_is_longer_than_it_says_is_not_inflated_further(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a0000000000_000030.mp4": bytes(20_000_000)})
    content = bytearray(path.read_bytes())
    for magic, place in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", content, content.find(magic) + place, 1000)
    path.write_bytes(content)
    with pytest.raises(DecodeError, match="size and checksum"):
        content_of(ref_of(ArchiveSource([str(path)], cache_dir=tmp_path), "a0000000000"))


# --------------------------------------------------------------------------------------------------- tar.zst


def test_a_copy_is_made_once_and_again_when_the_archive_changes(tmp_path: Path) -> None:
    archive = zst_of(tmp_path / "a.tar.zst", VIDEOS)
    folder = tmp_path / "cache"
    first = ArchiveSource([str(archive)], cache_dir=tmp_path / "cache")
    (copy,) = folder.glob("*.tar")
    assert copy.read_bytes() == tar_of(VIDEOS)
    written = copy.stat().st_mtime_ns
    second = ArchiveSource([str(archive)], cache_dir=tmp_path / "cache")
    assert copy.stat().st_mtime_ns == written
    assert ref_of(first, next(iter(VIDEOS))) == ref_of(second, next(iter(VIDEOS)))
    zst_of(archive, {"b0000000000_000030.mp4": b"other"})
    assert content_of(ref_of(ArchiveSource([str(archive)], cache_dir=tmp_path / "cache"), "b0000000000")) == b"other"
    assert len(list(folder.glob("*.tar"))) == 2


def test_copies_that_no_run_uses_make_room(tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    most = len(tar_of(VIDEOS)) * 3 // 2
    archives = [zst_of(tmp_path / f"{number}.tar.zst", VIDEOS | {f"{number}.mp4": b""}) for number in range(2)]
    first, descriptor = unpacked_copy(str(archives[0]), folder, most)
    with pytest.raises(ConfigError, match=f"more than {most} bytes"):
        unpacked_copy(str(archives[1]), folder, most)
    assert list(folder.glob("*.tar")) == [first]
    assert not list(folder.glob(".*tmp"))
    os.close(descriptor)
    second, descriptor = unpacked_copy(str(archives[1]), folder, most)
    os.close(descriptor)
    assert list(folder.glob("*.tar")) == [second]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content[: len(content) // 2], "Truncated"),
        (lambda content: content[:1000] + bytes([content[1000] ^ 0xFF]) + content[1001:], "damaged zstd"),
        (lambda content: b"no archive" * 100, "damaged zstd"),
        (lambda content: zstandard.ZstdCompressor().compress(bytes(110_000_000)), "more than 200 times"),
    ],
    ids=["cut", "flipped", "another file", "bomb"],
)
def test_a_damaged_tar_zst_is_told_and_leaves_no_copy(
    spoil: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    archive = zst_of(tmp_path / "a.tar.zst", VIDEOS)
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(ShardError, match=said):
        unpacked_copy(str(archive), tmp_path / "copies")
    assert sum(path.stat().st_size for path in (tmp_path / "copies").iterdir()) == 0
    with pytest.raises(ConfigError, match=rf"no video in 1 archive.*a\.tar\.zst: damaged: .*{said}"):
        ArchiveSource([str(archive)], cache_dir=tmp_path / "cache")
    good = zst_of(tmp_path / "b.tar.zst", VIDEOS)
    source = ArchiveSource([str(archive), str(good)], cache_dir=tmp_path / "cache")
    assert (len(source), len(source.problems)) == (len(VIDEOS), 1)


@pytest.mark.slow
def test_packed_videos_give_the_same_shards(videos: Path, tmp_path: Path) -> None:
    names = {path.name: path.read_bytes() for path in sorted(videos.rglob("*.mp4"))[:2]}
    zip_of(tmp_path / "v.zip", names)
    zst_of(tmp_path / "v.tar.zst", names)
    clips = tmp_path / "clips.csv"
    clips.write_text("video_id,label\n" + "".join(f"{name.removesuffix('.mp4')},rain\n" for name in names))
    shards = []
    for number, source in enumerate((f"local:{videos}", f"{tmp_path}/v.zip", f"{tmp_path}/v.tar.zst")):
        out = tmp_path / str(number)
        words = ["--list", clips, "--label-column", "label", "--source", source, "--out", out, "--workers", "1"]
        done = subprocess.run(
            [sys.executable, "-m", "avcli.main", "prepare", "table", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        shards.append((out / "train" / "00000.tar").read_bytes())
        assert not list((out / "_tmp").glob("*.unpacked.tar"))
    assert shards[0] == shards[1] == shards[2]
